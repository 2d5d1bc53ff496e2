// One request on its way through the engine.
#pragma once

#include "core/engine/request.h"
#include "core/engine/stop_matcher.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

namespace spartan {

struct Sequence {
    Request request;                  // its prompt is in `tokens`
    std::vector<Token> tokens;        // prompt, then output
    int32_t num_computed_tokens = 0;  // of `tokens`: K and V are in the pool, or come there by the step in flight
    int32_t recompute_until = 0;      // computed before the last preemption; those below are prefill again
    std::vector<std::vector<int32_t>> block_tables;  // [layer][block]: page
    RequestRecord record;
    std::unique_ptr<StopMatcher> stop;  // null: no stop strings
    int32_t logits_done = 0;            // prompt positions whose logits were handed out
    int32_t adapter_pages = 0;          // run that its adapter needs in the pool; 0 for the base
    int32_t batched_pages = 0;          // and that its factors are batched into (common_block)
    uint64_t source = 0;                // number of the source that delivered it; 0: submitted
    int64_t passed_us = -1;             // when others first went past it for its adapter's sake; -1: never
    int32_t coming = 0;                 // tokens that steps in flight pick for it
    int32_t coming_from = -1;           // the last of these: by this head of its batch
    int32_t steps = 0;                  // in flight that it is part of
    bool in_batch = false;              // of the step that is being computed, or handed to a runner that runs ahead
    bool over = false;                  // its record is out; steps in flight may still hold it

    RequestId id() const { return request.id; }
    AdapterId adapter() const { return request.adapter; }
    int32_t num_tokens() const { return int32_t(tokens.size()) + coming; }
    int32_t output_tokens() const { return int32_t(record.output.size()) + coming; }
    int32_t prompt_tokens() const { return record.prompt_tokens; }
    int32_t remaining_tokens() const { return num_tokens() - num_computed_tokens; }
    int32_t num_blocks() const { return block_tables.empty() ? 0 : int32_t(block_tables[0].size()); }
    // Whether the steps in flight are its last, whichever tokens they pick.
    bool ends_in_flight() const {
        return output_tokens() >= request.sampling.max_tokens && remaining_tokens() <= coming;
    }
    bool in_prefill() const { return num_computed_tokens < std::max(prompt_tokens(), recompute_until); }
};

}  // namespace spartan
