// The rotary embedding of a GGUF file: {arch}.rope.* and rope_freqs.weight, with llama.cpp's meaning of each.
#pragma once

#include "core/model/config.h"
#include "core/model/gguf.h"

#include <string>
#include <vector>

namespace spartan {

// Fills config.rope and config.rotary_dim; kind and sizes have to be there. What this file says and llama.cpp leaves
// aside for its architecture becomes a warning.
Result<void> read_gguf_rope(const GgufFile& file, ModelConfig& config, std::vector<std::string>& warnings);

// rope_freqs.weight, if it is there; rotary_size() has to be even.
Result<void> read_gguf_rope_divisors(const GgufFile& file, ModelConfig& config);

}  // namespace spartan
