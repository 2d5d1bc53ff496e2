#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/products.cuh"

#include <algorithm>

namespace spartan {

namespace {

// Not ld.global.nc: these were written by a kernel before.
__device__ __forceinline__ uint4 load_x(const void* p) {
    uint4 v;
    asm volatile("ld.global.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p)
                 : "memory");
    return v;
}

// The sum over all warps: that of each `run` one after another, and of the runs in the same way. What more warps there
// might have been adds zeros.
template <int kMostWarps>
__device__ __forceinline__ float2 sum_of_warps(const float2* partial, int stride, int warps, int run) {
    float2 sum = {}, of_run = {};
#pragma unroll
    for (int i = 0; i < kMostWarps; ++i) {
        const float2 v = i < warps ? partial[i * stride] : float2{};
        of_run = {of_run.x + v.x, of_run.y + v.y};
        if (i % 4 < 3 || (i + 1) % run != 0) continue;
        sum = {sum.x + of_run.x, sum.y + of_run.y};
        of_run = {};
    }
    return sum;
}

// kEights: groups of 8 rows of x. Weights are the m16 side of the mma, activations its n8 side.
// All eight loads of a block of weights are in flight at once; the next block is requested as the last is multiplied,
// the first one before pdl_wait(). Slower when tried: 64 rows of W in a CTA, two blocks in flight in fewer warps, bulk
// copies through shared memory with and without clusters, a late trigger, requesting a CTA's later blocks into the L2
// cache ahead of time.
//
// Warps take the blocks of k in turn, so that what they read at a time lies together, 4 KB of a row by 32 warps,
// instead of 128 bytes here and there. kInvariant: each warp has a piece of k, the split that the wide kernels know.
template <class Out, class T, int kEights, int kMostWarps, bool kInvariant>
__global__ void __launch_bounds__(kMostWarps * 32)
    skinny(const __grid_constant__ DeviceProducts<Out, T> products, int m, int k, int run) {
    extern __shared__ float2 partial[];  // [warp][tile of 16 rows of W][eight][row of x % 2][lane]
    pdl_trigger();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const int tile = blockIdx.y;
    const DeviceProduct<Out, T>& product = products.at(tile);
    const int n0 = (tile - product.first_tile) * kSkinnyTile;
    const int64_t m0 = int64_t(blockIdx.x) * kSkinnyRows;
    const int rows = min(m - int(m0), kEights * 8);

    const int blocks = k / kSkinnyBlock, block_end = kInvariant ? blocks * (warp + 1) / warps : blocks;
    const int step = kInvariant ? 1 : warps;
    int block = kInvariant ? blocks * warp / warps : warp;
    const char* const w_tile = reinterpret_cast<const char*>(product.w + int64_t(n0) * k);
    uint32_t w_offset[4];  // rows behind the last of W stand for the last; their sums are not stored
#pragma unroll
    for (int j = 0; j < 4; ++j)
        w_offset[j] = 2u * uint32_t(min(skinny_w_row(lane, j), product.n - 1 - n0) * k + skinny_k(lane, 0));
    uint4 w[4][2];
    const auto request = [&](int b) {
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
            for (int half = 0; half < 2; ++half)
                w[j][half] = load_weights(w_tile + (w_offset[j] + uint32_t(b) * (2 * kSkinnyBlock)) + half * 64);
    };
    if (block < block_end) request(block);
    pdl_wait();

    const int r = lane / 4, q = lane % 4;
    const char* const x_lane = reinterpret_cast<const char*>(product.x + (m0 + r) * k + skinny_k(lane, 0));
    float c[2][kEights][4] = {};
#pragma unroll 1
    for (; block < block_end; block += step) {
        uint4 x[kEights][2] = {};
#pragma unroll
        for (int i = 0; i < kEights; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half)
                if (i * 8 + r < rows)
                    x[i][half] = load_x(x_lane + (uint32_t(i * 16) * uint32_t(k) + uint32_t(block) * 128u) + half * 64);
        __syncwarp();  // keeps all loads of x in front of the first mma
        if constexpr (kInvariant) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
#pragma unroll
                for (int j = 0; j < 4; ++j) w[j][half] = in_sixteens(w[j][half]);
#pragma unroll
                for (int i = 0; i < kEights; ++i) x[i][half] = in_sixteens(x[i][half]);
            }
        }
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int t = 0; t < 2; ++t) {
                const uint4 &low = w[2 * t][half], &high = w[2 * t + 1][half];
#pragma unroll
                for (int i = 0; i < kEights; ++i) {
                    mma<T>(c[t][i], {low.x, high.x, low.y, high.y}, x[i][half].x, x[i][half].y);
                    mma<T>(c[t][i], {low.z, high.z, low.w, high.w}, x[i][half].z, x[i][half].w);
                }
            }
        if (block + step < block_end) request(block + step);
    }

    constexpr int kSums = 2 * kEights * 2;  // of two values a lane: neighbours in a row of out
