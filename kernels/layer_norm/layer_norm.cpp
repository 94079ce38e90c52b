// Layer normalization of rows, one pass over memory each way.
#include <cmath>
#include <cstring>
#include <vector>

#include "vector.h"

namespace {

constexpr long CHUNK = 32;  // rows whose weight and bias gradients one thread adds up

}  // namespace

// x: input [rows, width], weight, bias, result, mean [rows], scale [rows].
extern "C" void layer_norm_forward(long rows, long width, long threads, float epsilon,
                                   float* const* x) {
    const float *weight = x[1], *bias = x[2];
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long i = 0; i < rows; ++i) {
        const float* row = x[0] + i * width;
        float* result = x[3] + i * width;
        Vector sum = {};
        each_vector(width, [&](long j, auto read, auto) { sum += read(row + j); });
        const float mean = sum_of(sum) / width;
        const Vector means = all(mean);  // read as the row is, so that nothing is beyond its end
        Vector squares = {};
        each_vector(width, [&](long j, auto read, auto) {
            const Vector v = read(row + j) - read((const float*)&means);
            squares += v * v;
        });
        const float scale = 1.0f / std::sqrt(sum_of(squares) / width + epsilon);
        x[4][i] = mean;
        x[5][i] = scale;
        each_vector(width, [&](long j, auto read, auto write) {
            write(result + j, (read(row + j) - mean) * scale * read(weight + j) + read(bias + j));
        });
    }
}

// x: input, weight, mean, scale, the result's gradient; gradients of the input, and of weight and
// bias [2, width].
extern "C" void layer_norm_backward(long rows, long width, long threads, float* const* x) {
    const long chunks = (rows + CHUNK - 1) / CHUNK;
    std::vector<float> partial(chunks * 2 * width);
    const float* weight = x[1];
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long chunk = 0; chunk < chunks; ++chunk) {
        float *of_weight = partial.data() + chunk * 2 * width, *of_bias = of_weight + width;
        for (long i = chunk * CHUNK; i < rows && i < (chunk + 1) * CHUNK; ++i) {
            const float *row = x[0] + i * width, *given = x[4] + i * width;
            float* gradient = x[5] + i * width;
            const float mean = x[2][i], scale = x[3][i];
            Vector sum = {}, along = {};
            each_vector(width, [&](long j, auto read, auto write) {
                const Vector normal = (read(row + j) - mean) * scale, upstream = read(given + j);
                const Vector slope = upstream * read(weight + j);
                sum += slope;
                along += slope * normal;
                write(of_weight + j, read(of_weight + j) + upstream * normal);
                write(of_bias + j, read(of_bias + j) + upstream);
            });
            const float shift = sum_of(sum) / width, tilt = sum_of(along) / width;
            each_vector(width, [&](long j, auto read, auto write) {
                const Vector normal = (read(row + j) - mean) * scale;
                const Vector slope = read(given + j) * read(weight + j);
                write(gradient + j, (slope - shift - normal * tilt) * scale);
            });
        }
    }
    std::memset(x[6], 0, 2 * width * sizeof(float));
    for (long chunk = 0; chunk < chunks; ++chunk)
        each_vector(2 * width, [&](long j, auto read, auto write) {
            write(x[6] + j, read(x[6] + j) + read(partial.data() + chunk * 2 * width + j));
        });
}
