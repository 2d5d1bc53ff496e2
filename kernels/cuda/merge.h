// An adapter's parts multiplied into one weight, for the strategy `merged`:
//
//     merged[n][k] = gain[n] * (sum over f of w[n][f] * R[f / G][k % G][f % G]  +  scale * sum over r of b_t[r][n] *
//     a[r][k])
//
// the first sum over the features f of k's own group of G, so that w · rot(x) = merged · x. Without a rotation the sum
// is w[n][k]; without a low-rank pair or a gain the rest is as if scale were 0 and the gain 1. fp32 sums, one rounding.
#pragma once

#include "kernels/cuda/device.h"
#include "kernels/cuda/tables.h"

namespace spartan {

// merged and w [out, in], row-major, may not alias. part.rotation is not packed: R as [in / group][group][group].
template <class T>
void merge_part(CudaDevice&, T* merged, const T* w, const CudaPart& part, int64_t out, int64_t in);

extern template void merge_part<float>(CudaDevice&, float*, const float*, const CudaPart&, int64_t, int64_t);
extern template void merge_part<bf16>(CudaDevice&, bf16*, const bf16*, const CudaPart&, int64_t, int64_t);
extern template void merge_part<f16>(CudaDevice&, f16*, const f16*, const CudaPart&, int64_t, int64_t);

}  // namespace spartan
