// Rotation of the halves of each row.

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
            const long place = position * table[0].position + b * table[0].sample;
            const float* __restrict cosine = table[0].data + place;
            const float* __restrict sine = table[1].data + place;
            for (long h = 0; h < heads; ++h) {
                const float* __restrict row =
                    x->data + position * x->position + b * x->sample + h * x->head;
                float* __restrict to = result + ((position * batch + b) * heads + h) * size;
                // Each sine belongs to the number that it is multiplied into, not to its partner.
                for (long i = 0; i < half; ++i) {
                    const float first = row[i], second = row[half + i];
                    const float of_first = turn > 0 ? sine[i] : sine[half + i];
                    const float of_second = turn > 0 ? sine[half + i] : sine[i];
                    to[i] = first * cosine[i] - second * of_first * turn;
                    to[half + i] = second * cosine[half + i] + first * of_second * turn;
                }
            }
        }
}
