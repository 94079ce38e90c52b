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
    each_chunk(rows * width, threads, [&](long i, auto read, auto write) {
        const Vector gate = read(x[0] + i);
        write(x[2] + i, gate * sigmoid(gate) * read(x[1] + i));
    });
}

// x: gate, up, the result's gradient; gradients of gate and up.
extern "C" void swiglu_backward(long rows, long width, long threads, float* const* x) {
    each_chunk(rows * width, threads, [&](long i, auto read, auto write) {
        const Vector gate = read(x[0] + i), given = read(x[2] + i), open = sigmoid(gate);
        write(x[3] + i, given * read(x[1] + i) * open * (1.0f + gate * (1.0f - open)));
        write(x[4] + i, given * gate * open);
    });
}
