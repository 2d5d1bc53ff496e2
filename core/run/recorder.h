// Takes records from the engine through a ring of 4,096, and on its own thread writes them to a RUN_DIR (if one is being
// recorded) and hands them to listeners, in order, none dropped.
#pragma once

#include "core/base/json.h"
#include "core/base/result.h"
#include "core/engine/engine.h"

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace spartan {

class Recorder {
public:
    // Called on the recorder's thread with records in order; must be quick.
    using Listener = std::function<void(const std::vector<StepRecordPtr>&)>;

    Recorder();
    ~Recorder();  // drains and joins

    Engine::RecordSink sink();  // for Engine::create; the recorder must outlive the engine
    void add_listener(Listener listener);  // before the engine starts

    // Starts a recording: creates `dir` (refused if it exists and is not empty) and writes run.json with `header` merged in.
    Result<void> begin(const std::string& dir, Json header);
    // Completes it with the totals. Writing errors during a run (disk full, folder gone) stop the writing, keep what is
    // there and show in write_error(); the run goes on.
    Result<void> end(Json totals);
    void flush();  // blocks until everything pushed so far is written and heard

    bool recording() const;
    int64_t bytes_written() const;
    std::string write_error() const;  // empty: none

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace spartan
