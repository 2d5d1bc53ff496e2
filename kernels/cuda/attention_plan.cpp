#include "kernels/check.h"
#include "kernels/cuda/attention.h"

#include <algorithm>

namespace spartan {

AttentionBucket attention_bucket(int64_t rows, int64_t sequences, int64_t context, int64_t total_context) {
    CHECK(rows >= 0 && sequences >= 0 && context >= 0 && total_context >= 0);
    const int64_t decoded = std::min(rows, sequences), prefilled = std::min(rows / 2, sequences);
    const int64_t pieces = (context + kSplitKeys - 1) / kSplitKeys;
    return {.rows = rows,
            .decode_items = std::min(decoded * pieces, total_context / kSplitKeys + decoded),
            .prefill_items = rows / kQueryTile + prefilled};
}

namespace {

void plan_row(const CudaSequence& s, int32_t sequence, int32_t row, int32_t& slot, AttentionPlan& plan) {
    const int32_t position = s.first_position + row - s.row_begin;
    for (int32_t piece = 0; piece < decode_pieces(position + 1); ++piece)
        plan.decode.push_back({.row = row,
                               .sequence = sequence,
                               .first = piece * kSplitKeys,
                               .partial = slot++,
                               .position = position,
                               .old_keys = s.first_position,
                               .table = s.table});
}

void plan_tiles(const CudaSequence& s, int32_t sequence, AttentionPlan& plan) {
    for (int32_t row = s.row_begin; row < s.row_begin + s.rows; row += kQueryTile)
        plan.prefill.push_back({.row = row, .sequence = sequence});
}

}  // namespace

void plan_attention(std::span<const CudaSequence> sequences, AttentionPlan& plan, bool row_by_row) {
    plan.decode.clear();
    plan.prefill.clear();
    int32_t slot = 0;
    for (size_t i = 0; i < sequences.size(); ++i) {
        const CudaSequence& s = sequences[i];
        if (s.rows > 1 && !row_by_row) {
            plan_tiles(s, int32_t(i), plan);
            continue;
        }
        for (int32_t row = s.row_begin; row < s.row_begin + s.rows; ++row) plan_row(s, int32_t(i), row, slot, plan);
    }
    // Long ones first. Most are whole pieces, which all take as long: only the last pieces of rows are sorted.
    const auto keys = [](const CudaAttentionItem& item) {
        const bool last = item.first / kSplitKeys == decode_pieces(item.position + 1) - 1;
        return last ? item.position + 1 - item.first : kSplitKeys;
    };
    const auto longer = [&](const auto& a, const auto& b) { return keys(a) > keys(b); };
    const auto part = [&](auto begin, const auto& belongs) {
        return std::stable_partition(begin, plan.decode.end(), belongs);
    };
    const auto whole = part(plan.decode.begin(), [&](const auto& item) { return keys(item) > kSplitKeys; });
    const auto less = part(whole, [&](const auto& item) { return keys(item) == kSplitKeys; });
    std::stable_sort(plan.decode.begin(), whole, longer);
    std::stable_sort(less, plan.decode.end(), longer);
    const auto end = [&](const CudaAttentionItem& item) {  // of a tile's first row's keys
        const CudaSequence& s = sequences[size_t(item.sequence)];
        return s.first_position + item.row - s.row_begin + 1;
    };
    std::stable_sort(plan.prefill.begin(), plan.prefill.end(),
                     [&](const auto& a, const auto& b) { return end(a) > end(b); });
}

}  // namespace spartan
