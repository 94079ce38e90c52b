// Root-mean-square normalization of rows, one pass over memory each way.
#include <cmath>
#include <cstring>
#include <vector>

#include "vector.h"

namespace {

constexpr long CHUNK = 32;  // rows whose weight gradients one thread adds up

}  // namespace

// x: input [rows, width], weight, result, scale [rows].
extern "C" void rms_norm_forward(long rows, long width, long threads, float epsilon,
                                 float* const* x) {
    const float* weight = x[1];
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long i = 0; i < rows; ++i) {
        const float* row = x[0] + i * width;
        float* result = x[2] + i * width;
        Vector squares = {};
        each_vector(width, [&](long j, auto read, auto) {
            const Vector v = read(row + j);
            squares += v * v;
        });
        const float scale = 1.0f / std::sqrt(sum_of(squares) / width + epsilon);
        x[3][i] = scale;
        each_vector(width, [&](long j, auto read, auto write) {
            write(result + j, read(row + j) * scale * read(weight + j));
        });
    }
}

// x: input, weight, scale, the result's gradient; gradients of the input and of the weight.
extern "C" void rms_norm_backward(long rows, long width, long threads, float* const* x) {
    const long chunks = (rows + CHUNK - 1) / CHUNK;
    std::vector<float> partial(chunks * width);
    const float* weight = x[1];
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long chunk = 0; chunk < chunks; ++chunk) {
        float* sum = partial.data() + chunk * width;
        for (long i = chunk * CHUNK; i < rows && i < (chunk + 1) * CHUNK; ++i) {
            const float *row = x[0] + i * width, *given = x[3] + i * width;
            float* gradient = x[4] + i * width;
            const float scale = x[2][i];
            Vector along = {};
            each_vector(width, [&](long j, auto read, auto write) {
                const Vector normal = read(row + j) * scale, upstream = read(given + j);
                along += upstream * read(weight + j) * normal;
                write(sum + j, read(sum + j) + upstream * normal);
            });
            const float mean = sum_of(along) / width;
            each_vector(width, [&](long j, auto read, auto write) {
                const Vector slope = read(given + j) * read(weight + j);
                write(gradient + j, (slope - read(row + j) * scale * mean) * scale);
            });
        }
    }
    std::memset(x[5], 0, width * sizeof(float));
    for (long chunk = 0; chunk < chunks; ++chunk)
        each_vector(width, [&](long j, auto read, auto write) {
            write(x[5] + j, read(x[5] + j) + read(partial.data() + chunk * width + j));
        });
}
