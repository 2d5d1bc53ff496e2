#include "core/run/bench.h"

#include "core/run/metrics.h"
#include "core/run/random.h"
#include "kernels/bench.h"

#include <algorithm>
#include <mutex>

namespace spartan {
namespace {

Json limits_json(const MachineLimits& l) {
    return {{"read_bytes_per_s", l.read_bytes_per_s},
            {"copy_bytes_per_s", l.copy_bytes_per_s},
            {"f32_flops", l.f32_flops},
            {"bf16_flops", l.bf16_flops}};
}

int threads_or_all(int threads) { return threads > 0 ? threads : usable_cpus(); }

double median(std::vector<double> values) { return stats_of(std::move(values)).p50; }

Json ratio(double a, double b) { return b > 0 ? Json(a / b) : Json(nullptr); }

// Median of each phase, milliseconds.
Json times_json(const std::vector<StepRecordPtr>& steps) {
    const std::vector<std::pair<const char*, int64_t StepTimes::*>> phases{
        {"schedule", &StepTimes::schedule}, {"rotate", &StepTimes::rotate},       {"lora", &StepTimes::lora},
        {"products", &StepTimes::products}, {"attention", &StepTimes::attention}, {"other", &StepTimes::other},
        {"head", &StepTimes::head},         {"sample", &StepTimes::sample}};
    Json out = Json::object();
    for (const auto& [name, member] : phases) {
        std::vector<double> ms;
        for (const StepRecordPtr& s : steps) ms.push_back(double(s->times.*member) / 1e3);
        out[name] = median(ms);
    }
    return out;
}

// Runs requests and gives back the steps they took.
class Trial {
public:
    explicit Trial(const EngineBench& bench, Progress& progress) : b_(bench), progress_(progress) {
        handle_ = b_.recorder.add_listener([this](const std::vector<StepRecordPtr>& records) {
            const std::lock_guard lock(mutex_);
            steps_.insert(steps_.end(), records.begin(), records.end());
        });
    }
    ~Trial() { b_.recorder.remove_listener(handle_); }
    Trial(const Trial&) = delete;
    Trial& operator=(const Trial&) = delete;

    Result<std::vector<StepRecordPtr>> run(int64_t requests, int64_t prompt_tokens, int64_t max_tokens, bool adapted) {
        steps_.clear();
        b_.engine.hold();  // so that all of them are there when the first step begins
        for (int64_t i = 0; i < requests; ++i) {
            const auto id = b_.engine.submit(make_request(i, prompt_tokens, max_tokens, adapted));
            if (!id) {
                b_.engine.cancel_all();
                b_.engine.release();
                return id.error();
            }
        }
        b_.engine.release();
        while (!b_.engine.wait_idle(50)) {
            if (progress_.cancelled()) b_.engine.cancel_all();
            const EngineStatus status = b_.engine.status();
            if (status.state == EngineState::failed) return make_error("the engine failed: " + status.failure);
        }
        b_.recorder.flush();
        if (progress_.cancelled()) return Error{"", "", "", "", true};
        const std::lock_guard lock(mutex_);
        for (const StepRecordPtr& s : steps_)
            for (const RequestRecord& r : s->finished)
                if (r.finish == FinishReason::error) return make_error("a request failed: " + r.error);
        return std::move(steps_);
    }

private:
    Request make_request(int64_t i, int64_t prompt_tokens, int64_t max_tokens, bool adapted) const {
        Request r;
        RandomStream random(7, 1, 0, uint64_t(i));
        const auto vocab = uint64_t(b_.engine.model().config().vocab_size);
        for (int64_t t = 0; t < prompt_tokens; ++t) r.prompt.push_back(Token(random.below(vocab)));
        if (adapted) r.adapter = b_.adapters[size_t(i) % b_.adapters.size()];
        r.sampling.max_tokens = int32_t(max_tokens);
        r.sampling.ignore_eos = true;
        return r;
    }

    const EngineBench& b_;
    Progress& progress_;
    int handle_ = 0;
    std::mutex mutex_;
    std::vector<StepRecordPtr> steps_;
};

struct DecodeFigures {
    std::vector<StepRecordPtr> steps;
    double step_ms = 0, adapter_bytes = 0;

