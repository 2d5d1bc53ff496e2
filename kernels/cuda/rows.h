// What the forward pass does to rows on their own: lookup, norms with the residual's addition, the gate. The residual
// stream x is float, what goes into and comes out of products is T = float, bf16 or f16; all arithmetic is fp32 with
// one rounding at the end. A row's sums are made in one order, whatever the number of rows.
//
// `ahead`: device.h; asked for at the start, by CTAs of its own.
//
// Shapes are [rows, dim], rows from 0 to 65,535. Fast when dim is a multiple of 8 and pointers are 16-byte aligned,
// plain otherwise. `weight`, tables of tiles and adapters must be complete before the step (they are read ahead).
#pragma once

#include "kernels/cuda/device.h"
#include "kernels/cuda/tables.h"
#include "kernels/view.h"

#include <cstdint>

namespace spartan {

// The batch's tiles, in device memory. Rows in none of them are the base's.
struct RowTiles {
    const CudaTile* tiles = nullptr;
    int64_t count = 0;
};

// Norm weights of adapters: own[tile], in device memory; null for the base's. Those that are not null are 16-byte
// aligned when the base's is.
struct TileNorms {
    RowTiles tiles;
    const float* const* own = nullptr;  // null: the base's for all rows
};

// What is still to be done to the output y of a linear layer behind its product (scale_bias() of
// kernels/adapter_ops.h): y = gain * y + bias with the gain and bias of the row's tile's CudaPart number `part`; bias:
// else the base's.
struct OutputChange {
    int32_t part = -1;            // layer * 7 + projection; negative: no adapter may change this layer
    const float* bias = nullptr;  // the base's; may be null
};

enum class GateKind : uint8_t { silu, gelu, gelu_tanh };  // as in kernels/elementwise.h

// x[i] = multiplier * table[ids[i]]; table [.., dim]; every id must be a row of it.
template <class T>
void gather_rows(CudaDevice&, float* x, const T* table, const int32_t* ids, float multiplier, int64_t rows,
                 int64_t dim);

// out[i] = x[i] / sqrt(mean(x[i]^2) + eps) * weight. out may be x when T is float.
template <class T>
void rms_norm(CudaDevice&, T* out, const float* x, const float* weight, float eps, int64_t rows, int64_t dim,
              const TileNorms& norms = {}, const Ahead& ahead = {});

// The same of x[row_index[i]], for the rows that need logits; row_index is in device memory and a table as the tiles
// are. norms are those of the tile of row_index[i]. out must not alias x.
template <class T>
void rms_norm_of_rows(CudaDevice&, T* out, const float* x, const int32_t* row_index, const float* weight, float eps,
                      int64_t rows, int64_t dim, const TileNorms& norms = {}, const Ahead& ahead = {});

// x += multiplier * delta, the product rounded on its own; before that, `change` is done to delta.
template <class T>
void add_rows(CudaDevice&, float* x, const T* delta, float multiplier, int64_t rows, int64_t dim,
              const RowTiles& tiles = {}, const OutputChange& change = {});

// add_rows(), then out = rms_norm(x), in one pass. out may alias delta, not x.
template <class T>
void add_rms_norm(CudaDevice&, T* out, float* x, const T* delta, float multiplier, const float* weight, float eps,
                  int64_t rows, int64_t dim, const TileNorms& norms = {}, const OutputChange& change = {},
                  const Ahead& ahead = {});

// x *= factor
void scale(CudaDevice&, float* x, float factor, int64_t count);

// out = kind(gate) * up, after `gate_change` and `up_change`. out may be gate or up.
template <class T>
void gate_mul(CudaDevice&, T* out, const T* gate, const T* up, GateKind kind, int64_t rows, int64_t dim,
              const RowTiles& tiles = {}, const OutputChange& gate_change = {}, const OutputChange& up_change = {},
              const Ahead& ahead = {});

}  // namespace spartan
