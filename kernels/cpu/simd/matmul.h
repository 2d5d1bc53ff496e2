// The matrix product with packed panels. Every output is one chain of multiply-adds in rising k: tiles, k blocks (which
// pass the fp32 sums through `out`) and prefetches change where and when, never what is added to what.
#pragma once

namespace spartan {
namespace {

constexpr int kPanelVectors = int(kPanel) / Vec::kLanes;
constexpr int kWidePanels = Vec::kLanes == 16 ? 2 : 1;  // panels in a tile of many rows
constexpr int kTileRows = smaller(Vec::kAccumulators / (kPanelVectors * kWidePanels), 12);
constexpr int64_t kBlockSteps = 320;      // of a panel: 20 KB, which stays in the L1 cache beside the tile's rows
constexpr int64_t kPrefetchAhead = 2048;  // bytes; two pages' start are hidden by it, more gained nothing

// What one step (a cache line of each panel) adds to a tile.
struct StepF32 {
    using X = float;
    static constexpr int kXPerStep = 1, kDepth = 1;  // elements of x, and k, in one step
    template <int R, int C>
    SIMD void run(F (&sum)[R][C], const float* x, int64_t x_stride, const char* w, int64_t panel_bytes) {
        F b[C];
        for (int c = 0; c < C; ++c)
            b[c] = Vec::load(reinterpret_cast<const float*>(w + c / kPanelVectors * panel_bytes) +
                             c % kPanelVectors * Vec::kLanes);
        for (int r = 0; r < R; ++r) {
            const F a = Vec::set1(x[r * x_stride]);
            for (int c = 0; c < C; ++c) sum[r][c] = Vec::fma(a, b[c], sum[r][c]);
        }
    }
};

// bf16 weights widened by a shift; x was rounded to bf16 and is kept in fp32.
struct StepBf16Widened {
    using X = float;
    static constexpr int kXPerStep = 2, kDepth = 2;
    template <int R, int C>
    SIMD void run(F (&sum)[R][C], const float* x, int64_t x_stride, const char* w, int64_t panel_bytes) {
        const auto at = [&](int c) __attribute__((always_inline)) {
            return reinterpret_cast<const bf16*>(w + c / kPanelVectors * panel_bytes) +
                   c % kPanelVectors * Vec::kLanes * 2;
        };
        F b[C];
        for (int c = 0; c < C; ++c) b[c] = Vec::pair_first(at(c));
        for (int r = 0; r < R; ++r) {
            const F a = Vec::set1(x[r * x_stride]);
            for (int c = 0; c < C; ++c) sum[r][c] = Vec::fma(a, b[c], sum[r][c]);
        }
        for (int c = 0; c < C; ++c) b[c] = Vec::pair_second(at(c));
        for (int r = 0; r < R; ++r) {
            const F a = Vec::set1(x[r * x_stride + 1]);
            for (int c = 0; c < C; ++c) sum[r][c] = Vec::fma(a, b[c], sum[r][c]);
        }
    }
};

// Pairs of bf16 multiplied and added by one instruction; x is kept as pairs.
struct StepBf16Dot {
    using X = uint32_t;
    static constexpr int kXPerStep = 1, kDepth = 2;
    template <int R, int C, class V = Vec>
    SIMD void run(F (&sum)[R][C], const uint32_t* x, int64_t x_stride, const char* w, int64_t panel_bytes) {
        for (int r = 0; r < R; ++r)
            for (int c = 0; c < C; ++c)
                sum[r][c] =
                    V::dot_pairs(x + r * x_stride, reinterpret_cast<const bf16*>(w + c * panel_bytes), sum[r][c]);
    }
};

template <bool Pairs>
struct ChooseBf16 {
    using Step = StepBf16Widened;
};
template <>
struct ChooseBf16<true> {
    using Step = StepBf16Dot;
};
using StepBf16 = ChooseBf16<Vec::kDotsPairs>::Step;

// One tile: R rows by P panels over `steps` steps.
template <class X>
struct Tile {
    float* out;
    int64_t out_stride;
    int columns;  // valid ones, at most 16 P
    bool first;   // start from zero, not from out
    const X* x;
    int64_t x_stride;
    const char* w;
    int64_t panel_bytes, steps;
    const char*
        next;  // what to fetch meanwhile, `next_lines` lines every four steps; 0: this tile's own weights, ahead
    int64_t next_lines;
};

template <class Step, int R, int P>
void run_tile(const Tile<typename Step::X>& t) {
    constexpr int L = Vec::kLanes, C = P * kPanelVectors;
    F sum[R][C];
    float edge[R][C * L];
    const bool whole = t.columns == C * L;
    if (t.first) {
        for (int r = 0; r < R; ++r)
            for (int c = 0; c < C; ++c) sum[r][c] = Vec::zero();
    } else {
        if (!whole)
            for (int r = 0; r < R; ++r)
                for (int c = 0; c < C * L; ++c) edge[r][c] = c < t.columns ? t.out[r * t.out_stride + c] : 0.f;
        const float* from = whole ? t.out : edge[0];
        const int64_t stride = whole ? t.out_stride : C * L;
        for (int r = 0; r < R; ++r)
            for (int c = 0; c < C; ++c) sum[r][c] = Vec::load(from + r * stride + c * L);
    }
    const auto* x = t.x;
    const char* w = t.w;
    const char* next = t.next;
    const int64_t panel_bytes = t.panel_bytes, x_stride = t.x_stride;
    int64_t s = t.steps;
    for (; s >= 4; s -= 4) {
        if (t.next_lines == 0) {
            for (int p = 0; p < P; ++p)
                for (int i = 0; i < 4; ++i) __builtin_prefetch(w + p * panel_bytes + kPrefetchAhead + i * kLine, 0, 3);
        } else {
            for (int64_t i = 0; i < t.next_lines; ++i) __builtin_prefetch(next + i * kLine, 0, 2);
            next += t.next_lines * kLine;
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i)
            Step::template run<R, C>(sum, x + i * Step::kXPerStep, x_stride, w + i * kLine, panel_bytes);
        x += 4 * Step::kXPerStep;
        w += 4 * kLine;
    }
    for (; s > 0; --s, x += Step::kXPerStep, w += kLine) Step::template run<R, C>(sum, x, x_stride, w, panel_bytes);
    if (whole) {
        for (int r = 0; r < R; ++r)
            for (int c = 0; c < C; ++c) Vec::store(t.out + r * t.out_stride + c * L, sum[r][c]);
    } else {
        for (int r = 0; r < R; ++r)
            for (int c = 0; c < C; ++c) Vec::store(&edge[r][c * L], sum[r][c]);
        for (int r = 0; r < R; ++r)
            for (int c = 0; c < t.columns; ++c) t.out[r * t.out_stride + c] = edge[r][c];
    }
}

// As many panels as leave registers for R rows: a few rows alone cannot hide the latency of the multiply-adds.
template <int R>
constexpr int panels_for_rows() {
    const int panels = Vec::kAccumulators / (R * kPanelVectors);
    return panels >= 4 ? 4 : panels >= 2 ? 2 : 1;
}

template <class Step>
struct BlockWalk {
    using X = typename Step::X;
    const MatmulBlock& b;
    int64_t panel_bytes = b.steps * kLine;
    int64_t x_stride = b.x_stride / int64_t(sizeof(X));

