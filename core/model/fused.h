// Checkpoints that stack q, k, v and gate, up into one matrix each (phi3).
#pragma once

#include "core/model/model.h"

#include <string>
#include <vector>

namespace spartan {

// With config.fused_projections: replaces each layer's self_attn.qkv_proj and mlp.gate_up_proj by their parts, which
// read rows of the whole; else gives `tensors` back. A whole that is missing or misshapen is an error that names it.
Result<std::vector<TensorSource>> split_fused(const ModelConfig& config, std::vector<TensorSource> tensors,
                                              const std::string& file);

}  // namespace spartan
