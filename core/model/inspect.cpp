#include "core/model/inspect.h"

#include "core/base/memory.h"
#include "core/base/text.h"
#include "core/tokenizer/chat_template.h"
#include "core/tokenizer/tokenizer.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace spartan {
namespace {

Json rope_json(const ModelConfig& c) {
    const RopeConfig& rope = c.rope;
    Json json = {{"rope_type", rope.type}, {"rope_theta", rope.theta}};
    if (rope.type != "default") json["factor"] = rope.factor;
    if (c.rotary_size() != c.head_dim) json["rotary_dim"] = c.rotary_size();
    if (rope.type == "yarn") {
        json["original_max_position_embeddings"] = rope.original_max_position;
        json["beta_fast"] = rope.beta_fast;
        json["beta_slow"] = rope.beta_slow;
        json["truncate"] = rope.truncate;
        json["attention_factor"] = rope.attention_factor;
    }
    if (rope.type == "llama3") {
        json["low_freq_factor"] = rope.low_freq_factor;
        json["high_freq_factor"] = rope.high_freq_factor;
        json["original_max_position_embeddings"] = rope.original_max_position;
    }
    if (!rope.divisors.empty()) json["divisors"] = rope.divisors.size();
    return json;
}

// The shortest decimal that a float was written as: 0.22 rather than the double beside it.
double decimal_of(float value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.7g", double(value));
    return std::strtod(text, nullptr);
}

// What differs from a plain Llama, under Hugging Face's names; empty for one.
Json switches_json(const ModelConfig& c) {
    Json json = Json::object();
    const auto note = [&](const char* key, float value, float usual) {
        if (value != usual) json[key] = decimal_of(value);
    };
    note("embedding_multiplier", c.embedding_multiplier, 1);
    note("attention_multiplier", c.attention_multiplier, 0);
    note("residual_multiplier", c.residual_multiplier, 1);
    note("logits_scaling", c.logits_scaling, 1);
    if (c.qk_norm) json["qk_norm"] = true;
    if (c.norm_adds_one) json["norm_adds_one"] = true;
    if (c.fused_projections) json["fused_projections"] = {"qkv_proj", "gate_up_proj"};
    if (!c.windows.empty()) json["sliding_windows"] = c.windows;
    if (!c.rope_layers.empty()) json["no_rope_layers"] = c.rope_layers;
    return json;
}

// Layers for which `is_one` holds: "2 of 3", "all 3".
template <class IsOne>
std::string count_of_layers(const ModelConfig& c, const IsOne& is_one) {
    int64_t count = 0;
    for (int64_t layer = 0; layer < c.num_layers; ++layer) count += is_one(layer) ? 1 : 0;
    const std::string all = std::to_string(c.num_layers);
    return count == c.num_layers ? "all " + all : std::to_string(count) + " of " + all;
}

// "" for a plain Llama.
std::string switches_text(const ModelConfig& c) {
    std::vector<std::string> parts;
    if (c.gate_function != GateFunction::silu) parts.push_back(name_of(c.gate_function));
    if (c.qk_norm) parts.push_back("norms of q and k");
    if (c.norm_adds_one) parts.push_back("norms of 1 + weight");
    if (c.qkv_bias) parts.push_back(c.o_bias ? "biases of q, k, v and o" : "biases of q, k and v");
    if (c.mlp_bias) parts.push_back("biases of the MLP");
    if (c.fused_projections) parts.push_back("fused qkv_proj and gate_up_proj");
    if (!c.windows.empty()) {
        const int64_t widest = *std::max_element(c.windows.begin(), c.windows.end());
        parts.push_back("sliding window of " + std::to_string(widest) + " in " +
                        count_of_layers(c, [&](int64_t layer) { return c.window_of(layer) > 0; }) + " layers");
    }
    if (!c.rope_layers.empty())
        parts.push_back("no rope in " + count_of_layers(c, [&](int64_t layer) { return !c.rotates(layer); }) +
                        " layers");
    const auto note = [&](const char* what, float value, float usual) {
        if (value != usual) parts.push_back(std::string(what) + " times " + Json(decimal_of(value)).dump());
    };
    note("embedding", c.embedding_multiplier, 1);
    note("scores", c.attention_multiplier, 0);
    note("residual", c.residual_multiplier, 1);
    if (c.logits_scaling != 1) parts.push_back("logits over " + Json(decimal_of(c.logits_scaling)).dump());
    return join(parts, ", ");
}

std::string fit_text(int64_t needed) { return needed <= available_memory_bytes() ? "fits" : "does not fit"; }

std::string kept_text(const OpenedModel& o) {
    if (kept_bytes_needed(o) == 0) return "";
    const int64_t bytes = weight_bytes_needed(o, {DType::f32, true});
    return ", kept as stored " + format_bytes(bytes) + " (" + fit_text(bytes) + ")";
}

}  // namespace

