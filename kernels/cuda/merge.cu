// A block makes 32 x 32 values through shared memory, as a plain tiled product: merging happens when the adapter that
// runs changes, not in every step.
#include "kernels/check.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/merge.h"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/tiles.cuh"

namespace spartan {

namespace {

constexpr int kTile = 32, kThreads = 256, kRowsAThread = kTile * kTile / kThreads;

using SharedTile = float[kTile][kTile + 1];

// sum[i] += left[row of i] · right[column], over the tiles' second index.
__device__ __forceinline__ void multiply_tiles(float (&sum)[kRowsAThread], const SharedTile& left,
                                               const SharedTile& right, int column, int row) {
#pragma unroll
    for (int f = 0; f < kTile; ++f)
#pragma unroll
        for (int i = 0; i < kRowsAThread; ++i) sum[i] = fmaf(left[row + 8 * i][f], right[column][f], sum[i]);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    merge_part_kernel(T* merged, const T* w, CudaPart part, int64_t out, int64_t in) {
    __shared__ SharedTile left, right;
    pdl_trigger();
    pdl_wait();
    const int column = int(threadIdx.x) % kTile, row = int(threadIdx.x) / kTile;  // rows row, row + 8, …
    const int64_t k0 = int64_t(blockIdx.x) * kTile, n0 = int64_t(blockIdx.y) * kTile, k = k0 + column;
    float sum[kRowsAThread] = {};
    if (const T* rotation = static_cast<const T*>(part.rotation)) {
        const int64_t group = part.group, last = (k0 + kTile < in ? k0 + kTile : in) - 1;
        const int64_t end = (last / group + 1) * group;
        for (int64_t f0 = k0 / group * group; f0 < end; f0 += kTile) {
            const int64_t f = f0 + column;
#pragma unroll
            for (int i = 0; i < kRowsAThread; ++i) {
                const int64_t n = n0 + row + 8 * i, u = k0 + row + 8 * i;  // left: w[n][f]; right: R[u][f]
                left[row + 8 * i][column] = n < out && f < end ? to_float(w[n * in + f]) : 0.f;
                right[row + 8 * i][column] =
                    u < in && f < end && u / group == f / group ? to_float(rotation[u * group + f % group]) : 0.f;
            }
            __syncthreads();
            multiply_tiles(sum, left, right, column, row);
            __syncthreads();
        }
    } else {
#pragma unroll
        for (int i = 0; i < kRowsAThread; ++i) {
            const int64_t n = n0 + row + 8 * i;
            if (n < out && k < in) sum[i] = to_float(w[n * in + k]);
        }
    }
    const T *a = static_cast<const T*>(part.a), *b_t = static_cast<const T*>(part.b_t);
    for (int r0 = 0; a && r0 < part.rank; r0 += kTile) {
#pragma unroll
        for (int i = 0; i < kRowsAThread; ++i) {
            const int r = r0 + row + 8 * i;  // both come transposed, so that reads lie together
            const int64_t n = n0 + column;
            left[column][row + 8 * i] = r < part.rank && n < out ? part.scale * to_float(b_t[r * out + n]) : 0.f;
            right[column][row + 8 * i] = r < part.rank && k < in ? to_float(a[r * in + k]) : 0.f;
        }
        __syncthreads();
        multiply_tiles(sum, left, right, column, row);
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < kRowsAThread; ++i) {
        const int64_t n = n0 + row + 8 * i;
        if (n < out && k < in) merged[n * in + k] = from_float<T>(part.gain ? part.gain[n] * sum[i] : sum[i]);
    }
}

}  // namespace

template <class T>
void merge_part(CudaDevice& device, T* merged, const T* w, const CudaPart& part, int64_t out, int64_t in) {
    CHECK(out > 0 && in > 0 && merged != w && divide_up(out, kTile) <= 65535);
    CHECK(!part.rotation || (!part.rotation_packed && part.group > 0 && in % part.group == 0));
    CHECK((part.a != nullptr) == (part.b_t != nullptr));
    const dim3 grid(unsigned(divide_up(in, kTile)), unsigned(divide_up(out, kTile)));
    launch(device, merge_part_kernel<T>, grid, kThreads, 0, merged, w, part, out, in);
}

template void merge_part<float>(CudaDevice&, float*, const float*, const CudaPart&, int64_t, int64_t);
template void merge_part<bf16>(CudaDevice&, bf16*, const bf16*, const CudaPart&, int64_t, int64_t);
template void merge_part<f16>(CudaDevice&, f16*, const f16*, const CudaPart&, int64_t, int64_t);

}  // namespace spartan
