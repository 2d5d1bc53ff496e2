// Measures loading, prefill and decode on this machine and puts them beside what memory and arithmetic allow. Times are
// those of the engine's own step records.
#pragma once

#include "core/base/json.h"
#include "core/base/progress.h"
#include "core/engine/engine.h"
#include "core/run/recorder.h"

#include <string>
#include <vector>

namespace spartan {

// {"read_bytes_per_s", "copy_bytes_per_s", "f32_flops", "bf16_flops"}, measured with `threads` (0: all).
Json measure_limits_json(int threads);
// {"limits": …, "kernels": [{"name", "bytes", "flops", "ms", "share", "wrong"}]}; stops early when cancelled.
Json bench_kernels_json(int threads, const Progress& progress);

struct EngineBench {
    Engine& engine;
    Recorder& recorder;               // the engine's
    std::vector<AdapterId> adapters;  // request i uses adapter i mod their number; none: the base alone
    std::vector<int64_t> sizes;       // decode: requests side by side; prefill: prompt tokens
    int64_t context = 128;            // decode: prompt tokens of each request
    int64_t tokens = 32;              // decode: steps that are timed, of all requests together
    int repeats = 3;
    Json limits;  // measure_limits_json()
};

// For each size: {"rows", "adapters", "context", "steps", "step_ms" (median), "tokens_per_s", "bytes" (a step's reads),
// "bytes_per_s", "share" (of the read bandwidth), "times_ms" by phase}. With adapters each size is measured twice,
// without and with them in turn, and the second carries "added_ms", "adapter_bytes" and "added_over_limit": the added
// time over the adapters' bytes at the measured bandwidth.
Result<Json> bench_decode(const EngineBench& bench, Progress& progress);
// For each size: {"prompt_tokens", "adapters", "ms" (median), "tokens_per_s", "flops", "flops_per_s", "share" (of the
// peak), "times_ms"}.
Result<Json> bench_prefill(const EngineBench& bench, Progress& progress);

}  // namespace spartan
