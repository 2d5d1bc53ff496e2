// The lookup of tokens whose adapter changes the embedding, over the rows of a batch's tiles:
//
//     x[row] = multiplier * (gain * (rot(e) + scale · B A[:, token]) + bias)      e: the token's row of the embedding
//
// where e is the adapter's own row of the token, else of its copy of the table, else the base's. fp32 throughout.
// Plain: few adapters do this, and few rows are looked up.
#pragma once

#include "kernels/cuda/device.h"
#include "kernels/cuda/tables.h"

namespace spartan {

// x [rows, hidden] and ids [rows], in [0, vocab), are those of the whole batch; embedding T [vocab, hidden] is the
// base's, row-major. tables [num_tiles]: of the tile's adapter; null: its rows are left alone. A rotation may be packed
// or not, of any group.
template <class T>
void embed_own(CudaDevice&, float* x, const T* embedding, const int32_t* ids, const CudaTile* tiles,
               const CudaTable* const* tables, int num_tiles, int64_t hidden, float multiplier);

extern template void embed_own<float>(CudaDevice&, float*, const float*, const int32_t*, const CudaTile*,
                                      const CudaTable* const*, int, int64_t, float);
extern template void embed_own<bf16>(CudaDevice&, float*, const bf16*, const int32_t*, const CudaTile*,
                                     const CudaTable* const*, int, int64_t, float);
extern template void embed_own<f16>(CudaDevice&, float*, const f16*, const int32_t*, const CudaTile*,
                                    const CudaTable* const*, int, int64_t, float);

}  // namespace spartan
