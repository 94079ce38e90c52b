// Eight floats at a time, in the compiler's own vector types: any instruction set will do.
#pragma once

#include <cstdint>

typedef float Vector __attribute__((vector_size(32)));
typedef int32_t Integers __attribute__((vector_size(32)));

constexpr long WIDTH = 8;

#define INLINE static inline __attribute__((always_inline))

typedef float Loose __attribute__((vector_size(32), aligned(4), may_alias));

INLINE Vector load(const float* from) { return *(const Loose*)from; }

INLINE void store(float* to, Vector x) { *(Loose*)to = x; }

// The first `count` lanes; the others are zero and stay as they are.
INLINE Vector load_some(const float* from, long count) {
    Vector x = {};
    for (long lane = 0; lane < count; ++lane) x[lane] = from[lane];
    return x;
}

INLINE void store_some(float* to, Vector x, long count) {
    for (long lane = 0; lane < count; ++lane) to[lane] = x[lane];
}

INLINE Vector all(float x) { return Vector{x, x, x, x, x, x, x, x}; }

INLINE Vector larger(Vector a, Vector b) { return a > b ? a : b; }

// Halves are added to each other, as in every sum over lanes here.
INLINE float sum_of(Vector x) {
    return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
}

#ifdef __clang__
#define LANES(x, ...) __builtin_shufflevector(x, x, __VA_ARGS__)
#else
#define LANES(x, ...) __builtin_shuffle(x, Integers{__VA_ARGS__})
#endif

INLINE float largest_of(Vector x) {
    x = larger(x, LANES(x, 4, 5, 6, 7, 0, 1, 2, 3));
    x = larger(x, LANES(x, 2, 3, 0, 1, 6, 7, 4, 5));
    return larger(x, LANES(x, 1, 0, 3, 2, 5, 4, 7, 6))[0];
}

// 2^x to 2 units in the last place for x up to 127; 0 below -126.5.
INLINE Vector exp2_of(Vector x) {
    x = larger(all(-127.0f), x);  // and a NaN stays one
    const Vector shift = all(12582912.0f);  // 1.5 * 2^23: what is added to it loses its fraction
    const Vector moved = x + shift;
    const Vector rest = x - (moved - shift);  // at most 1/2 either way
    Vector power = all(1.535336187e-4f);
    power = power * rest + 1.339887445e-3f;
    power = power * rest + 9.618437358e-3f;
    power = power * rest + 5.550332471e-2f;
    power = power * rest + 2.402264791e-1f;
    power = power * rest + 6.931472029e-1f;
    power = power * rest + 1.0f;
    const Integers exponent = ((Integers)moved - (Integers)shift + 127) << 23;
    return power * (Vector)exponent;
}

// e^-x, at most 2^127.
INLINE Vector exp_of_minus(Vector x) {
    const Vector power = x * -1.44269504f;
    return exp2_of(power > 127.0f ? all(127.0f) : power);
}

// each(place, read, write) of the vectors of `count` numbers; the last may be a part of one.
template <class Each>
INLINE void each_vector(long count, const Each& each) {
    long j = 0;
    for (; j + WIDTH <= count; j += WIDTH) each(j, load, store);
    if (j < count) {
        const long rest = count - j;
        each(
            j, [rest](const float* from) { return load_some(from, rest); },
            [rest](float* to, Vector x) { store_some(to, x, rest); });
    }
}
