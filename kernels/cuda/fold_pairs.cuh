// Two factors of blocks of 32: groups of 64 features. A warp takes a block of Q, a thread block a group.
//
// F_0's block s mixes features [32 s, 32 s + 32) and F_1's block c mixes 16-feature chunks c and c + 2, so that of
// their product the rows of block c and the columns of block s are
//
//     R[c][s] [32][32] = F_1[c][:, half s] [32][16] · F_0[s][half c, :] [16][32]
//
// one to each warp, on the tensor cores: entries of Q are at most 1 and split into two f16 of which the second has them
// up to 2^-25. F_0 comes as its transpose, so that a row of either holds what a lane wants of a factor. A lane reads
// those rows whose products lie side by side where they are served from: rows 4r … 4r + 3 and columns 8q … 8q + 7.
#pragma once

#include "kernels/cuda/fold.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/rotate.h"
#include "kernels/cuda/square.cuh"

namespace spartan {

constexpr int kPairGroup = 2 * kSquare, kPairThreads = 128;

// A row of Q in shared memory: [half][q] of 16 bytes: columns 2q, 2q + 1 and 2q + 8, 2q + 9 of the half, then what they
// lack. The halves change places such that neither neighbouring rows nor rows 4 apart lie in the same banks.
HOST_DEVICE constexpr int pair_chunk(int row, int half, int q) {
    return row * 8 + (half ^ ((row ^ row >> 2) & 1)) * 4 + q;
}

__device__ __forceinline__ void split_pair(float x, float y, uint32_t& high, uint32_t& low) {
    high = pack<f16>(x, y);
    low = pack<f16>(x - low_of<f16>(high), y - high_of<f16>(high));
}

__device__ __forceinline__ void share_rows(uint4* to, Square& q, int lane) {
#pragma unroll
    for (int a = 0; a < 4; ++a)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            uint4 w;
            split_pair(q.at(a, 2 * half, 0), q.at(a, 2 * half, 1), w.x, w.z);
            split_pair(q.at(a, 2 * half + 1, 0), q.at(a, 2 * half + 1, 1), w.y, w.w);
            to[pair_chunk(8 * a + lane / 4, half, lane % 4)] = w;
        }
}

// R[c][s]: rows 4r + e of F_1[c], e = 2t + i / 2, and columns 8q + 2n + i % 2 of F_0[s].
struct PairProduct {
    float v[2][4][4];  // [t][n][i]

    __device__ __forceinline__ float at(int e, int column) const {
        return v[e / 2][column / 2][e % 2 * 2 + column % 2];
    }
};

__device__ __forceinline__ void multiply_pair(PairProduct& out, const uint4* first, const uint4* last, int c, int s,
                                              int lane) {
    const int r = lane / 4, q = lane % 4;
    uint4 high[2], low[2];
#pragma unroll
    for (int t = 0; t < 2; ++t) {
        const uint4 upper = last[pair_chunk(4 * r + 2 * t, s, q)], lower = last[pair_chunk(4 * r + 2 * t + 1, s, q)];
        high[t] = make_uint4(upper.x, lower.x, upper.y, lower.y);
        low[t] = make_uint4(upper.z, lower.z, upper.w, lower.w);
    }
#pragma unroll
    for (int n = 0; n < 4; ++n) {
        const uint4 w = first[pair_chunk(r / 2 * 8 + 2 * n + r % 2, c, q)];
#pragma unroll
        for (int t = 0; t < 2; ++t) {
            float(&sum)[4] = out.v[t][n];
            sum[0] = sum[1] = sum[2] = sum[3] = 0;
            mma<f16>(sum, low[t], w.x, w.y);
            mma<f16>(sum, high[t], w.z, w.w);
            mma<f16>(sum, high[t], w.x, w.y);
        }
    }
}

// Where a lane's rows and columns begin in a group.
HOST_DEVICE constexpr int pair_row(int c, int lane) { return 16 * (c + lane / 16 * 2) + lane / 4 % 4 * 4; }
HOST_DEVICE constexpr int pair_column(int s, int lane) { return 32 * s + lane % 4 * 8; }

// packed_rotation_offset() of its columns 2n and 2n + 1, in 16 bytes, without what the compiler makes of 64-bit
// divisions.
HOST_DEVICE constexpr int pair_offset(int c, int s, int lane, int n) {
    return 128 * n + lane / 16 * 64 + lane / 4 % 2 * 32 + 16 * s + lane % 4 * 4 + 2 * c + lane / 8 % 2;
}
constexpr bool pair_offsets_are_right() {
    for (int i = 0; i < 512; ++i) {
        const int c = i / 256, s = i / 128 % 2, lane = i / 4 % 32, n = i % 4;
        const int64_t offset =
            packed_rotation_offset(kPairGroup, kPairGroup + pair_column(s, lane) + 2 * n, pair_row(c, lane));
        if (offset != kPairGroup * kPairGroup + 8 * pair_offset(c, s, lane, n)) return false;
    }
    return true;
}
static_assert(pair_offsets_are_right());

