#include "core/model/hf_config.h"

#include "core/base/text.h"

#include <algorithm>

namespace spartan {
namespace {

constexpr const char* kArchitectures = "LlamaForCausalLM or Qwen2ForCausalLM";

// Which of the two kinds it is, by architectures and model_type; both must agree where both are there.
void read_kind(Fields& f, ModelConfig& c) {
    std::string architecture;
    if (const Json* list = f.any("architectures")) {
        if (!list->is_array() || list->size() != 1 || !(*list)[0].is_string())
            return f.fail("architectures", describe(*list), std::string("[one of ") + kArchitectures + "]");
        architecture = (*list)[0].get<std::string>();
        if (architecture != "LlamaForCausalLM" && architecture != "Qwen2ForCausalLM")
            return f.fail("architectures", describe((*list)[0]), kArchitectures);
    }
    std::string type = f.has("model_type") ? f.string("model_type") : "";
    if (type.empty()) type = architecture == "Qwen2ForCausalLM" ? "qwen2" : architecture.empty() ? "" : "llama";
    if (type.empty()) return f.fail("architectures", "nothing", kArchitectures);
    if (type != "llama" && type != "qwen2")
        return f.fail("model_type", '"' + shorten(type, 80) + '"', "llama or qwen2");
    if (!architecture.empty() && (type == "qwen2") != (architecture == "Qwen2ForCausalLM"))
        return f.fail("model_type", '"' + type + '"', "the one of " + architecture);
    c.kind = type;
}

int64_t size(Fields& f, const char* key, int64_t max) {
    f.require(key);
    return f.integer(key, 0, 1, max);
}

int64_t optional_size(Fields& f, const char* key, int64_t fallback, int64_t max) {
    if (f.has(key)) return f.integer(key, fallback, 1, max);
    f.ignore(key);
    return fallback;
}

void read_sizes(Fields& f, ModelConfig& c) {
    const bool qwen2 = c.kind == "qwen2";
    c.vocab_size = size(f, "vocab_size", ConfigLimits::vocab_size);
    c.hidden_size = size(f, "hidden_size", ConfigLimits::hidden_size);
    c.intermediate_size = size(f, "intermediate_size", ConfigLimits::intermediate_size);
    c.num_layers = size(f, "num_hidden_layers", ConfigLimits::num_layers);
    c.num_heads = size(f, "num_attention_heads", ConfigLimits::num_heads);
    // transformers: an absent key means 32 for qwen2 and "as many as heads" for llama; null means the latter for both.
    const int64_t kv_default = qwen2 && !f.any("num_key_value_heads") ? 32 : c.num_heads;
    c.num_kv_heads = optional_size(f, "num_key_value_heads", kv_default, ConfigLimits::num_heads);
    c.max_position = optional_size(f, "max_position_embeddings", qwen2 ? 32768 : 2048, ConfigLimits::max_position);
    c.head_dim = optional_size(f, "head_dim", 0, ConfigLimits::head_dim);
    if (c.head_dim == 0 && c.num_heads > 0) {
        if (c.hidden_size % c.num_heads != 0)
            f.fail("num_attention_heads", std::to_string(c.num_heads),
                   "a divisor of hidden_size " + std::to_string(c.hidden_size) + ", or a head_dim");
        c.head_dim = c.hidden_size / c.num_heads;
    }
    c.rms_norm_eps = float(f.number("rms_norm_eps", 1e-6, 0, 1));
}

void read_switches(Fields& f, ModelConfig& c) {
    const std::string act = f.string("hidden_act", "silu");
    if (act != "silu" && act != "swish") f.fail("hidden_act", '"' + shorten(act, 80) + '"', "silu");
    if (c.kind == "qwen2") {
        c.qkv_bias = true;  // hard-wired
    } else {
        c.qkv_bias = c.o_bias = f.boolean("attention_bias", false);
        c.mlp_bias = f.boolean("mlp_bias", false);
    }
    c.tied_embeddings = f.boolean("tie_word_embeddings", false);
}

// A window as wide as the context changes nothing; any other is refused.
void refuse_sliding_window(Fields& f, const ModelConfig& c) {
    const char* const expected = "full attention in every layer";
    if (const Json* types = f.any("layer_types")) {
        const bool full = types->is_array() && std::all_of(types->begin(), types->end(), [](const Json& type) {
                              return type.is_string() && type.get_ref<const std::string&>() == "full_attention";
                          });
        if (!full) f.fail("layer_types", "sliding or unknown attention", expected);
    }
    const bool used = f.boolean("use_sliding_window", c.kind == "llama");
    const int64_t from_layer = f.has("max_window_layers") ? f.integer("max_window_layers", 0) : 0;
    f.ignore("max_window_layers");
    if (!f.has("sliding_window")) return;
    const int64_t window = f.integer("sliding_window", 0, 0);
    const bool in_a_layer = c.kind == "llama" || from_layer < c.num_layers;
    if (used && in_a_layer && window < c.max_position)
        f.fail("sliding_window", std::to_string(window), std::string(expected) + " (null)");
}

// Switches of neighbouring architectures: harmless at their neutral value, a different model at any other.
void refuse_foreign_switches(Fields& f) {
    struct Switch {
        const char* key;
        double neutral;
    };
    constexpr Switch switches[] = {
        {"partial_rotary_factor", 1},
        {"logits_scaling", 1},
        {"logit_scale", 1},
        {"embedding_multiplier", 1},
        {"residual_multiplier", 1},
        {"attention_multiplier", 1},
        {"scale_emb", 1},
        {"scale_depth", 1},
        {"final_logit_softcapping", 0},
        {"attn_logit_softcapping", 0},
        {"query_pre_attn_scalar", 0},
        {"clip_qkv", 0},
        {"num_local_experts", 0},
        {"num_experts", 0},
        {"n_routed_experts", 0},
        {"attention_chunk_size", 0},
        {"use_qk_norm", 0},
        {"qk_norm", 0},
        {"alibi", 0},
        {"rope_interleaved", 0},
    };
    for (const Switch& s : switches) {
        const Json* value = f.any(s.key);
        if (!value) continue;
        const bool neutral = (value->is_boolean() && double(value->get<bool>()) == s.neutral) ||
                             (value->is_number() && value->get<double>() == s.neutral);
        if (!neutral) f.fail(s.key, describe(*value), "a Llama or Qwen2 model without it");
    }
    for (const char* key : {"quantization_config", "compression_config", "no_rope_layers"})
        if (const Json* value = f.any(key); value && !value->empty())
            f.fail(key, describe(*value), "weights in float32, bfloat16 or float16 and no such key");
}

// rope_scaling (transformers 4) and rope_parameters (5) hold the same keys; the latter also theta.
void read_rope_object(const Json& json, const std::string& file, const std::string& key, ModelConfig& c, Fields& outer,
                      std::vector<std::string>& warnings) {
    Fields f(json, file, key);
    const char* const type_key = f.has("rope_type") ? "rope_type" : "type";
    f.ignore("type");  // the old spelling; both may be there
    RopeConfig& rope = c.rope;
    rope.type = f.one_of(type_key, "default", {"default", "linear", "llama3"});
    rope.theta = f.number("rope_theta", rope.theta, 1e-3, 1e30);
    if (rope.type != "default") f.require("factor");
    rope.factor = f.number("factor", 1, 1e-6, 1e9);
    if (rope.type == "llama3") {
        for (const char* needed : {"low_freq_factor", "high_freq_factor", "original_max_position_embeddings"})
            f.require(needed);
        rope.low_freq_factor = f.number("low_freq_factor", 1, 1e-6, 1e9);
        rope.high_freq_factor = f.number("high_freq_factor", 4, 1e-6, 1e9);
        if (rope.high_freq_factor <= rope.low_freq_factor)
            f.fail("high_freq_factor", describe(*f.any("high_freq_factor")), "more than low_freq_factor");
        rope.original_max_position = f.integer("original_max_position_embeddings", 0, 1, ConfigLimits::max_position);
    } else {
        f.ignore("original_max_position_embeddings");
        if (rope.type == "default" && rope.factor != 1)
            warnings.push_back(key + ".factor has no effect with rope type default");
    }
    if (const double partial = f.number("partial_rotary_factor", 1); partial != 1)
        f.fail("partial_rotary_factor", std::to_string(partial), "1");
    if (const Result<void> done = f.finish(); !done)
        outer.fail(done.error().field, done.error().found, done.error().expected);
}

void read_rope(Fields& f, const std::string& file, ModelConfig& c, std::vector<std::string>& warnings) {
    c.rope.theta = f.has("rope_theta") ? f.number("rope_theta", 1e4, 1e-3, 1e30) : 1e4;
    const Json* scaling = f.any("rope_scaling");
    const Json* parameters = f.any("rope_parameters");
    if (scaling && parameters && *scaling != *parameters)
        return f.fail("rope_scaling", "a value that differs from rope_parameters", "one of the two");
    if (parameters)
        read_rope_object(*parameters, file, "rope_parameters", c, f, warnings);
    else if (scaling)
        read_rope_object(*scaling, file, "rope_scaling", c, f, warnings);
}

// One id, a list of ids or null.
std::vector<Token> read_ids(Fields& f, const char* key) {
    const Json* value = f.any(key);
    if (!value) return {};
    const Json list = value->is_array() ? *value : Json::array({*value});
    std::vector<Token> ids;
    for (const Json& id : list) {
        if (!id.is_number_integer() || id.get<int64_t>() < -1 || id.get<int64_t>() > ConfigLimits::vocab_size) {
            f.fail(key, describe(id), "a token id or a list of them");
            return {};
        }
        if (id.get<int64_t>() >= 0) ids.push_back(Token(id.get<int64_t>()));
    }
    return ids;
}

}  // namespace

Result<ModelConfig> read_hf_config(const Json& json, const std::string& file, std::vector<std::string>& warnings) {
    Fields f(json, file);
    if (!f.ok()) return f.finish().error();
    ModelConfig c;
    if (f.has("peft_type")) f.fail("peft_type", "an adapter's config", "a base model's");
    read_kind(f, c);
    if (f.ok()) read_sizes(f, c);
    if (f.ok()) read_switches(f, c);
    if (f.ok()) read_rope(f, file, c, warnings);
    if (f.ok()) refuse_sliding_window(f, c);
    if (f.ok()) refuse_foreign_switches(f);
    c.eos = read_ids(f, "eos_token_id");
    if (const std::vector<Token> bos = read_ids(f, "bos_token_id"); !bos.empty()) c.bos = bos.front();
    if (f.any("auto_map")) warnings.push_back("the code that auto_map names is not run");
    TRY_VOID(f.finish_known_only());
    TRY_VOID(check_config(c, file, {"num_attention_heads", "num_key_value_heads", "head_dim"}, warnings));
    return c;
}

Result<void> apply_generation_config(const Json& json, const std::string& file, ModelConfig& config,
                                     std::vector<std::string>& warnings) {
    Fields f(json, file);
    const std::vector<Token> eos = f.ok() ? read_ids(f, "eos_token_id") : std::vector<Token>{};
    TRY_VOID(f.finish_known_only());
    if (!eos.empty()) config.eos = eos;
    return check_config(config, file, {"num_attention_heads", "num_key_value_heads", "head_dim"}, warnings);
}

Result<void> check_config(ModelConfig& c, const std::string& file, const ConfigNames& names,
                          std::vector<std::string>& warnings) {
    if (c.num_kv_heads > c.num_heads || c.num_heads % c.num_kv_heads != 0)
        return Error{file, names.kv_heads, std::to_string(c.num_kv_heads),
                     std::string("a divisor of ") + names.heads + " " + std::to_string(c.num_heads)};
    if (c.head_dim < 2 || c.head_dim % 2 != 0)
        return Error{file, names.head_dim, std::to_string(c.head_dim), "an even number of at least 2"};
    std::vector<Token> kept;
    for (const Token id : c.eos)
        if (id < c.vocab_size)
            kept.push_back(id);
        else
            warnings.push_back("end token " + std::to_string(id) + " lies outside the vocabulary of " +
                               std::to_string(c.vocab_size) + " and is left out");
    c.eos = std::move(kept);
    if (c.bos >= c.vocab_size) c.bos = -1;
    return {};
}

}  // namespace spartan
