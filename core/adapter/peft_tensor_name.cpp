#include "core/adapter/peft_tensor_name.h"

#include <array>
#include <charconv>

namespace spartan {
namespace {

constexpr std::string_view kPrefix = "base_model.model.";
constexpr std::string_view kCompiled = "_orig_mod.";

struct Part {
    std::string_view word;
    std::string_view leaf;  // "weight", "bias", or "" for a bare parameter
    TensorRole role;
};
constexpr std::array<Part, 14> kParts = {{
    {"boft_R", "", TensorRole::boft_r},
    {"boft_s", "", TensorRole::boft_s},
    {"oft_R", "weight", TensorRole::oft_r},
    {"oft_embedding_R", "weight", TensorRole::oft_embedding_r},
    {"oft_r", "", TensorRole::old_oft_r},
    {"oft_s", "", TensorRole::old_oft_s},
    {"lora_A", "weight", TensorRole::lora_a},
    {"lora_B", "weight", TensorRole::lora_b},
    {"lora_B", "bias", TensorRole::lora_b_bias},
    {"lora_embedding_A", "", TensorRole::lora_embedding_a},
    {"lora_embedding_B", "", TensorRole::lora_embedding_b},
    {"lora_magnitude_vector", "", TensorRole::magnitude},
    {"lora_magnitude_vector", "weight", TensorRole::magnitude},
    {"token_adapter", "trainable_tokens_delta", TensorRole::token_rows},
}};

struct Unsupported {
    std::string_view word, reason, instead;
};
constexpr std::array<Unsupported, 2> kUnsupported = {{
    {"modules_to_save", "a module's copy under a training name", "the file that PEFT's save_pretrained() writes"},
    {"lora_velora_embed", "VeLoRA", "plain LoRA"},
}};

std::string without_prefixes(std::string_view name) {
    std::string s(name);
    for (size_t at = s.find(kCompiled); at != std::string::npos; at = s.find(kCompiled)) s.erase(at, kCompiled.size());
    if (s.compare(0, kPrefix.size(), kPrefix) == 0) s.erase(0, kPrefix.size());
    return s;
}

std::vector<std::string_view> split(std::string_view s) {
    std::vector<std::string_view> words;
    for (size_t dot = s.find('.'); dot != std::string_view::npos; dot = s.find('.')) {
        words.push_back(s.substr(0, dot));
        s.remove_prefix(dot + 1);
    }
    words.push_back(s);
    return words;
}

std::string joined(const std::vector<std::string_view>& words, size_t count) {
    std::string s;
    for (size_t i = 0; i < count; ++i) s += (i ? "." : "") + std::string(words[i]);
    return s;
}

// What follows the part's word: [ADAPTER][.LEAF].
bool leaf_matches(const std::vector<std::string_view>& words, size_t at, std::string_view leaf) {
    const size_t rest = words.size() - at - 1;
    if (leaf.empty()) return rest == 0 || (rest == 1 && words.back() != "weight" && words.back() != "bias");
    return (rest == 1 || rest == 2) && words.back() == leaf;
}

TensorName part_of(const std::vector<std::string_view>& words, size_t at) {
    TensorName name;
    name.module = joined(words, at);
    for (const Part& part : kParts) {
        if (part.word != words[at] || !leaf_matches(words, at, part.leaf)) continue;
        name.kind = TensorName::Kind::part;
        name.role = part.role;
        return name;
    }
    return {};
}

// `MODULE.base_layer.LEAF` and `MODULE.LEAF`: biases, and full copies of embeddings, heads and norms.
TensorName plain_tensor(std::vector<std::string_view> words) {
    TensorName name;
    const std::string_view leaf = words.back();
    words.pop_back();
    if (!words.empty() && words.back() == "base_layer") words.pop_back();
    const std::string module = joined(words, words.size());
    const auto where = parse_module_name(module);
    const bool is_linear =
        where && (where->kind == ModuleName::Kind::projection || where->kind == ModuleName::Kind::fused);
    if (where && ((leaf == "weight" && !is_linear) || (leaf == "bias" && is_linear))) {
        name.kind = TensorName::Kind::part;
        name.module = module;
        name.role = leaf == "bias" ? TensorRole::bias : TensorRole::copy;
    } else if (leaf == "weight") {
        name.reason = "a full weight";
        name.instead =
            "parts of LoRA, BOFT or OFT: full copies are served of embed_tokens, lm_head and norms; merge others into "
            "the base with PEFT's merge_and_unload()";
    }
    return name;
}

struct LayerModule {
    std::string_view block, leaf;
    ModuleName name;
};

// What follows "model.layers.N.".
std::optional<ModuleName> parse_layer_module(const std::vector<std::string_view>& words, ModuleName name) {
    using Kind = ModuleName::Kind;
    constexpr std::string_view kAttention = "self_attn", kMlp = "mlp";
    static const LayerModule others[] = {
        {"", "input_layernorm", {Kind::norm, 0, {}, NormRole::attention}},
        {"", "post_attention_layernorm", {Kind::norm, 0, {}, NormRole::mlp}},
        {kAttention, "q_norm", {Kind::norm, 0, {}, NormRole::q}},
        {kAttention, "k_norm", {Kind::norm, 0, {}, NormRole::k}},
        {kAttention, "qkv_proj", {Kind::fused, 0, Projection::q, {}}},
        {kMlp, "gate_up_proj", {Kind::fused, 0, Projection::gate, {}}},
    };
    const std::string_view block = words.size() == 5 ? words[3] : "", leaf = words.back();
    for (const LayerModule& other : others) {
        if (block != other.block || leaf != other.leaf) continue;
        const int layer = name.layer;
        name = other.name;
        name.layer = layer;
        return name;
    }
    for (int i = 0; i < kNumProjections; ++i) {
        name.projection = Projection(i);
        if (block == (name.projection >= Projection::gate ? kMlp : kAttention) && leaf == name_of(name.projection))
            return name;
    }
    return std::nullopt;
}

// Parts of lookups belong to embed_tokens and nowhere else; trained tokens to both tables.
bool fits_module(TensorRole role, ModuleName::Kind kind) {
    const bool is_embedding = kind == ModuleName::Kind::embedding, is_head = kind == ModuleName::Kind::head;
    switch (role) {
        case TensorRole::oft_embedding_r:
        case TensorRole::lora_embedding_a:
        case TensorRole::lora_embedding_b:
            return is_embedding;
        case TensorRole::token_rows:
            return is_embedding || is_head;
        case TensorRole::magnitude:
            return kind != ModuleName::Kind::norm;
        case TensorRole::copy:
            return is_embedding || is_head || kind == ModuleName::Kind::norm;
        default:
            return !is_embedding && kind != ModuleName::Kind::norm;
    }
}

}  // namespace

TensorName parse_tensor_name(std::string_view full) {
    const std::string name = without_prefixes(full);
    const std::vector<std::string_view> words = split(name);
    TensorName parsed;
    bool found = false;
    for (size_t i = 0; i < words.size() && !found; ++i) {
        for (const Unsupported& u : kUnsupported) {
            if (words[i] != u.word) continue;
            parsed.reason = u.reason;
            parsed.instead = u.instead;
            return parsed;
        }
        if (words[i] == "boft_P") {  // PEFT 0.11 and 0.12 saved the permutations; they follow from the shapes
            parsed.kind = TensorName::Kind::ignored;
            return parsed;
        }
        for (const Part& part : kParts) {
            if (part.word != words[i]) continue;
            parsed = part_of(words, i);
            found = true;
            break;
        }
    }
    if (!found) parsed = plain_tensor(words);
    const auto where = parse_module_name(parsed.module);
    if (parsed.kind == TensorName::Kind::part && (!where || !fits_module(parsed.role, where->kind))) {
        parsed.kind = TensorName::Kind::refused;
        parsed.reason = "the module " + parsed.module;
        parsed.instead =
            "model.layers.N.self_attn.{q,k,v,o}_proj, model.layers.N.mlp.{gate,up,down}_proj, lm_head or parts of "
            "model.embed_tokens";
        if (parsed.module.compare(0, 7, "layers.") == 0)
            parsed.instead += ": this adapter was trained on a model without a head; train it with task_type CAUSAL_LM";
    }
    if (parsed.kind == TensorName::Kind::refused && parsed.reason.empty()) {
        parsed.reason = "a tensor that is not part of a LoRA, BOFT or OFT adapter";
        parsed.instead = "lora_A/lora_B, boft_R/boft_s or oft_R";
    }
    return parsed;
}

std::optional<ModuleName> parse_module_name(std::string_view module) {
    using Kind = ModuleName::Kind;
    if (module == "model.embed_tokens") return ModuleName{Kind::embedding, -1, {}, {}};
    if (module == "lm_head") return ModuleName{Kind::head, -1, {}, {}};
    if (module == "model.norm") return ModuleName{Kind::norm, 0, {}, NormRole::final};
    const std::vector<std::string_view> words = split(module);
    if (words.size() < 4 || words.size() > 5 || words[0] != "model" || words[1] != "layers") return std::nullopt;
    const std::string_view number = words[2];
    if (number.empty() || number.size() > 6 || (number.size() > 1 && number[0] == '0')) return std::nullopt;
    ModuleName name;
    const auto parsed = std::from_chars(number.data(), number.data() + number.size(), name.layer);
    if (parsed.ec != std::errc() || parsed.ptr != number.data() + number.size() || name.layer < 0) return std::nullopt;
    return parse_layer_module(words, name);
}

std::vector<Projection> projections_of(const ModuleName& where) {
    if (where.kind == ModuleName::Kind::projection) return {where.projection};
    if (where.kind != ModuleName::Kind::fused) return {};
    if (where.projection == Projection::q) return {Projection::q, Projection::k, Projection::v};
    return {Projection::gate, Projection::up};
}

}  // namespace spartan
