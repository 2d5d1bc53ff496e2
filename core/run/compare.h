// Runs side by side. The first is the baseline; the differences of the others are against it.
#pragma once

#include "core/base/json.h"
#include "core/base/progress.h"
#include "core/base/result.h"

#include <string>
#include <vector>

namespace spartan {

// {"runs": [{"dir", "name", "complete", "started", "model", "summary": the document of `run --json`}, …],
//  "differences": {"baseline": dir,
//                  "metrics": [{"metric", "unit", "better": "higher"|"lower"|null,
//                               "values": [per run], "absolute": […], "relative": […]}, …],   null where a run has no
//                               value
//                  "settings": [{"setting", "values": [per run]}, …]}}                        only those that differ
// "relative" is (value - baseline) / baseline. `progress` may be null.
Result<Json> compare_runs(const std::vector<std::string>& dirs, Progress* progress = nullptr);

// Runs go by their names, or by their folders where two have the same name.
// A table for a terminal: one line per metric, ▲ and ▼ with the signed percentage, "better" or "worse" in words.
std::string comparison_text(const Json& comparison);
std::string comparison_html(const Json& comparison);

}  // namespace spartan
