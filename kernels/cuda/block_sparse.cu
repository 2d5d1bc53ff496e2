// A warp takes one column of cells of one adapter: its values are one run, [block][cell], which the lanes read 16 bytes
// each, side by side, whatever the cell's size. A lane keeps the sums of the outputs that its piece of a line belongs
// to; lanes that hold the same outputs of other lines add up at the end. Decoding reads each cell once.
#include "kernels/check.h"
#include "kernels/cuda/block_sparse.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/tiles.cuh"

namespace spartan {

namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps, kBlocksAnSm = 4;

// What a warp multiplies: rows of x, permuted, with one column of cells.
template <class T>
struct Column {
    const T *x, *values;
    T* out;
    const int32_t* map;  // null: the features' own order
    int64_t first, n0;   // its first input and its first output, in the factor's order
    int64_t dim;
    int block, cell;

    __device__ int64_t feature(int64_t i) const { return map ? int64_t(map[i]) : i; }
};

template <class T, int kVec>
struct alignas(sizeof(T) * kVec) Piece {
    T v[kVec];
};

// `cell` is kVec times a divisor of 32.
template <int kRows, int kVec, class T>
__device__ __forceinline__ void multiply_rows(const Column<T>& c, int row, int lane) {
    const int pieces = c.cell / kVec, n = lane % pieces * kVec, step = 32 / pieces;
    float sum[kRows][kVec] = {};
#pragma unroll 4
    for (int u = lane / pieces; u < c.block; u += step) {
        const auto piece = *reinterpret_cast<const Piece<T, kVec>*>(c.values + int64_t(u) * c.cell + n);
        const T* x = c.x + row * c.dim + c.feature(c.first + u);
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
            const float value = to_float(x[i * c.dim]);
#pragma unroll
            for (int e = 0; e < kVec; ++e) sum[i][e] = fmaf(value, to_float(piece.v[e]), sum[i][e]);
        }
    }
    for (int offset = 16; offset >= pieces; offset >>= 1)
#pragma unroll
        for (int i = 0; i < kRows; ++i)
#pragma unroll
            for (int e = 0; e < kVec; ++e) sum[i][e] += __shfl_xor_sync(~0u, sum[i][e], offset);
    if (lane >= pieces) return;
#pragma unroll
    for (int e = 0; e < kVec; ++e) {
        T* out = c.out + row * c.dim + c.feature(c.n0 + n + e);
#pragma unroll
        for (int i = 0; i < kRows; ++i) out[i * c.dim] = from_float<T>(sum[i][e]);
    }
}

// Cells of any size: a lane takes an output.
template <class T>
__device__ __forceinline__ void multiply_plainly(const Column<T>& c, int rows, int lane) {
    for (int n = lane; n < c.cell; n += 32) {
        const int64_t out = c.feature(c.n0 + n);
        for (int row = 0; row < rows; ++row) {
            float sum = 0;
            for (int u = 0; u < c.block; ++u)
                sum = fmaf(to_float(c.x[row * c.dim + c.feature(c.first + u)]),
                           to_float(c.values[int64_t(u) * c.cell + n]), sum);
            c.out[row * c.dim + out] = from_float<T>(sum);
        }
    }
}

// kVec 0: cells of any size.
template <class T, int kVec>
__global__ void __launch_bounds__(kThreads)
    block_sparse_kernel(T* out, const T* x, int64_t x_stride, const CudaTile* tiles, int first_part, int64_t rows,
                        int64_t dim, int cell, int factor) {
    pdl_trigger();
    const CudaTile tile = tiles[blockIdx.z];
    const CudaPart* part = part_of(tile, first_part + int(blockIdx.y));
    const CudaFactors* factors = part ? part->factors : nullptr;
    pdl_wait();  // the cells too are written by a kernel of the step
    const int lane = int(threadIdx.x) % 32;
    x += blockIdx.y * x_stride + tile.row_begin * dim;
    out += (blockIdx.y * rows + tile.row_begin) * dim;
    if (!factors || !factors->cells || factor >= factors->num_factors) {
        for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < tile.rows * dim;
             i += int64_t(gridDim.x) * kThreads)
            out[i] = x[i];
        return;
    }
    Column<T> c;
    c.x = x;
    c.out = out;
    c.map = factor == 0 ? nullptr : factors->maps + (factor - 1) * dim;
    c.dim = dim;
    c.block = factors->block;
    c.cell = cell;
    const T* cells = static_cast<const T*>(factors->cells) + int64_t(factor) * dim * c.block;
    for (int64_t j = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32; j < dim / cell;
         j += int64_t(gridDim.x) * kWarps) {
        const BlockColumn column = block_column(c.block, cell, j);
        c.values = cells + column.value;
        c.first = column.first * cell;
        c.n0 = j * cell;
        if constexpr (kVec == 0) {
            multiply_plainly(c, tile.rows, lane);
        } else {
            int row = 0;
            for (; row + 4 <= tile.rows; row += 4) multiply_rows<4, kVec>(c, row, lane);
            for (; row < tile.rows; ++row) multiply_rows<1, kVec>(c, row, lane);
        }
    }
}

