// Butterfly adapters as SpartanServe (Su et al. 2024) multiplies them: one factor of all adapters of a batch at a time,
// every factor cut to one common cell size, as a product of rows grouped by adapter with block-sparse matrices:
//
//     out[row][map[n]] = sum over u of x[row][map[u]] * S[u][n]
//
// S [dim, dim] belongs to the row's adapter. In the factor's own order, into which `map` permutes the features, its
// block x block blocks lie on the diagonal; each is cut into cells of cell x cell. That is the unified layout: cell
// column j of an adapter holds the cells [rows.first, rows.first + rows.count) of BlockColumn, all others are zero. So
// blocks of any size that `cell` divides share one layout, one tensor of cells and one product.
//
// Rows of segments without cells, and those outside every segment, are copied: a factor that an adapter does not have
// is the identity. Accumulates in fp32; a row's result depends on its own row and adapter only (bitwise).
#pragma once

#include "kernels/device.h"
#include "kernels/view.h"

#include <cstdint>
#include <span>

namespace spartan {

template <class T>
struct BlockSparseSegment {
    int64_t row_begin = 0, row_end = 0;
    const T* cells = nullptr;      // [dim / cell columns][block / cell][cell][cell]; null: the identity
    int64_t block = 0;             // divides dim, is divided by cell
    const int32_t* map = nullptr;  // [dim]; null: the features' own order
};

// Column j (of cells) in the unified layout: where its non-zero cells are, from top to bottom. Its values are one run,
// [block][cell], that starts `value` values into the factor's cells.
struct BlockColumn {
    int64_t first = 0, count = 0;  // rows of cells
    int64_t value = 0;
};
HOST_DEVICE constexpr BlockColumn block_column(int64_t block, int64_t cell, int64_t j) {
    const int64_t in_block = block / cell;
    return {j / in_block * in_block, in_block, j * block * cell};
}

// out and x [num_rows, dim] must not alias.
template <class T>
void block_sparse(CpuDevice&, View<float, 2> out, View<const float, 2> x, int64_t cell,
                  std::span<const BlockSparseSegment<T>> segments);

// Batches a factor: its blocks [count][block][block] as cells [count · block / cell][block / cell][cell][cell], in the
// order of the unified layout. They must not alias.
template <class T>
void cut_blocks(CpuDevice&, T* cells, const T* blocks, int64_t count, int64_t block, int64_t cell);

extern template void block_sparse<float>(CpuDevice&, View<float, 2>, View<const float, 2>, int64_t,
                                         std::span<const BlockSparseSegment<float>>);
extern template void block_sparse<bf16>(CpuDevice&, View<float, 2>, View<const float, 2>, int64_t,
                                        std::span<const BlockSparseSegment<bf16>>);
extern template void cut_blocks<float>(CpuDevice&, float*, const float*, int64_t, int64_t, int64_t);
extern template void cut_blocks<bf16>(CpuDevice&, bf16*, const bf16*, int64_t, int64_t, int64_t);

template <class T>
constexpr Cost block_sparse_cost(int64_t rows, int64_t distinct_adapters, int64_t dim, int64_t block) {
    return {.bytes = distinct_adapters * dim * block * int64_t(sizeof(T)) + 8 * rows * dim,
            .flops = 2 * rows * dim * block};
}

}  // namespace spartan
