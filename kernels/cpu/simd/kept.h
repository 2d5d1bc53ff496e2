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

// The formats: 32 k (`piece` of a group's kPieces) of 16 outputs, and two k of one vector of the outputs.
struct KeptQ4_0 {
    static constexpr int64_t kBytes = kPanel * 18, kPieces = 1;
    PanelScales d;
    const uint8_t* weights;
    KeptQ4_0(const uint8_t* group, int64_t) : d(group), weights(group + 2 * kPanel) {}
    __attribute__((always_inline)) void pair(int pair, int part, F& even, F& odd) const {
        Vec::nibbles(weights + pair * kPanel + part * Vec::kLanes, even, odd);
        even = Vec::mul(d.of[part], Vec::sub(even, Vec::set1(8)));
        odd = Vec::mul(d.of[part], Vec::sub(odd, Vec::set1(8)));
    }
};

struct KeptQ4_1 {
    static constexpr int64_t kBytes = kPanel * 20, kPieces = 1;
    PanelScales d, m;
    const uint8_t* weights;
    KeptQ4_1(const uint8_t* group, int64_t) : d(group), m(group + 2 * kPanel), weights(group + 4 * kPanel) {}
    __attribute__((always_inline)) void pair(int pair, int part, F& even, F& odd) const {
        Vec::nibbles(weights + pair * kPanel + part * Vec::kLanes, even, odd);
        even = Vec::add(Vec::mul(d.of[part], even), m.of[part]);
        odd = Vec::add(Vec::mul(d.of[part], odd), m.of[part]);
    }
};

struct KeptQ8_0 {
    static constexpr int64_t kBytes = kPanel * 34, kPieces = 1;
    PanelScales d;
    const uint8_t* weights;
    KeptQ8_0(const uint8_t* group, int64_t) : d(group), weights(group + 2 * kPanel) {}
    __attribute__((always_inline)) void pair(int pair, int part, F& even, F& odd) const {
        const uint8_t* at = weights + 2 * pair * kPanel + part * Vec::kLanes;
        even = Vec::mul(d.of[part], Vec::signed_bytes(at));
        odd = Vec::mul(d.of[part], Vec::signed_bytes(at + kPanel));
    }
};

typedef uint8_t OutputBytes __attribute__((vector_size(16)));  // one of each output of a panel