// A thread moves kVec values that lie together in both.
template <class T, int kVec>
__global__ void __launch_bounds__(kThreads) cut_blocks_kernel(const CudaFactorRun* runs, int cell) {
    pdl_trigger();
    pdl_wait();
    const CudaFactorRun run = runs[blockIdx.y];
    const int64_t block = run.block, count = run.count * block * block;
    for (int64_t i = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * kVec; i < count;
         i += int64_t(gridDim.x) * kThreads * kVec) {
        const int64_t b = i / (block * block), in_block = i - b * block * block;
        const int64_t j = in_block / (block * cell), in_column = in_block - j * block * cell;
        const int64_t u = in_column / cell, n = in_column - u * cell;
        *reinterpret_cast<Piece<T, kVec>*>(static_cast<T*>(run.cells) + i) = *reinterpret_cast<const Piece<T, kVec>*>(
            static_cast<const T*>(run.blocks) + (b * block + u) * block + j * cell + n);
    }
}

// How many values of a line of a cell a lane takes: as many as 16 bytes hold, or fewer; 0: none will do.
int piece_of(int64_t cell, int64_t most) {
    for (int64_t n = most; n >= 1; n /= 2)
        if (cell % n == 0 && 32 % (cell / n) == 0) return int(n);
    return 0;
}

}  // namespace

template <class T>
void block_sparse(CudaDevice& device, T* out, const T* x, bool x_shared, const CudaTile* tiles, int num_tiles,
                  int first_part, int num_projections, int64_t rows, int64_t dim, int64_t cell, int factor) {
    CHECK(rows >= 0 && num_tiles >= 0 && num_projections >= 0 && first_part >= 0 && factor >= 0);
    CHECK(dim > 0 && dim <= 1 << 24 && cell > 0 && dim % cell == 0 && out != x);
    if (rows == 0 || num_tiles == 0) return;
    const dim3 grid = tile_grid(device, divide_up(dim / cell, kWarps), num_projections, num_tiles, kBlocksAnSm);
    const int64_t stride = x_shared ? 0 : rows * dim;
    constexpr int64_t kMost = 16 / int64_t(sizeof(T));
    const auto run = [&](auto kernel) {
        launch(device, kernel, grid, kThreads, 0, out, x, stride, tiles, first_part, rows, dim, int(cell), factor);
    };
    const int piece = piece_of(cell, kMost);
    if constexpr (kMost == 8)
        if (piece == 8) return run(block_sparse_kernel<T, 8>);
    switch (piece) {
        case 4:
            return run(block_sparse_kernel<T, 4>);
        case 2:
            return run(block_sparse_kernel<T, 2>);
        case 1:
            return run(block_sparse_kernel<T, 1>);
        default:
            return run(block_sparse_kernel<T, 0>);
    }
}

template <class T>
void cut_blocks(CudaDevice& device, const CudaFactorRun* runs, int num_runs, int64_t largest, int64_t cell) {
    CHECK(num_runs >= 0 && num_runs <= 65535 && cell > 0 && cell <= 1 << 24);
    constexpr int64_t kMost = 16 / int64_t(sizeof(T));
    const bool wide = cell % kMost == 0;
    const int64_t blocks = std::min<int64_t>(divide_up(largest, kThreads * (wide ? kMost : 1)), 64);
    const dim3 grid(unsigned(std::max<int64_t>(blocks, 1)), unsigned(num_runs));
    if (wide)
        launch(device, cut_blocks_kernel<T, int(kMost)>, grid, kThreads, 0, runs, int(cell));
    else
        launch(device, cut_blocks_kernel<T, 1>, grid, kThreads, 0, runs, int(cell));
}

template void block_sparse<float>(CudaDevice&, float*, const float*, bool, const CudaTile*, int, int, int, int64_t,
                                  int64_t, int64_t, int);
template void block_sparse<bf16>(CudaDevice&, bf16*, const bf16*, bool, const CudaTile*, int, int, int, int64_t,
                                 int64_t, int64_t, int);
template void block_sparse<f16>(CudaDevice&, f16*, const f16*, bool, const CudaTile*, int, int, int, int64_t, int64_t,
                                int64_t, int);
template void cut_blocks<float>(CudaDevice&, const CudaFactorRun*, int, int64_t, int64_t);
template void cut_blocks<bf16>(CudaDevice&, const CudaFactorRun*, int, int64_t, int64_t);
template void cut_blocks<f16>(CudaDevice&, const CudaFactorRun*, int, int64_t, int64_t);

}  // namespace spartan
