// Adds up the records of a run, as they happen or as they are read back, into the document of `run --json`.
// Definitions: core/run/metrics.h. Memory grows with the number of adapters and of distinct times, not with tokens.
#pragma once

#include "core/base/json.h"
#include "core/engine/step_record.h"
#include "core/run/metrics.h"
#include "core/run/workload.h"

#include <map>
#include <set>
#include <string>
#include <vector>

namespace spartan {

struct SloLimits {
    std::optional<double> ttft_ms, itl_ms, e2e_ms;
    bool any() const { return ttft_ms || itl_ms || e2e_ms; }
};

// Whether a finished request completed and met every limit; its own limit for ttft comes first.
bool met_slo(const RequestRecord&, const SloLimits&);
bool completed(const RequestRecord&);

// Figures over one set of requests.
class RequestTotals {
public:
    void add(const RequestRecord&, bool met_slo);
    void merge(const RequestTotals&);  // another repeat's: durations add up
    double duration_s() const { return double(merged_us_ + span_us()) / 1e6; }
    int64_t requests() const { return requests_; }
    int64_t num_completed() const { return completed_; }
    // requests … total_throughput, the five latencies, and attainment and goodput where wanted. Rates are per
    // `duration_s`.
    Json to_json(double duration_s, bool with_slo) const;
    int64_t first_arrival_us() const { return first_us_; }
    int64_t last_token_us() const { return last_us_; }

private:
    int64_t span_us() const { return last_us_ > first_us_ ? last_us_ - first_us_ : 0; }

    int64_t requests_ = 0, completed_ = 0, failed_ = 0, cancelled_ = 0, prompt_tokens_ = 0, output_tokens_ = 0,
            met_ = 0;
    int64_t first_us_ = INT64_MAX, last_us_ = -1, merged_us_ = 0;
    MicrosCounts ttft_, itl_, e2e_, queue_, tpot_ns_;  // tpot in nanoseconds: a quotient of microseconds
};

class RunSummary {
public:
    // `slo` as in the workload; a trace's own limits count as soon as one request carries one.
    explicit RunSummary(SloLimits slo = {}) : slo_(slo) {}

    // Requests outside a workload (origin.repeat < 0) and warm-up requests are left out.
    void add(const StepRecord&);
    // `run` is run.json (make_run_header); adapter_names by AdapterId.
    Json document(const Json& run, const std::vector<std::string>& adapter_names) const;

    int64_t finished(int32_t repeat) const;  // of the workload, warm-up included
    int64_t num_completed() const;
    // The first few that failed, in words: "request 12 (pirate): logits are not finite".
    const std::vector<std::string>& failures() const { return failures_; }

private:
    struct PoolEvent {
        int64_t at_us, bytes;
        bool load;
    };
    Json adapters_json(const Json& run) const;
    bool measured(int64_t us) const;

    SloLimits slo_;
    bool own_limits_ = false;  // a request of a trace had one
    std::map<int32_t, RequestTotals> repeats_;
    std::map<uint32_t, std::map<int32_t, RequestTotals>> adapters_;  // by AdapterId, then repeat
    std::map<int32_t, int64_t> finished_;
    std::vector<PoolEvent> events_;
    std::vector<std::string> failures_;
    MicrosCounts gaps_;  // of a GPU, between steps
    int32_t total_pages_ = 0, peak_pages_ = 0;
    int64_t first_held_us_ = -1, held_us_ = 0;
};

}  // namespace spartan
