// A workload file (cli.md) and the requests it stands for.
#pragma once

#include "core/base/json.h"
#include "core/base/result.h"
#include "core/engine/engine.h"

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace spartan {

struct LengthDistribution {
    std::string kind = "fixed";  // fixed, uniform, lognormal
    int64_t value = 100, min = 1, max = 1;
    double mean = 100, sigma = 0.5;
};

struct Workload {
    std::string name = "workload";
    std::string model;                  // MODEL; relative paths already resolved
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

// `base_dir` resolves relative paths. `set` holds "dotted.key=value" overrides, applied before checking.
Result<Workload> parse_workload(const Json& json, const std::string& file, const std::string& base_dir);
Result<Workload> read_workload(const std::string& path, const std::vector<std::string>& set = {});
Json workload_to_json(const Workload&);
std::string workload_hash(const Workload&);  // SHA-256 of the canonical JSON

// One request before it has a prompt: 40 bytes, so that ten million fit.
struct PlannedRequest {
    int64_t arrival_us = 0;  // closed: 0
    int32_t adapter = -1;    // index into the adapters; -1: base
    int32_t prompt_tokens = 0, output_tokens = 0;
    uint64_t prompt_seed = 0;
    float slo_ttft_ms = -1;  // from a trace; -1: none
};

// All requests of one repeat, warm-up first; the same for the same workload and repeat number. For a trace the file is read
// and checked whole (line and column in errors). `adapter_names` are the adapters in order.
Result<std::vector<PlannedRequest>> plan_requests(const Workload&, const std::vector<std::string>& adapter_names,
                                                  int64_t repeat);

// Delivers a plan to the engine. Prompts are made when they fall due: readable text of exactly prompt_tokens ids where the
// model has a tokenizer, else random ids.
std::shared_ptr<RequestSource> make_source(const Workload&, std::vector<PlannedRequest> plan, const Model& model,
                                           std::vector<AdapterId> adapters);

}  // namespace spartan
