// A workload file and the requests it stands for.
#pragma once

#include "core/base/json.h"
#include "core/base/result.h"
#include "core/engine/engine.h"

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace spartan {

struct LengthDistribution {
    std::string kind = "fixed";  // fixed, uniform, lognormal
    int64_t value = 100, min = 1, max = 1;
    double mean = 100, sigma = 0.5;
};

struct Workload {
    std::string name = "workload";
    std::string model;  // MODEL; relative paths already resolved, "demo" (core/model/demo_model.h) as it is
    std::vector<std::string> adapters;  // ADAPTERS, NAME=DIR resolved
    int64_t requests = 512;
    uint64_t seed = 42;
    bool ignore_eos = true;
    struct {
        std::string kind = "burst";  // burst, closed, constant, poisson, gamma
        double rate = 1, cv = 1;     // requests a second; coefficient of variation of gamma
        int64_t concurrency = 32;
    } arrival;
    struct {
        std::string kind = "round_robin";  // round_robin, uniform, power, zipf, single
        double alpha = 1;
        bool include_base = false;
    } assignment;
    LengthDistribution prompt_tokens{"uniform", 0, 32, 256, 0, 0};
    LengthDistribution output_tokens{"fixed", 100, 1, 1, 0, 0};
    std::string trace;  // CSV path; empty: none
    struct {
        std::optional<double> ttft_ms, itl_ms, e2e_ms;
    } slo;
    EngineOptions engine;
    int64_t warmup = 0, repeats = 1;
};

// `base_dir` resolves relative paths. `set` holds "dotted.key=value" overrides, applied before
// checking: a value that reads as JSON is JSON, the rest text; paths in it are taken from the working directory. A new
// kind of prompt_tokens or output_tokens drops the keys that the file gave for its own, a trace those it stands instead
// of. Errors name --set where it brought the value in.
Result<Workload> parse_workload(const Json& json, const std::string& file, const std::string& base_dir);
Result<Workload> read_workload(const std::string& path, const std::vector<std::string>& set = {});
// Keys that were changed but that the chosen kinds of arrival and assignment do not use, in words.
std::vector<std::string> idle_settings(const Workload&);
Json workload_to_json(
    const Workload&);  // all keys that count, paths as resolved; parse_workload() gives the same workload
// SHA-256 of the canonical JSON, with file names for paths and, for a trace, the digest of its content.
std::string workload_hash(const Workload&);

Result<EngineOptions> parse_engine_options(const Json&, const std::string& file, const std::string& path);
Json engine_options_to_json(const EngineOptions&);
// What the engine finds wrong with one of its options, as the user wrote it: `engine.KEY` of `file`, or of --set where
// that brought it in. Other errors stay as they are.
Error as_written(Error error, const std::string& file, const std::vector<std::string>& set);

// One request before it has a prompt: 40 bytes, so that ten million fit.
struct PlannedRequest {
    int64_t arrival_us = 0;  // closed: 0
    int32_t adapter = -1;    // index into the adapters; -1: base
    int32_t prompt_tokens = 0, output_tokens = 0;
    uint64_t prompt_seed = 0;
    float slo_ttft_ms = -1;  // from a trace; -1: none
};

// The labels (request_id) of a trace's rows, one after the other.
struct TraceLabels {
    std::string text;
    std::vector<uint32_t> end;  // of each row's label in `text`
    std::string_view of(size_t row) const {
        const size_t begin = row == 0 ? 0 : end[row - 1];
        return std::string_view(text).substr(begin, end[row] - begin);
    }
};

// All requests of one repeat: `warmup` extra ones first, then the measured ones in order of arrival.
struct Plan {
    std::vector<PlannedRequest> requests;
    int64_t warmup = 0;
    int32_t repeat = 0;
    std::shared_ptr<const TraceLabels> labels;  // of a trace, by measured request; null otherwise
};

// The same for the same workload and repeat number. For a trace the file is read and checked whole (line and column in
// errors). `adapter_names` are the adapters in order.
//   arrivals    burst: all at 0; constant: every 1/rate; poisson: exponential gaps; gamma: gaps of mean 1/rate and
//               coefficient of variation cv; closed: `concurrency` in flight
//   assignment  over the adapters in order, and the base after them with include_base: round_robin; uniform;
//               power: P(index < k) = (k/n)^alpha, as S-LoRA's generator; zipf: P(k) ~ 1/(k+1)^alpha; single: the first
Result<Plan> make_plan(const Workload&, const std::vector<std::string>& adapter_names, int64_t repeat);
Result<std::vector<PlannedRequest>> plan_requests(const Workload&, const std::vector<std::string>& adapter_names,
                                                  int64_t repeat);  // make_plan().requests

// Delivers a plan to the engine. Prompts are made when they fall due: readable text of exactly prompt_tokens ids where
// the model has a tokenizer (through its chat template when it has one and the prompt is long enough for it), else
// random ids. Warm-up requests are delivered at once; the measured ones start when the last of them has finished.
// `model` must outlive the source.
std::shared_ptr<RequestSource> make_source(const Workload&, Plan plan, const Model& model,
                                           std::vector<AdapterId> adapters);
std::shared_ptr<RequestSource> make_source(const Workload&, std::vector<PlannedRequest> plan, const Model& model,
                                           std::vector<AdapterId> adapters);

}  // namespace spartan