#pragma unroll
    for (int t = 0; t < 2; ++t)
#pragma unroll
        for (int i = 0; i < kEights; ++i)
#pragma unroll
            for (int odd = 0; odd < 2; ++odd)
                partial[(warp * kSums + (t * kEights + i) * 2 + odd) * 32 + lane] = {c[t][i][odd], c[t][i][2 + odd]};
    __syncthreads();
    for (int s = warp; s < kSums; s += warps) {
        const float2 sum = sum_of_warps<kMostWarps>(partial + s * 32 + lane, kSums * 32, warps, run);
        const int row = s / 2 % kEights * 8 + 2 * q + s % 2;
        const int column = n0 + skinny_w_row(lane, s / 2 / kEights * 2);
        if (row < rows && column < product.n) store_sums(product, m0 + row, column, sum.x, sum.y);
    }
}

template <int kEights, int kMostWarps, bool kInvariant, class Out, class T>
void launch_skinny(CudaDevice& device, const DeviceProducts<Out, T>& products, int64_t m, int64_t k, int run) {
    static_assert(kMostWarps >= kInvariantSplits && kMostWarps % 4 == 0);
    const auto kernel = skinny<Out, T, kEights, kMostWarps, kInvariant>;
    const int warps = kInvariant ? kInvariantSplits : int(std::min<int64_t>(kMostWarps, k / kSkinnyBlock));
    const int64_t shared = int64_t(warps) * 4 * kEights * 32 * int64_t(sizeof(float2));
    if (shared > 48 * 1024)  // what a kernel may have without asking
        CHECK_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)));
    const dim3 grid(unsigned(divide_up(m, kSkinnyRows)), unsigned(products.tiles));
    launch(device, kernel, grid, warps * 32, size_t(shared), products, int(m), int(k), run);
}

// run: warps whose sums are added one after another, a multiple of 4.
template <bool kInvariant, class Out, class T>
void launch_skinny(CudaDevice& device, const DeviceProducts<Out, T>& products, int64_t m, int64_t k, int run) {
    // As many warps as the registers allow.
    if (m <= 8)
        launch_skinny<1, 32, kInvariant>(device, products, m, k, run);
    else if (m <= 16)
        launch_skinny<2, 24, kInvariant>(device, products, m, k, run);
    else
        launch_skinny<4, 16, kInvariant>(device, products, m, k, run);
}

}  // namespace

template <class Out, class T>
void skinny_matmul(CudaDevice& device, std::span<const MatmulProduct<Out, T>> products, int64_t m, int64_t k,
                   bool batch_invariant) {
    const DeviceProducts<Out, T> packed = device_products<Out, T>(products, m, k, kSkinnyTile);
    if (m == 0 || packed.tiles == 0) return;
    if (batch_invariant)
        launch_skinny<true>(device, packed, m, k, kInvariantSplits / invariant_pieces(products));
    else
        launch_skinny<false>(device, packed, m, k, 4);
}

template void skinny_matmul(CudaDevice&, std::span<const MatmulProduct<float, bf16>>, int64_t, int64_t, bool);
template void skinny_matmul(CudaDevice&, std::span<const MatmulProduct<bf16, bf16>>, int64_t, int64_t, bool);
template void skinny_matmul(CudaDevice&, std::span<const MatmulProduct<float, f16>>, int64_t, int64_t, bool);
template void skinny_matmul(CudaDevice&, std::span<const MatmulProduct<f16, f16>>, int64_t, int64_t, bool);

}  // namespace spartan
