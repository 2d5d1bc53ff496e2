// A trace: one CSV row per request, with the columns of cli.md in any order.
#pragma once

#include "core/run/workload.h"

namespace spartan {

// Reads and checks the whole file before any of it is used: columns, numbers and their ranges, order by arrival, unique
// request ids, adapters that exist. Requests of one session_id share a prompt_seed, and so the topic of their prompts,
// where the trace gives none; `seed` makes the others.
Result<Plan> read_trace(const std::string& path, const std::vector<std::string>& adapter_names, uint64_t seed);

}  // namespace spartan
