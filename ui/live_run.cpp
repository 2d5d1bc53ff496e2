#include "ui/live_run.h"

#include "core/base/file.h"
#include "core/engine/admission.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

namespace spartan {

namespace {

constexpr int64_t kFinishMs = 2'000;

// The structure of the first layer's parts: what the layout view draws, also after the files are gone.
Json partsJson(const Adapter& adapter) {
    Json list = Json::array();
    for (const AdapterPart& p : adapter.parts)
        if (p.layer == adapter.parts.front().layer)
            list.push_back({int(p.projection), p.in, p.out, p.block_size, p.num_factors, p.group, p.rank});
    return list;
}

int64_t integerAt(const Json& j, const char* key) {
    return j.is_object() && j.contains(key) && j[key].is_number_integer() ? j[key].get<int64_t>() : 0;
}

std::string textAt(const Json& j, const char* key) {
    return j.is_object() && j.contains(key) && j[key].is_string() ? j[key].get<std::string>() : std::string();
}

const Json& partOf(const Json& j, const char* key) {
    static const Json nothing = Json::object();
    return j.is_object() && j.contains(key) ? j[key] : nothing;
}

std::vector<AdapterPart> partsOf(const Json& list) {
    std::vector<AdapterPart> parts;
    if (!list.is_array()) return parts;
    for (const Json& p : list) {
        if (!p.is_array() || p.size() != 7) return {};
        for (const Json& v : p)
            if (!v.is_number_integer() || v.get<int64_t>() < 0 || v.get<int64_t>() > (1 << 24)) return {};
        if (p[0].get<int64_t>() >= kNumProjections) return {};
        AdapterPart part;
        part.projection = Projection(p[0].get<int>());
        part.in = p[1].get<int64_t>();
        part.out = p[2].get<int64_t>();
        part.block_size = p[3].get<int64_t>();
        part.num_factors = p[4].get<int64_t>();
        part.group = p[5].get<int64_t>();
        part.rank = p[6].get<int64_t>();
        if (part.block_size > 0) part.rotation = 0;
        parts.push_back(part);
    }
    return parts;
}

}  // namespace

LiveRun::~LiveRun() {
    engine.reset();  // before the recorder that it pushes into
    recorder.reset();
}

RunAdapter runAdapterOf(AdapterId id, const Adapter& adapter) {
    RunAdapter a;
    a.id = id;
    a.name = adapter.name;
    a.geometry = adapter.geometry();
    a.targets = adapter.targets();
    a.bytes = adapter.bytes();
    a.orthogonality_error = adapter.orthogonality_error;
    a.parts = adapter.parts;
    return a;
}

Json adapterJson(AdapterId id, const Adapter& adapter) {
    return {{"id", uint32_t(id)},
            {"name", adapter.name},
            {"path", adapter.path},
            {"kind", name_of(adapter.kind)},
            {"geometry", adapter.geometry()},
            {"targets", adapter.targets()},
            {"hash", adapter.content_hash},
            {"bytes", adapter.bytes()},
            {"orthogonality_error", adapter.orthogonality_error},
            {"parts", partsJson(adapter)}};
}

RunHeader headerOf(const Json& run, const std::string& dir) {
    RunHeader h;
    h.dir = dir;
    h.name = std::filesystem::path(dir).stem().string();
    const Json &model = partOf(run, "model"), &device = partOf(run, "device"), &pool = partOf(run, "pool"),
               &engine = partOf(run, "engine"), &workload = partOf(run, "workload");
    h.model_name = textAt(model, "name");
    h.dtype = textAt(model, "dtype");
    h.device = textAt(device, "name");
    h.gpu = textAt(device, "id").rfind("cuda", 0) == 0;
    if (const int64_t threads = integerAt(device, "threads"); threads > 0 && !h.gpu)
        h.device = (h.device.empty() ? "CPU" : h.device) + ", " + std::to_string(threads) +
                   (threads == 1 ? " thread" : " threads");
    h.page_bytes = integerAt(pool, "page_bytes");
    h.pool_bytes = integerAt(pool, "pool_bytes");
    h.weight_bytes = integerAt(pool, "weight_bytes");
    h.workspace_bytes = integerAt(pool, "workspace_bytes");
    h.device_bytes = integerAt(pool, "device_bytes");
    h.device_used_before = integerAt(pool, "device_used_before");
    if (const auto strategy = parse_adapter_strategy(textAt(engine, "adapter_strategy"))) h.strategy = *strategy;
    if (const int64_t tokens = integerAt(engine, "block_tokens"); tokens > 0) h.block_tokens = tokens;
    h.workload_name = textAt(workload, "name");
    if (workload.contains("requests"))
        h.planned_requests = (integerAt(workload, "requests") + integerAt(workload, "warmup")) *
                             std::max<int64_t>(1, integerAt(workload, "repeats"));
    const Json& slo = partOf(workload, "slo");
    const auto limit = [&](const char* key) -> std::optional<double> {
        return slo.contains(key) && slo[key].is_number() ? std::optional(slo[key].get<double>()) : std::nullopt;
    };
    h.slo_ttft_ms = limit("ttft_ms");
    h.slo_itl_ms = limit("itl_ms");
    h.slo_e2e_ms = limit("e2e_ms");
    const Json& adapters = partOf(run, "adapters");
    if (adapters.is_array()) {
        for (const Json& a : adapters) {
            RunAdapter one;
            one.id = AdapterId(integerAt(a, "id"));
            one.name = textAt(a, "name");
            one.geometry = textAt(a, "geometry");
            one.targets = textAt(a, "targets");
            one.bytes = integerAt(a, "bytes");
            if (a.is_object() && a.contains("orthogonality_error") && a["orthogonality_error"].is_number())
                one.orthogonality_error = a["orthogonality_error"].get<double>();
            one.parts = partsOf(partOf(a, "parts"));
            h.adapters.push_back(std::move(one));
        }
    }
    return h;
}

Result<std::string> nextRunDir(const std::string& stem) {
    namespace fs = std::filesystem;
    const fs::path runs = runs_dir();
    std::error_code error;
    if (!fs::is_directory(runs, error)) {
        fs::create_directories(runs, error);
        if (error) return Error{runs.string(), "", error.message(), "a folder for recordings"};
        fs::permissions(runs, fs::perms::owner_all, error);  // recordings hold prompts
    }
    int highest = 0;
    for (const fs::directory_entry& entry : fs::directory_iterator(runs, error)) {
        const std::string name = entry.path().filename().string();
        if (name.rfind(stem + "-", 0) != 0) continue;
        highest = std::max(highest, std::atoi(name.c_str() + stem.size() + 1));
    }
    std::string number = std::to_string(highest + 1);
    number.insert(0, number.size() < 4 ? 4 - number.size() : 0, '0');
    return (runs / (stem + "-" + number + ".wbrun")).string();
}

namespace {

// As the library has it, or read once more in the form that the strategy computes with.
Result<std::shared_ptr<const Adapter>> inForm(const LiveAdapter& a, AdapterForm form, const Model& model,
                                              Progress& progress) {
    const bool as_it_is =
        form != AdapterForm::factored || std::none_of(a.adapter->parts.begin(), a.adapter->parts.end(),
                                                      [](const AdapterPart& part) { return part.rotation >= 0; });
    if (as_it_is) return a.adapter;
    return load_adapter(a.request, model, kLibrarySeed, progress, form);
}

}  // namespace

Result<std::shared_ptr<LiveRun>> startLiveRun(const LiveRunPlan& plan) {
    auto live = std::make_shared<LiveRun>();
    live->model = plan.model;
    live->workload = plan.workload;
    TRY_ASSIGN(dir, nextRunDir(plan.workload ? "run" : "playground"));
    live->dir = dir;
    live->recorder = std::make_unique<Recorder>();
    live->recorder->add_listener(plan.listener);
    EngineOptions options = plan.workload ? plan.workload->engine : EngineOptions();
    options.cuda_device = plan.cuda_device;
    options.phase_times |= plan.phase_times;
    auto engine = Engine::create(plan.model, options, live->recorder->sink());
    if (!engine) return as_written(engine.error(), "", {});
    live->engine = *std::move(engine);
    Json adapters = Json::array();
    std::vector<std::shared_ptr<const Adapter>> added;
    for (const LiveAdapter& a : plan.adapters) {
        TRY_ASSIGN(adapter, inForm(a, form_of(strategy_of(live->engine->options()), plan.cuda_device), *plan.model,
                                   live->progress));
        TRY_ASSIGN(id, live->engine->add_adapter(adapter));
        live->ids[a.key] = id;
        live->workload_adapters.push_back(id);
        adapters.push_back(adapterJson(id, *adapter));
        added.push_back(adapter);
    }
    live->run_json = make_run_header(*live->engine, plan.program, plan.workload ? &*plan.workload : nullptr);
    live->run_json["adapters"] = adapters;
    live->header = headerOf(live->run_json, dir);
    live->header.live = true;
    live->header.config = plan.model->config();
    for (size_t i = 0; i < added.size(); ++i) live->header.adapters[i].parts = added[i]->parts;
    if (!plan.workload) TRY_VOID(live->recorder->begin(dir, live->run_json));
    return live;
}

Result<RunOutcome> runLive(LiveRun& live) {
    const RunSetup setup{*live.engine, *live.recorder, *live.workload, live.workload_adapters, live.dir, live.run_json};
    return run_workload(setup, live.progress, [&](const RunProgress& p) {
        const std::lock_guard lock(live.mutex);
        live.report = p;
    });
}

std::string finishLiveRun(std::shared_ptr<LiveRun> live) {
    std::string problem;
    const bool failed = live->engine->status().state == EngineState::failed;
    live->engine->cancel_all();
    live->engine->release();
    live->engine->wait_idle(kFinishMs);
    live->recorder->flush();
    if (live->recorder->recording()) {
        if (const auto ended = live->recorder->end(Json::object(), !failed); !ended) problem = ended.error().message();
    }
    live->engine.reset();
    return problem;
}

}  // namespace spartan
