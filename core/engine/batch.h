// What one step computes, as the model runner takes it: rows of all sequences one after another, grouped by adapter.
#pragma once

#include "core/base/ids.h"
#include "core/engine/scheduler.h"
#include "kernels/sample.h"

#include <cstdint>
#include <span>
#include <vector>

namespace spartan {

// An id that is not known when the batch is built: the token that this head of the step before picks.
constexpr Token token_of_head(int32_t head) { return -1 - head; }
constexpr int32_t head_of(Token unknown) { return -1 - unknown; }

// One sequence's rows [row_begin, row_end): consecutive tokens, the first at `first_position`.
struct BatchSequence {
    int32_t row_begin = 0, row_end = 0;
    int32_t first_position = 0;
    const std::vector<std::vector<int32_t>>* block_tables = nullptr;  // [layer][block]
    const bool* over = nullptr;  // set while the step runs: its results are not wanted any more
};

// Rows [row_begin, row_end) use one adapter. Segments cover all rows; the base's comes first.
struct AdapterSegment {
    AdapterId adapter = AdapterId::base;
    int32_t row_begin = 0, row_end = 0;
};

// A row whose logits are needed.
struct HeadRow {
    int32_t row = 0, sequence = 0;
    bool logits = false;  // hand them out: a prompt position of a want_logits request
    bool sample = false;  // pick the next token
};

struct Batch {
    std::vector<Token> ids;          // [rows]; negative: token_of_head()
    std::vector<int32_t> positions;  // [rows]
    std::vector<BatchSequence> sequences;
    std::vector<AdapterSegment> segments;
    std::vector<HeadRow> heads;            // by row
    std::vector<int32_t> picking_head;     // [sequences]: of `heads`, the one that picks its next token; -1: none
    std::vector<SampleParams> sampling;    // [sequences]
    std::vector<int32_t> sample_position;  // [sequences]: index that the sampled token gets in its sequence
    int64_t context_tokens = 0;            // K and V read: the sum over sequences of tokens after this step
    bool follows = false;                  // some id is a token of the step before

    int64_t num_rows() const { return int64_t(ids.size()); }
};

// Reuses `batch`'s memory.
void build_batch(std::span<const ScheduledRow> rows, Batch& batch);

}  // namespace spartan
