// What a request is and what became of it.
#pragma once

#include "core/base/ids.h"

#include <cstdint>
#include <string>
#include <vector>

namespace spartan {

struct SamplingParams {
    float temperature = 0;  // 0: greedy
    float top_p = 1;
    int32_t top_k = 0;  // 0: all
    uint64_t seed = 42;
    int32_t max_tokens = 100;
    bool ignore_eos = false;
    // Generation ends before the first of these in the text (decoded without special tokens): the request finishes with
    // the token that completes it, and RequestRecord::visible_bytes says where the text ends.
    std::vector<std::string> stop;
    int32_t num_logprobs = 0;  // reserved for the views; 0
};

// Where a request came from. The engine carries it unchanged from the Request into the RequestRecord.
struct RequestOrigin {
    int32_t repeat = -1;     // of the workload that delivered it; -1: none (a prompt that a person typed)
    float slo_ttft_ms = -1;  // its own limit, from a trace; -1: the workload's
    std::string label;       // request_id of a trace; empty: none
};

struct Request {
    RequestId id{};
    std::vector<Token> prompt;  // not empty
    AdapterId adapter = AdapterId::base;
    SamplingParams sampling;
    int64_t arrival_us = -1;   // on the engine's clock; -1: when submitted
    bool warmup = false;       // left out of all metrics
    bool want_logits = false;  // every prompt position's logits are handed to the logits sink (`spartan logits`)
    RequestOrigin origin;
};

enum class FinishReason : uint8_t { none, length, eos, stop, cancelled, error };
const char* name_of(FinishReason);

// One finished request; a line of requests.jsonl. Times are microseconds of the engine's clock, which stands still
// while a run is held, so that held time is in no metric.
struct RequestRecord {
    RequestId id{};
    AdapterId adapter = AdapterId::base;
    int64_t arrival_us = 0, first_scheduled_us = -1, first_token_us = -1, last_token_us = -1;
    int32_t prompt_tokens = 0, output_tokens = 0, preemptions = 0;
    FinishReason finish = FinishReason::none;
    std::string error;  // for FinishReason::error
    bool warmup = false;
    RequestOrigin origin;           // as submitted
    std::vector<int64_t> token_us;  // time of each output token
    std::vector<Token> output;      // every sampled token, also the eos or those of the stop string
    // Of the output decoded as UTF-8 without special tokens, how many bytes come before the stop string; -1: all of
    // them (finish is not `stop`).
    int64_t visible_bytes = -1;

    int64_t queue_us() const { return first_scheduled_us < 0 ? -1 : first_scheduled_us - arrival_us; }
    int64_t ttft_us() const { return first_token_us < 0 ? -1 : first_token_us - arrival_us; }
    int64_t e2e_us() const { return last_token_us < 0 ? -1 : last_token_us - arrival_us; }
};

}  // namespace spartan
