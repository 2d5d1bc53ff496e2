// Attention over paged keys and values, as kernels/attention.h defines it, and the step before it: q, k and v get their
// adapter's gain and bias, their norm and their rotation, and k and v go into their pages.
//
//     page  of T: K [kv_heads][block_tokens][head_dim], then V the same. Keys and values are stored after rounding to T
//
// Everything that changes between steps is in device memory and complete before the step, so that a captured graph
// serves any batch within the AttentionBucket it was captured for.
#pragma once

#include "kernels/attention.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/tables.h"

#include <span>
#include <vector>

namespace spartan {

struct CudaRow {
    int32_t position = 0;
    int32_t sequence = -1;  // index into CudaSequence; negative: no row, nothing is done
    int32_t tile = -1;      // index of its CudaTile; negative: the base
};

// Rows [row_begin, row_begin + rows) are consecutive tokens, the first at `first_position`. The page of a layer's token
// j is block_tables[layer][table][j / block_tokens].
struct alignas(16) CudaSequence {
    int32_t row_begin = 0, rows = 0;
    int32_t first_position = 0;
    int32_t table = 0;
};

// One piece of attention's work, for all heads. Decode: row `row` and the keys from `first` on, kSplitKeys or, the
// row's last piece, all that are left; its partial results go to slot `partial`, those of a row's pieces one after
// another by rising keys. `position`, `old_keys` (first_position) and `table` are those of the row and its sequence.
// Prefill: the (up to) kQueryTile rows from `row` on, of one sequence; no more is set.
struct alignas(16) CudaAttentionItem {
    int32_t row = 0, sequence = 0, first = 0, partial = 0;
    int32_t position = 0, old_keys = 0, table = 0, unused = 0;
};
constexpr int kSplitKeys = 256;  // borders are multiples of it: the same whatever else is in the batch
// Pieces of a row with so many keys. A last one of less than half a piece is left to the one before: a piece takes its
// time however short it is.
HOST_DEVICE constexpr int decode_pieces(int keys) {
    return keys <= kSplitKeys ? 1 : (keys + kSplitKeys / 2 - 1) / kSplitKeys;
}
constexpr int kMostSplitKeys = kSplitKeys + kSplitKeys / 2;  // of a piece
constexpr int kQueryTile = 128;

// The most that a captured launch must have room for.
struct AttentionBucket {
    int64_t rows = 0;
    int64_t decode_items = 0, prefill_items = 0;
};

// What batches of at most `rows` rows of `sequences` sequences need, none with more than `context` tokens after the
// step and all together with no more than `total_context` (what the pool has room for).
AttentionBucket attention_bucket(int64_t rows, int64_t sequences, int64_t context, int64_t total_context);

// The pieces of a batch, long ones first. A sequence with one row is decoded, one with more prefilled; `row_by_row`:
// every row is decoded, so that its bits do not depend on how the prompt was cut (needs decode_items for all rows).
struct AttentionPlan {
    std::vector<CudaAttentionItem> decode, prefill;
};
void plan_attention(std::span<const CudaSequence> sequences, AttentionPlan& plan, bool row_by_row = false);

// Device pointers. `block_tables` is this layer's [table][max_blocks].
struct CudaBatchTables {
    const CudaRow* rows = nullptr;
    const CudaTile* tiles = nullptr;
    const CudaSequence* sequences = nullptr;
    const int32_t* block_tables = nullptr;
    int64_t max_blocks = 0;
    const CudaAttentionItem* decode = nullptr;   // of the plan
    const CudaAttentionItem* prefill = nullptr;  // of the plan
    const int32_t* item_counts = nullptr;        // [2]: how many of each
};

// What happens to q, k and v on their way; null: that step is left out.
struct QkvSteps {
    int32_t part_q = -1, part_k = -1, part_v = -1;  // index into CudaTile::parts; gain and bias of y * gain + bias
    const float *bias_q = nullptr, *bias_k = nullptr, *bias_v = nullptr;  // the base's, where a part has none
    const float *norm_q = nullptr, *norm_k = nullptr;  // [head_dim]: each head / sqrt(mean(head^2) + eps) * weight
    const float *const *own_norm_q = nullptr, *const *own_norm_k = nullptr;  // [tile]: adapters' own; null: the base's
    float norm_eps = 0;
    const float* inv_freq = nullptr;  // [rotated / 2]: as rope.h
    int64_t rotated = 0;              // features of a head that rotate, the first; even, <= head_dim
    float rope_scale = 1;
};

//     q        [rows, num_heads * head_dim]  T, in place
//     k, v     [rows, kv_heads * head_dim]   T, read only
//     pool     pages
//
// All steps of a value in fp32, rounded to T once. head_dim even, at most 256. One warp takes four heads of a row.
template <class T>
void store_qkv(CudaDevice&, T* pool, const KvLayout&, View<T, 2> q, View<const T, 2> k, View<const T, 2> v,
               const QkvSteps&, const CudaBatchTables&);

// attention_workspace_bytes(layout, room) bytes, 16-byte aligned, zero before the first call that uses them: every call
// leaves the zeros that the next one needs, and where they are depends on `room`, not on the call.
struct AttentionWorkspace {
    void* memory = nullptr;
    AttentionBucket room;
};

// Keys and values of the tokens before a sequence's first_position must be complete before the step: they are read
// ahead.
//
// out, q  [rows, num_heads * head_dim]  T, must not alias. `workspace` has room for `bucket`.
//
// T = bf16 or f16 with head_dim 32, 64, 96, 128 or 256 and block_tokens a power of two from 16 on takes the fast paths
// (tensor cores, weights p rounded to T, sums in fp32); anything else one warp for each row and head, in fp32. Which
// path runs and the size of its grid depend on the arguments alone. A row's bits do not depend on the rest of the
// batch: on the slow path they are those of its q, K and V alone; on the fast path they depend also on whether the row
// was decoded or prefilled, not on how a prompt was cut into chunks of two rows or more.
template <class T>
void attention(CudaDevice&, View<T, 2> out, View<const T, 2> q, const T* pool, const KvLayout&, float scale,
               int64_t window, const CudaBatchTables&, const AttentionBucket&, const AttentionWorkspace& workspace);

template <class T>
bool attention_is_fast(const KvLayout&);
template <class T>
int64_t attention_workspace_bytes(const KvLayout&, const AttentionBucket&);

}  // namespace spartan
