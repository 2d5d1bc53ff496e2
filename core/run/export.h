// What leaves a recording: CSV, JSON and an HTML report. Everything that came from outside (names, labels, errors) is
// escaped for the format it goes into.
#pragma once

#include "core/base/result.h"
#include "core/run/run_dir.h"

#include <string>

namespace spartan {

// request_id,adapter,arrival_s,queue_ms,ttft_ms,tpot_ms,e2e_ms,prompt_tokens,output_tokens,finish,error: a header and
// one row per request in the order in which they finished, warm-up left out. arrival_s counts from the repeat's first
// arrival; an empty adapter is the base; a figure that a request never reached is empty. "-" writes to standard output.
// A cancelled `progress` (may be null) leaves `path` as it was.
Result<void> export_csv(const RunInfo& run, const std::string& path, Progress* progress = nullptr);
Result<void> export_json(const RunInfo& run, const std::string& path, Progress* progress = nullptr);  // summarise_run()
Result<void> export_html(const RunInfo& run, const std::string& path, Progress* progress = nullptr);  // self-contained

}  // namespace spartan
