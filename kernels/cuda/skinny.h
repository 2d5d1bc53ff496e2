// Products of 16-bit types with few rows: memory-bound, so all that counts is that the weights flow without a pause.
// Used through matmul(). A CTA owns 32 rows of W; its warps share k in blocks of 64 and their partial sums meet in
// shared memory, to be added in warp order: no atomics, the same bits in every run.
//
// Inside a block of 64 the order of k is permuted, the same way for x and W, so that every lane's operands of two
// mma.m16n8k16 are 16 consecutive bytes of a row-major row: see the layout functions. Only a batch-invariant product
// brings each sixteen k together: that is what all its kernels have in common.
#pragma once

#include "kernels/cuda/matmul.h"

namespace spartan {

constexpr int kSkinnyTile = 32;       // rows of W that a CTA owns
constexpr int kSkinnyBlock = 64;      // of k, that a warp takes at a time
constexpr int kSkinnyRows = 32;       // rows of x at most; more are cut into groups of so many
constexpr int kInvariantSplits = 16;  // pieces of k, by whole blocks, that a batch-invariant product is the sum of

// Layout of a warp's operands, lane = 4r + q. Piece j (0 to 3) of W is eight values of this row of the tile, from this
// k of the block's half (0 or 1) on. x: row r of eight, the same k.
HOST_DEVICE constexpr int skinny_w_row(int lane, int j) { return j / 2 * 16 + lane / 4 * 2 + j % 2; }
HOST_DEVICE constexpr int skinny_k(int lane, int half) { return half * 32 + lane % 4 * 8; }

// Of batch-invariant products: pieces of k whose sums of splits are added at the end; in a piece the splits are added
// one after another. More than one where there are so few rows of W that tiles of many rows of x could not fill a GPU.
constexpr int kMostInvariantPieces = 4;
template <class Out, class T>
int invariant_pieces(std::span<const MatmulProduct<Out, T>> products) {
    int64_t rows = 0;
    for (const auto& p : products) rows += p.n;
    return rows < 8192 ? kMostInvariantPieces : rows < 16384 ? 2 : 1;
}

// out = x * w^T for each of the products, in one launch. k a multiple of 64, x and w 16-byte aligned; any m and n.
// `batch_invariant`: k is split the same way for every m (it is split finer for fewer rows otherwise); how the splits
// are added depends on the rows of W that are multiplied together.
template <class Out, class T>
void skinny_matmul(CudaDevice& device, std::span<const MatmulProduct<Out, T>> products, int64_t m, int64_t k,
                   bool batch_invariant);

// The same bits as skinny_matmul() gives when batch_invariant, for many rows: tiles of W and x pass through shared
// memory, and one warp makes all of an output's partial sums, one after the other.
template <class Out, class T>
void wide_matmul(CudaDevice& device, std::span<const MatmulProduct<Out, T>> products, int64_t m, int64_t k);

// Whether GPUs of this compute capability have warpgroup products and the copy engine, and this build code for them.
bool has_warpgroup_products(int compute_capability);

// The same once more, by warpgroup products, whose sums over sixteen k have the same bits as a warp's.
template <class Out, class T>
void wide_hopper_matmul(CudaDevice& device, std::span<const MatmulProduct<Out, T>> products, int64_t m, int64_t k);

// As skinny_matmul(), not batch-invariant, for up to kMostSpreadRows rows, by warpgroup products: W is cut so that all
// multiprocessors read nearly as much of it.
constexpr int kMostSpreadRows = 128;
template <class Out, class T>
void spread_matmul(CudaDevice& device, std::span<const MatmulProduct<Out, T>> products, int64_t m, int64_t k);

}  // namespace spartan