SIMD OutputBytes output_bytes(const uint8_t* p) {
    OutputBytes v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

struct KeptQ4_K {
    static constexpr int64_t kBytes = kPanel * 144, kPieces = 8;
    F d[kPanelParts], m[kPanelParts];
    const uint8_t* weights;
    KeptQ4_K(const uint8_t* group, int64_t piece) : weights(group + (16 + 16 * piece) * kPanel) {
        // Six bits each of scale and minimum: pieces 0 to 3 in a byte of their own, whose high bits serve 4 to 7.
        const uint8_t* packed = group + 4 * kPanel;
        const auto at = [&](int64_t i) { return output_bytes(packed + i * kPanel); };
        OutputBytes scale, minimum;
        if (piece < 4) {
            scale = at(piece) & 63;
            minimum = at(piece + 4) & 63;
        } else {
            scale = (at(piece + 4) & 15) | (at(piece - 4) >> 6 << 4);
            minimum = at(piece + 4) >> 4 | (at(piece) >> 6 << 4);
        }
        uint8_t scales[kPanel], minima[kPanel];
        __builtin_memcpy(scales, &scale, sizeof scales);
        __builtin_memcpy(minima, &minimum, sizeof minima);
        const PanelScales whole(group), least(group + 2 * kPanel);
        for (int part = 0; part < kPanelParts; ++part) {
            d[part] = Vec::mul(whole.of[part], Vec::bits(scales + part * Vec::kLanes, 0, 255));
            m[part] = Vec::mul(least.of[part], Vec::bits(minima + part * Vec::kLanes, 0, 255));
        }
    }
    __attribute__((always_inline)) void pair(int pair, int part, F& even, F& odd) const {
        Vec::nibbles(weights + pair * kPanel + part * Vec::kLanes, even, odd);
        even = Vec::sub(Vec::mul(d[part], even), m[part]);
        odd = Vec::sub(Vec::mul(d[part], odd), m[part]);
    }
};

struct KeptQ6_K {
    static constexpr int64_t kBytes = kPanel * 210, kPieces = 8;
    F d[2][kPanelParts];  // of the first and the second 16 k
    const uint8_t *low, *high;
    KeptQ6_K(const uint8_t* group, int64_t piece)
        : low(group + (18 + 16 * piece) * kPanel), high(group + (146 + 8 * piece) * kPanel) {
        const PanelScales whole(group);
        const uint8_t* scales = group + (2 + 2 * piece) * kPanel;
        for (int half = 0; half < 2; ++half, scales += kPanel)
            for (int part = 0; part < kPanelParts; ++part)
                d[half][part] = Vec::mul(whole.of[part], Vec::signed_bytes(scales + part * Vec::kLanes));
    }
    __attribute__((always_inline)) void pair(int pair, int part, F& even, F& odd) const {
        const int lane = part * Vec::kLanes, shift = pair % 2 * 4;
        const uint8_t* fours = high + pair / 2 * kPanel + lane;
        Vec::nibbles(low + pair * kPanel + lane, even, odd);
        even = Vec::add(even, Vec::mul(Vec::set1(16), Vec::bits(fours, shift, 3)));
        odd = Vec::add(odd, Vec::mul(Vec::set1(16), Vec::bits(fours, shift + 2, 3)));
        even = Vec::mul(d[pair / 8][part], Vec::sub(even, Vec::set1(32)));
        odd = Vec::mul(d[pair / 8][part], Vec::sub(odd, Vec::set1(32)));
    }
};

// Fetches what comes kKeptAhead bytes after a piece.
template <class Format>
SIMD void fetch_piece(const uint8_t* group, int64_t piece) {
    constexpr int64_t kBytes = Format::kBytes / Format::kPieces;
    for (int64_t i = 0; i < kBytes; i += kLine) __builtin_prefetch(group + piece * kBytes + kKeptAhead + i, 0, 3);
}

// Two k of one vector of outputs, where the product with weights of type T wants them.
SIMD void put_pair(float* out, int lane, F even, F odd) {
    Vec::store(out + lane, even);
    Vec::store(out + kPanel + lane, odd);
}
SIMD void put_pair(bf16* out, int lane, F even, F odd) { Vec::store_pairs(out + 2 * lane, even, odd); }

// out = the pieces of 32 k [first, first + count) of `panel`.
template <class Format, class T>
void widen_pieces(const uint8_t* panel, int64_t first, int64_t count, T* out) {
    for (int64_t i = first; i < first + count; ++i) {
        const uint8_t* group = panel + i / Format::kPieces * Format::kBytes;
        const int64_t piece = i % Format::kPieces;
        fetch_piece<Format>(group, piece);
        const Format format(group, piece);
        for (int pair = 0; pair < 16; ++pair, out += 2 * kPanel)
            for (int part = 0; part < kPanelParts; ++part) {
                F even, odd;
                format.pair(pair, part, even, odd);
                put_pair(out, part * Vec::kLanes, even, odd);
            }
    }
}

// R rows by P panels, all of k. b.steps counts pieces of 32 k.
template <class Format, int R, int P>
void kept_tile(const MatmulBlock& b, int64_t panel) {
    const int64_t panel_bytes = b.steps / Format::kPieces * Format::kBytes,
                  x_stride = b.x_stride / int64_t(sizeof(float));
    const uint8_t* at = static_cast<const uint8_t*>(b.panels) + panel * panel_bytes;
    const auto* x = static_cast<const float*>(b.x);
    F sum[R][P][kPanelParts];
    for (auto& row : sum)
        for (auto& parts : row)
            for (F& s : parts) s = Vec::zero();
    for (int64_t i = 0; i < b.steps; ++i, x += 32)
        for (int p = 0; p < P; ++p) {
            const uint8_t* group = at + p * panel_bytes + i / Format::kPieces * Format::kBytes;
            const int64_t piece = i % Format::kPieces;
            fetch_piece<Format>(group, piece);
            const Format format(group, piece);
            for (int pair = 0; pair < 16; ++pair)
                for (int part = 0; part < kPanelParts; ++part) {
                    F even, odd;
                    format.pair(pair, part, even, odd);
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
constexpr KeptKernels kKeptKernels{widen_pieces<Format, float>, widen_pieces<Format, bf16>, kept_rows<Format>};

KeptKernels kept_kernels(GgufType type) {
    switch (type) {
        case GgufType::q4_0:
            return kKeptKernels<KeptQ4_0>;
        case GgufType::q4_1:
            return kKeptKernels<KeptQ4_1>;
        case GgufType::q8_0:
            return kKeptKernels<KeptQ8_0>;
        case GgufType::q4_k:
            return kKeptKernels<KeptQ4_K>;
        case GgufType::q6_k:
            return kKeptKernels<KeptQ6_K>;
        default:
            return {};  // can_keep() says no
    }
}

}  // namespace
}  // namespace spartan
