#include "core/run/runner.h"

#include "core/base/file.h"
#include "core/run/device_info.h"
#include "core/run/run_dir.h"
#include "core/run/summary.h"

#include <algorithm>
#include <atomic>
#include <ctime>
#include <mutex>
#include <utility>

namespace spartan {
namespace {

constexpr int64_t kPollMs = 50;          // so that a cancellation is noticed at once
constexpr int64_t kCancelWaitMs = 5000;  // for the records of what was cancelled

std::string utc_now() {
    const std::time_t now = std::time(nullptr);
    std::tm parts{};
    gmtime_r(&now, &parts);
    char text[32];
    std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
    return text;
}

Json model_json(const Model& model) {
    const auto& info = model.info;
    return {{"path", info.path},
            {"name", info.name},
            {"source", info.source},
            {"kind", info.config.kind},
            {"hash", model.content_hash},
            {"dtype", name_of(model.dtype)},
            {"weights", model.kept_bytes > 0 ? "keep" : "convert"},
            {"parameters", info.parameters},
            {"weight_bytes", model.weight_bytes}};
}

Json adapters_json(const Engine& engine) {
    Json list = Json::array();
    for (const AdapterStatus& a : engine.adapters())
        list.push_back({{"id", uint32_t(a.id)},
                        {"name", a.adapter->name},
                        {"path", a.adapter->path},
                        {"kind", name_of(a.adapter->kind)},
                        {"geometry", a.adapter->geometry()},
                        {"targets", a.adapter->targets()},
                        {"hash", a.adapter->content_hash},
                        {"bytes", a.adapter->bytes()}});
    return list;
}

// Hears the records of a run while it goes on.
class Listening {
public:
    Listening(Recorder& recorder, SloLimits slo) : recorder_(recorder), summary_(slo) {
        handle_ = recorder_.add_listener([this](const std::vector<StepRecordPtr>& records) { hear(records); });
    }
    ~Listening() { recorder_.remove_listener(handle_); }
    Listening(const Listening&) = delete;
    Listening& operator=(const Listening&) = delete;

    int64_t finished() const { return finished_; }
    // Once the recorder is flushed and nothing runs any more.
    const RunSummary& summary() const { return summary_; }
    const std::string& trouble() const { return trouble_; }

private:
    void hear(const std::vector<StepRecordPtr>& records) {
        for (const StepRecordPtr& record : records) {
            summary_.add(*record);
            if (trouble_.empty() && !record->trouble.empty())
                trouble_ = "step " + std::to_string(record->step) + ": " + record->trouble;
            for (const RequestRecord& r : record->finished) finished_ += r.origin.repeat >= 0;
        }
    }

    Recorder& recorder_;
    RunSummary summary_;
    std::string trouble_;
    std::atomic<int64_t> finished_{0};
    int handle_ = 0;
};

std::vector<std::string> names_of(const Engine& engine, const std::vector<AdapterId>& ids) {
    std::vector<std::string> names(ids.size());
    for (const AdapterStatus& a : engine.adapters())
        for (size_t i = 0; i < ids.size(); ++i)
            if (ids[i] == a.id) names[i] = a.adapter->name;
    return names;
}

std::vector<std::string> names_by_id(const Json& header) {
    std::vector<std::string> names{"base"};
    if (!header.contains("adapters")) return names;
    for (const Json& a : header["adapters"]) {
        const auto id = a["id"].get<size_t>();
        if (names.size() <= id) names.resize(id + 1);
        names[id] = a["name"].get<std::string>();
    }
    return names;
}

class Run {
public:
    Run(const RunSetup& setup, Progress& progress, const std::function<void(const RunProgress&)>& report)
        : s_(setup),
          progress_(progress),
          report_(report),
          listening_(setup.recorder,
                     {setup.workload.slo.ttft_ms, setup.workload.slo.itl_ms, setup.workload.slo.e2e_ms}),
          names_(names_of(setup.engine, setup.adapters)) {}

    Result<RunOutcome> perform() {
        const Workload& w = s_.workload;
        TRY_ASSIGN(first, make_plan(w, names_, 0));  // before anything is created: a bad trace is found here
        total_ = int64_t(first.requests.size()) * w.repeats;
        progress_.total = total_;
        const bool records = !s_.out_dir.empty();
        if (records) TRY_VOID(s_.recorder.begin(s_.out_dir, s_.header));
        started_us_ = s_.engine.now_us();
        for (int64_t repeat = 0; repeat < w.repeats && !stopped(); ++repeat) {
            repeat_ = repeat;
            auto plan = repeat == 0 ? Result<Plan>(std::exchange(first, {})) : make_plan(w, names_, repeat);
            if (!plan) {
                outcome_.failure = plan.error().message();  // the trace changed between two repeats
                break;
            }
            perform_repeat(*std::move(plan));
        }
        s_.recorder.flush();
        finish(records);
        return std::move(outcome_);
    }

private:
    bool stopped() const { return outcome_.cancelled || !outcome_.failure.empty(); }

