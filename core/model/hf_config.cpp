#include "core/model/hf_config.h"

#include "core/base/text.h"
#include "core/model/family.h"
#include "core/model/hf_layers.h"
#include "core/model/hf_rope.h"

#include <cmath>

namespace spartan {
namespace {

// By architectures and model_type; both must agree where both are there. Null after a fault.
const Family* read_family(Fields& f) {
    const Family* by_architecture = nullptr;
    if (const Json* list = f.any("architectures")) {
        const std::string expected = family_architectures();
        if (!list->is_array() || list->size() != 1 || !(*list)[0].is_string())
            return f.fail("architectures", describe(*list), "[one of " + expected + "]"), nullptr;
        by_architecture = find_family_of_architecture((*list)[0].get_ref<const std::string&>());
        if (!by_architecture) return f.fail("architectures", describe((*list)[0]), expected), nullptr;
    }
    if (!f.has("model_type")) {
        if (!by_architecture) f.fail("architectures", "nothing", family_architectures());
        return by_architecture;
    }
    const std::string type = f.string("model_type");
    const Family* family = find_family(type);
    if (!family) return f.fail("model_type", '"' + shorten(type, 80) + '"', family_kinds()), nullptr;
    if (by_architecture && by_architecture != family)
        return f.fail("model_type", '"' + type + '"', std::string("the one of ") + by_architecture->architecture),
               nullptr;
    return family;
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

void read_sizes(Fields& f, const Family& family, ModelConfig& c) {
    c.vocab_size = size(f, "vocab_size", ConfigLimits::vocab_size);
    c.hidden_size = size(f, "hidden_size", ConfigLimits::hidden_size);
    c.intermediate_size = size(f, "intermediate_size", ConfigLimits::intermediate_size);
    c.num_layers = size(f, "num_hidden_layers", ConfigLimits::num_layers);
    c.num_heads = size(f, "num_attention_heads", ConfigLimits::num_heads);
    // transformers: null means "as many as heads" for all, an absent key the family's own number.
    const bool own = family.kv_heads > 0 && !f.is_there("num_key_value_heads");
    c.num_kv_heads =
        optional_size(f, "num_key_value_heads", own ? family.kv_heads : c.num_heads, ConfigLimits::num_heads);
    c.max_position = optional_size(f, "max_position_embeddings", family.max_position, ConfigLimits::max_position);
    c.head_dim = optional_size(f, "head_dim", f.is_there("head_dim") ? 0 : family.head_dim, ConfigLimits::head_dim);
    if (c.head_dim == 0 && c.num_heads > 0) {
        if (c.hidden_size % c.num_heads != 0)
            f.fail("num_attention_heads", std::to_string(c.num_heads),
                   "a divisor of hidden_size " + std::to_string(c.hidden_size) + ", or a head_dim");
        c.head_dim = c.hidden_size / c.num_heads;
    }
    c.rms_norm_eps = float(f.number("rms_norm_eps", family.rms_norm_eps, 0, 1));
}

// transformers 5 goes by hidden_act alone; 4 went by gemma's hidden_activation and took the tanh form where that was
// not set.
void read_activation(Fields& f, const Family& family, ModelConfig& c, std::vector<std::string>& warnings) {
    const std::string name = f.string("hidden_act", family.activation);
    if (name == "silu" || name == "swish") {
        c.gate_function = GateFunction::silu;
    } else if (name == "gelu_pytorch_tanh" || name == "gelu_new") {
        c.gate_function = GateFunction::gelu_tanh;
    } else if (name == "gelu") {
        c.gate_function = GateFunction::gelu;
        if (family.norm_adds_one)
            warnings.push_back(
                "hidden_act is gelu, which transformers 5 computes exactly and transformers 4 took for "
                "gelu_pytorch_tanh: it is exact here");
    } else {
        f.fail("hidden_act", '"' + shorten(name, 80) + '"', "silu, gelu or gelu_pytorch_tanh");
    }
    if (f.has("hidden_activation"))
        if (const std::string other = f.string("hidden_activation"); other != name && family.norm_adds_one)
            warnings.push_back("hidden_activation " + shorten(other, 40) +
                               " is not used, as in transformers 5: hidden_act " + shorten(name, 40) + " is");
}

void read_switches(Fields& f, const Family& family, ModelConfig& c) {
    const auto bias = [&](const char* key, bool known) {
        const bool value = f.boolean(key, false);
        if (value && !known) f.fail(key, "true", std::string("false: a ") + family.kind + " model has none");
        return value && known;
    };
    c.o_bias = bias("attention_bias", family.attention_bias_key);
    c.qkv_bias = family.qkv_bias || c.o_bias;
    c.mlp_bias = bias("mlp_bias", family.mlp_bias_key);
    c.tied_embeddings = f.boolean("tie_word_embeddings", family.tied);
    c.qk_norm = family.qk_norm;
    c.norm_adds_one = family.norm_adds_one;
    c.fused_projections = family.fused_projections;
    if (family.scales_embedding) c.embedding_multiplier = float(std::sqrt(double(c.hidden_size)));
    if (!family.multipliers) return;
    c.embedding_multiplier = float(f.number("embedding_multiplier", 1, 1e-9, 1e9));
    c.attention_multiplier = float(f.number("attention_multiplier", 1, 1e-9, 1e9));
    c.residual_multiplier = float(f.number("residual_multiplier", 1, 1e-9, 1e9));
    c.logits_scaling = float(f.number("logits_scaling", 1, 1e-9, 1e9));
}

// Switches of neighbouring architectures: harmless at their neutral value, a different model at any other.
void refuse_foreign_switches(Fields& f, const Family& family) {
    struct Switch {
        const char* key;
        double neutral;
    };
    constexpr Switch switches[] = {
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
        {"use_bidirectional_attention", 0},
        {"add_cross_attention", 0},
        {"use_mrope", 0},
    };
    const std::string expected = std::string("a ") + family.kind + " model without it";
    for (const Switch& s : switches) {
        if (f.was_read(s.key)) continue;
        const Json* value = f.any(s.key);
        if (!value) continue;
        const bool neutral = (value->is_boolean() && double(value->get<bool>()) == s.neutral) ||
                             (value->is_number() && value->get<double>() == s.neutral);
        if (!neutral) f.fail(s.key, describe(*value), expected);
    }
    for (const char* key : {"quantization_config", "compression_config", "no_rope_layers", "pruned_heads"}) {
        if (f.was_read(key)) continue;
        if (const Json* value = f.any(key); value && !value->empty())
            f.fail(key, describe(*value), "weights in float32, bfloat16 or float16 and no such key");
    }
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
    const Family* family = f.ok() ? read_family(f) : nullptr;
    if (!family) return f.finish_known_only().error();
    c.kind = family->kind;
    read_sizes(f, *family, c);
    if (f.ok()) read_activation(f, *family, c, warnings);
    if (f.ok()) read_switches(f, *family, c);
    if (f.ok()) read_hf_rope(f, file, *family, c, warnings);
    if (f.ok()) read_hf_layers(f, *family, c);
    if (f.ok()) refuse_foreign_switches(f, *family);
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
