// One engine step as it happened. These records are the only source of every view, metric and file: nothing in the
// window or the reports is computed from anything else. A line of steps.jsonl (core/run/step_json.h).
#pragma once

#include "core/engine/adapter_strategy.h"
#include "core/engine/request.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace spartan {

// One sequence's share of a step.
struct StepRow {
    RequestId request{};
    AdapterId adapter = AdapterId::base;
    int32_t num_tokens = 0;  // computed in this step: 1 when decoding, a chunk when prefilling
    int32_t context = 0;     // tokens already in its KV before the step
    bool prefill = false;    // some of num_tokens are prompt tokens (or recomputed after a preemption)
    Token token = -1;        // emitted by this step; -1: none yet (an unfinished prefill)
    FinishReason finish = FinishReason::none;
};

// Microseconds of wall time by what the step was doing; they sum to about end - start.
struct StepTimes {
    int64_t schedule = 0;  // mailbox, admission, pages, building the batch; none of what ran beside the step before
    // Adapters into the pool, and what StepBytes::staging counts. A GPU's copies into the pool take theirs beside the
    // steps.
    int64_t transfer = 0;
    int64_t rotate = 0, lora = 0;  // adapter arithmetic (scale and bias counted with lora)
    int64_t products = 0;          // base matrix products of the layers
    int64_t attention = 0;         // RoPE, KV write, attention
    int64_t other = 0;             // embedding, norms, activations, residuals
    int64_t head = 0;              // final norm and output product
    int64_t sample = 0;
    int64_t publish_wait = 0;  // waited for a full record ring, before this step
};

struct StepBytes {
    int64_t weights = 0, adapters = 0, kv = 0;  // read by the step, at the least
    int64_t transfer = 0;                       // adapter bytes copied into the pool
    // Written so that the step could run: factors batched into a tensor of their own (common_block), weights that an
    // adapter was merged into (merged).
    int64_t staging = 0;
};

enum class PageOwner : uint8_t { free, kv, adapter, transient };

// Pages [first, first + count) changed hands since the record before.
struct PageChange {
    int32_t first = 0, count = 0;
    PageOwner owner = PageOwner::free;
    uint64_t id = 0;  // RequestId or AdapterId, by owner
};

struct PoolState {
    int32_t total_pages = 0, kv_pages = 0, adapter_pages = 0, transient_pages = 0, largest_free_run = 0;
    int32_t free_pages() const { return total_pages - kv_pages - adapter_pages - transient_pages; }
};

// A GPU's memory in its driver's own words, whoever uses it. total 0: not asked in this step, which happens about once
// a second, or a CPU.
struct DeviceMemoryUse {
    int64_t total = 0, used = 0;  // bytes
};

// other_adapter: with `merged`, all running sequences use one adapter.
enum class WaitReason : uint8_t {
    none,
    no_pages,
    adapter_loading,
    adapter_no_room,
    token_budget,
    row_budget,
    other_adapter
};
const char* name_of(WaitReason);

// Served first come, first served: everybody behind somebody who cannot be passed waits for what holds that one up.
struct WaitCount {
    WaitReason reason{};
    int32_t requests = 0;
    int32_t pages_short = 0;  // for no_pages: of the first in line
};

enum class Residency : uint8_t { host, moving, pool };

// A load is told in the step in which it was seen to have ended. A GPU's takes place beside the steps, and its times
// are the GPU's own.
struct AdapterEvent {
    AdapterId adapter{};
    enum class Kind : uint8_t { load, evict } kind{};
    int64_t bytes = 0, us = 0;
    int64_t begin_us = -1;  // engine's clock; -1: not known (recordings of before)
};

struct Arrival {
    RequestId request{};
    AdapterId adapter = AdapterId::base;
    int64_t arrival_us = 0;
    int32_t prompt_tokens = 0, max_tokens = 0;
    bool warmup = false;  // left out of all metrics, also of those drawn before it finishes
};

// A record without rows tells of changes between steps: arrivals, cancellations (also while a step runs, then within
// that step's time: records follow each other by end_us), pages and adapters that left. So does that of a step which
// was abandoned because nobody wanted its results any more: it has times, but no bytes.
struct StepRecord {
    int64_t step = 0;
    int64_t start_us = 0, end_us = 0;  // engine's clock; a step that was prepared beside another starts at its end
    int64_t held_us = 0;               // total time the run was held before this step (wall time left out of the clock)
    std::vector<StepRow> rows;         // in batch order: grouped by adapter
    int32_t prefill_tokens = 0, decode_tokens = 0, padding_tokens = 0;
    StepTimes times;
    StepBytes bytes;
    // A GPU's idle time before the step's first kernel, since the last kernel of the step before; -1: not known, or
    // that step had been waited for.
    int64_t gap_us = -1;
    AdapterStrategy strategy = AdapterStrategy::folded;  // that the step ran by
    int32_t passes = 1;                                  // over the weights: one an adapter where it splits batches
    int64_t common_block = 0;                            // with common_block: what the batch's factors were cut to
    PoolState pool;
    DeviceMemoryUse device;
    std::vector<PageChange> page_changes;
    int32_t running = 0, waiting = 0;  // sequences, when the record was made: a GPU has the next step by then
    std::vector<WaitCount> waiting_for;
    std::vector<Arrival> arrivals;  // entered the queue in this step
    std::vector<RequestId> preempted;
    std::vector<AdapterEvent> adapter_events;
    std::vector<RequestRecord> finished;
    std::string trouble;  // what went wrong and was got over, in words; empty: nothing

    int64_t duration_us() const { return end_us - start_us; }
};

using StepRecordPtr = std::shared_ptr<const StepRecord>;

}  // namespace spartan
