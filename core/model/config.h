// What a decoder-only Llama-like model is: sizes and switches, named as in Hugging Face's config.json.
#pragma once

#include "core/base/ids.h"

#include <cstdint>
#include <string>
#include <vector>

namespace spartan {

struct RopeConfig {
    std::string type = "default";  // default, linear, dynamic (as default: contexts end at max_position), llama3, yarn
    double theta = 10000.0;
    double factor = 1.0, low_freq_factor = 1.0, high_freq_factor = 4.0;
    int64_t original_max_position = 0;
    double beta_fast = 32, beta_slow = 1;  // yarn: turns within the original context where blending begins and ends
    bool truncate = true;                  // yarn: those two rounded outwards to whole features
    double attention_factor = 1;           // yarn: cos and sin are multiplied by it
    std::vector<float> divisors;           // GGUF's rope_freqs.weight, [rotary_size() / 2]; empty: none
};

enum class GateFunction : uint8_t { silu, gelu, gelu_tanh };
const char* name_of(GateFunction function);  // as config.json has it: "silu", "gelu", "gelu_pytorch_tanh"

// Families differ in these values and switches only; every default is Llama's.
struct ModelConfig {
    std::string kind = "llama";  // Hugging Face's model_type; family.h lists them
    int64_t vocab_size = 0, hidden_size = 0, intermediate_size = 0, num_layers = 0;
    int64_t num_heads = 0, num_kv_heads = 0, head_dim = 0, max_position = 0;
    float rms_norm_eps = 1e-6f;
    RopeConfig rope;
    int64_t rotary_dim = 0;  // features of a head that rotate, the first; 0: all
    bool tied_embeddings = false;
    bool qkv_bias = false, o_bias = false, mlp_bias = false;
    bool qk_norm = false;            // each head of q and k is normed before it rotates
    bool norm_adds_one = false;      // norms multiply by 1 + the checkpoint's weight
    bool fused_projections = false;  // checkpoints and adapters hold qkv_proj and gate_up_proj, stacked in that order
    GateFunction gate_function = GateFunction::silu;
    float embedding_multiplier = 1;    // of what enters the first layer
    float attention_multiplier = 0;    // of q · k; 0: 1 / sqrt(head_dim)
    float residual_multiplier = 1;     // of what a layer's two halves add
    float logits_scaling = 1;          // logits are divided by it
    std::vector<int64_t> windows;      // by layer: the keys a row sees with its own, 0: all before it; empty: all 0
    std::vector<uint8_t> rope_layers;  // by layer: 1 rotates, 0 does not; empty: all rotate
    std::vector<Token> eos;            // any of them ends a generation
    Token bos = -1;                    // -1: none

    int64_t q_size() const { return num_heads * head_dim; }
    int64_t kv_size() const { return num_kv_heads * head_dim; }
    int64_t rotary_size() const { return rotary_dim > 0 ? rotary_dim : head_dim; }
    int64_t window_of(int64_t layer) const { return windows.empty() ? 0 : windows[size_t(layer)]; }
    bool rotates(int64_t layer) const { return rope_layers.empty() || rope_layers[size_t(layer)] != 0; }
    float score_scale() const;  // what q · k is multiplied by
};

// The seven linear layers that adapters can change, in every decoder layer.
enum class Projection : uint8_t { q, k, v, o, gate, up, down };
constexpr int kNumProjections = 7;

const char* name_of(Projection p);  // "q_proj" …
int64_t in_features(const ModelConfig&, Projection);
int64_t out_features(const ModelConfig&, Projection);

// YaRN's factor of cos and sin for a context stretched by `factor` (Peng et al. 2023): 1 + 0.1 mscale ln(factor).
double yarn_attention_factor(double factor, double mscale = 1);

// Inverse frequencies [rotary_size() / 2] with the scaling of `rope.type` applied, in fp32 as transformers computes
// them.
std::vector<float> rope_inv_freq(const ModelConfig&);

}  // namespace spartan
