// Storage types on the device, and the few PTX instructions that several kernels use. bf16 and f16 are spartan's, with
// the layout of __nv_bfloat16 and __half; T is one of them.
#pragma once

#include "kernels/view.h"

#include <cstdint>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace spartan {

// Two values in a word, the first in its low half.
template <class T>
__device__ __forceinline__ float low_of(uint32_t pair) {
    static_assert(is_16_bit<T>);
    if constexpr (std::is_same_v<T, bf16>)
        return __uint_as_float(pair << 16);
    else
        return __low2float(*reinterpret_cast<const __half2*>(&pair));
}
template <class T>
__device__ __forceinline__ float high_of(uint32_t pair) {
    static_assert(is_16_bit<T>);
    if constexpr (std::is_same_v<T, bf16>)
        return __uint_as_float(pair & 0xffff0000u);
    else
        return __high2float(*reinterpret_cast<const __half2*>(&pair));
}
template <class T>
__device__ __forceinline__ uint32_t pack(float low, float high) {
    static_assert(is_16_bit<T>);
    if constexpr (std::is_same_v<T, bf16>) {
        const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
        return *reinterpret_cast<const uint32_t*>(&v);
    } else {
        const __half2 v = __floats2half2_rn(low, high);
        return *reinterpret_cast<const uint32_t*>(&v);
    }
}

// 16 bytes of what no kernel of a step writes and that is read once. Not ld.global.nc, which ptxas moves below
// griddepcontrol.wait, so that nothing would be requested ahead. Memory is asked for whole lines of 128 bytes, of which
// the operands of a row-major matrix are often but half at a time: products of few rows went from 91 to 96 % by it.
__device__ __forceinline__ uint4 load_weights(const void* p) {
    uint4 v;
    asm volatile("ld.global.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p)
                 : "memory");
    return v;
}

// c [16 x 8] += a [16 x 16] * b [16 x 8], T in, fp32 sums. Lane 4r + q holds: a.x (row r, k 2q, 2q+1), a.y (row
// r+8), a.z (row r, k 2q+8, 2q+9), a.w (row r+8, the same k); b0 (k 2q, 2q+1, column r), b1 (k 2q+8, 2q+9); c[0], c[1]
// (row r, columns 2q, 2q+1), c[2], c[3] (row r+8).
template <class T>
__device__ __forceinline__ void mma(float (&c)[4], const uint4& a, uint32_t b0, uint32_t b1) {
    static_assert(is_16_bit<T>);
    if constexpr (std::is_same_v<T, bf16>)
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
    else
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
}

// An 8 x 8 matrix of 16-bit values, of which lane 4r + q holds row r, columns 2q, 2q+1: its transpose, held so.
__device__ __forceinline__ uint32_t transposed(uint32_t pair) {
    uint32_t out;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(pair));
    return out;
}

// to += from; from = 0
template <int A, int B, int C>
__device__ __forceinline__ void take(float (&to)[A][B][C], float (&from)[A][B][C]) {
#pragma unroll
    for (int a = 0; a < A; ++a)
#pragma unroll
        for (int b = 0; b < B; ++b)
#pragma unroll
            for (int c = 0; c < C; ++c) {
                to[a][b][c] += from[a][b][c];
                from[a][b][c] = 0;
            }
}

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) v += __shfl_xor_sync(~0u, v, offset);
    return v;
}
__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) v = fmaxf(v, __shfl_xor_sync(~0u, v, offset));
    return v;
}

}  // namespace spartan
