// Kept weights (a file's blocks in the order of panels, kernels/cpu/kept.h): widened to panels as the product reads
// them, or, for a few rows, multiplied as they are widened. Either way every weight is the value that a dense matrix
// would hold, and an output is one chain of multiply-adds in rising k, so that both give the bits of the dense product.
#pragma once

namespace spartan {
namespace {

constexpr int kPanelParts = int(kPanel) / Vec::kLanes;  // vectors across a panel's outputs
constexpr int64_t kKeptAhead = 1024;                    // bytes that are fetched before they are used

// One f16 for each output of a panel.
struct PanelScales {
    F of[kPanelParts];
    explicit PanelScales(const uint8_t* halves) {
        for (int part = 0; part < kPanelParts; ++part) of[part] = Vec::finite_halves(halves + part * Vec::kLanes * 2);
    }
};

// The formats: a group of 32 k of 16 outputs, and two k of one vector of its outputs.
struct KeptQ4_0 {
    static constexpr int64_t kBytes = kPanel * 18;
    PanelScales d;
    const uint8_t* weights;
    explicit KeptQ4_0(const uint8_t* group) : d(group), weights(group + 2 * kPanel) {}
    __attribute__((always_inline)) void pair(int pair, int part, F& even, F& odd) const {
        Vec::nibbles(weights + pair * kPanel + part * Vec::kLanes, even, odd);
        even = Vec::mul(d.of[part], Vec::sub(even, Vec::set1(8)));
        odd = Vec::mul(d.of[part], Vec::sub(odd, Vec::set1(8)));
    }
};

struct KeptQ4_1 {
    static constexpr int64_t kBytes = kPanel * 20;
    PanelScales d, m;
    const uint8_t* weights;
    explicit KeptQ4_1(const uint8_t* group) : d(group), m(group + 2 * kPanel), weights(group + 4 * kPanel) {}
    __attribute__((always_inline)) void pair(int pair, int part, F& even, F& odd) const {
        Vec::nibbles(weights + pair * kPanel + part * Vec::kLanes, even, odd);
        even = Vec::add(Vec::mul(d.of[part], even), m.of[part]);
        odd = Vec::add(Vec::mul(d.of[part], odd), m.of[part]);
    }
};

struct KeptQ8_0 {
    static constexpr int64_t kBytes = kPanel * 34;
    PanelScales d;
    const uint8_t* weights;
    explicit KeptQ8_0(const uint8_t* group) : d(group), weights(group + 2 * kPanel) {}
    __attribute__((always_inline)) void pair(int pair, int part, F& even, F& odd) const {
        const uint8_t* at = weights + 2 * pair * kPanel + part * Vec::kLanes;
        even = Vec::mul(d.of[part], Vec::signed_bytes(at));
        odd = Vec::mul(d.of[part], Vec::signed_bytes(at + kPanel));
    }
};

SIMD void fetch_group(const uint8_t* group, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += kLine) __builtin_prefetch(group + kKeptAhead + i, 0, 3);
}

// Two k of one vector of outputs, where the product with weights of type T wants them.
SIMD void put_pair(float* out, int lane, F even, F odd) {
    Vec::store(out + lane, even);
    Vec::store(out + kPanel + lane, odd);
}
SIMD void put_pair(bf16* out, int lane, F even, F odd) { Vec::store_pairs(out + 2 * lane, even, odd); }

// out = the groups [first, first + count) of `panel`.
template <class Format, class T>
void widen_groups(const uint8_t* panel, int64_t first, int64_t count, T* out) {
    for (const uint8_t* at = panel + first * Format::kBytes; count > 0; --count, at += Format::kBytes) {
        fetch_group(at, Format::kBytes);
        const Format group(at);
        for (int pair = 0; pair < 16; ++pair, out += 2 * kPanel)
            for (int part = 0; part < kPanelParts; ++part) {
                F even, odd;
                group.pair(pair, part, even, odd);
                put_pair(out, part * Vec::kLanes, even, odd);
            }
    }
}

// R rows by P panels, all of k. b.steps counts groups.
template <class Format, int R, int P>
void kept_tile(const MatmulBlock& b, int64_t panel) {
    const int64_t panel_bytes = b.steps * Format::kBytes, x_stride = b.x_stride / int64_t(sizeof(float));
    const uint8_t* at = static_cast<const uint8_t*>(b.panels) + panel * panel_bytes;
    const auto* x = static_cast<const float*>(b.x);
    F sum[R][P][kPanelParts];
    for (auto& row : sum)
        for (auto& parts : row)
            for (F& s : parts) s = Vec::zero();
    for (int64_t g = 0; g < b.steps; ++g, at += Format::kBytes, x += 32)
        for (int p = 0; p < P; ++p) {
            fetch_group(at + p * panel_bytes, Format::kBytes);
            const Format group(at + p * panel_bytes);
            for (int pair = 0; pair < 16; ++pair)
                for (int part = 0; part < kPanelParts; ++part) {
                    F even, odd;
                    group.pair(pair, part, even, odd);
                    for (int r = 0; r < R; ++r) {
                        F& s = sum[r][p][part];
                        s = Vec::fma(Vec::set1(x[r * x_stride + 2 * pair]), even, s);
                        s = Vec::fma(Vec::set1(x[r * x_stride + 2 * pair + 1]), odd, s);
                    }
                }
        }
    for (int r = 0; r < R; ++r)
        for (int p = 0; p < P; ++p)
            for (int part = 0; part < kPanelParts; ++part) {
                const int64_t column = (panel + p) * kPanel + part * Vec::kLanes, left = b.columns - column;
                float* out = b.out + r * b.out_stride + column;
                if (left >= Vec::kLanes)
                    Vec::store(out, sum[r][p][part]);
                else if (left > 0)
                    Vec::store_partial(out, sum[r][p][part], int(left));
            }
}

constexpr int kKeptRows = 2;  // up to so many rows are multiplied while weights are widened

template <class Format>
void kept_rows(const MatmulBlock& b) {
    with_count<kKeptRows>(int(b.rows), [&](auto r) {
        int64_t panel = b.panel_begin;
        for (; panel + 2 <= b.panel_end; panel += 2) kept_tile<Format, decltype(r)::value, 2>(b, panel);
        if (panel < b.panel_end) kept_tile<Format, decltype(r)::value, 1>(b, panel);
    });
}

template <class Format>
constexpr KeptKernels kKeptKernels{widen_groups<Format, float>, widen_groups<Format, bf16>, kept_rows<Format>};

KeptKernels kept_kernels(GgufType type) {
    switch (type) {
        case GgufType::q4_0:
            return kKeptKernels<KeptQ4_0>;
        case GgufType::q4_1:
            return kKeptKernels<KeptQ4_1>;
        case GgufType::q8_0:
            return kKeptKernels<KeptQ8_0>;
        default:
            return {};  // can_keep() says no
    }
}

}  // namespace
}  // namespace spartan
