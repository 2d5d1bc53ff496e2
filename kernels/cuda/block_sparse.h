// One factor position of the butterfly adapters of a batch's tiles, as kernels/block_sparse.h has it: one launch for
// all adapters and up to three linear layers.
//
//     out[p][row][map[n]] = sum over u of x[p][row][map[u]] * S[u][n]          p < num_projections
//
// S and map are those of the given factor of CudaPart::factors of the part [first_part + p] of the row's tile, cut to
// cells of cell x cell; where there is no such factor, the row is copied. Rows of no tile are left alone. fp32 sums,
// one rounding a factor. A row's bits depend on its own values and adapter only.
#pragma once

#include "kernels/block_sparse.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/tables.h"

namespace spartan {

// A butterfly chain as it lies batched: what CudaPart::factors points to.
struct alignas(16) CudaFactors {
    const void* cells = nullptr;    // T [num_factors][dim / cell][block / cell][cell][cell]; null: none
    const int32_t* maps = nullptr;  // [num_factors - 1][dim]: of the factors 1, 2, …; factor 0 keeps the order
    int32_t block = 0, num_factors = 0;
};

// out [num_projections, rows, dim] must not alias x [num_projections, rows, dim], or [rows, dim] where x_shared.
template <class T>
void block_sparse(CudaDevice&, T* out, const T* x, bool x_shared, const CudaTile* tiles, int num_tiles, int first_part,
                  int num_projections, int64_t rows, int64_t dim, int64_t cell, int factor);

// `count` blocks of block x block at `blocks`, to be cut into cells from `cells` on.
struct alignas(16) CudaFactorRun {
    const void* blocks = nullptr;  // T
    void* cells = nullptr;         // T, aligned as cudaMalloc's memory to 16 bytes
    int32_t count = 0, block = 0;
};

// cut_blocks() of each of the runs, which lie in device memory. largest: values of the largest run.
template <class T>
void cut_blocks(CudaDevice&, const CudaFactorRun* runs, int num_runs, int64_t largest, int64_t cell);

extern template void block_sparse<float>(CudaDevice&, float*, const float*, bool, const CudaTile*, int, int, int,
                                         int64_t, int64_t, int64_t, int);
extern template void block_sparse<bf16>(CudaDevice&, bf16*, const bf16*, bool, const CudaTile*, int, int, int, int64_t,
                                        int64_t, int64_t, int);
extern template void block_sparse<f16>(CudaDevice&, f16*, const f16*, bool, const CudaTile*, int, int, int, int64_t,
                                       int64_t, int64_t, int);
extern template void cut_blocks<float>(CudaDevice&, const CudaFactorRun*, int, int64_t, int64_t);
extern template void cut_blocks<bf16>(CudaDevice&, const CudaFactorRun*, int, int64_t, int64_t);
extern template void cut_blocks<f16>(CudaDevice&, const CudaFactorRun*, int, int64_t, int64_t);

}  // namespace spartan
