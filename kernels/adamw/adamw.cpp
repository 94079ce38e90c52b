// One pass over the weights, their gradient and both moments.
#include <cmath>

// numbers: the decay's factor, beta1, 1 - beta1, beta2, 1 - beta2, epsilon,
// 1 / sqrt(1 - beta2^step), learning rate / (1 - beta1^step).
extern "C" void adamw_step(long count, long threads, float* const* x, const double* numbers) {
    float* __restrict weight = x[0];
    const float* __restrict gradient = x[1];
    float* __restrict first = x[2];
    float* __restrict second = x[3];
    const float keep = numbers[0], beta1 = numbers[1], new1 = numbers[2], beta2 = numbers[3],
                new2 = numbers[4], epsilon = numbers[5], unbias = numbers[6], rate = numbers[7];
#pragma omp parallel for simd num_threads(threads) schedule(static)
    for (long i = 0; i < count; ++i) {
        const float g = gradient[i];
        const float m = first[i] * beta1 + g * new1;
        const float v = second[i] * beta2 + g * g * new2;
        first[i] = m;
        second[i] = v;
        weight[i] = weight[i] * keep - rate * (m / (std::sqrt(v) * unbias + epsilon));
    }
}
