#include "kernels/check.h"
#include "kernels/cuda/bench_cases.h"

#include <algorithm>

namespace spartan {

AttentionPlan AttentionBatch::planned(const std::vector<CudaSequence>& sequences) {
    AttentionPlan plan;
    plan_attention(sequences, plan);
    return plan;
}

AttentionBatch::AttentionBatch(int64_t sequences, int64_t rows, int64_t context, int64_t block_tokens,
                               int64_t num_pages, int64_t rounds)
    : num_sequences_(sequences),
      num_pages_(num_pages),
      blocks_((context + block_tokens - 1) / block_tokens),
      plan_(planned(sequences_of(rows, context))),
      bucket_{sequences * rows, int64_t(plan_.decode.size()), int64_t(plan_.prefill.size())},
      rows_(rows_of(rows, context)),
      sequences_(sequences_of(rows, context)),
      pages_(pages_of(rounds)),
      counts_({int32_t(plan_.decode.size()), int32_t(plan_.prefill.size())}),
      decode_(plan_.decode),
      prefill_(plan_.prefill) {
    CHECK(rows <= context && num_pages > 0);
}

CudaBatchTables AttentionBatch::tables(int64_t round) const {
    CudaBatchTables t;
    t.rows = rows_.data();
    t.sequences = sequences_.data();
    t.block_tables = pages_.data() + round * num_sequences_ * blocks_;
    t.max_blocks = blocks_;
    t.decode = decode_.data();
    t.prefill = prefill_.data();
    t.item_counts = counts_.data();
    return t;
}

// One page after the other in an order that jumps about; where they do not suffice they are used again.
int32_t AttentionBatch::page(int64_t round, int64_t sequence, int64_t block) const {
    const int64_t step = num_pages_ % 7919 == 0 ? 1 : 7919;
    return int32_t(((round * num_sequences_ + sequence) * blocks_ + block) % num_pages_ * step % num_pages_);
}

std::vector<CudaSequence> AttentionBatch::sequences_of(int64_t rows, int64_t context) const {
    std::vector<CudaSequence> sequences;
    for (int64_t s = 0; s < num_sequences_; ++s)
        sequences.push_back({int32_t(s * rows), int32_t(rows), int32_t(context - rows), int32_t(s)});
    return sequences;
}

std::vector<CudaRow> AttentionBatch::rows_of(int64_t rows, int64_t context) const {
    std::vector<CudaRow> list;
    for (int64_t s = 0; s < num_sequences_; ++s)
        for (int64_t i = 0; i < rows; ++i) list.push_back({int32_t(context - rows + i), int32_t(s), -1});
    return list;
}

std::vector<int32_t> AttentionBatch::pages_of(int64_t rounds) const {
    std::vector<int32_t> pages;
    for (int64_t round = 0; round < rounds; ++round)
        for (int64_t s = 0; s < num_sequences_; ++s)
            for (int64_t b = 0; b < blocks_; ++b) pages.push_back(page(round, s, b));
    return pages;
}

std::vector<CudaPart> AdapterBatch::parts_of(const AdapterRows& rows, int num_parts, int64_t rounds, const Make& make) {
    std::vector<CudaPart> parts;
    for (int64_t round = 0; round < rounds; ++round)
        for (int64_t a = 0; a < rows.adapters; ++a)
            for (int p = 0; p < num_parts; ++p) parts.push_back(make(round, a, p));
    return parts;
}

std::vector<CudaTile> AdapterBatch::tiles_of(const AdapterRows& rows, int num_parts, int64_t rounds) const {
    std::vector<CudaTile> tiles;
    for (int64_t round = 0; round < rounds; ++round)
        for (int64_t a = 0; a < rows.adapters; ++a)
            for (int64_t row = 0; row < rows.rows; row += kTileRows)
                tiles.push_back({parts_.data() + (round * rows.adapters + a) * num_parts, int32_t(a * rows.rows + row),
                                 int32_t(std::min<int64_t>(kTileRows, rows.rows - row))});
    return tiles;
}

AdapterBatch::AdapterBatch(const AdapterRows& rows, int num_parts, int64_t rounds, const Make& make)
    : num_tiles_(rows.adapters * ((rows.rows + kTileRows - 1) / kTileRows)),
      parts_(parts_of(rows, num_parts, rounds, make)),
      tiles_(tiles_of(rows, num_parts, rounds)) {}

}  // namespace spartan
