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

INLINE Vector all(float x) { return Vector{x, x, x, x, x, x, x, x}; }

INLINE Vector larger(Vector a, Vector b) { return a > b ? a : b; }

// Halves are added to each other, as in every sum over lanes here.
INLINE float sum_of(Vector x) {
    return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
}

INLINE float largest_of(Vector x) {
    float found = x[0];
    for (int lane = 1; lane < WIDTH; ++lane) found = x[lane] > found ? x[lane] : found;
    return found;
}

// 2^x to 2 units in the last place; 0 below 2^-126, 2^127.5 at most.
INLINE Vector exp2_of(Vector x) {
    const Vector limit = x > 127.49999f ? all(127.49999f) : x;
    const Vector shift = all(12582912.0f);  // 1.5 * 2^23: what is added to it loses its fraction
    const Vector moved = limit + shift;
    const Vector rest = limit - (moved - shift);  // at most 1/2 either way
    Vector power = all(1.535336187e-4f);
    power = power * rest + 1.339887445e-3f;
    power = power * rest + 9.618437358e-3f;
    power = power * rest + 5.550332471e-2f;
    power = power * rest + 2.402264791e-1f;
    power = power * rest + 6.931472029e-1f;
    power = power * rest + 1.0f;
    const Integers exponent = ((Integers)moved - (Integers)shift + 127) << 23;
    return x < -126.0f ? Vector{} : power * (Vector)exponent;
}
