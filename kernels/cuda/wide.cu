#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/products.cuh"

namespace spartan {

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kMostShared = 96 * 1024;  // what every GPU from compute capability 8.0 on can give

// A block of 64 k of a tile's rows in shared memory: 128 bytes a row, whose halves change places in every second of the
// rows that neighbouring lanes read, so that eight lanes read 128 different bytes.
struct alignas(16) Chunk {
    uint4 values;
};
constexpr int kChunks = kSkinnyBlock * 2 / 16;  // of a row
__device__ __forceinline__ int chunk_of_w(int row, int chunk) { return row * kChunks + (chunk ^ (row / 2 % 2 * 4)); }
__device__ __forceinline__ int chunk_of_x(int row, int chunk) { return row * kChunks + (chunk ^ (row % 2 * 4)); }

// kWarpsW warps side by side along W, the others along x; each has 32 rows of W and kEights times 8 of x.
template <int kWarpsW, int kEights>
struct Tile {
    static constexpr int kRowsW = kWarpsW * 32, kRowsX = kWarps / kWarpsW * kEights * 8;
    static constexpr int kStageChunks = (kRowsW + kRowsX) * kChunks, kStageBytes = kStageChunks * 16;
    static constexpr int kStages = kMostShared / kStageBytes;  // blocks of k that are there or on their way
    static_assert(kStages >= 3);
};

template <int kEights>
using Sums = float[2][kEights][4];

// The order of all additions is skinny.cu's when batch-invariant: a partial sum for each split of k, added within
// pieces.
template <class Out, class T, int kWarpsW, int kEights>
__global__ void __launch_bounds__(kThreads)
    wide(const __grid_constant__ DeviceProducts<Out, T> products, int m, int k, int splits) {
    using Shape = Tile<kWarpsW, kEights>;
    extern __shared__ Chunk stages[];
    pdl_trigger();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int tile = blockIdx.y;
    const DeviceProduct<Out, T>& product = products.at(tile);
    const int n0 = (tile - product.first_tile) * Shape::kRowsW, m0 = blockIdx.x * Shape::kRowsX;
    const int blocks = k / kSkinnyBlock;

    const auto request_w = [&](int block) {
        Chunk* const to = stages + block % Shape::kStages * Shape::kStageChunks;
#pragma unroll
        for (int i = 0; i < Shape::kRowsW * kChunks / kThreads; ++i) {
            const int row = (threadIdx.x + i * kThreads) / kChunks, chunk = threadIdx.x % kChunks;
            const T* const from = product.w + int64_t(min(n0 + row, product.n - 1)) * k + block * kSkinnyBlock;
            copy_async<16>(to + chunk_of_w(row, chunk), from + chunk * 8, n0 + row < product.n);
        }
    };
    const auto request_x = [&](int block) {
        Chunk* const to = stages + block % Shape::kStages * Shape::kStageChunks + Shape::kRowsW * kChunks;
#pragma unroll
        for (int i = 0; i < Shape::kRowsX * kChunks / kThreads; ++i) {
            const int row = (threadIdx.x + i * kThreads) / kChunks, chunk = threadIdx.x % kChunks;
            const T* const from = product.x + int64_t(min(m0 + row, m - 1)) * k + block * kSkinnyBlock;
            copy_async<16>(to + chunk_of_x(row, chunk), from + chunk * 8, m0 + row < m);
        }
    };
    for (int block = 0; block < min(Shape::kStages - 1, blocks); ++block) request_w(block);
    pdl_wait();
    for (int block = 0; block < Shape::kStages - 1; ++block) {
        if (block < blocks) request_x(block);
        end_copy_group();
    }

    const int w_row = warp % kWarpsW * 32, x_row = warp / kWarpsW * (kEights * 8);
    Sums<kEights> partial = {}, piece = {}, sum = {};
    int split = 0, split_end = blocks / kInvariantSplits;
    const auto end_split = [&] {
        take(piece, partial);
        if (++split % splits == 0) take(sum, piece);
        split_end = blocks * (split + 1) / kInvariantSplits;
    };
#pragma unroll 1
    for (int block = 0; block < blocks; ++block) {
        wait_for_copies<Shape::kStages - 2>();
        __syncthreads();  // this block is there, and nobody reads the one before any more
        if (const int next = block + Shape::kStages - 1; next < blocks) {
            request_w(next);
            request_x(next);
        }
        end_copy_group();
        while (split_end <= block) end_split();
        const Chunk* const w_tile = stages + block % Shape::kStages * Shape::kStageChunks;
        const Chunk* const x_tile = w_tile + Shape::kRowsW * kChunks;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int chunk = skinny_k(lane, half) / 8;
            uint4 w[4];
#pragma unroll
            for (int j = 0; j < 4; ++j)
                w[j] = in_sixteens(w_tile[chunk_of_w(w_row + skinny_w_row(lane, j), chunk)].values);
#pragma unroll
            for (int i = 0; i < kEights; ++i) {
                const uint4 x = in_sixteens(x_tile[chunk_of_x(x_row + i * 8 + lane / 4, chunk)].values);
#pragma unroll
                for (int t = 0; t < 2; ++t) {
                    const uint4 &low = w[2 * t], &high = w[2 * t + 1];
                    mma<T>(partial[t][i], {low.x, high.x, low.y, high.y}, x.x, x.y);
                    mma<T>(partial[t][i], {low.z, high.z, low.w, high.w}, x.z, x.w);
                }
            }
        }
    }
    while (split < kInvariantSplits) end_split();

#pragma unroll
    for (int t = 0; t < 2; ++t)
#pragma unroll
        for (int i = 0; i < kEights; ++i)
#pragma unroll
            for (int odd = 0; odd < 2; ++odd) {
                const int row = m0 + x_row + i * 8 + lane % 4 * 2 + odd;
                const int column = n0 + w_row + skinny_w_row(lane, 2 * t);
                if (row < m && column < product.n) store_sums(product, row, column, sum[t][i][odd], sum[t][i][2 + odd]);
            }
}

