// Performs a workload on an engine that is already there: the one way in which the command line and the window run.
#pragma once

#include "core/base/progress.h"
#include "core/engine/engine.h"
#include "core/run/recorder.h"
#include "core/run/workload.h"

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace spartan {

// Who writes a recording; goes into run.json.
struct ProgramInfo {
    std::string version, commit;
    std::vector<std::string> command;
};

// run.json for a recording on `engine`: program, device, engine, model, its adapters by id, and the workload when
// given.
Json make_run_header(const Engine& engine, const ProgramInfo& program, const Workload* workload);

struct RunProgress {
    int64_t repeat = 0, repeats = 1;
    int64_t finished = 0, total = 0;  // requests over all repeats, warm-up included
    double elapsed_s = 0;             // held time left out
    std::optional<double> eta_s;      // by the pace so far
};

struct RunOutcome {
    Json document;          // of `run --json`
    int64_t completed = 0;  // requests
    bool cancelled = false;
    std::string failure;                // why the engine failed; empty: it did not
    std::vector<std::string> failures;  // requests that failed, the first hundred
    int64_t num_failed = 0;
    std::string trouble;      // the first that a step got over (StepRecord::trouble), with its number; empty: none
    std::string write_error;  // of the recording; empty: none
    // The device did not answer, as `failure` says, or the engine came to no rest when cancelled, and may never: who
    // takes the engine down waits for it.
    bool not_answering = false;
};

struct RunSetup {
    Engine& engine;
    Recorder& recorder;  // the engine's
    const Workload& workload;
    std::vector<AdapterId> adapters;  // of the workload's adapters, in order
    std::string out_dir;              // records into it; empty: does not (a recording that is open goes on)
    Json header;                      // make_run_header
    bool gives_up = false;            // on an engine that does not answer; else its end is waited for
};

// Warm-up and all repeats; blocks until done or until `progress` is cancelled. Then what was recorded stays, marked as
// not complete, and the document covers what finished. `report` is called a few times a second on the calling thread.
// Errors: an unreadable trace or an output folder that cannot be used, before anything has run.
Result<RunOutcome> run_workload(const RunSetup& setup, Progress& progress,
                                const std::function<void(const RunProgress&)>& report = {});

}  // namespace spartan
