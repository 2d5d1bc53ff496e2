// One engine with its recorder and its recording. Made, run and taken down in workers: each can take as long as a step.
#pragma once

#include "core/base/progress.h"
#include "core/engine/engine.h"
#include "core/run/recorder.h"
#include "core/run/run_dir.h"
#include "core/run/runner.h"
#include "core/run/workload.h"
#include "ui/run_model.h"

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace spartan {

constexpr uint64_t kLibrarySeed = 42;  // of what the library generates

struct LiveAdapter {
    int key = 0;  // of the library
    std::shared_ptr<const Adapter> adapter;
    AdapterRequest request = {};  // where it came from: a strategy may want it in another form
};

struct LiveRunPlan {
    std::shared_ptr<const Model> model;
    int cuda_device = -1;  // a GPU's ordinal; -1: the CPU
    std::vector<LiveAdapter> adapters;
    std::optional<Workload> workload;  // none: a playground session
    bool phase_times = false;          // whatever the workload says
    ProgramInfo program;
    Recorder::Listener listener;
};

struct LiveRun {
    std::shared_ptr<const Model> model;
    std::optional<Workload> workload;
    std::string dir;
    Json run_json;
    std::vector<AdapterId> workload_adapters;
    std::map<int, AdapterId> ids;  // by library key; the GUI thread's once the run is handed over
    RunHeader header;
    Progress progress;                   // of the workload: requests; cancel stops it
    std::unique_ptr<Recorder> recorder;  // outlives the engine
    std::unique_ptr<Engine> engine;

    // What the worker that runs the workload last said.
    RunProgress reported() const {
        const std::lock_guard lock(mutex);
        return report;
    }
    mutable std::mutex mutex;
    RunProgress report;

    ~LiveRun();
};

// Creates the engine with its adapters; a playground's recording begins at once, a workload's with runLive().
Result<std::shared_ptr<LiveRun>> startLiveRun(const LiveRunPlan& plan);
// The workload, to its end or until live.progress is cancelled; blocks.
Result<RunOutcome> runLive(LiveRun& live);
// Ends what still runs, completes a playground's recording and takes the engine down. What went wrong with the files.
std::string finishLiveRun(std::shared_ptr<LiveRun> live);

RunAdapter runAdapterOf(AdapterId id, const Adapter& adapter);
// run.json's list of adapters with one more.
Json adapterJson(AdapterId id, const Adapter& adapter);
// What run.json says of a run.
RunHeader headerOf(const Json& run_json, const std::string& dir);

// A free folder in runs_dir(), which is made if it is not there: "…/run-0042.wbrun".
Result<std::string> nextRunDir(const std::string& stem);

}  // namespace spartan
