#include "core/run/summary.h"

#include "core/base/text.h"
#include "core/run/run_dir.h"

#include <algorithm>
#include <cmath>

namespace spartan {
namespace {

constexpr size_t kShownFailures = 100;

int64_t longest_gap_us(const RequestRecord& r) {
    int64_t longest = 0;
    for (size_t i = 1; i < r.token_us.size(); ++i) longest = std::max(longest, r.token_us[i] - r.token_us[i - 1]);
    return longest;
}

bool within(int64_t us, const std::optional<double>& limit_ms) { return !limit_ms || double(us) <= *limit_ms * 1e3; }

Json rate(int64_t count, double seconds) { return seconds > 0 ? Json(double(count) / seconds) : Json(nullptr); }

Json interval_json(const std::vector<double>& values) {
    const double mean = stats_of(values).mean, half = confidence_half_width(values);
    return {{"mean", mean}, {"low", mean - half}, {"high", mean + half}, {"half_width", half}, {"n", values.size()}};
}

Json part(const Json& run, const char* key) { return run.contains(key) ? run[key] : Json(nullptr); }

}  // namespace

bool completed(const RequestRecord& r) {
    return r.finish == FinishReason::length || r.finish == FinishReason::eos || r.finish == FinishReason::stop;
}

bool met_slo(const RequestRecord& r, const SloLimits& slo) {
    if (!completed(r) || r.first_token_us < 0) return false;
    const auto ttft = r.origin.slo_ttft_ms > 0 ? std::optional(double(r.origin.slo_ttft_ms)) : slo.ttft_ms;
    return within(r.ttft_us(), ttft) && within(longest_gap_us(r), slo.itl_ms) && within(r.e2e_us(), slo.e2e_ms);
}

void RequestTotals::add(const RequestRecord& r, bool met) {
    ++requests_;
    first_us_ = std::min(first_us_, r.arrival_us);
    last_us_ = std::max(last_us_, r.last_token_us);
    failed_ += r.finish == FinishReason::error;
    cancelled_ += r.finish == FinishReason::cancelled;
    if (!completed(r)) return;
    ++completed_;
    met_ += met;
    prompt_tokens_ += r.prompt_tokens;
    output_tokens_ += r.output_tokens;
    if (r.queue_us() >= 0) queue_.add(r.queue_us());
    if (r.ttft_us() >= 0) ttft_.add(r.ttft_us());
    if (r.e2e_us() >= 0) e2e_.add(r.e2e_us());
    for (size_t i = 1; i < r.token_us.size(); ++i) itl_.add(r.token_us[i] - r.token_us[i - 1]);
    if (r.output_tokens > 1 && r.ttft_us() >= 0)
        tpot_ns_.add(std::llround(double(r.e2e_us() - r.ttft_us()) * 1e3 / (r.output_tokens - 1)));
}

void RequestTotals::merge(const RequestTotals& o) {
    requests_ += o.requests_;
    completed_ += o.completed_;
    failed_ += o.failed_;
    cancelled_ += o.cancelled_;
    prompt_tokens_ += o.prompt_tokens_;
    output_tokens_ += o.output_tokens_;
    met_ += o.met_;
    merged_us_ += o.merged_us_ + o.span_us();
    ttft_.merge(o.ttft_);
    itl_.merge(o.itl_);
    e2e_.merge(o.e2e_);
    queue_.merge(o.queue_);
    tpot_ns_.merge(o.tpot_ns_);
}

Json RequestTotals::to_json(double duration_s, bool with_slo) const {
    Stats tpot = tpot_ns_.stats_ms();
    for (double* ns : {&tpot.mean, &tpot.std, &tpot.p50, &tpot.p90, &tpot.p95, &tpot.p99, &tpot.min, &tpot.max})
        *ns /= 1e3;
    Json j{{"requests", requests_},
           {"completed", completed_},
           {"failed", failed_},
           {"cancelled", cancelled_},
           {"duration_s", duration_s},
           {"prompt_tokens", prompt_tokens_},
           {"output_tokens", output_tokens_},
           {"request_throughput", rate(completed_, duration_s)},
           {"output_throughput", rate(output_tokens_, duration_s)},
           {"total_throughput", rate(prompt_tokens_ + output_tokens_, duration_s)},
           {"ttft_ms", stats_json(ttft_.stats_ms())},
           {"itl_ms", stats_json(itl_.stats_ms())},
           {"tpot_ms", stats_json(tpot)},
           {"e2e_ms", stats_json(e2e_.stats_ms())},
           {"queue_ms", stats_json(queue_.stats_ms())}};
    if (!with_slo) return j;
    j["goodput"] = rate(met_, duration_s);
    j["attainment"] = requests_ > 0 ? Json(double(met_) / double(requests_)) : Json(nullptr);
    return j;
}

void RunSummary::add(const StepRecord& step) {
    total_pages_ = std::max(total_pages_, step.pool.total_pages);
    peak_pages_ = std::max(peak_pages_, step.pool.total_pages - step.pool.free_pages());
    if (first_held_us_ < 0) first_held_us_ = step.held_us;
    held_us_ = step.held_us;
    if (step.gap_us >= 0) gaps_.add(step.gap_us);
    for (const AdapterEvent& e : step.adapter_events)
        events_.push_back({step.end_us, e.bytes, e.kind == AdapterEvent::Kind::load});
    for (const RequestRecord& r : step.finished) {
        const int32_t repeat = r.origin.repeat;
        if (repeat < 0) continue;
        ++finished_[repeat];
        if (r.finish == FinishReason::error && failures_.size() < kShownFailures)
            failures_.push_back("request " +
                                (r.origin.label.empty() ? std::to_string(uint64_t(r.id)) : r.origin.label) +
                                (r.warmup ? " (warm-up)" : "") + ": " + r.error);
        if (r.warmup) continue;
        own_limits_ |= r.origin.slo_ttft_ms > 0;
        const bool met = met_slo(r, slo_);
        repeats_[repeat].add(r, met);
        adapters_[uint32_t(r.adapter)][repeat].add(r, met);
    }
}

int64_t RunSummary::finished(int32_t repeat) const {
    const auto it = finished_.find(repeat);
    return it == finished_.end() ? 0 : it->second;
}

int64_t RunSummary::num_completed() const {
    int64_t n = 0;
    for (const auto& [repeat, totals] : repeats_) n += totals.num_completed();
    return n;
}

bool RunSummary::measured(int64_t us) const {
    return std::any_of(repeats_.begin(), repeats_.end(), [&](const auto& entry) {
        return us >= entry.second.first_arrival_us() && us <= entry.second.last_token_us();
    });
}

Json RunSummary::adapters_json(const Json& run) const {
    int64_t used = 0, requests = 0, loads = 0, evictions = 0, load_bytes = 0;
    for (const auto& [id, by_repeat] : adapters_) {
        if (AdapterId(id) == AdapterId::base) continue;
        ++used;
        for (const auto& [repeat, totals] : by_repeat) requests += totals.requests();
    }
    for (const PoolEvent& e : events_) {
        if (!measured(e.at_us)) continue;
        loads += e.load;
        evictions += !e.load;
        load_bytes += e.load ? e.bytes : 0;
    }
    const Json hit_rate = requests > 0 ? Json(std::max(0.0, 1 - double(loads) / double(requests))) : Json(nullptr);
    return {{"registered", run.contains("adapters") ? run["adapters"].size() : 0},
            {"used", used},
            {"loads", loads},
            {"evictions", evictions},
            {"load_bytes", load_bytes},
            {"hit_rate", hit_rate}};
}

Json RunSummary::document(const Json& run, const std::vector<std::string>& adapter_names) const {
    const bool with_slo = slo_.any() || own_limits_;
    RequestTotals all;
    for (const auto& [repeat, totals] : repeats_) all.merge(totals);
    Json j = all.to_json(all.duration_s(), with_slo);
    j["held_s"] = first_held_us_ < 0 ? 0.0 : double(held_us_ - first_held_us_) / 1e6;
    if (gaps_.n() > 0) j["gap_ms"] = stats_json(gaps_.stats_ms());
    j["adapters"] = adapters_json(run);
    const Json pool = part(run, "pool");
    j["pool"] = {{"pages", total_pages_},
                 {"page_bytes", pool.is_object() && pool.contains("page_bytes") ? pool["page_bytes"] : Json(nullptr)},
                 {"peak_used", peak_pages_}};
    j["device"] = part(run, "device");
    j["engine"] = part(run, "engine");
    const Json workload = part(run, "workload");
    const auto of_workload = [&](const char* key) {
        return workload.is_object() ? part(workload, key) : Json(nullptr);
    };
    j["workload"] = {
        {"name", of_workload("name")}, {"hash", part(run, "workload_hash")}, {"seed", of_workload("seed")}};
    j["per_adapter"] = Json::array();
    for (const auto& [id, by_repeat] : adapters_) {
        RequestTotals totals;
        for (const auto& [repeat, one] : by_repeat) totals.merge(one);
        Json entry{{"adapter", nullptr}};
        if (AdapterId(id) != AdapterId::base)
            entry["adapter"] = id < adapter_names.size() ? adapter_names[id] : "adapter " + std::to_string(id);
        const Json figures = totals.to_json(all.duration_s(), with_slo);
        for (const auto& [key, value] : figures.items())
            if (key != "duration_s") entry[key] = value;
        j["per_adapter"].push_back(std::move(entry));
    }
    if (repeats_.size() < 2) return j;
    j["repeats"] = Json::array();
    for (const auto& [repeat, totals] : repeats_) j["repeats"].push_back(totals.to_json(totals.duration_s(), with_slo));
    Json intervals = Json::object();
    for (const char* key : {"request_throughput", "output_throughput", "total_throughput"}) {
        std::vector<double> values;
        for (const Json& repeat : j["repeats"])
            if (repeat[key].is_number()) values.push_back(repeat[key].get<double>());
        intervals[key] = interval_json(values);
    }
    j["intervals"] = std::move(intervals);
    return j;
}

Result<Json> summarise_run(const RunInfo& run, Progress* progress) {
    SloLimits slo;
    if (run.json.contains("workload") && run.json["workload"].contains("slo")) {
        Fields f(run.json["workload"]["slo"], run.dir + "/run.json", "workload.slo");
        const auto limit = [&](const char* key) {
            return f.any(key) ? std::optional(f.number(key, 0, 0, 1e12)) : std::nullopt;
        };
        slo = {limit("ttft_ms"), limit("itl_ms"), limit("e2e_ms")};
        TRY_VOID(f.finish());
    }
    RunSummary summary(slo);
    Progress none;
    TRY_VOID(read_steps(run, progress ? *progress : none, [&](StepRecordPtr step) { summary.add(*step); }));
    return summary.document(run.json, run.adapter_names);
}

}  // namespace spartan
