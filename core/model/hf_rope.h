// The rotary embedding of a config.json: rope_theta with rope_scaling (transformers 4) or rope_parameters (5).
#pragma once

#include "core/base/json.h"
#include "core/model/config.h"
#include "core/model/family.h"

#include <string>
#include <vector>

namespace spartan {

// Fills config.rope and config.rotary_dim; sizes have to be there. A fault goes to `f`, with its key.
void read_hf_rope(Fields& f, const std::string& file, const Family& family, ModelConfig& config,
                  std::vector<std::string>& warnings);

}  // namespace spartan
