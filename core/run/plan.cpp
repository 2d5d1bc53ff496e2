#include "core/run/random.h"
#include "core/run/trace.h"
#include "core/run/workload.h"
#include "kernels/check.h"

#include <algorithm>
#include <cmath>

namespace spartan {
namespace {

// One stream of draws each, so that changing the lengths leaves the arrivals as they are.
enum Purpose : uint16_t { assignment_draw, arrival_draw, prompt_draw, output_draw, seed_draw, kWarmup = 16 };

int64_t draw_length(const LengthDistribution& d, RandomStream random) {
    if (d.kind == "fixed") return d.value;
    if (d.kind == "uniform") return d.min + int64_t(random.below(uint64_t(d.max - d.min + 1)));
    // E[exp(mu + sigma z)] = exp(mu + sigma^2 / 2), so this mu gives lengths of the wanted mean (before clamping).
    const double mu = std::log(d.mean) - d.sigma * d.sigma / 2;
    const double length = std::round(std::exp(mu + d.sigma * random.normal()));
    return int64_t(std::clamp(length, double(d.min), double(d.max)));
}

// Index of the adapter in [0, entries); the base is the last entry where it takes part.
class Assigner {
public:
    Assigner(const Workload& w, int64_t entries) : w_(w), entries_(entries) {
        if (w.assignment.kind != "zipf") return;
        double sum = 0;
        for (int64_t k = 0; k < entries; ++k)
            cumulative_.push_back(sum += std::pow(double(k + 1), -w.assignment.alpha));
    }

    int64_t entry(int64_t i, RandomStream random) const {
        const std::string& kind = w_.assignment.kind;
        if (kind == "round_robin") return i % entries_;
        if (kind == "single") return 0;
        if (kind == "uniform") return int64_t(random.below(uint64_t(entries_)));
        if (kind == "power") {
            const double x = std::pow(random.uniform(), 1 / w_.assignment.alpha);
            return std::min(int64_t(x * double(entries_)), entries_ - 1);
        }
        const double x = random.uniform() * cumulative_.back();
        const auto it = std::upper_bound(cumulative_.begin(), cumulative_.end(), x);
        return std::min(int64_t(it - cumulative_.begin()), entries_ - 1);
    }

private:
    const Workload& w_;
    int64_t entries_;
    std::vector<double> cumulative_;  // of zipf's weights
};

double draw_gap_s(const Workload& w, RandomStream random) {
    if (w.arrival.kind == "poisson") return -std::log(random.uniform_open()) / w.arrival.rate;
    const double cv2 = w.arrival.cv * w.arrival.cv;  // gamma: shape 1/cv^2, scale cv^2/rate
    return random.gamma(1 / cv2) * cv2 / w.arrival.rate;
}

void fill_arrivals(const Workload& w, uint32_t repeat, std::vector<PlannedRequest>& requests) {
    if (w.arrival.kind == "burst" || w.arrival.kind == "closed") return;
    double at = 0;
    for (size_t i = 0; i < requests.size(); ++i) {
        if (w.arrival.kind == "constant")
            at = double(i) / w.arrival.rate;
        else
            at += draw_gap_s(w, RandomStream(w.seed, arrival_draw, repeat, i));
        requests[i].arrival_us = std::llround(std::min(at, 1e12) * 1e6);
    }
}

std::vector<PlannedRequest> draw_requests(const Workload& w, int64_t count, size_t num_adapters, uint32_t repeat,
                                          uint16_t purpose) {
    std::vector<PlannedRequest> requests(static_cast<size_t>(count));
    const auto adapters = int64_t(num_adapters);
    const Assigner assigner(w, adapters + (w.assignment.include_base ? 1 : 0));
    for (size_t i = 0; i < requests.size(); ++i) {
        const auto random = [&](Purpose p) { return RandomStream(w.seed, uint16_t(purpose + p), repeat, i); };
        PlannedRequest& r = requests[i];
        const int64_t entry = adapters == 0 ? 0 : assigner.entry(int64_t(i), random(assignment_draw));
        r.adapter = entry < adapters ? int32_t(entry) : -1;
        r.prompt_tokens = int32_t(draw_length(w.prompt_tokens, random(prompt_draw)));
        r.output_tokens = int32_t(draw_length(w.output_tokens, random(output_draw)));
        r.prompt_seed = random(seed_draw).bits();
    }
    return requests;
}

// A trace's warm-up repeats its first rows, all at once and without limits of their own.
std::vector<PlannedRequest> warmup_of_trace(const Plan& trace, int64_t count) {
    std::vector<PlannedRequest> requests;
    for (int64_t i = 0; i < count; ++i) {
        PlannedRequest r = trace.requests[size_t(i) % trace.requests.size()];
        r.arrival_us = 0;
        r.slo_ttft_ms = -1;
        requests.push_back(r);
    }
    return requests;
}

}  // namespace

Result<Plan> make_plan(const Workload& w, const std::vector<std::string>& adapter_names, int64_t repeat) {
    Plan plan;
    std::vector<PlannedRequest> warmup;
    if (w.trace.empty()) {
        plan.requests = draw_requests(w, w.requests, adapter_names.size(), uint32_t(repeat), 0);
        fill_arrivals(w, uint32_t(repeat), plan.requests);
        warmup = draw_requests(w, w.warmup, adapter_names.size(), uint32_t(repeat), kWarmup);
    } else {
        TRY_ASSIGN(trace, read_trace(w.trace, adapter_names, w.seed));
        plan = std::move(trace);
        warmup = warmup_of_trace(plan, w.warmup);
    }
    plan.requests.insert(plan.requests.begin(), warmup.begin(), warmup.end());
    plan.warmup = w.warmup;
    plan.repeat = int32_t(repeat);
    return plan;
}

Result<std::vector<PlannedRequest>> plan_requests(const Workload& w, const std::vector<std::string>& adapter_names,
                                                  int64_t repeat) {
    TRY_ASSIGN(plan, make_plan(w, adapter_names, repeat));
    return std::move(plan.requests);
}

}  // namespace spartan
