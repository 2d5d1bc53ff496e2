// The families of models that the forward pass knows, and what config.json means in each where it says nothing: the
// defaults of transformers' own configuration classes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace spartan {

enum class WindowRule : uint8_t {
    none,         // no layer has one
    every_layer,  // sliding_window is of all layers
    by_layer,     // layer_types says, or the family's rule for the layers from max_window_layers on
};

struct Family {
    const char *kind, *architecture;  // model_type and architectures
    int64_t kv_heads = 0;             // 0: as many as heads
    int64_t max_position = 2048;
    int64_t head_dim = 0;  // 0: hidden_size / heads
    double rms_norm_eps = 1e-6, rope_theta = 1e4;
    const char* activation = "silu";
    bool tied = false;
    bool qkv_bias = false;                                  // always there
    bool attention_bias_key = false, mlp_bias_key = false;  // whether attention_bias and mlp_bias are read
    WindowRule windows = WindowRule::none;
    int64_t window = 0;  // where sliding_window is absent; 0: none
    bool qk_norm = false, norm_adds_one = false, scales_embedding = false, fused_projections = false;
    bool multipliers = false;     // granite's four
    bool no_rope_layers = false;  // smollm3's
    bool partial_rotary = false;
};

const Family* find_family(std::string_view kind);                          // by model_type; null: not known
const Family* find_family_of_architecture(std::string_view architecture);  // null: not known
std::string family_kinds();                                                // "llama, mistral, … or smollm3"
std::string family_architectures();  // "LlamaForCausalLM, … or SmolLM3ForCausalLM"

}  // namespace spartan