template <int kWarpsW, int kEights, class Out, class T>
void launch_wide(CudaDevice& device, std::span<const MatmulProduct<Out, T>> products, int64_t m, int64_t k) {
    using Shape = Tile<kWarpsW, kEights>;
    const DeviceProducts<Out, T> packed = device_products<Out, T>(products, m, k, Shape::kRowsW);
    if (m == 0 || packed.tiles == 0) return;
    const auto kernel = wide<Out, T, kWarpsW, kEights>;
    constexpr int kShared = Shape::kStages * Shape::kStageBytes;
    CHECK_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared));
    const dim3 grid(unsigned(divide_up(m, Shape::kRowsX)), unsigned(packed.tiles));
    launch(device, kernel, grid, kThreads, kShared, packed, int(m), int(k),
           kInvariantSplits / invariant_pieces(products));
}

}  // namespace

template <class Out, class T>
void wide_matmul(CudaDevice& device, std::span<const MatmulProduct<Out, T>> products, int64_t m, int64_t k) {
    // 64 rows of W leave enough CTAs for a decode step's rows; more of both make the most of what a CTA has read.
    if (m <= 64) return launch_wide<2, 2>(device, products, m, k);
    if (m <= 96) return launch_wide<2, 3>(device, products, m, k);
    if (m <= 256) return launch_wide<2, 4>(device, products, m, k);
    launch_wide<4, 8>(device, products, m, k);
}

template void wide_matmul(CudaDevice&, std::span<const MatmulProduct<float, bf16>>, int64_t, int64_t);
template void wide_matmul(CudaDevice&, std::span<const MatmulProduct<bf16, bf16>>, int64_t, int64_t);
template void wide_matmul(CudaDevice&, std::span<const MatmulProduct<float, f16>>, int64_t, int64_t);
template void wide_matmul(CudaDevice&, std::span<const MatmulProduct<f16, f16>>, int64_t, int64_t);

}  // namespace spartan
