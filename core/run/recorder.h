// Takes records from the engine through a ring of 4,096, and on its own thread writes them to a RUN_DIR (if one is
// being recorded) and hands them to listeners, in order, none dropped.
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

    Engine::RecordSink sink();            // for Engine::create; the recorder must outlive the engine
    int add_listener(Listener listener);  // at any time; hears every record taken from the ring after it returns
    void remove_listener(int handle);     // when it returns the listener is not running and never runs again

    // Starts a recording: creates `dir` (mode 0700; refused if it exists and is not empty) and writes run.json with
    // `header` (make_run_header) merged in. Refused while another recording is open.
    Result<void> begin(const std::string& dir, Json header);
    // Replaces keys of the open recording's header and writes run.json anew: an adapter was added, the run was renamed.
    Result<void> amend(const Json& header_patch);
    // Completes it with the totals; complete = false says that the run was stopped early. Writing errors during a run
    // (disk full, folder gone) stop the writing, keep what is there and show in write_error(); the run goes on.
    Result<void> end(Json totals, bool complete = true);
    void flush();  // blocks until everything pushed so far is written and heard

    bool recording() const;
    int64_t bytes_written() const;
    std::string write_error() const;  // empty: none

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace spartan
