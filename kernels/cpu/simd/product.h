// Small dense products over Vec: one accumulator per output, k rising, whatever the tiling. Rotation, low-rank
// expansion, attention scores and attention values are all this one loop.
#pragma once

namespace spartan {
namespace {

using F = Vec::F;

template <int N>
struct Int {
    static constexpr int value = N;
};

// Calls f(Int<n>) for a run-time n in [1, Max].
template <int Max, class Function>
SIMD void with_count(int n, const Function& f) {
    if constexpr (Max == 1)
        f(Int<1>{});
    else if (n == Max)
        f(Int<Max>{});
    else
        with_count<Max - 1>(n, f);
}

constexpr int smaller(int a, int b) { return a < b ? a : b; }
SIMD int64_t smaller64(int64_t a, int64_t b) { return a < b ? a : b; }

// Row tile for C vectors of columns: enough independent sums to hide the multiply-add's latency, no spilling.
template <int C>
constexpr int kProductRows = smaller(Vec::kAccumulators / C, 6);

template <class T>
struct Product {  // out[r, c] (+)= sum over k < depth of a[r, k] * b[k, c]
    float* out;
    int64_t out_stride;
    const float* a;
    int64_t a_stride;
    const T* b;
    int64_t b_stride;
    int64_t rows, columns, depth;
    bool add;
};

// Lanes < Vec::kLanes * C only in the last, partial vector (then C is 1).
template <int R, int C, bool Partial, class T>
SIMD void product_tile(const Product<T>& p, int64_t row, int64_t column, int lanes) {
    constexpr int L = Vec::kLanes;
    const auto read = [&](const auto* at) __attribute__((always_inline)) {
        if constexpr (Partial)
            return Vec::load_partial(at, lanes);
        else
            return Vec::load(at);
    };
    F sum[R][C];
    float* out = p.out + row * p.out_stride + column;
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) sum[r][c] = p.add ? read(out + r * p.out_stride + c * L) : Vec::zero();
    const float* a = p.a + row * p.a_stride;
    const T* b = p.b + column;
    for (int64_t k = 0; k < p.depth; ++k, b += p.b_stride) {
        F w[C];
        for (int c = 0; c < C; ++c) w[c] = read(b + c * L);
        for (int r = 0; r < R; ++r) {
            const F x = Vec::set1(a[r * p.a_stride + k]);
            for (int c = 0; c < C; ++c) sum[r][c] = Vec::fma(x, w[c], sum[r][c]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) {
            if constexpr (Partial)
                Vec::store_partial(out + r * p.out_stride, sum[r][c], lanes);
            else
                Vec::store(out + r * p.out_stride + c * L, sum[r][c]);
        }
}

template <int C, bool Partial, class T>
SIMD void product_columns(const Product<T>& p, int64_t column, int lanes) {
    constexpr int kRows = kProductRows<C>;
    int64_t row = 0;
    for (; row + kRows <= p.rows; row += kRows) product_tile<kRows, C, Partial>(p, row, column, lanes);
    if constexpr (kRows > 1)
        if (row < p.rows)
            with_count<kRows - 1>(
                int(p.rows - row), [&](auto r) __attribute__((always_inline)) {
                    product_tile<decltype(r)::value, C, Partial>(p, row, column, lanes);
                });
}

template <class T>
void product(const Product<T>& p) {
    constexpr int L = Vec::kLanes;
    int64_t column = 0;
    for (; column + 4 * L <= p.columns; column += 4 * L) product_columns<4, false>(p, column, L);
    for (; column + 2 * L <= p.columns; column += 2 * L) product_columns<2, false>(p, column, L);
    for (; column + L <= p.columns; column += L) product_columns<1, false>(p, column, L);
    if (column < p.columns) product_columns<1, true>(p, column, int(p.columns - column));
}

}  // namespace
}  // namespace spartan
