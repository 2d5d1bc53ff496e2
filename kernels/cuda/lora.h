// The low-rank part of an adapter, over the rows of a batch's tiles, for up to three linear layers with one input:
//
//     out[p][row][n] += scale * sum over r of b_t[r][n] * (sum over k of a[r][k] * x[row][k])
//
// with a, b_t, rank and scale of the part [first_part + p] of the row's tile; rows without one, and rows of no tile,
// are left alone. fp32 sums, the inner one kept in fp32, and one rounding. A row's bits depend on its own values and
// adapter only.
//
// Two kernels: one shrinks x to `workspace`; the other expands that into out (lora_long.h may put one between them).
// Each adapter's A and B are read once a tile (in batches of many rows from the L2 cache, for the most part; B of ranks
// over 256 once for 8 rows) and no more of them than its rank.
#pragma once

#include "kernels/cuda/device.h"
#include "kernels/cuda/tables.h"

namespace spartan {

constexpr int kMaxLoraProjections = 3;

template <class T>
struct LoraOutputs {
    T* out[kMaxLoraProjections] = {};  // [rows, width]
    int64_t width[kMaxLoraProjections] = {};
};

// Of the workspace that lora() needs for up to `rows` rows.
constexpr int64_t lora_workspace_bytes(int num_projections, int64_t rows, int64_t in, int max_rank) {
    const int64_t slabs = (in + 1023) / 1024, ranks = (max_rank + 15) / 16 * 16;
    return slabs * num_projections * rows * ranks * 4;
}

// Whether lora() can set out instead of adding to it: out[p][row][n] = scale * ..., rounded, and zeros in rows of tiles
// without such a part. For multiply_onto() (matmul.h), which then adds the product: out passes through memory once
// less.
template <class T>
bool lora_sets(const CudaDevice&, const LoraOutputs<T>& outputs, int num_tiles, int num_projections, int64_t rows,
               int64_t in, int max_rank);

// x [rows, in] must not alias an out. workspace: lora_workspace_bytes(), aligned to 16 bytes; what it holds does not
// matter. max_rank: at least the largest rank of these parts; 0: nothing to do.
// Fast for 16-bit types where `in` and all widths are multiples of 8, max_rank is at most 512 and x, out, a and b_t are
// aligned to 16 bytes (which such widths then demand); plain otherwise.
template <class T>
void lora(CudaDevice&, const LoraOutputs<T>& outputs, const T* x, const CudaTile* tiles, int num_tiles, int first_part,
          int num_projections, int64_t rows, int64_t in, int max_rank, float* workspace, bool sets = false);

extern template void lora<float>(CudaDevice&, const LoraOutputs<float>&, const float*, const CudaTile*, int, int, int,
                                 int64_t, int64_t, int, float*, bool);
extern template void lora<bf16>(CudaDevice&, const LoraOutputs<bf16>&, const bf16*, const CudaTile*, int, int, int,
                                int64_t, int64_t, int, float*, bool);
extern template void lora<f16>(CudaDevice&, const LoraOutputs<f16>&, const f16*, const CudaTile*, int, int, int,
                               int64_t, int64_t, int, float*, bool);

}  // namespace spartan
