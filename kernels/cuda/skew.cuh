// Skew halves (kernels/skew.h) on their way into a warp's registers.
#pragma once

#include "kernels/cuda/numbers.cuh"

namespace spartan {

__device__ __forceinline__ void load_skew(const bf16* from, float (&v)[8]) {
    const uint4 w = *reinterpret_cast<const uint4*>(from);
    const uint32_t pairs[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        v[2 * i] = low_of<bf16>(pairs[i]);
        v[2 * i + 1] = high_of<bf16>(pairs[i]);
    }
}
__device__ __forceinline__ void load_skew(const float* from, float (&v)[8]) {
    const float4 a = reinterpret_cast<const float4*>(from)[0], b = reinterpret_cast<const float4*>(from)[1];
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
    v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}

// `count` values (a multiple of 8) into shared memory, by a warp.
template <class S>
__device__ __forceinline__ void fetch_skew(float* to, const S* from, int count, int lane) {
#pragma unroll 2
    for (int i = lane * 8; i < count; i += 256) {
        float v[8];
        load_skew(from + i, v);
        reinterpret_cast<float4*>(to + i)[0] = make_float4(v[0], v[1], v[2], v[3]);
        reinterpret_cast<float4*>(to + i)[1] = make_float4(v[4], v[5], v[6], v[7]);
    }
}

// Where S[i][j] (i < j) lies in a block's triangle.
HOST_DEVICE constexpr int skew_place(int i, int j, int b) { return int(unsigned(i * (2 * b - i - 1)) / 2) + j - i - 1; }

}  // namespace spartan
