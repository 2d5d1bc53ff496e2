#include "core/model/inspect.h"

#include "core/base/memory.h"
#include "core/base/text.h"
#include "core/tokenizer/chat_template.h"
#include "core/tokenizer/tokenizer.h"

namespace spartan {
namespace {

Json rope_json(const RopeConfig& rope) {
    Json json = {{"rope_type", rope.type}, {"rope_theta", rope.theta}};
    if (rope.type != "default") json["factor"] = rope.factor;
    if (rope.type == "llama3") {
        json["low_freq_factor"] = rope.low_freq_factor;
        json["high_freq_factor"] = rope.high_freq_factor;
        json["original_max_position_embeddings"] = rope.original_max_position;
    }
    if (!rope.divisors.empty()) json["divisors"] = rope.divisors.size();
    return json;
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
                 {"rope_parameters", rope_json(c.rope)},
                 {"tie_word_embeddings", c.tied_embeddings},
                 {"attention_bias", c.qkv_bias},
                 {"mlp_bias", c.mlp_bias},
                 {"bos_token_id", c.bos < 0 ? Json() : Json(c.bos)},
                 {"eos_token_id", c.eos},
                 {"parameters", o.parameters},
                 {"bytes", o.file_bytes},
                 {"dtype", o.dtype}};
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
    for (const std::string& warning : o.warnings) lines.push_back("warning: " + warning);
    for (const std::string& problem : o.problems) lines.push_back("problem: " + problem);
    for (std::string& line : lines) line = escape_control(line);
    return lines;
}

}  // namespace spartan
