// Attention in tiles that stay in the first caches (Dao et al., 2022), forward and backward.
//
// Every sum has one order, whatever the number of threads: one thread computes all that belongs to
// one head of keys and values of one sample.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "vector.h"

namespace {

constexpr long ROWS = 6;    // of a product that is held in registers, 16 columns wide
constexpr long BLOCK = 48;  // queries of a tile, and keys in the backward pass
constexpr long WIDE = 96;   // keys of a tile in the forward pass
constexpr float LOG2_E = 1.44269504f, LN_2 = 0.693147181f;
constexpr float NOTHING = -1e30f;  // below every score, and yet a number

struct Strided {
    float* data;
    long position, sample, head, number;  // strides
    float* row(long p, long b, long h) const {
        return data + p * position + b * sample + h * head;
    }
};

struct Problem {
    long length, keys, batch, heads, kv_heads, size, causal, window, threads;
    const uint8_t* seen;
    long seen_sample, seen_query, seen_key;

    long padded() const { return up_to(size, WIDTH); }
    long up_to(long count, long width) const { return (count + width - 1) / width * width; }
    long rows() const { return up_to(length, BLOCK); }
    long last(long query) const { return query < length ? query : length - 1; }
    // The keys that a query sees, unless a mask says more.
    long first(long query) const {
        const long position = keys - length + last(query);
        return window > 0 && position >= window ? position - window + 1 : 0;
    }
    long end(long query) const { return causal ? keys - length + last(query) + 1 : keys; }
};

struct Buffer {
    explicit Buffer(long count)
        : data((float*)std::aligned_alloc(64, (count * sizeof(float) + 127) / 64 * 64)) {
        if (data) std::memset(data.get(), 0, count * sizeof(float));
    }
    operator float*() const { return data.get(); }
    struct Free {
        void operator()(float* x) const { std::free(x); }
    };
    std::unique_ptr<float, Free> data;
};

// c [M, 8 N] += or = a [M, depth] b [depth, 8 N], with any strides of a.
template <int M, int N, bool ADD>
INLINE void tile_product(const float* a, long a_row, long a_column, const float* b, long b_row,
                         float* c, long c_row, long depth) {
    Vector sum[M][N];
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 2
        for (int n = 0; n < N; ++n) sum[i][n] = ADD ? load(c + i * c_row + n * WIDTH) : Vector{};
    for (long k = 0; k < depth; ++k) {
        Vector right[N];
#pragma GCC unroll 2
        for (int n = 0; n < N; ++n) right[n] = load(b + k * b_row + n * WIDTH);
#pragma GCC unroll 8
        for (int i = 0; i < M; ++i) {
            const Vector left = all(a[i * a_row + k * a_column]);
#pragma GCC unroll 2
            for (int n = 0; n < N; ++n) sum[i][n] += left * right[n];
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 2
        for (int n = 0; n < N; ++n) store(c + i * c_row + n * WIDTH, sum[i][n]);
}

// The same for ROWS rows and any multiple of 8 columns.
template <bool ADD>
void product(const float* a, long a_row, long a_column, const float* b, long b_row, float* c,
             long c_row, long depth, long columns) {
    long n = 0;
    for (; n + 2 * WIDTH <= columns; n += 2 * WIDTH)
        tile_product<ROWS, 2, ADD>(a, a_row, a_column, b + n, b_row, c + n, c_row, depth);
    if (n < columns)
        tile_product<ROWS, 1, ADD>(a, a_row, a_column, b + n, b_row, c + n, c_row, depth);
}

void copy_row(float* to, const float* from, long stride, long size, float scale = 1.0f) {
    if (stride == 1)
        for (long i = 0; i < size; ++i) to[i] = from[i] * scale;
    else
        for (long i = 0; i < size; ++i) to[i] = from[i * stride] * scale;
}

// Rows of one head: [count, padded].
void pack(float* to, const Strided& x, long start, long count, long b, long h, const Problem& p,
          float scale = 1.0f) {
    for (long i = 0; i < count; ++i) {
        // Rows of one head are far apart, and no processor guesses where the next one is.
        const float* next = x.row(start + i + 12, b, h);
        for (long j = 0; j < p.size; j += 16) __builtin_prefetch(next + j * x.number);
        copy_row(to + i * p.padded(), x.row(start + i, b, h), x.number, p.size, scale);
    }
}

// Columns of one head's tiles of keys: [tiles, size, width].
void pack_transposed(float* to, const float* packed, long width, const Problem& p) {
    for (long j = 0; j < p.keys; ++j) {
        float* column = to + j / width * p.size * width + j % width;
        for (long i = 0; i < p.size; ++i) column[i * width] = packed[j * p.padded() + i];
    }
}

// What some of ROWS queries see of the `width` keys from `start`: columns, to 16.
struct Range {
    long low, high;
    Range(const Problem& p, long query, long start, long width) : low(0), high(width) {
        const long first = p.seen ? 0 : p.first(query);
        const long end = p.seen ? p.keys : p.end(query + ROWS - 1);
        if (first > start) low = (first - start) / 16 * 16;
        if (end - start < width) high = (end - start + 15) / 16 * 16;
    }
    bool empty() const { return high <= low; }
};

// The scores that a query does not see become -infinity.
void hide(float* scores, const Problem& p, long b, long query, long start, const Range& range) {
    if (p.seen) {
        const uint8_t* row = p.seen + b * p.seen_sample + p.last(query) * p.seen_query;
        for (long j = range.low; j < range.high; ++j)
            if (start + j >= p.keys || !row[(start + j) * p.seen_key]) scores[j] = -INFINITY;
        return;
    }
    for (long j = range.low; j < p.first(query) - start && j < range.high; ++j)
        scores[j] = -INFINITY;
    const long end = p.end(query) - start;
    for (long j = end > range.low ? end : range.low; j < range.high; ++j) scores[j] = -INFINITY;
}

// The softmax of ROWS queries goes on by one tile: scores become shares of the largest so far.
void advance(float* scores, float* largest, Vector* total, float* mixed, const Range& range,
             long padded) {
    Vector before = {}, now = {};
    for (long i = 0; i < ROWS; ++i) {
        Vector top = all(largest[i]);
        for (long j = range.low; j < range.high; j += WIDTH)
            top = larger(top, load(scores + i * WIDE + j));
        before[i] = largest[i];
        now[i] = largest[i] = largest_of(top);
    }
    const Vector shrink = exp2_of(before - now);
    for (long i = 0; i < ROWS; ++i, scores += WIDE, mixed += padded) {
        const Vector shift = all(largest[i]), less = all(shrink[i]);
        Vector sum = total[i] * less;
        for (long j = range.low; j < range.high; j += WIDTH) {
            const Vector share = exp2_of(load(scores + j) - shift);
            store(scores + j, share);
            sum += share;
        }
        total[i] = sum;
        for (long j = 0; j < padded; j += WIDTH) store(mixed + j, load(mixed + j) * less);
    }
}

struct Forward {
    const Problem& p;
    Strided query, key, value, mixed;
    float* spread;  // of each query's scores, log2 of the sum of 2^score: [batch, heads, length]

    // What a thread needs; zero where rows and columns are padded.
    struct Scratch {
        Buffer keys, values, turned, queries, sum, scores;
        explicit Scratch(const Problem& p)
            : keys(p.up_to(p.keys, WIDE) * p.padded()), values(p.up_to(p.keys, WIDE) * p.padded()),
              turned(p.up_to(p.keys, WIDE) * p.size), queries(BLOCK * p.padded()),
              sum(BLOCK * p.padded()), scores(ROWS * WIDE) {}
    };

    void head(const Scratch& own, long b, long kv) const {
        const long groups = p.heads / p.kv_heads;
        pack(own.keys, key, 0, p.keys, b, kv, p);
        pack(own.values, value, 0, p.keys, b, kv, p);
        pack_transposed(own.turned, own.keys, WIDE, p);
        for (long h = kv * groups; h < (kv + 1) * groups; ++h)
            for (long m = 0; m < p.length; m += BLOCK) block(own, b, h, m);
    }

    void block(const Scratch& own, long b, long h, long m) const {
        float *queries = own.queries, *sum = own.sum, *scores = own.scores;
        const long padded = p.padded(), count = p.length - m < BLOCK ? p.length - m : BLOCK;
        float largest[BLOCK];
        Vector total[BLOCK];
        for (long i = 0; i < BLOCK; ++i) largest[i] = NOTHING, total[i] = Vector{};
        std::memset(sum, 0, BLOCK * padded * sizeof(float));
        pack(queries, query, m, count, b, h, p, LOG2_E / std::sqrt((float)p.size));
        for (long start = 0; start < p.keys; start += WIDE)
            for (long i = 0; i < count; i += ROWS) {
                const Range range(p, m + i, start, WIDE);
                if (range.empty()) continue;
                const long columns = range.high - range.low;
                product<false>(queries + i * padded, padded, 1,
                               own.turned + start * p.size + range.low, WIDE, scores + range.low, WIDE, p.size, columns);
                for (long r = 0; r < ROWS; ++r)
                    hide(scores + r * WIDE, p, b, m + i + r, start, range);
                advance(scores, largest + i, total + i, sum + i * padded, range, padded);
                product<true>(scores + range.low, WIDE, 1, own.values + (start + range.low) * padded,
                              padded, sum + i * padded, padded, columns, padded);
            }
        for (long i = 0; i < count; ++i) {
            const float all_of_it = sum_of(total[i]);
            float* row = mixed.row(m + i, b, h);
            for (long j = 0; j < p.size; ++j) row[j] = sum[i * padded + j] / all_of_it;
            spread[(b * p.heads + h) * p.length + m + i] = largest[i] + std::log2(all_of_it);
        }
    }
};

struct Backward {
    const Problem& p;
    Strided query, key, value, mixed, given;
    const float* spread;
    Strided of_query, of_key, of_value;

    // What a thread needs; zero where rows and columns are padded.
    struct Scratch {
        Buffer keys, values, keys_turned, values_turned;
        Buffer query, given, of_query, spread, along;  // of every query of the head's group
        Buffer sum_key, sum_value, shares, slopes;     // of one tile
        explicit Scratch(const Problem& p)
            : keys(count(p) * p.padded()), values(count(p) * p.padded()),
              keys_turned(count(p) * p.size), values_turned(count(p) * p.size),
              query(rows(p) * p.padded()), given(rows(p) * p.padded()),
              of_query(rows(p) * p.padded()), spread(rows(p)), along(rows(p)),
              sum_key(BLOCK * p.padded()), sum_value(BLOCK * p.padded()), shares(BLOCK * BLOCK),
              slopes(BLOCK * BLOCK) {}
        static long count(const Problem& p) { return p.up_to(p.keys, BLOCK); }
        static long rows(const Problem& p) { return p.heads / p.kv_heads * p.rows(); }
    };

    void head(const Scratch& own, long b, long kv) const {
        const long padded = p.padded(), groups = p.heads / p.kv_heads;
        pack(own.keys, key, 0, p.keys, b, kv, p);
        pack(own.values, value, 0, p.keys, b, kv, p);
        pack_transposed(own.keys_turned, own.keys, BLOCK, p);
        pack_transposed(own.values_turned, own.values, BLOCK, p);
        std::memset(own.of_query, 0, groups * p.rows() * padded * sizeof(float));
        for (long g = 0; g < groups; ++g) read(own, g * p.rows(), b, kv * groups + g);
        for (long start = 0; start < p.keys; start += BLOCK) {
            std::memset(own.sum_key, 0, BLOCK * padded * sizeof(float));
            std::memset(own.sum_value, 0, BLOCK * padded * sizeof(float));
            for (long g = 0; g < groups; ++g)
                for (long m = 0; m < p.length; m += BLOCK)
                    block(own, g * p.rows() + m, m, b, start);
            for (long j = 0; j < BLOCK && start + j < p.keys; ++j) {
                // The packed queries have the scale of the scores and of the power of two.
                copy_row(of_key.row(start + j, b, kv), own.sum_key + j * padded, 1, p.size, LN_2);
                copy_row(of_value.row(start + j, b, kv), own.sum_value + j * padded, 1, p.size);
            }
        }
        const float scale = 1.0f / std::sqrt((float)p.size);
        for (long g = 0; g < groups; ++g)
            for (long i = 0; i < p.length; ++i)
                copy_row(of_query.row(i, b, kv * groups + g),
                         own.of_query + (g * p.rows() + i) * padded, 1, p.size, scale);
    }

    // The queries of a head, as rows from `start`.
    void read(const Scratch& own, long start, long b, long h) const {
        const long padded = p.padded();
        const float scale = LOG2_E / std::sqrt((float)p.size);
        pack(own.query + start * padded, query, 0, p.length, b, h, p, scale);
        pack(own.given + start * padded, given, 0, p.length, b, h, p);
        for (long i = 0; i < p.length; ++i) {
            own.spread[start + i] = spread[(b * p.heads + h) * p.length + i];
            float* row = own.sum_key;
            copy_row(row, mixed.row(i, b, h), mixed.number, p.size);
            Vector sum = {};
            for (long j = 0; j < padded; j += WIDTH)
                sum += load(row + j) * load(own.given + (start + i) * padded + j);
            own.along[start + i] = sum_of(sum);
        }
    }

    // The block of queries from `m`, which are rows from `at`, and the tile of keys from `start`.
    void block(const Scratch& own, long at, long m, long b, long start) const {
        const long padded = p.padded();
        float *shares = own.shares, *slopes = own.slopes;
        long low = BLOCK, high = 0;  // rows that see something
        for (long i = 0; i < BLOCK && m + i < p.length; i += ROWS) {
            const Range range(p, m + i, start, BLOCK);
            if (range.empty()) continue;
            low = i < low ? i : low;
            high = i + ROWS;
            strip(own, at + i, m + i, b, start, range, shares + i * BLOCK, slopes + i * BLOCK);
            product<true>(slopes + i * BLOCK + range.low, BLOCK, 1,
                          own.keys + (start + range.low) * padded, padded,
                          own.of_query + (at + i) * padded, padded, range.high - range.low, padded);
        }
        for (long j = 0; j < BLOCK; j += ROWS) {
            // The first query that sees one of these keys.
            const long sees = p.seen || !p.causal ? 0 : start + j - (p.keys - p.length) - m;
            const long from = sees > low ? sees : low;
            if (from >= high) continue;
            product<true>(shares + from * BLOCK + j, 1, BLOCK, own.given + (at + from) * padded,
                          padded, own.sum_value + j * padded, padded, high - from, padded);
            product<true>(slopes + from * BLOCK + j, 1, BLOCK, own.query + (at + from) * padded,
                          padded, own.sum_key + j * padded, padded, high - from, padded);
        }
    }

    // Shares of ROWS queries in a tile, and the gradient of their scores.
    void strip(const Scratch& own, long at, long m, long b, long start, const Range& range,
               float* shares, float* slopes) const {
        const long padded = p.padded(), columns = range.high - range.low;
        const long turned = start * p.size + range.low;
        product<false>(own.query + at * padded, padded, 1, own.keys_turned + turned, BLOCK,
                       shares + range.low, BLOCK, p.size, columns);
        product<false>(own.given + at * padded, padded, 1, own.values_turned + turned, BLOCK,
                       slopes + range.low, BLOCK, p.size, columns);
        for (long i = 0; i < ROWS; ++i, shares += BLOCK, slopes += BLOCK) {
            hide(shares, p, b, m + i, start, range);
            const Vector shift = all(own.spread[at + i]), along = all(own.along[at + i]);
            for (long j = 0; j < range.low; ++j) shares[j] = slopes[j] = 0.0f;
            for (long j = range.low; j < range.high; j += WIDTH) {
                const Vector share = exp2_of(load(shares + j) - shift);
                store(shares + j, share);
                store(slopes + j, share * (load(slopes + j) - along));
            }
            for (long j = range.high; j < BLOCK; ++j) shares[j] = slopes[j] = 0.0f;
        }
    }
};

template <class Pass>
void each_head(const Problem& p, const Pass& pass) {
#pragma omp parallel num_threads(p.threads)
    {
        const typename Pass::Scratch own(p);
#pragma omp for schedule(static)
        for (long task = 0; task < p.batch * p.kv_heads; ++task)
            pass.head(own, task / p.kv_heads, task % p.kv_heads);
    }
}

}  // namespace

extern "C" void attention_forward(const Problem* p, const Strided* x, float* spread) {
    each_head(*p, Forward{*p, x[0], x[1], x[2], x[3], spread});
}

extern "C" void attention_backward(const Problem* p, const Strided* x, const float* spread) {
    each_head(*p, Backward{*p, x[0], x[1], x[2], x[3], x[4], spread, x[5], x[6], x[7]});
}
