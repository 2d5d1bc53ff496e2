// Rotation and the low-rank pair.
#pragma once

namespace spartan {
namespace {

SIMD float multiply_add(float a, float b, float c) {
    if constexpr (Vec::kFusedMultiplyAdd)
        return __builtin_fmaf(a, b, c);
    else
        return a * b + c;
}

SIMD float widen(float v) { return v; }
SIMD float widen(bf16 v) { return __builtin_bit_cast(float, uint32_t(v.bits) << 16); }

// Fetches `count` values from where a stream goes on, and returns where it goes on then. Reaching past the end of what
// is there is harmless.
template <class T>
SIMD const T* fetch(const T* from, int64_t count) {
    const char* p = reinterpret_cast<const char*>(from);
    for (int64_t i = 0; i < count * int64_t(sizeof(T)); i += kLine) __builtin_prefetch(p + i, 0, 3);
    return from + count;
}

// Groups of a few features: most lanes of a vector would idle, and a group is a handful of instructions.
template <int G, class T>
void rotate_small(const RotateBlock<T>& b) {
    for (int64_t row = 0; row < b.rows; ++row) {
        const float* x = b.x + row * b.stride;
        float* out = b.out + row * b.stride;
        const T* block = b.blocks;
        for (int64_t i = 0; i < b.groups; ++i, x += G, out += G, block += G * G) {
            float sum[G] = {};
            for (int u = 0; u < G; ++u)
                for (int v = 0; v < G; ++v) sum[v] = multiply_add(x[u], widen(block[u * G + v]), sum[v]);
            for (int v = 0; v < G; ++v) out[v] = sum[v];
        }
    }
}

constexpr int64_t kMostFetched = 2048;  // values at once: of a large block, more would wait for each other

template <class T>
void rotate_block(const RotateBlock<T>& b) {
    const int64_t g = b.group;
    if (g <= 4) {
        with_count<4>(int(g), [&](auto n) { rotate_small<decltype(n)::value>(b); });
        return;
    }
    const T* next = b.next;
    for (int64_t i = 0; i < b.groups; ++i) {
        if (next) next = fetch(next, smaller64(g * g, kMostFetched));
        product<T>({b.out + i * g, b.stride, b.x + i * g, b.stride, b.blocks + i * g * g, g, b.rows, g, g, false});
    }
}

// R rows of x against A rows of a: one vector of sums each, in rising k, then the fixed tree of Vec::sum.
template <int R, int A, class T>
SIMD void shrink_tile(const ShrinkBlock<T>& b, int64_t row, int64_t rank) {
    constexpr int L = Vec::kLanes;
    F sum[R][A];
    for (int r = 0; r < R; ++r)
        for (int i = 0; i < A; ++i) sum[r][i] = Vec::zero();
    const float* x = b.x + row * b.in;
    const T* a = b.a + rank * b.in;
    const T* next = b.next && row == 0 ? b.next + rank * b.in : nullptr;
    int64_t k = 0;
    for (; k + L <= b.in; k += L) {
        if (next) next = fetch(next, A * L);
        F w[A];
        for (int i = 0; i < A; ++i) w[i] = Vec::load(a + i * b.in + k);
        for (int r = 0; r < R; ++r) {
            const F v = Vec::load(x + r * b.in + k);
            for (int i = 0; i < A; ++i) sum[r][i] = Vec::fma(v, w[i], sum[r][i]);
        }
    }
    if (const int left = int(b.in - k); left > 0)
        for (int r = 0; r < R; ++r) {
            const F v = Vec::load_partial(x + r * b.in + k, left);
            for (int i = 0; i < A; ++i) sum[r][i] = Vec::fma(v, Vec::load_partial(a + i * b.in + k, left), sum[r][i]);
        }
    for (int r = 0; r < R; ++r)
        for (int i = 0; i < A; ++i) b.low[(row + r) * b.low_stride + rank + i] = Vec::sum(sum[r][i]) * b.scale;
}

template <class T>
void shrink_block(const ShrinkBlock<T>& b) {
    for (int64_t rank = 0; rank < b.ranks;) {
        const int ranks = int(smaller64(4, b.ranks - rank));
        with_count<4>(
            ranks, [&](auto a) __attribute__((always_inline)) {
                int64_t row = 0;
                for (; row + 2 <= b.rows; row += 2) shrink_tile<2, decltype(a)::value>(b, row, rank);
                if (row < b.rows) shrink_tile<1, decltype(a)::value>(b, row, rank);
            });
        rank += ranks;
    }
}

// A few ranks at a time: b_t is then read as that many sequential streams, out stays in the L1 cache.
template <class T>
void expand_block(const ExpandBlock<T>& b) {
    constexpr int64_t kRanks = 8, kColumns = 64;
    const T* next = b.next;
    for (int64_t rank = 0; rank < b.ranks; rank += kRanks) {
        const int64_t ranks = smaller64(kRanks, b.ranks - rank);
        for (int64_t column = 0; column < b.columns; column += kColumns) {
            const int64_t columns = smaller64(kColumns, b.columns - column);
            if (next) next = fetch(next, ranks * columns);
            product<T>({b.out + column, b.out_stride, b.low + rank, b.low_stride, b.b_t + rank * b.b_stride + column,
                        b.b_stride, b.rows, columns, ranks, true});
        }
    }
}

}  // namespace
}  // namespace spartan