Json inspect_model_json(const OpenedModel& o) {
    const ModelConfig& c = o.config;
    Json json = {{"type", "model"},
                 {"kind", c.kind},
                 {"name", o.name},
                 {"source", o.source},
                 {"vocab_size", c.vocab_size},
                 {"hidden_size", c.hidden_size},
                 {"intermediate_size", c.intermediate_size},
                 {"num_hidden_layers", c.num_layers},
                 {"num_attention_heads", c.num_heads},
                 {"num_key_value_heads", c.num_kv_heads},
                 {"head_dim", c.head_dim},
                 {"max_position_embeddings", c.max_position},
                 {"rms_norm_eps", double(c.rms_norm_eps)},
                 {"hidden_act", name_of(c.gate_function)},
                 {"rope_parameters", rope_json(c)},
                 {"tie_word_embeddings", c.tied_embeddings},
                 {"attention_bias", c.qkv_bias},
                 {"mlp_bias", c.mlp_bias},
                 {"bos_token_id", c.bos < 0 ? Json() : Json(c.bos)},
                 {"eos_token_id", c.eos},
                 {"parameters", o.parameters},
                 {"bytes", o.file_bytes},
                 {"dtype", o.dtype}};
    json["switches"] = switches_json(c);
    json["weight_bytes"] = {{"f32", weight_bytes_needed(o, DType::f32)}, {"bf16", weight_bytes_needed(o, DType::bf16)}};
    if (kept_bytes_needed(o) > 0) json["weight_bytes"]["keep"] = weight_bytes_needed(o, {DType::f32, true});
    json["tokenizer"] = o.tokenizer ? Json(o.tokenizer->description()) : Json();
    json["chat_template"] = o.chat_template->name();
    json["warnings"] = o.warnings;
    json["problems"] = o.problems;
    return json;
}

std::vector<std::string> inspect_model_text(const OpenedModel& o) {
    const ModelConfig& c = o.config;
    const auto n = [](int64_t v) { return std::to_string(v); };
    std::string rope = c.rope.type + ", theta " + Json(c.rope.theta).dump();
    if (c.rope.type != "default") rope += ", factor " + Json(c.rope.factor).dump();
    if (c.rope.attention_factor != 1) rope += ", attention factor " + Json(c.rope.attention_factor).dump();
    if (c.rotary_size() != c.head_dim) rope += ", " + n(c.rotary_size()) + " features of each head";
    if (!c.rope.divisors.empty()) rope += ", with the file's divisors";
    const int64_t f32 = weight_bytes_needed(o, DType::f32), bf16_bytes = weight_bytes_needed(o, DType::bf16);
    std::vector<std::string> lines = {
        o.name + ": " + c.kind + " model from " + o.source,
        "layers " + n(c.num_layers) + ", hidden " + n(c.hidden_size) + ", intermediate " + n(c.intermediate_size) +
            ", vocabulary " + n(c.vocab_size) + (c.tied_embeddings ? " (tied)" : ""),
        "heads " + n(c.num_heads) + " of " + n(c.head_dim) + ", kv heads " + n(c.num_kv_heads) + ", context " +
            n(c.max_position),
        "rope " + rope,
        n(o.parameters) + " parameters, " + format_bytes(o.file_bytes) + ", " + o.dtype,
        "memory for weights: f32 " + format_bytes(f32) + " (" + fit_text(f32) + "), bf16 " + format_bytes(bf16_bytes) +
            " (" + fit_text(bf16_bytes) + ")" + kept_text(o),
        "tokenizer: " + (o.tokenizer ? o.tokenizer->description() : "none, runs on ids only"),
        "chat template: " + o.chat_template->name(),
    };
    if (const std::string switches = switches_text(c); !switches.empty())
        lines.insert(lines.begin() + 4, "with " + switches);
    for (const std::string& warning : o.warnings) lines.push_back("warning: " + warning);
    for (const std::string& problem : o.problems) lines.push_back("problem: " + problem);
    for (std::string& line : lines) line = escape_control(line);
    return lines;
}

}  // namespace spartan
