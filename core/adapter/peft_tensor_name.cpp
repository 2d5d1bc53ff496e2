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
constexpr std::array<Part, 8> kParts = {{
    {"boft_R", "", TensorRole::boft_r},
    {"boft_s", "", TensorRole::boft_s},
    {"oft_R", "weight", TensorRole::oft_r},
    {"lora_A", "weight", TensorRole::lora_a},
    {"lora_B", "weight", TensorRole::lora_b},
    {"lora_B", "bias", TensorRole::lora_b_bias},
    {"lora_magnitude_vector", "", TensorRole::magnitude},
    {"lora_magnitude_vector", "weight", TensorRole::magnitude},
}};

struct Unsupported {
    std::string_view word, reason, instead;
};
constexpr std::string_view kRetrain = "OFT trained with PEFT 0.16 or later (oft_R.weight)";
constexpr std::array<Unsupported, 9> kUnsupported = {{
    {"oft_r", "OFT of PEFT 0.7 to 0.15", kRetrain},
    {"oft_s", "OFT of PEFT 0.14 to 0.15", kRetrain},
    {"oft_embedding_R", "a rotated embedding", "adapters of linear layers"},
    {"lora_embedding_A", "an adapted embedding", "adapters of linear layers"},
    {"lora_embedding_B", "an adapted embedding", "adapters of linear layers"},
    {"trainable_tokens_delta", "trained tokens", "adapters of linear layers"},
    {"token_adapter", "trained tokens", "adapters of linear layers"},
    {"modules_to_save", "a full copy of a module", "adapters of linear layers"},
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

bool is_embedding(std::string_view module) { return module == "model.embed_tokens" || module == "lm_head"; }

// `MODULE.base_layer.LEAF` and `MODULE.LEAF`: biases, and copies of embeddings.
TensorName plain_tensor(std::vector<std::string_view> words) {
    TensorName name;
    const std::string_view leaf = words.back();
    words.pop_back();
    if (!words.empty() && words.back() == "base_layer") words.pop_back();
    const std::string module = joined(words, words.size());
    if (leaf == "weight" && is_embedding(module)) {
        name.kind = TensorName::Kind::embedding_copy;
    } else if (leaf == "bias" && parse_module_name(module)) {
        name.kind = TensorName::Kind::part;
        name.module = module;
        name.role = TensorRole::bias;
    } else if (leaf == "weight") {
        name.reason = "a full weight";
        name.instead = "adapters of linear layers: full copies of modules are not supported";
    }
    return name;
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
    if (parsed.kind == TensorName::Kind::part && !parse_module_name(parsed.module)) {
        parsed.kind = TensorName::Kind::refused;
        parsed.reason = "the module " + parsed.module;
        parsed.instead = "model.layers.N.self_attn.{q,k,v,o}_proj or model.layers.N.mlp.{gate,up,down}_proj";
        if (is_embedding(parsed.module)) parsed.instead += ": adapted embeddings and output heads are not supported";
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
    const std::vector<std::string_view> words = split(module);
    if (words.size() != 5 || words[0] != "model" || words[1] != "layers") return std::nullopt;
    const std::string_view number = words[2];
    if (number.empty() || number.size() > 6 || (number.size() > 1 && number[0] == '0')) return std::nullopt;
    ModuleName name;
    const auto parsed = std::from_chars(number.data(), number.data() + number.size(), name.layer);
    if (parsed.ec != std::errc() || parsed.ptr != number.data() + number.size() || name.layer < 0) return std::nullopt;
    for (int i = 0; i < kNumProjections; ++i) {
        name.projection = Projection(i);
        const bool is_mlp = name.projection >= Projection::gate;
        if (words[3] == (is_mlp ? "mlp" : "self_attn") && words[4] == name_of(name.projection)) return name;
    }
    return std::nullopt;
}

}  // namespace spartan
