#include "core/model/model.h"
#include "core/run/prompts.h"
#include "core/run/workload.h"
#include "kernels/check.h"

#include <algorithm>

namespace spartan {
namespace {

class WorkloadSource : public RequestSource {
public:
    WorkloadSource(const Workload& w, Plan plan, const Model& model, std::vector<AdapterId> adapters)
        : closed_(w.trace.empty() && w.arrival.kind == "closed"),
          concurrency_(w.arrival.concurrency),
          ignore_eos_(w.ignore_eos),
          plan_(std::move(plan)),
          adapters_(std::move(adapters)),
          prompts_(model) {
        for (const PlannedRequest& r : plan_.requests) CHECK(r.adapter < int64_t(adapters_.size()));
    }

    std::optional<Request> next(int64_t now_us, int64_t unfinished) override {
        if (exhausted()) return {};
        const PlannedRequest& planned = plan_.requests[at_];
        if (warming_up()) return make(planned, now_us);
        if (start_us_ < 0) {
            if (plan_.warmup > 0 && unfinished > 0) return {};
            start_us_ = now_us;
        }
        if (closed_ && unfinished >= concurrency_) return {};
        const int64_t due = closed_ ? now_us : start_us_ + planned.arrival_us;
        if (due > now_us) return {};
        return make(planned, due);
    }

    std::optional<int64_t> next_due_us() const override {
        if (exhausted() || closed_) return {};
        if (warming_up()) return 0;
        if (start_us_ < 0) return {};  // waits for the warm-up to finish
        return start_us_ + plan_.requests[at_].arrival_us;
    }

    bool exhausted() const override { return at_ == plan_.requests.size(); }

private:
    bool warming_up() const { return int64_t(at_) < plan_.warmup; }

    Request make(const PlannedRequest& planned, int64_t arrival_us) {
        Request r;
        r.prompt = prompts_.make(planned.prompt_tokens, planned.prompt_seed);
        r.adapter = planned.adapter < 0 ? AdapterId::base : adapters_[size_t(planned.adapter)];
        r.sampling.max_tokens = planned.output_tokens;
        r.sampling.ignore_eos = ignore_eos_;
        r.sampling.seed = planned.prompt_seed;
        r.arrival_us = arrival_us;
        r.warmup = warming_up();
        r.origin.repeat = plan_.repeat;
        r.origin.slo_ttft_ms = planned.slo_ttft_ms;
        if (plan_.labels && !r.warmup) r.origin.label = plan_.labels->of(at_ - size_t(plan_.warmup));
        ++at_;
        return r;
    }

    bool closed_;
    int64_t concurrency_;
    bool ignore_eos_;
    Plan plan_;
    std::vector<AdapterId> adapters_;
    PromptMaker prompts_;
    size_t at_ = 0;          // the next request of the plan
    int64_t start_us_ = -1;  // when the measured part began; -1: not yet
};

}  // namespace

std::shared_ptr<RequestSource> make_source(const Workload& w, Plan plan, const Model& model,
                                           std::vector<AdapterId> adapters) {
    return std::make_shared<WorkloadSource>(w, std::move(plan), model, std::move(adapters));
}

std::shared_ptr<RequestSource> make_source(const Workload& w, std::vector<PlannedRequest> requests, const Model& model,
                                           std::vector<AdapterId> adapters) {
    Plan plan;
    plan.warmup = std::min(w.warmup, int64_t(requests.size()));
    plan.requests = std::move(requests);
    return make_source(w, std::move(plan), model, std::move(adapters));
}

}  // namespace spartan
