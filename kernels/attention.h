// Causal attention over paged keys and values, with grouped query heads (query head h reads kv head h / (H / KV)):
//
//     out[row, h] = softmax over j in keys(row) of (q[row, h] . K[j, kv(h)] * scale) applied to V[j, kv(h)]
//     keys(row)   = 0..p for the row at position p; max(0, p - window + 1)..p with a sliding window (Beltagy et al.
//                   2020; Jiang et al. 2023), `window` keys with its own. window 0: none
//
//     out, q  [num_rows, num_heads * head_dim]  f32, must not alias
//     page    of T: K then V of `block_tokens` tokens of one layer. K is [kv_heads][head_dim][block_tokens] (so that
//     one
//             vector holds one feature of neighbouring keys), V is [kv_heads][block_tokens][head_dim]
//
// A sequence's keys lie in pages block_table[0], [1], …; token j of it in page j / block_tokens, slot j % block_tokens.
// A row reads its keys in rising order in fp32 (online softmax in blocks of block_tokens that begin at multiples of
// it), so its result is the same alone, in any batch and however the prompt was cut into chunks; keys outside its
// window are not read. store_kv() writes the rows' k and v into their slots (rounded to T) and must run before
// attention() of the same rows.
#pragma once

#include "kernels/device.h"
#include "kernels/view.h"

#include <span>

namespace spartan {

struct KvLayout {
    int64_t num_heads = 0, kv_heads = 0, head_dim = 0, block_tokens = 16;
    int64_t page_elements() const { return 2 * kv_heads * block_tokens * head_dim; }
};

// Rows [row_begin, row_end) of the batch are consecutive tokens of one sequence; the first is at position
// `first_position`.
struct AttentionSegment {
    int64_t row_begin = 0, row_end = 0;
    int64_t first_position = 0;
    std::span<const int32_t> pages;  // page numbers of this layer, in token order
};

template <class T>
void store_kv(CpuDevice&, T* pool, const KvLayout&, View<const float, 2> k, View<const float, 2> v,
              std::span<const AttentionSegment> segments);
template <class T>
void attention(CpuDevice&, View<float, 2> out, View<const float, 2> q, const T* pool, const KvLayout&, float scale,
               std::span<const AttentionSegment> segments, int64_t window = 0);

extern template void store_kv<float>(CpuDevice&, float*, const KvLayout&, View<const float, 2>, View<const float, 2>,
                                     std::span<const AttentionSegment>);
extern template void store_kv<bf16>(CpuDevice&, bf16*, const KvLayout&, View<const float, 2>, View<const float, 2>,
                                    std::span<const AttentionSegment>);
extern template void attention<float>(CpuDevice&, View<float, 2>, View<const float, 2>, const float*, const KvLayout&,
                                      float, std::span<const AttentionSegment>, int64_t);
extern template void attention<bf16>(CpuDevice&, View<float, 2>, View<const float, 2>, const bf16*, const KvLayout&,
                                     float, std::span<const AttentionSegment>, int64_t);

// `kv_tokens` keys and values are read once in all; each of `sequences` has `rows` rows, the last at position `tokens`
// - 1.
template <class T>
constexpr Cost attention_cost(const KvLayout& l, int64_t kv_tokens, int64_t rows, int64_t tokens, int64_t sequences) {
    const int64_t pairs = sequences * (rows * tokens - rows * (rows - 1) / 2);  // of a query and a key that it sees
    return {.bytes = 2 * kv_tokens * l.kv_heads * l.head_dim * int64_t(sizeof(T)) +
                     8 * sequences * rows * l.num_heads * l.head_dim,
            .flops = 4 * pairs * l.num_heads * l.head_dim};
}

}  // namespace spartan
