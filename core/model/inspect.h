// What `spartan inspect` prints of a model.
#pragma once

#include "core/base/json.h"
#include "core/model/model.h"

#include <string>
#include <vector>

namespace spartan {

// {"type": "model", "kind": …, sizes under their Hugging Face names, "parameters", "bytes", "dtype", …, "warnings",
// "problems"}
Json inspect_model_json(const OpenedModel& opened);

// The same for a person, a line each, control characters escaped.
std::vector<std::string> inspect_model_text(const OpenedModel& opened);

}  // namespace spartan
