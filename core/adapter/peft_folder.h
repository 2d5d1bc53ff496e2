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

enum class TensorRole : uint8_t {
    boft_r,
    boft_s,
    oft_r,
    oft_embedding_r,
    old_oft_r,  // of PEFT 0.14 and 0.15
    old_oft_s,
    lora_a,
    lora_b,
    lora_b_bias,
    lora_embedding_a,
    lora_embedding_b,
    magnitude,
    bias,
    copy,        // of the whole weight
    token_rows,  // of trainable_token_indices
};
constexpr size_t kNumTensorRoles = 15;

// What a module of the base is.
struct ModuleName {
    enum class Kind : uint8_t { projection, fused, embedding, head, norm };
    Kind kind = Kind::projection;
    int layer = 0;
    Projection projection{};  // fused: the first of those that share the weight
    NormRole norm{};
};

struct PeftModule {
    std::string name;  // "model.layers.3.self_attn.q_proj"
    ModuleName where;
    std::array<const SafetensorsEntry*, kNumTensorRoles> tensors{};  // by role; null: not in the file

    // From the shapes; -1 where the file alone does not tell, 0 where it does not apply.
    int64_t b = 0, m = 0, r = 0, in = -1, out = -1;

    const SafetensorsEntry* at(TensorRole role) const { return tensors[size_t(role)]; }
    bool adapts() const;  // LoRA, BOFT or OFT, not only a bias or rows of its own
    bool is_old_oft() const { return at(TensorRole::old_oft_r); }
};

struct PeftFolder {
    std::string dir;
    std::string config_bytes;
    PeftConfig config;
    std::shared_ptr<const SafetensorsFile> file;
    std::vector<PeftModule> modules;  // by layer, kind and projection; tables first
    std::vector<std::string> warnings;
    std::vector<Error> problems;  // why it cannot be served, whatever the base
    int64_t bytes = 0;            // of both files
};

// An error when the folder cannot be read as an adapter at all; everything else is a problem or a warning.
Result<PeftFolder> read_peft_folder(const std::string& dir);

}  // namespace spartan