    void perform_repeat(Plan plan) {
        const int64_t until = listening_.finished() + int64_t(plan.requests.size());
        const auto started = s_.engine.start(make_source(s_.workload, std::move(plan), s_.engine.model(), s_.adapters));
        if (!started) {
            outcome_.failure = started.error().message();
            return;
        }
        while (listening_.finished() < until) {
            const bool idle = s_.engine.wait_idle(kPollMs);
            tell();
            notice_failure();
            if (progress_.cancelled()) cancel();
            if (idle || stopped()) break;
        }
        s_.recorder.flush();
        tell();
        notice_failure();  // it may have ended every request before anybody looked
    }

    void notice_failure() {
        const EngineStatus status = s_.engine.status();
        if (status.state == EngineState::failed) outcome_.failure = status.failure;
        const std::string silence = s_.gives_up ? s_.engine.watchdog()->silence() : std::string();
        if (silence.empty()) return;
        outcome_.failure = silence;
        outcome_.not_answering = true;
    }

    void cancel() {
        outcome_.cancelled = true;
        s_.engine.stop_source();
        s_.engine.release();  // a held run could not deliver its last records
        outcome_.not_answering = !s_.engine.wait_idle(kCancelWaitMs) && s_.gives_up;
    }

    void tell() {
        RunProgress p;
        p.repeat = repeat_;
        p.repeats = s_.workload.repeats;
        p.finished = listening_.finished();
        p.total = total_;
        p.elapsed_s = double(s_.engine.now_us() - started_us_) / 1e6;
        if (p.finished > 0) p.eta_s = p.elapsed_s / double(p.finished) * double(p.total - p.finished);
        progress_.done = p.finished;
        if (report_) report_(p);
    }

    void finish(bool records) {
        const RunSummary& summary = listening_.summary();
        outcome_.document = summary.document(s_.header, names_by_id(s_.header));
        outcome_.completed = summary.num_completed();
        outcome_.failures = summary.failures();
        outcome_.trouble = listening_.trouble();
        outcome_.num_failed = outcome_.document["failed"].get<int64_t>();
        if (!records) return;
        const auto ended = s_.recorder.end(outcome_.document, !stopped());
        if (!ended) outcome_.write_error = ended.error().message();
    }

    const RunSetup& s_;
    Progress& progress_;
    const std::function<void(const RunProgress&)>& report_;
    Listening listening_;
    std::vector<std::string> names_;
    int64_t total_ = 0, repeat_ = 0, started_us_ = 0;
    RunOutcome outcome_;
};

}  // namespace

Json make_run_header(const Engine& engine, const ProgramInfo& program, const Workload* workload) {
    const EngineStatus status = engine.status();
    DeviceInfo device = device_info(engine.options().cuda_device);
    if (engine.options().cuda_device < 0 && engine.options().threads > 0) device.threads = engine.options().threads;
    Json j{{"name", workload ? workload->name : engine.model().info.name},
           {"started", utc_now()},
           {"version", program.version},
           {"commit", program.commit},
           {"command", program.command},
           {"device", device_json(device)},
           {"engine", engine_options_to_json(engine.options())},
           {"pool",
            {{"page_bytes", status.page_bytes},
             {"pool_bytes", status.pool_bytes},
             {"weight_bytes", status.weight_bytes},
             {"workspace_bytes", status.workspace_bytes}}},
           {"model", model_json(engine.model())},
           {"adapters", adapters_json(engine)}};
    if (status.device_before.total > 0) {  // of a GPU, in its driver's words
        j["pool"]["device_bytes"] = status.device_before.total;
        j["pool"]["device_used_before"] = status.device_before.used;
    }
    if (!workload) return j;
    j["workload"] = workload_to_json(*workload);
    j["workload_hash"] = workload_hash(*workload);
    return j;
}

Result<RunOutcome> run_workload(const RunSetup& setup, Progress& progress,
                                const std::function<void(const RunProgress&)>& report) {
    setup.recorder.flush();  // what came before is not heard
    return Run(setup, progress, report).perform();
}

}  // namespace spartan
