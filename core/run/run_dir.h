// A recorded run on disk: run.json, steps.jsonl, requests.jsonl, tokens.jsonl (cli.md, RUN_DIR).
#pragma once

#include "core/base/json.h"
#include "core/base/progress.h"
#include "core/base/result.h"
#include "core/engine/step_record.h"

#include <functional>
#include <string>
#include <vector>

namespace spartan {

constexpr int kRunSchema = 1;

struct RunInfo {
    std::string dir, name;
    bool complete = false;
    Json json;                               // run.json, checked
    std::vector<std::string> adapter_names;  // by AdapterId; [0] is "base"
};

Json step_to_json(const StepRecord&);  // one line of steps.jsonl
Result<StepRecord> step_from_json(const Json&, const std::string& file);
Json request_to_json(const RequestRecord&);
Result<RequestRecord> request_from_json(const Json&, const std::string& file);

Result<RunInfo> open_run(const std::string& dir);  // refuses a newer schema by its number
// Streams the steps with their finished requests and tokens joined back in, so that what listeners see is what they saw
// live. A torn last line is dropped; damage elsewhere is an error naming file and line.
Result<void> read_steps(const RunInfo&, Progress&, const std::function<void(StepRecordPtr)>& each);
Result<std::vector<RequestRecord>> read_requests(const RunInfo&);

// `run --json` and `export --json`: the document of cli.md, from the recorded run.
Result<Json> summarise_run(const RunInfo&, Progress* progress = nullptr);  // progress may be null

}  // namespace spartan
