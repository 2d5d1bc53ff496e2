// What a config.json says of single layers: sliding windows and layers without a rotary embedding.
#pragma once

#include "core/base/json.h"
#include "core/model/config.h"
#include "core/model/family.h"

namespace spartan {

// Fills config.windows and config.rope_layers; sizes have to be there. A fault goes to `f`, with its key.
void read_hf_layers(Fields& f, const Family& family, ModelConfig& config);

}  // namespace spartan