    SIMD int valid_columns(const MatmulBlock& block, int64_t panel, int64_t count) {
        return int(smaller64(count * kPanel, block.columns - panel * kPanel));
    }
    Tile<X> tile(int64_t row, int64_t panel, int64_t count, int64_t first_step, int64_t steps) const {
        return {.out = b.out + row * b.out_stride + panel * kPanel,
                .out_stride = b.out_stride,
                .columns = valid_columns(b, panel, count),
                .first = first_step == 0 && !b.add,
                .x = static_cast<const X*>(b.x) + row * x_stride + first_step * Step::kXPerStep,
                .x_stride = x_stride,
                .w = static_cast<const char*>(b.panels) + panel * panel_bytes + first_step * kLine,
                .panel_bytes = panel_bytes,
                .steps = steps,
                .next = nullptr,
                .next_lines = 0};
    }

    // Few rows: one pass over the weights, bound by memory.
    template <int R>
    void stream() const {
        constexpr int P = panels_for_rows<R>();
        int64_t panel = b.panel_begin;
        for (; panel + P <= b.panel_end; panel += P) run_tile<Step, R, P>(tile(0, panel, P, 0, b.steps));
        for (; panel < b.panel_end; ++panel) run_tile<Step, R, 1>(tile(0, panel, 1, 0, b.steps));
    }

