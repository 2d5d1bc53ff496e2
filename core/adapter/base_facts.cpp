#include "core/adapter/base_facts.h"

#include "kernels/check.h"

namespace spartan {

NormRole norm_role(const std::string& tensor) {
    if (tensor.ends_with("input_layernorm.weight")) return NormRole::attention;
    if (tensor.ends_with("post_attention_layernorm.weight")) return NormRole::mlp;
    if (tensor.ends_with("q_norm.weight")) return NormRole::q;
    if (tensor.ends_with("k_norm.weight")) return NormRole::k;
    CHECK(tensor == "model.norm.weight");
    return NormRole::final;
}

template <class T>
const float* base_norm(const Weights<T>& weights, NormRole role, int64_t layer) {
    if (role == NormRole::final) return weights.final_norm.data();
    const LayerWeights<T>& l = weights.layers[size_t(layer)];
    if (role == NormRole::attention) return l.attention_norm.data();
    if (role == NormRole::mlp) return l.mlp_norm.data();
    return role == NormRole::q ? l.q_norm.data() : l.k_norm.data();
}
template const float* base_norm(const Weights<float>&, NormRole, int64_t);
template const float* base_norm(const Weights<bf16>&, NormRole, int64_t);
template const float* base_norm(const Weights<f16>&, NormRole, int64_t);

int64_t norm_size(const Model& model, NormRole role) {
    const ModelConfig& c = model.config();
    if (role != NormRole::q && role != NormRole::k) return c.hidden_size;
    return c.qk_norm ? c.head_dim : 0;
}

float norm_offset(const ModelConfig& config) { return config.norm_adds_one ? 1.0f : 0.0f; }

bool has_fused_projections(const ModelConfig& config) { return config.fused_projections; }

std::vector<std::string> adaptable_modules(const ModelConfig& config) {
    std::vector<std::string> words = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                                      "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};
    if (config.fused_projections)
        words = {"self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"};
    std::vector<std::string> names = {"model.embed_tokens", "lm_head"};
    for (int64_t layer = 0; layer < config.num_layers; ++layer)
        for (const std::string& word : words) names.push_back("model.layers." + std::to_string(layer) + "." + word);
    return names;
}

}  // namespace spartan
