// The measurements behind `spartan bench decode|prefill|load`. Forward passes (with sampling) are timed one by one,
// base and adapters in turn within one run, so that ratios between them do not depend on what else the machine does.
// Scheduling and publishing, some tens of microseconds a step, are left out.
#pragma once

#include "core/adapter/adapter.h"
#include "core/base/json.h"
#include "core/base/progress.h"
#include "core/base/result.h"
#include "core/engine/bench_batch.h"
#include "core/engine/step_record.h"
#include "core/model/model.h"

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace spartan {

// What decode and prefill measure by default on a CPU (-1) or a GPU.
std::vector<BatchKind> default_decode_kinds(int cuda_device);
BenchSizes default_bench_sizes(int cuda_device);

struct DecodeBenchOptions {
    int cuda_device = -1;                               // ordinal of the GPU; -1: the CPU
    int threads = 0;                                    // 0: usable_cpus()
    std::vector<BatchKind> kinds;                       // empty: default_decode_kinds()
    std::vector<int64_t> rows{1, 8, 32};                // sequences in the batch
    std::vector<int64_t> adapters;                      // distinct ones in a batch, at most one a row; empty: one a row
    BenchSizes sizes;                                   // where empty: default_bench_sizes()
    int64_t context = 256;                              // tokens before the one that is decoded
    int64_t steps = 20, warmup = 3;                     // timed and untimed steps of each case
    std::vector<RunnerSwitches> switches{{}};           // each case with each of them
    bool batch_invariant = false, phase_times = false;  // of a GPU's runner (RunnerLimits)
    std::vector<AdapterStrategy> strategies{AdapterStrategy::folded};  // each case by each of them
    double read_bytes_per_s = 0;  // measured (kernels/bench.h); 0: floors and shares are left out
    uint64_t seed = 42;
};

struct DecodeFigure {
    BatchKind kind{};
    AdapterStrategy strategy = AdapterStrategy::folded;
    int32_t passes = 1;
    int64_t common_block = 0;
    int64_t rows = 0, distinct_adapters = 0, context = 0, steps = 0;
    RunnerSwitches switches;
    double median_ms = 0, min_ms = 0, tokens_per_s = 0;
    // On a GPU: the median of what a step takes beyond the GPU's own time for it, from its first transfer to its last.
    std::optional<double> gap_ms;
    // Read by a step, at the least: weights, the adapters in use, keys and values; and what it wrote before (staging).
    StepBytes bytes;
    double floor_ms = 0;         // those bytes over the read bandwidth
    double bandwidth_share = 0;  // floor_ms over the median
    // Against the step of "base" beside each: the added time (median), and that as a multiple of the adapters' bytes
    // over the bandwidth. 0 where "base" is not among the kinds.
    double added_ms = 0, added_over_floor = 0;
    StepTimes times;  // of the median step
};
// In the order strategies, rows, switches, kinds, adapters; a strategy's batches are what its own runner makes of them:
// `merged` merges anew for every adapter of a batch, in every step that has several. Numbers of adapters that come to
// the same in a batch are measured once. When cancelled, what was measured for the rows before.
Result<std::vector<DecodeFigure>> measure_decode(std::shared_ptr<const Model> model, const DecodeBenchOptions& options,
                                                 Progress& progress);

struct PrefillBenchOptions {
    int cuda_device = -1;
    int threads = 0;
    std::vector<BatchKind> kinds{BatchKind::base};
    std::vector<int64_t> lengths{128, 512};
    int64_t sequences = 1;  // prompts of that length, side by side
    int64_t adapters = 1;   // distinct ones among them
    BenchSizes sizes;
    int64_t chunk = 512;  // tokens a step, as max_batch_tokens
    int64_t repeats = 3;
    uint64_t seed = 42;
};
struct PrefillFigure {
    BatchKind kind{};
    int64_t tokens = 0, sequences = 0, distinct_adapters = 0;
    double median_ms = 0, tokens_per_s = 0, flops_per_s = 0;  // flops of the base's matrix products only
    double added_share = 0;  // of the time of "base" beside it; 0 where "base" is not among the kinds
};
Result<std::vector<PrefillFigure>> measure_prefill(std::shared_ptr<const Model> model,
                                                   const PrefillBenchOptions& options, Progress& progress);

struct LoadFigure {
    double open_ms = 0, load_ms = 0;  // headers; weights read, converted and packed
    int64_t file_bytes = 0, weight_bytes = 0;
    std::vector<std::pair<std::string, double>> adapter_ms;  // read, checked and folded
    int64_t peak_resident_bytes = 0;                         // of the process so far
    std::shared_ptr<const Model> model;
};
Result<LoadFigure> measure_load(const std::string& model_path, Precision precision, int threads,
                                const std::vector<AdapterRequest>& adapters, uint64_t seed, Progress& progress);

// An array of flat objects, one a figure; "adapters" is the kind.
Json to_json(const std::vector<DecodeFigure>& figures);
Json to_json(const std::vector<PrefillFigure>& figures);
Json to_json(const LoadFigure& figure);

// The process's largest resident set so far.
int64_t peak_resident_bytes();

}  // namespace spartan
