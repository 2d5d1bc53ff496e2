#include "core/model/family.h"

#include <algorithm>
#include <iterator>

namespace spartan {
namespace {

constexpr Family kFamilies[] = {
    {.kind = "llama", .architecture = "LlamaForCausalLM", .attention_bias_key = true, .mlp_bias_key = true},
    {.kind = "mistral",
     .architecture = "MistralForCausalLM",
     .kv_heads = 8,
     .max_position = 131072,
     .windows = WindowRule::every_layer,
     .window = 4096},
    {.kind = "qwen2",
     .architecture = "Qwen2ForCausalLM",
     .kv_heads = 32,
     .max_position = 32768,
     .qkv_bias = true,
     .windows = WindowRule::by_layer,
     .window = 4096},
    {.kind = "qwen3",
     .architecture = "Qwen3ForCausalLM",
     .kv_heads = 32,
     .max_position = 32768,
     .head_dim = 128,
     .attention_bias_key = true,
     .windows = WindowRule::by_layer,
     .window = 4096,
     .qk_norm = true},
    {.kind = "gemma",
     .architecture = "GemmaForCausalLM",
     .kv_heads = 16,
     .max_position = 8192,
     .head_dim = 256,
     .activation = "gelu_pytorch_tanh",
     .tied = true,
     .attention_bias_key = true,
     .norm_adds_one = true,
     .scales_embedding = true},
    {.kind = "phi3",
     .architecture = "Phi3ForCausalLM",
     .max_position = 4096,
     .rms_norm_eps = 1e-5,
     .windows = WindowRule::every_layer,
     .fused_projections = true,
     .partial_rotary = true},
    {.kind = "granite",
     .architecture = "GraniteForCausalLM",
     .attention_bias_key = true,
     .mlp_bias_key = true,
     .multipliers = true},
    {.kind = "smollm3",
     .architecture = "SmolLM3ForCausalLM",
     .kv_heads = 4,
     .max_position = 32768,
     .rope_theta = 2e6,
     .tied = true,
     .attention_bias_key = true,
     .mlp_bias_key = true,
     .windows = WindowRule::by_layer,
     .no_rope_layers = true},
};

template <class Name>
const Family* find(Name name, std::string_view wanted) {
    const auto* it =
        std::find_if(std::begin(kFamilies), std::end(kFamilies), [&](const Family& f) { return name(f) == wanted; });
    return it == std::end(kFamilies) ? nullptr : it;
}

template <class Name>
std::string listed(Name name) {
    std::string text;
    const size_t count = std::size(kFamilies);
    for (size_t i = 0; i < count; ++i)
        text += std::string(i == 0 ? "" : i + 1 < count ? ", " : " or ") + name(kFamilies[i]);
    return text;
}

constexpr auto kKind = [](const Family& f) { return f.kind; };
constexpr auto kArchitecture = [](const Family& f) { return f.architecture; };

}  // namespace

const Family* find_family(std::string_view kind) { return find(kKind, kind); }
const Family* find_family_of_architecture(std::string_view architecture) { return find(kArchitecture, architecture); }
std::string family_kinds() { return listed(kKind); }
std::string family_architectures() { return listed(kArchitecture); }

}  // namespace spartan
