// wide_matmul() by warpgroup products, on GPUs of compute capability 9.0. A CTA's first thread asks the bulk copy
// engine for tiles of W and x, a ring of them ahead, W's before the kernel in front has ended; the warps multiply them
// out of shared memory.
//
//     CTA   128 rows of W, 64 or 96 of x, one of the pieces of k (invariant_pieces()). The CTAs of a tile are one
//           cluster: their sums meet in shared memory and are added by rising k
//
// Tiles of the same W stand one behind the other, so that W comes from memory once however many rows x has. What counts
// is how much of W is on its way: a tile of the ring is given back as soon as it is multiplied, not when the next one
// is there, and two CTAs share a multiprocessor (a warp for the copies alone would cost them registers).
#include "kernels/cuda/hopper_tiles.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/products.cuh"
#include "kernels/cuda/tensor_map.h"
#include "kernels/rounding.h"

#include <algorithm>

namespace spartan {

namespace {

constexpr int kGroups = 2, kThreads = 128 * kGroups;
constexpr int kRowsW = 64 * kGroups, kBytesW = kRowsW * kSkinnyBlock * 2;
constexpr int kMostShared = 113 * 1024;  // two CTAs share a multiprocessor

template <class Out, class T>
struct HopperArguments {
    CUtensorMap w[kMostProducts], x[kMostProducts];
    DeviceProducts<Out, T> products;
    int m, tiles_x, blocks, pieces;  // blocks of k
};

template <int kRowsX>
struct HopperTile {
    static constexpr int kBytesX = kRowsX * kSkinnyBlock * 2, kStageBytes = kBytesW + kBytesX;
    static constexpr int kStages = (kMostShared - 256) / kStageBytes, kRingBytes = kStages * kStageBytes;
    static constexpr int kSharedBytes = kRingBytes + kStages * 16;
    static constexpr int kSumStride = kRowsW + 4;  // floats: four lanes' columns lie eight banks apart
    static constexpr int kSums = kRowsX / 2;       // a lane's
    static_assert(kStages >= 3 && kRowsX * kSumStride * 4 <= kRingBytes);
    static_assert(kBytesX % 1024 == 0);  // what the swizzle counts from
};

// Four neighbours of a row of out, of which the last may lie behind the row's end.
template <class Out, class T>
__device__ __forceinline__ void store_four(const DeviceProduct<Out, T>& product, int row, int column, float4 v) {
    if (column < product.n) store_sums(product, row, column, v.x, v.y);
    if (column + 2 < product.n) store_sums(product, row, column + 2, v.z, v.w);
}

template <class Out, class T, int kRowsX>
__global__ void __launch_bounds__(kThreads, 2) wide_hopper(const __grid_constant__ HopperArguments<Out, T> a) {
    using Tile = HopperTile<kRowsX>;
    extern __shared__ __align__(1024) std::byte ring[];
    const uint32_t first_stage = shared_address(ring), full = first_stage + Tile::kRingBytes,
                   empty = full + Tile::kStages * 8;
    pdl_trigger();
    const int warp = int(threadIdx.x / 32), lane = int(threadIdx.x % 32);
    const int piece = int(blockIdx.x) % a.pieces, of_tiles = int(blockIdx.x) / a.pieces;
    const int tile = of_tiles / a.tiles_x, m0 = of_tiles % a.tiles_x * kRowsX;
    const int index = a.products.index(tile);
    const DeviceProduct<Out, T>& product = a.products.of[index];
    const int n0 = (tile - product.first_tile) * kRowsW;
    const int splits = kInvariantSplits / a.pieces, first_split = piece * splits;
    const auto begin_of = [&](int split) { return a.blocks * split / kInvariantSplits; };
    const int begin = begin_of(first_split), count = begin_of(first_split + splits) - begin;
    const auto ask_w = [&](int i) {
        const int s = i % Tile::kStages;
        arrive_and_expect(full + s * 8, Tile::kStageBytes);
        copy_box(first_stage + s * Tile::kStageBytes, a.w[index], full + s * 8, (begin + i) * kSkinnyBlock, n0);
    };
    const auto ask_x = [&](int i) {
        const int s = i % Tile::kStages;
        copy_box(first_stage + s * Tile::kStageBytes + kBytesW, a.x[index], full + s * 8, (begin + i) * kSkinnyBlock,
                 m0);
    };
    const int ahead = min(Tile::kStages, count);
    if (threadIdx.x == 0) {
        fetch_map(a.x[index]);
        for (int s = 0; s < Tile::kStages; ++s) {
            init_barrier(full + s * 8, 1);
            init_barrier(empty + s * 8, kGroups - 1);
        }
        publish_barriers();
        for (int i = 0; i < ahead; ++i) ask_w(i);
    }
    __syncthreads();
    pdl_wait();
    if (threadIdx.x == 0)
        for (int i = 0; i < ahead; ++i) ask_x(i);
    __syncwarp();

    const uint32_t of_group = uint32_t(warp / 4) * 64 * 128;
    float partial[Tile::kSums] = {}, sum[Tile::kSums] = {};
    int i = 0;
#pragma unroll 1
    for (int split = first_split; split < first_split + splits; ++split) {
        const int end = begin_of(split + 1) - begin;
#pragma unroll 1
        for (; i < end; ++i) {
            const int s = i % Tile::kStages;
            const uint32_t w = first_stage + s * Tile::kStageBytes + of_group,
                           x = first_stage + s * Tile::kStageBytes + kBytesW;
            wait_for(full + s * 8, i / Tile::kStages & 1);
            begin_products();
#pragma unroll
            for (int k = 0; k < kSkinnyBlock; k += 16)
                add_product<T>(partial, operand_along_k(w + k * 2), operand_along_k(x + k * 2));
            end_products();
            wait_for_products<0>();
            if (threadIdx.x == 0) {
                if (i + Tile::kStages < count) {
                    wait_for(empty + s * 8, i / Tile::kStages & 1);
                    ask_w(i + Tile::kStages);
                    ask_x(i + Tile::kStages);
                }
            } else if (threadIdx.x % 128 == 0) {
                arrive(empty + s * 8);
            }
            __syncwarp();
        }
#pragma unroll
        for (int j = 0; j < Tile::kSums; ++j) {
            sum[j] += partial[j];
            partial[j] = 0;
        }
    }
    __syncthreads();  // nobody reads the ring any more
    float* const to = reinterpret_cast<float*>(ring) + warp * 16 + lane / 4;
#pragma unroll
    for (int j = 0; j < Tile::kSums; ++j)
        to[(j / 4 * 8 + lane % 4 * 2 + j % 2) * Tile::kSumStride + j / 2 % 2 * 8] = sum[j];

    if (a.pieces > 1)
        wait_for_cluster();
    else
        __syncthreads();
    // This CTA's share of the rows.
    constexpr int kFours = kRowsW / 4;
    const int rows = min(kRowsX, a.m - m0), row_begin = rows * piece / a.pieces,
              row_end = rows * (piece + 1) / a.pieces;
    for (int i = int(threadIdx.x); i < (row_end - row_begin) * kFours; i += kThreads) {
        const int row = row_begin + i / kFours, column = i % kFours * 4;
        const uint32_t at = uint32_t(row * Tile::kSumStride + column) * 4;
        float4 total = *reinterpret_cast<const float4*>(ring + at);
        if (a.pieces > 1) {
            float4 of_piece[kMostInvariantPieces];
#pragma unroll
            for (int p = 0; p < kMostInvariantPieces; ++p)
                if (p < a.pieces) of_piece[p] = load_of_cluster(first_stage + at, uint32_t(p));
            total = {};
#pragma unroll
            for (int p = 0; p < kMostInvariantPieces; ++p)
                if (p < a.pieces)
                    total = {total.x + of_piece[p].x, total.y + of_piece[p].y, total.z + of_piece[p].z,
                             total.w + of_piece[p].w};
        }
        store_four(product, m0 + row, n0 + column, total);
    }
    if (a.pieces > 1) wait_for_cluster();  // others may still read this CTA's sums
}

template <int kRowsX, class Out, class T>
void launch_wide(CudaDevice& device, std::span<const MatmulProduct<Out, T>> products, int64_t m, int64_t k) {
    using Tile = HopperTile<kRowsX>;
    HopperArguments<Out, T> a = {};
    a.products = device_products<Out, T>(products, m, k, kRowsW);
    if (a.products.tiles == 0) return;
    for (int i = 0; i < kMostProducts && a.products.of[i].first_tile != INT_MAX; ++i) {
        a.w[i] = tensor_map(a.products.of[i].w, a.products.of[i].n, k, kRowsW);
        a.x[i] = tensor_map(a.products.of[i].x, m, k, kRowsX);
    }
    a.m = int(m), a.tiles_x = int(divide_up(m, kRowsX)), a.blocks = int(k / kSkinnyBlock);
    a.pieces = invariant_pieces(products);
    const auto kernel = wide_hopper<Out, T, kRowsX>;
    CHECK_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Tile::kSharedBytes));
    launch_clusters(device, kernel, dim3(unsigned(a.products.tiles * a.tiles_x * a.pieces)), a.pieces, kThreads,
                    size_t(Tile::kSharedBytes), a);
}

}  // namespace

bool has_warpgroup_products(int compute_capability) {
    return runs_hopper_code(compute_capability) && has_tensor_maps();
}

template <class Out, class T>
void wide_hopper_matmul(CudaDevice& device, std::span<const MatmulProduct<Out, T>> products, int64_t m, int64_t k) {
    if (m == 0) return;
    // The tiles that leave fewer rows of the last one empty.
    if (round_up(m, 64) < round_up(m, 96))
        launch_wide<64, Out, T>(device, products, m, k);
    else
        launch_wide<96, Out, T>(device, products, m, k);
}

template void wide_hopper_matmul(CudaDevice&, std::span<const MatmulProduct<float, bf16>>, int64_t, int64_t);
template void wide_hopper_matmul(CudaDevice&, std::span<const MatmulProduct<bf16, bf16>>, int64_t, int64_t);
template void wide_hopper_matmul(CudaDevice&, std::span<const MatmulProduct<float, f16>>, int64_t, int64_t);
template void wide_hopper_matmul(CudaDevice&, std::span<const MatmulProduct<f16, f16>>, int64_t, int64_t);

}  // namespace spartan
