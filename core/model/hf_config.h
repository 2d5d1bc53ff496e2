// config.json and generation_config.json of a Hugging Face folder (transformers 4 and 5).
#pragma once

#include "core/base/json.h"
#include "core/base/result.h"
#include "core/model/config.h"

#include <string>
#include <vector>

namespace spartan {

// Upper bounds of the sizes a file may claim, checked before anything is computed from them.
struct ConfigLimits {
    static constexpr int64_t vocab_size = 1 << 24, hidden_size = 1 << 20, intermediate_size = 1 << 22;
    static constexpr int64_t num_layers = 4096, num_heads = 1 << 16, head_dim = 1 << 13;
    static constexpr int64_t max_position = (int64_t(1) << 31) - 1;  // positions are 32 bits
};

// Reads `json` (the content of `file`). Every key that changes the result is either understood or refused by name; keys
// that say nothing about the result pass. What is worth knowing goes to `warnings`.
Result<ModelConfig> read_hf_config(const Json& json, const std::string& file, std::vector<std::string>& warnings);

// generation_config.json decides when a generation ends: its eos_token_id replaces the config's.
Result<void> apply_generation_config(const Json& json, const std::string& file, ModelConfig& config,
                                     std::vector<std::string>& warnings);

// Relations between sizes that hold for every source: heads divide into kv heads, head_dim is even, eos in the
// vocabulary. `names` are what the sizes are called in `file`.
struct ConfigNames {
    const char *heads, *kv_heads, *head_dim;
};
Result<void> check_config(ModelConfig& config, const std::string& file, const ConfigNames& names,
                          std::vector<std::string>& warnings);

}  // namespace spartan
