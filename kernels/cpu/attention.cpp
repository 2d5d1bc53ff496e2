#include "kernels/attention.h"

#include "kernels/check.h"

#include <algorithm>
#include <cmath>
#include <limits>
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
void attend_row(float* out, const float* q, const T* pool, const KvLayout& l, float scale, const AttentionSegment& s,
                int64_t position, int64_t kv_head) {
    std::vector<float> scores(size_t(position) + 1);
    float max = -std::numeric_limits<float>::infinity();
    const int64_t half_page = l.page_elements() / 2, tile = l.block_tokens * l.head_dim;
    for (int64_t j = 0; j <= position; ++j) {
        const T* keys = pool + s.pages[size_t(j / l.block_tokens)] * l.page_elements() + kv_head * tile;
        float dot = 0;
        for (int64_t d = 0; d < l.head_dim; ++d) dot += q[d] * to_float(keys[d * l.block_tokens + j % l.block_tokens]);
        scores[size_t(j)] = dot * scale;
        max = std::max(max, scores[size_t(j)]);
    }
    float sum = 0;
    std::fill_n(out, l.head_dim, 0.f);
    for (int64_t j = 0; j <= position; ++j) {
        const T* values = pool + s.pages[size_t(j / l.block_tokens)] * l.page_elements() + half_page + kv_head * tile +
                          j % l.block_tokens * l.head_dim;
        const float p = std::exp(scores[size_t(j)] - max);
        sum += p;
        for (int64_t d = 0; d < l.head_dim; ++d) out[d] += p * to_float(values[d]);
    }
    for (int64_t d = 0; d < l.head_dim; ++d) out[d] /= sum;
}

}  // namespace

template <class T>
void store_kv(CpuDevice& device, T* pool, const KvLayout& l, View<const float, 2> k, View<const float, 2> v,
              std::span<const AttentionSegment> segments) {
    check_segments(l, segments, k.shape[0]);
    CHECK(k.shape == v.shape && k.shape[1] == l.kv_heads * l.head_dim);
    device.parallel_items(int64_t(segments.size()), [&](int64_t i, int) {
        const AttentionSegment& s = segments[size_t(i)];
        for (int64_t row = s.row_begin; row < s.row_end; ++row) {
            const int64_t position = s.first_position + row - s.row_begin, slot = position % l.block_tokens;
            T* keys = pool + s.pages[size_t(position / l.block_tokens)] * l.page_elements();
            T* values = keys + l.page_elements() / 2;
            for (int64_t h = 0; h < l.kv_heads; ++h)
                for (int64_t d = 0; d < l.head_dim; ++d) {
                    keys[(h * l.head_dim + d) * l.block_tokens + slot] = from_float<T>(k.row(row)[h * l.head_dim + d]);
                    values[(h * l.block_tokens + slot) * l.head_dim + d] =
                        from_float<T>(v.row(row)[h * l.head_dim + d]);
                }
        }
    });
}

template <class T>
void attention(CpuDevice& device, View<float, 2> out, View<const float, 2> q, const T* pool, const KvLayout& l,
               float scale, std::span<const AttentionSegment> segments) {
    check_segments(l, segments, q.shape[0]);
    CHECK(out.shape == q.shape && q.shape[1] == l.num_heads * l.head_dim);
    for (const AttentionSegment& s : segments)
        device.parallel_items((s.row_end - s.row_begin) * l.num_heads, [&](int64_t i, int) {
            const int64_t row = i / l.num_heads, h = i % l.num_heads, at = h * l.head_dim;
            attend_row(out.row(s.row_begin + row) + at, q.row(s.row_begin + row) + at, pool, l, scale, s,
                       s.first_position + row, h / (l.num_heads / l.kv_heads));
        });
}

template void store_kv<float>(CpuDevice&, float*, const KvLayout&, View<const float, 2>, View<const float, 2>,
                              std::span<const AttentionSegment>);
template void store_kv<bf16>(CpuDevice&, bf16*, const KvLayout&, View<const float, 2>, View<const float, 2>,
                             std::span<const AttentionSegment>);
template void attention<float>(CpuDevice&, View<float, 2>, View<const float, 2>, const float*, const KvLayout&, float,
                               std::span<const AttentionSegment>);
template void attention<bf16>(CpuDevice&, View<float, 2>, View<const float, 2>, const bf16*, const KvLayout&, float,
                              std::span<const AttentionSegment>);

}  // namespace spartan
