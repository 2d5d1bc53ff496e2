#include "kernels/attention.h"

#include "kernels/check.h"
#include "kernels/cpu/simd/table.h"

#include <algorithm>
#include <vector>

namespace spartan {

namespace {

void check_segments(const KvLayout& layout, std::span<const AttentionSegment> segments, int64_t rows) {
    CHECK(layout.kv_heads > 0 && layout.num_heads % layout.kv_heads == 0);
    CHECK(layout.head_dim > 0 && layout.block_tokens > 0);
    for (const AttentionSegment& s : segments) {
        CHECK(0 <= s.row_begin && s.row_begin <= s.row_end && s.row_end <= rows && s.first_position >= 0);
        const int64_t tokens = s.first_position + s.row_end - s.row_begin;
        CHECK(s.row_begin == s.row_end || int64_t(s.pages.size()) * layout.block_tokens >= tokens);
    }
}

template <class T>
auto attend_kernel(const CpuKernels& kernels) {
    if constexpr (std::is_same_v<T, float>)
        return kernels.attend_f32;
    else
        return kernels.attend_bf16;
}

// Rows [row, row + rows) of a segment, one kv head.
struct Item {
    const AttentionSegment* segment;
    int64_t row, rows, kv_head, cost;
};

// Query heads that share a kv head and rows that follow each other read the same keys, so both go into one item, as
// many as keep their scores and sums in the L1 cache. Longest first, so that no thread is left with a long one at the
// end.
std::vector<Item> attention_items(std::span<const AttentionSegment> segments, const KvLayout& l, int64_t window) {
    constexpr int64_t kQueries = 24;
    const int64_t rows_per_item = std::max(kQueries / (l.num_heads / l.kv_heads), int64_t(1));
    std::vector<Item> items;
    for (const AttentionSegment& s : segments)
        for (int64_t row = s.row_begin; row < s.row_end; row += rows_per_item) {
            const int64_t rows = std::min(rows_per_item, s.row_end - row);
            const int64_t seen = s.first_position + row - s.row_begin + rows;
            const int64_t tokens = window > 0 ? std::min(seen, window + rows) : seen;
            for (int64_t h = 0; h < l.kv_heads; ++h) items.push_back({&s, row, rows, h, (rows + 1) * tokens});
        }
    std::stable_sort(items.begin(), items.end(), [](const Item& a, const Item& b) { return a.cost > b.cost; });
    return items;
}

template <class T>
void copy_as(const CpuKernels& kernels, T* out, const float* x, int64_t n) {
    if constexpr (std::is_same_v<T, float>)
        std::copy_n(x, n, out);
    else
        kernels.round_bf16(out, x, n);
}

}  // namespace

template <class T>
void store_kv(CpuDevice& device, T* pool, const KvLayout& l, View<const float, 2> k, View<const float, 2> v,
              std::span<const AttentionSegment> segments) {
    check_segments(l, segments, k.shape[0]);
    CHECK(k.shape == v.shape && k.shape[1] == l.kv_heads * l.head_dim);
    const CpuKernels& kernels = kernels_for(device.isa());
    int64_t rows = 0;
    for (const AttentionSegment& s : segments) rows += s.row_end - s.row_begin;
    const auto store_segment = [&](const AttentionSegment& s) {
        for (int64_t row = s.row_begin; row < s.row_end; ++row) {
            const int64_t position = s.first_position + row - s.row_begin, slot = position % l.block_tokens;
            T* keys = pool + s.pages[size_t(position / l.block_tokens)] * l.page_elements() + slot;
            for (int64_t i = 0; i < k.shape[1]; ++i) keys[i * l.block_tokens] = from_float<T>(k.row(row)[i]);
            T* values = keys - slot + l.page_elements() / 2 + slot * l.head_dim;
            for (int64_t h = 0; h < l.kv_heads; ++h)
                copy_as(kernels, values + h * l.block_tokens * l.head_dim, v.row(row) + h * l.head_dim, l.head_dim);
        }
    };
    if (rows * k.shape[1] < 16 * 1024) {  // done before another thread would have woken
        for (const AttentionSegment& s : segments) store_segment(s);
        return;
    }
    device.parallel_items(int64_t(segments.size()), [&](int64_t i, int) { store_segment(segments[size_t(i)]); });
}

template <class T>
void attention(CpuDevice& device, View<float, 2> out, View<const float, 2> q, const T* pool, const KvLayout& l,
               float scale, std::span<const AttentionSegment> segments, int64_t window) {
    check_segments(l, segments, q.shape[0]);
    CHECK(out.shape == q.shape && q.shape[1] == l.num_heads * l.head_dim && window >= 0);
    const int64_t heads = l.num_heads / l.kv_heads, tile = l.block_tokens * l.head_dim;
    const std::vector<Item> items = attention_items(segments, l, window);
    const auto kernel = attend_kernel<T>(kernels_for(device.isa()));
    const auto run = [&](const Item& item, int thread) {
        const int64_t at = item.kv_head * heads * l.head_dim;
        const int64_t scratch = attend_scratch_floats(item.rows * heads, l.head_dim, l.block_tokens);
        kernel({.out = out.row(item.row) + at,
                .q = q.row(item.row) + at,
                .stride = q.shape[1],
                .rows = item.rows,
                .first_position = item.segment->first_position + item.row - item.segment->row_begin,
                .heads = heads,
                .head_dim = l.head_dim,
                .block_tokens = l.block_tokens,
                .pages = item.segment->pages.data(),
                .pool = pool,
                .page_elements = l.page_elements(),
                .key_offset = item.kv_head * tile,
                .value_offset = l.page_elements() / 2 + item.kv_head * tile,
                .scale = scale,
                .window = window,
                .scratch = static_cast<float*>(device.thread_scratch(thread, scratch * 4))});
    };
    int64_t cost = 0;
    for (const Item& item : items) cost += item.cost;
    if (cost * heads * l.head_dim < 64 * 1024) {  // a few microseconds
        for (const Item& item : items) run(item, 0);
        return;
    }
    device.parallel_items(int64_t(items.size()), [&](int64_t i, int thread) { run(items[size_t(i)], thread); });
}

template void store_kv<float>(CpuDevice&, float*, const KvLayout&, View<const float, 2>, View<const float, 2>,
                              std::span<const AttentionSegment>);
template void store_kv<bf16>(CpuDevice&, bf16*, const KvLayout&, View<const float, 2>, View<const float, 2>,
                             std::span<const AttentionSegment>);
template void attention<float>(CpuDevice&, View<float, 2>, View<const float, 2>, const float*, const KvLayout&, float,
                               std::span<const AttentionSegment>, int64_t);
template void attention<bf16>(CpuDevice&, View<float, 2>, View<const float, 2>, const bf16*, const KvLayout&, float,
                              std::span<const AttentionSegment>, int64_t);

}  // namespace spartan
