// What adapters need to know of a base beyond shapes of its linear layers.
#pragma once

#include "core/adapter/peft_folder.h"

#include <string>
#include <vector>

namespace spartan {

// Values in a norm's weight; 0: the base has no such norm.
int64_t norm_size(const Model& model, NormRole role);

// "model.layers.3.input_layernorm.weight" → attention.
NormRole norm_role(const std::string& tensor);

// A norm's weight as the base multiplies with it; null: the base has no such norm.
template <class T>
const float* base_norm(const Weights<T>& weights, NormRole role, int64_t layer);
extern template const float* base_norm(const Weights<float>&, NormRole, int64_t);
extern template const float* base_norm(const Weights<bf16>&, NormRole, int64_t);
extern template const float* base_norm(const Weights<f16>&, NormRole, int64_t);

// What is added to a norm's stored weight before it multiplies: 1 in families whose norms are 1 + w.
float norm_offset(const ModelConfig& config);

// Whether checkpoints of this family hold qkv_proj and gate_up_proj, so that adapters have these names.
bool has_fused_projections(const ModelConfig& config);

// Names of all modules that an adapter could target in this base, without "base_model.model.".
std::vector<std::string> adaptable_modules(const ModelConfig& config);

}  // namespace spartan
