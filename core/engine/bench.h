// The measurements behind `spartan bench decode|prefill|load`. Forward passes (with sampling) are timed one by one,
// base and adapters in turn within one run, so that ratios between them do not depend on what else the machine does.
// Scheduling and publishing, some tens of microseconds a step, are left out.
#pragma once

#include "core/adapter/adapter.h"
#include "core/base/json.h"
#include "core/base/progress.h"
#include "core/base/result.h"
#include "core/engine/step_record.h"
#include "core/model/model.h"

#include <memory>
#include <string>
#include <vector>

namespace spartan {

struct DecodeBenchOptions {
    int cuda_device = -1;                 // ordinal of the GPU; -1: the CPU
    int threads = 0;                      // 0: usable_cpus()
    std::vector<int64_t> rows{1, 8, 32};  // sequences in the batch
    int64_t context = 256;                // tokens before the one that is decoded
    int64_t steps = 20, warmup = 3;       // timed and untimed steps of each case
    double read_bytes_per_s = 0;          // measured (kernels/bench.h); 0: shares are left out
    uint64_t seed = 42;
};

// Cases: "base"; "boft+lora": every row its own adapter, half BOFT b=32 m=1, half LoRA r=16; "lora": all LoRA r=16.
struct DecodeFigure {
    std::string adapters;
    int64_t rows = 0, context = 0, steps = 0;
    double median_ms = 0, min_ms = 0, tokens_per_s = 0;
    StepBytes bytes;             // read by a step, at the least
    double bandwidth_share = 0;  // those bytes over the median, of the read bandwidth
    // Against the step of "base" beside each: the added time (median), and that as a multiple of the adapters' bytes
    // over the bandwidth.
    double added_ms = 0, added_over_floor = 0;
    StepTimes times;  // of the median step
};
Result<std::vector<DecodeFigure>> measure_decode(std::shared_ptr<const Model> model, const DecodeBenchOptions& options,
                                                 Progress& progress);

struct PrefillBenchOptions {
    int cuda_device = -1;
    int threads = 0;
    std::vector<int64_t> lengths{128, 512};
    int64_t chunk = 512;  // tokens a step, as max_batch_tokens
    int64_t repeats = 3;
};
struct PrefillFigure {
    int64_t tokens = 0;
    double median_ms = 0, tokens_per_s = 0, flops_per_s = 0;  // flops of the matrix products only
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

Json to_json(const std::vector<DecodeFigure>& figures);
Json to_json(const std::vector<PrefillFigure>& figures);
Json to_json(const LoadFigure& figure);

// The process's largest resident set so far.
int64_t peak_resident_bytes();

}  // namespace spartan