    void add(const std::vector<StepRecordPtr>& all, int64_t rows) {
        for (const StepRecordPtr& s : all)
            if (s->prefill_tokens == 0 && int64_t(s->rows.size()) == rows && s->bytes.transfer == 0) steps.push_back(s);
    }
    void close() {
        std::vector<double> ms, bytes;
        for (const StepRecordPtr& s : steps) {
            ms.push_back(double(s->duration_us()) / 1e3);
            bytes.push_back(double(s->bytes.adapters));
        }
        step_ms = median(ms);
        adapter_bytes = median(bytes);
    }
};

double read_limit(const Json& limits) { return limits.value("read_bytes_per_s", 0.0); }

Json decode_json(const EngineBench& b, const DecodeFigures& f, int64_t rows, size_t adapters) {
    std::vector<double> bytes;
    for (const StepRecordPtr& s : f.steps) bytes.push_back(double(s->bytes.weights + s->bytes.adapters + s->bytes.kv));
    const double read = median(bytes), seconds = f.step_ms / 1e3;
    return {{"rows", rows},
            {"adapters", adapters},
            {"context", b.context},
            {"steps", f.steps.size()},
            {"step_ms", f.step_ms},
            {"tokens_per_s", ratio(double(rows), seconds)},
            {"bytes", read},
            {"bytes_per_s", ratio(read, seconds)},
            {"share", ratio(read, read_limit(b.limits) * seconds)},
            {"times_ms", times_json(f.steps)}};
}

Result<void> bench_decode_size(const EngineBench& b, Progress& progress, int64_t rows, Json& out) {
    Trial trial(b, progress);
    const EngineOptions& o = b.engine.options();
    // Early requests decode while late ones are still in prefill: those steps are not counted, so more are needed.
    const int64_t extra = rows * b.context / std::max<int64_t>(1, o.max_batch_tokens - rows) + 4;
    DecodeFigures base, adapted;
    for (int i = 0; i < b.repeats; ++i) {
        TRY_ASSIGN(steps, trial.run(rows, b.context, b.tokens + extra, false));
        base.add(steps, rows);
        if (b.adapters.empty()) continue;
        TRY_ASSIGN(adapted_steps, trial.run(rows, b.context, b.tokens + extra, true));
        adapted.add(adapted_steps, rows);
    }
    base.close();
    adapted.close();
    if (base.steps.empty())
        return make_error("no step held " + std::to_string(rows) +
                          " requests: the pool or max_batch_rows is too small");
    out.push_back(decode_json(b, base, rows, 0));
    if (b.adapters.empty()) return {};
    if (adapted.steps.empty()) return make_error("no step held " + std::to_string(rows) + " requests with adapters");
    Json entry = decode_json(b, adapted, rows, std::min(size_t(rows), b.adapters.size()));
    const double added = adapted.step_ms - base.step_ms, limit = read_limit(b.limits);
    entry["added_ms"] = added;
    entry["adapter_bytes"] = adapted.adapter_bytes;
    entry["added_over_limit"] = limit > 0 ? ratio(added / 1e3, adapted.adapter_bytes / limit) : Json(nullptr);
    out.push_back(std::move(entry));
    return {};
}

// Multiplications and additions of the layers' matrices; embedding and head work on single rows.
double prefill_flops(const ModelConfig& c, int64_t tokens) {
    double per_token = 0;
    for (int p = 0; p < kNumProjections; ++p)
        per_token += 2.0 * double(in_features(c, Projection(p))) * double(out_features(c, Projection(p)));
    const double attention = 2.0 * double(tokens) * double(c.q_size());  // QK and AV over half the positions on average
    return double(c.num_layers) * double(tokens) * (per_token + attention) +
           2.0 * double(c.hidden_size) * double(c.vocab_size);
}

Result<void> bench_prefill_size(const EngineBench& b, Progress& progress, int64_t tokens, bool adapted, Json& out) {
    Trial trial(b, progress);
    std::vector<double> ms;
    std::vector<StepRecordPtr> last;
    for (int i = 0; i <= b.repeats; ++i) {
        TRY_ASSIGN(steps, trial.run(1, tokens, 1, adapted));
        double total = 0;
        for (const StepRecordPtr& s : steps) total += s->prefill_tokens > 0 ? double(s->duration_us()) / 1e3 : 0;
        if (i > 0) ms.push_back(total);  // the first one brings memory and adapters in
        last = std::move(steps);
    }
    std::erase_if(last, [](const StepRecordPtr& s) { return s->prefill_tokens == 0; });
    const double took = median(ms), flops = prefill_flops(b.engine.model().config(), tokens);
    const double peak = b.limits.value(b.engine.model().dtype == DType::bf16 ? "bf16_flops" : "f32_flops", 0.0);
    out.push_back({{"prompt_tokens", tokens},
                   {"adapters", adapted ? 1 : 0},
                   {"ms", took},
                   {"tokens_per_s", ratio(double(tokens), took / 1e3)},
                   {"flops", flops},
                   {"flops_per_s", ratio(flops, took / 1e3)},
                   {"share", ratio(flops, peak * took / 1e3)},
                   {"times_ms", times_json(last)}});
    return {};
}

}  // namespace

Json measure_limits_json(int threads) {
    CpuDevice device(threads_or_all(threads));
    return limits_json(measure_limits(device));
}

Json bench_kernels_json(int threads, const Progress& progress) {
    CpuDevice device(threads_or_all(threads));
    const MachineLimits limits = measure_limits(device);
    Json kernels = Json::array();
    for (const KernelTiming& k : bench_kernels(device, limits, [&] { return progress.cancelled(); }))
        kernels.push_back({{"name", k.name},
                           {"bytes", k.cost.bytes},
                           {"flops", k.cost.flops},
                           {"ms", k.ms},
                           {"share", k.share},
                           {"wrong", k.wrong.empty() ? Json(nullptr) : Json(k.wrong)}});
    return {{"limits", limits_json(limits)}, {"kernels", kernels}};
}

Result<Json> bench_decode(const EngineBench& bench, Progress& progress) {
    Json out = Json::array();
    for (const int64_t rows : bench.sizes) TRY_VOID(bench_decode_size(bench, progress, rows, out));
    return out;
}

Result<Json> bench_prefill(const EngineBench& bench, Progress& progress) {
    Json out = Json::array();
    for (const int64_t tokens : bench.sizes) {
        TRY_VOID(bench_prefill_size(bench, progress, tokens, false, out));
        if (!bench.adapters.empty()) TRY_VOID(bench_prefill_size(bench, progress, tokens, true, out));
    }
    return out;
}

}  // namespace spartan
