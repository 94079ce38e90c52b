// silu(gate) * up, one pass over memory each way.
#include "vector.h"

namespace {

constexpr long CHUNK = 4096;  // numbers that a thread takes at a time

template <class Each>
INLINE void each_chunk(long count, long threads, const Each& each) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long start = 0; start < count; start += CHUNK)
        each_vector(count - start < CHUNK ? count - start : CHUNK,
                    [&](long j, auto read, auto write) { each(start + j, read, write); });
}

INLINE Vector sigmoid(Vector x) { return 1.0f / (1.0f + exp_of_minus(x)); }

}  // namespace

// x: gate, up, result.
extern "C" void swiglu_forward(long rows, long width, long threads, float* const* x) {
    const float *gates = x[0], *ups = x[1];
    float* result = x[2];
    each_chunk(rows * width, threads, [=](long i, auto read, auto write) {
        const Vector gate = read(gates + i);
        write(result + i, gate * sigmoid(gate) * read(ups + i));
    });
}

// x: gate, up, the result's gradient; gradients of gate and up.
extern "C" void swiglu_backward(long rows, long width, long threads, float* const* x) {
    const float *gates = x[0], *ups = x[1], *upstream = x[2];
    float *of_gate = x[3], *of_up = x[4];
    each_chunk(rows * width, threads, [=](long i, auto read, auto write) {
        const Vector gate = read(gates + i), given = read(upstream + i), open = sigmoid(gate);
        write(of_gate + i, given * read(ups + i) * open * (1.0f + gate * (1.0f - open)));
        write(of_up + i, given * gate * open);
    });
}
