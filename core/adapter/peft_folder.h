// A PEFT folder as it lies on disk: its config, and its tensors grouped by the module they adapt. No weight is read
// here.
#pragma once

#include "core/adapter/peft_config.h"
#include "core/model/safetensors.h"

#include <array>
#include <memory>
#include <string>
#include <vector>

namespace spartan {

enum class TensorRole : uint8_t { boft_r, boft_s, oft_r, lora_a, lora_b, lora_b_bias, magnitude, bias };
constexpr size_t kNumTensorRoles = 8;

struct PeftModule {
    std::string name;  // "model.layers.3.self_attn.q_proj"
    int layer = 0;
    Projection projection{};
    std::array<const SafetensorsEntry*, kNumTensorRoles> tensors{};  // by role; null: not in the file

    // From the shapes; -1 where the file alone does not tell, 0 where it does not apply.
    int64_t b = 0, m = 0, r = 0, in = -1, out = -1;

    const SafetensorsEntry* at(TensorRole role) const { return tensors[size_t(role)]; }
    bool adapts() const;  // more than a bias
};

struct PeftFolder {
    std::string dir;
    std::string config_bytes;
    PeftConfig config;
    std::shared_ptr<const SafetensorsFile> file;
    std::vector<PeftModule> modules;                        // by layer, then projection
    std::vector<const SafetensorsEntry*> embedding_copies;  // served only when they equal the base's
    std::vector<std::string> warnings;
    std::vector<Error> problems;  // why it cannot be served, whatever the base
    int64_t bytes = 0;            // of both files
};

// An error when the folder cannot be read as an adapter at all; everything else is a problem or a warning.
Result<PeftFolder> read_peft_folder(const std::string& dir);

}  // namespace spartan