    // Many rows: a k block of a panel is used by all row tiles while it is in the L1 cache; meanwhile the next one
    // comes.
    void blocked() const {
        const int64_t tiles = (b.rows + kTileRows - 1) / kTileRows;
        const int64_t blocks = (b.steps + kBlockSteps - 1) / kBlockSteps;
        const int64_t block_steps = ((b.steps + blocks - 1) / (blocks ? blocks : 1) + 3) / 4 * 4;
        int64_t first = 0;
        do {
            const int64_t steps = smaller64(block_steps, b.steps - first);
            for (int64_t panel = b.panel_begin; panel < b.panel_end; panel += kWidePanels) {
                const int64_t count = smaller64(kWidePanels, b.panel_end - panel);
                for (int64_t i = 0; i < tiles; ++i) {
                    const int64_t row = i * b.rows / tiles, rows = (i + 1) * b.rows / tiles - row;
                    Tile<X> t = tile(row, panel, count, first, steps);
                    set_next(t, panel + count, first, steps, count, i, tiles);
                    with_count<kTileRows>(
                        int(rows), [&](auto r) __attribute__((always_inline)) {
                            if (count == kWidePanels)
                                run_tile<Step, decltype(r)::value, kWidePanels>(t);
                            else
                                run_tile<Step, decltype(r)::value, 1>(t);
                        });
                }
            }
            first += steps;
        } while (first < b.steps);
    }

    // The row tiles share out the lines of the next block of panels.
    void set_next(Tile<X>& t, int64_t panel, int64_t first, int64_t steps, int64_t count, int64_t i,
                  int64_t tiles) const {
        const int64_t lines = count * 4 >= tiles ? (count * 4 + tiles - 1) / tiles : 1;
        const bool last = panel >= b.panel_end;
        t.next_lines = lines;
        t.next = t.w;  // already here: costs nothing
        const int64_t part = i * lines * ((steps + 3) / 4);
        if (last || part >= count * steps) return;
        // Of two panels side by side, the first part of the tiles fetches the one, the rest the other.
        const int64_t p = part / steps, line = part % steps;
        if (panel + p < b.panel_end)
            t.next = static_cast<const char*>(b.panels) + (panel + p) * panel_bytes + (first + line) * kLine;
    }
};

template <class Step>
void matmul_block(const MatmulBlock& b) {
    if (b.rows == 0) return;
    const BlockWalk<Step> walk{b};
    if (b.rows > kTileRows)
        walk.blocked();
    else
        with_count<kTileRows>(int(b.rows), [&](auto r) { walk.template stream<decltype(r)::value>(); });
}

void prepare_bf16(void* out, const float* x, int64_t k) {
    constexpr int L = Vec::kLanes;
    int64_t i = 0;
    if constexpr (Vec::kDotsPairs) {
        auto* to = static_cast<bf16*>(out);
        for (; i + L <= k; i += L) Vec::store(to + i, Vec::load(x + i));
        if (i < k) {
            bf16 tail[L];
            Vec::store(tail, Vec::load_partial(x + i, int(k - i)));
            for (int64_t j = i; j < k; ++j) to[j] = tail[j - i];
        }
        if (k % 2) to[k] = bf16{0};
    } else {
        auto* to = static_cast<float*>(out);
        for (; i + L <= k; i += L) Vec::store(to + i, Vec::round_bf16(Vec::load(x + i)));
        if (i < k) Vec::store_partial(to + i, Vec::round_bf16(Vec::load_partial(x + i, int(k - i))), int(k - i));
        if (k % 2) to[k] = 0;
    }
}

// A full tile over and over, on rows and weights that stay in the L1 cache.
template <class Step>
double peak(int64_t rounds, float* sink) {
    constexpr int64_t kSteps = 64, kStride = kSteps * Step::kXPerStep + 16;
    alignas(64) typename Step::X x[kTileRows * kStride] = {};
    alignas(64) char w[kWidePanels * kSteps * kLine] = {};
    alignas(64) float out[kTileRows * kWidePanels * kPanel] = {};
    const Tile<typename Step::X> tile{.out = out,
                                      .out_stride = kWidePanels * kPanel,
                                      .columns = kWidePanels * int(kPanel),
                                      .first = true,
                                      .x = x,
                                      .x_stride = kStride,
                                      .w = w,
                                      .panel_bytes = kSteps * kLine,
                                      .steps = kSteps,
                                      .next = w,
                                      .next_lines = 1};
    // Through a pointer that the compiler cannot follow, or it would multiply the zeros itself.
    void (*volatile run)(const Tile<typename Step::X>&) = run_tile<Step, kTileRows, kWidePanels>;
    for (int64_t i = 0; i < rounds; ++i) run(tile);
    *sink = out[0];
    return 2.0 * double(rounds * kSteps * Step::kDepth) * kTileRows * kWidePanels * double(kPanel);
}

}  // namespace
}  // namespace spartan
