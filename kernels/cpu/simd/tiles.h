// The bf16 matrix product by tiles of 16 x 16 outputs, over a policy `Tiles` for the tile registers (AMX, or a stand-in
// that lets any processor test what is here). A panel is already in the order that the instruction wants: 16 lines of
// it, 32 k by 16 outputs, are one tile.
//
// Every output is one chain over tiles of 32 k in rising k, whatever the rows beside it: a row's result does not depend
// on them. Within a tile the instruction adds even and odd k apart; k is cut from 0 on, so that is the same for all.
#pragma once

#include "kernels/cpu/simd/table.h"

#include <cstring>

namespace spartan {
namespace {

constexpr int64_t kTileLines = 16;  // of a panel: 32 k
constexpr int64_t kTileSide = 16;   // rows of x, and outputs
constexpr int64_t kTileBytes = kTileLines * kLine;
constexpr int64_t kPassRows = 2 * kTileSide;  // of x that one pass over a pair of panels takes

// Registers: 0 to 3 sums (row tile * 2 + panel), 4 and 5 rows of x, 6 and 7 panels.
template <class Tiles, int R, int P>
void add_tile(const char* x, int64_t x_stride, const char* const (&w)[2]) {
    Tiles::template load<6>(w[0], kLine);
    if constexpr (P == 2) Tiles::template load<7>(w[1], kLine);
    Tiles::template load<4>(x, x_stride);
    if constexpr (R == 2) Tiles::template load<5>(x + kTileSide * x_stride, x_stride);
    Tiles::template dot<0, 4, 6>();
    if constexpr (P == 2) Tiles::template dot<1, 4, 7>();
    if constexpr (R == 2) Tiles::template dot<2, 5, 6>();
    if constexpr (R == 2 && P == 2) Tiles::template dot<3, 5, 7>();
}

template <class Tiles, int Register>
void store_tile(float* out, int64_t out_stride, int64_t rows, int64_t columns) {
    if (columns >= kTileSide) return Tiles::template store<Register>(out, out_stride * int64_t(sizeof(float)));
    alignas(64) float edge[kTileSide * kTileSide];
    Tiles::template store<Register>(edge, kTileSide * int64_t(sizeof(float)));
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < columns; ++c) out[r * out_stride + c] = edge[r * kTileSide + c];
}

template <class Tiles>
struct TileWalk {
    const MatmulBlock& b;
    int64_t panel_bytes = b.steps * kLine;

    // R row tiles by P panels, all of k. `fetch` brings what this pass reads of the next pair of panels.
    template <int R, int P>
    void pass(int64_t row, int64_t rows, int64_t panel, bool fetch) const {
        const char* x = static_cast<const char*>(b.x) + row * b.x_stride;
        const char* first = static_cast<const char*>(b.panels) + panel * panel_bytes;
        const char* w[2] = {first, first + (P == 2 ? panel_bytes : 0)};
        Tiles::template zero<0>();
        Tiles::template zero<1>();
        if constexpr (R == 2) {  // a register without rows must not be named
            Tiles::template zero<2>();
            Tiles::template zero<3>();
        }
        int64_t step = 0;
        for (; step + kTileLines <= b.steps; step += kTileLines) {
            if (fetch)
                for (int64_t i = 0; i < P * kTileLines; ++i)
                    __builtin_prefetch(first + P * panel_bytes + (P * step + i) * kLine, 0, 2);
            add_tile<Tiles, R, P>(x, b.x_stride, w);
            x += kLine;
            for (const char*& p : w) p += kTileBytes;
        }
        if (step < b.steps) {
            // Lines that are not the panel's count as zeros; so does what x holds there.
            alignas(64) char last[2][kTileBytes] = {};
            for (int p = 0; p < P; ++p) std::memcpy(last[p], w[p], size_t((b.steps - step) * kLine));
            const char* const padded[2] = {last[0], last[1]};
            add_tile<Tiles, R, P>(x, b.x_stride, padded);
        }
        float* out = b.out + row * b.out_stride + panel * kPanel;
        const int64_t columns = b.columns - panel * kPanel, low = smaller64(rows, kTileSide), high = rows - low;
        store_tile<Tiles, 0>(out, b.out_stride, low, columns);
        if constexpr (P == 2) store_tile<Tiles, 1>(out + kPanel, b.out_stride, low, columns - kPanel);
        if constexpr (R == 2) store_tile<Tiles, 2>(out + kTileSide * b.out_stride, b.out_stride, high, columns);
        if constexpr (R == 2 && P == 2)
            store_tile<Tiles, 3>(out + kTileSide * b.out_stride + kPanel, b.out_stride, high, columns - kPanel);
    }

    void walk() const {
        int64_t configured = -1;
        for (int64_t panel = b.panel_begin; panel < b.panel_end; panel += 2)
            for (int64_t row = 0; row < b.rows; row += kPassRows) {
                const int64_t rows = smaller64(kPassRows, b.rows - row);
                if (rows != configured) Tiles::configure(smaller64(rows, kTileSide), rows - smaller64(rows, kTileSide));
                configured = rows;
                const bool pair = panel + 2 <= b.panel_end, fetch = row == 0 && panel + 4 <= b.panel_end;
                if (rows > kTileSide)
                    pair ? pass<2, 2>(row, rows, panel, fetch) : pass<2, 1>(row, rows, panel, false);
                else
                    pair ? pass<1, 2>(row, rows, panel, fetch) : pass<1, 1>(row, rows, panel, false);
            }
        Tiles::release();
    }
};

template <class Tiles>
void matmul_tiles(const MatmulBlock& b) {
    if (b.rows > 0) TileWalk<Tiles>{b}.walk();
}

// One row, rounded, with zeros up to a whole line: tiles read lines, and the rows' stride leaves room for them.
void prepare_bf16_lines(void* out, const float* x, int64_t k) {
    prepare_bf16(out, x, k);
    auto* to = static_cast<bf16*>(out);
    for (int64_t i = k; i % (kLine / 2) != 0; ++i) to[i] = bf16{0};
}

// Full tiles over and over, on rows and weights that stay in the L1 cache.
template <class Tiles>
double peak_tiles(int64_t rounds, float* sink) {
    constexpr int64_t kTiles = 4;
    alignas(64) static constexpr char zeros[2 * kTileSide * kTiles * kLine] = {};
    const char* const w[2] = {zeros, zeros + kTiles * kTileBytes / 2};
    Tiles::configure(kTileSide, kTileSide);
    Tiles::template zero<0>();
    Tiles::template zero<1>();
    Tiles::template zero<2>();
    Tiles::template zero<3>();
    for (int64_t i = 0; i < rounds; ++i)
        for (int64_t t = 0; t < kTiles; ++t) add_tile<Tiles, 2, 2>(zeros + t * kLine, kTiles * kLine, w);
    alignas(64) float out[kTileSide * kTileSide];
    Tiles::template store<0>(out, kTileSide * int64_t(sizeof(float)));
    Tiles::release();
    *sink = out[0];
    return 2.0 * double(rounds * kTiles) * double(kPassRows * 2 * kPanel * 2 * kTileLines);
}

}  // namespace
}  // namespace spartan