// group: where the group begins.
template <class T>
__device__ __forceinline__ void store_pair_packed(T* group, int c, int s, int lane, const PairProduct& r) {
    const int beyond = pair_row(c, lane) - pair_column(s, lane);  // a multiple of 4
    auto* to = reinterpret_cast<uint4*>(group) + pair_offset(c, s, lane, 0);
#pragma unroll
    for (int n = 0; n < 4; ++n) {
        float d[4][2];
#pragma unroll
        for (int e = 0; e < 4; ++e)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                d[e][h] = r.at(e, 2 * n + h);
                const int here = 2 * n + h - e;
                if (here % 4 == 0) d[e][h] -= beyond == here ? 1.f : 0.f;
            }
        to[128 * n] = make_uint4(pack<T>(d[0][0], d[1][0]), pack<T>(d[0][1], d[1][1]), pack<T>(d[2][0], d[3][0]),
                                 pack<T>(d[2][1], d[3][1]));
    }
}
template <class T>
__device__ __forceinline__ void store_pair(T* out, const PairProduct& r) {
#pragma unroll
    for (int e = 0; e < 4; ++e, out += kPairGroup) {
        auto* to = reinterpret_cast<uint4*>(out);
        if constexpr (is_16_bit<T>)
            *to = make_uint4(pack<T>(r.at(e, 0), r.at(e, 1)), pack<T>(r.at(e, 2), r.at(e, 3)),
                             pack<T>(r.at(e, 4), r.at(e, 5)), pack<T>(r.at(e, 6), r.at(e, 7)));
        else
#pragma unroll
            for (int i = 0; i < 2; ++i)
                to[i] = make_uint4(__float_as_uint(r.at(e, 4 * i)), __float_as_uint(r.at(e, 4 * i + 1)),
                                   __float_as_uint(r.at(e, 4 * i + 2)), __float_as_uint(r.at(e, 4 * i + 3)));
    }
}

// This thread's lane, asked for where it is wanted: what follows from it is computed there, not held in registers until
// then.
__device__ __forceinline__ int lane_here() {
    int lane;
    asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
    return lane & 31;
}

// Block `warp` of group `group` of the job to shared memory; F_0's come transposed.
__device__ __forceinline__ void share_rotation(uint4* to, const FoldJob& job, int group, int warp) {
    const int lane = lane_here();
    const int64_t at = (int64_t(group) * 4 + warp) * skew_values(kSquare);
    auto* triangle = reinterpret_cast<float*>(to);
    if (job.half)
        fetch_triangle(triangle, static_cast<const bf16*>(job.skew) + at, lane);
    else
        fetch_triangle(triangle, static_cast<const float*>(job.skew) + at, lane);
    Square q;
    rotation_of_triangle(q, triangle, warp < 2, lane);
    share_rows(to, q, lane);
}

template <class T>
__device__ __forceinline__ void store_product(const FoldJob& job, int group, const uint4* first, const uint4* last,
                                              int c, int s) {
    const int lane = lane_here();
    PairProduct product;
    multiply_pair(product, first, last, c, s, lane);
    T* to = static_cast<T*>(job.rotation) + (int64_t(job.first_group) + group) * (kPairGroup * kPairGroup);
    if constexpr (is_16_bit<T>)
        if (job.packed) return store_pair_packed(to, c, s, lane, product);
    store_pair(to + pair_row(c, lane) * kPairGroup + pair_column(s, lane), product);
}

// As many registers as it likes: 4 CTAs an SM, without spills, fold 16 rotations in 16 us, 8 CTAs in 18 (H100).
template <class T>
__global__ void __launch_bounds__(kPairThreads, 4) fold_pairs(const FoldJob* jobs) {
    __shared__ uint4 shared[4][8 * kSquare];
    pdl_trigger();
    pdl_wait();
    const FoldJob& job = jobs[blockIdx.y];  // read where it is wanted
    const int warp = int(threadIdx.x / 32);
    for (int group = int(blockIdx.x); group < job.groups; group += int(gridDim.x)) {
        share_rotation(shared[warp], job, group, warp);
        __syncthreads();
        store_product<T>(job, group, shared[warp % 2], shared[2 + warp / 2], warp / 2, warp % 2);
        __syncthreads();
    }
}

}  // namespace spartan
