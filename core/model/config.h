// What a decoder-only Llama-like model is: sizes and switches, named as in Hugging Face's config.json.
#pragma once

#include "core/base/ids.h"

#include <cstdint>
#include <string>
#include <vector>

namespace spartan {

struct RopeConfig {
    std::string type = "default";  // default, linear, llama3
    double theta = 10000.0;
    double factor = 1.0, low_freq_factor = 1.0, high_freq_factor = 4.0;
    int64_t original_max_position = 0;
    std::vector<float> divisors;  // GGUF's rope_freqs.weight, [head_dim/2]; empty: none
};

struct ModelConfig {
    std::string kind = "llama";  // "llama" or "qwen2"
    int64_t vocab_size = 0, hidden_size = 0, intermediate_size = 0, num_layers = 0;
    int64_t num_heads = 0, num_kv_heads = 0, head_dim = 0, max_position = 0;
    float rms_norm_eps = 1e-6f;
    RopeConfig rope;
    bool tied_embeddings = false;
    bool qkv_bias = false, o_bias = false, mlp_bias = false;
    std::vector<Token> eos;  // any of them ends a generation
    Token bos = -1;          // -1: none

    int64_t q_size() const { return num_heads * head_dim; }
    int64_t kv_size() const { return num_kv_heads * head_dim; }
};

// The seven linear layers that adapters can change, in every decoder layer.
enum class Projection : uint8_t { q, k, v, o, gate, up, down };
constexpr int kNumProjections = 7;

const char* name_of(Projection p);  // "q_proj" …
int64_t in_features(const ModelConfig&, Projection);
int64_t out_features(const ModelConfig&, Projection);

// Inverse frequencies [head_dim/2] with the scaling of `rope.type` applied, in fp32 as transformers computes them.
std::vector<float> rope_inv_freq(const ModelConfig&);

}  // namespace spartan
