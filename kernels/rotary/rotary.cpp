// Rotation of the halves of each row.
#include "vector.h"

struct Strided {
    float* data;
    long position, sample, head, number;  // strides
};

// `turn` is 1, or -1 for the gradient, which is turned back; table: cosines and sines, each
// [length, batch, size] with strides that may be 0; the result is contiguous.
extern "C" void rotate(long length, long batch, long heads, long size, long threads, float turn,
                       const Strided* x, const Strided* table, float* result) {
    const long half = size / 2;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long position = 0; position < length; ++position)
        for (long b = 0; b < batch; ++b) {
            const long place = position * table->position + b * table->sample;
            const float *cosine = table[0].data + place, *sine = table[1].data + place;
            // A sine of the table belongs to the number that is turned into, not to the one it
            // multiplies.
            const float *into_first = turn > 0 ? sine : sine + half;
            const float *into_second = turn > 0 ? sine + half : sine;
            const float* row = x->data + position * x->position + b * x->sample;
            float* to = result + (position * batch + b) * heads * size;
            for (long h = 0; h < heads; ++h, row += x->head, to += size)
                each_vector(half, [=](long i, auto read, auto write) {
                    const Vector first = read(row + i), second = read(row + half + i);
                    write(to + i, first * read(cosine + i) - second * read(into_first + i) * turn);
                    write(to + half + i, second * read(cosine + half + i) +
                                             first * read(into_second + i) * turn);
                });
        }
}
