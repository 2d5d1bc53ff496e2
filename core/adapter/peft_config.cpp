#include "core/adapter/peft_config.h"

#include "core/adapter/module_pattern.h"
#include "core/base/text.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <set>

namespace spartan {
namespace {

constexpr int64_t kMaxSize = 1 << 20;  // of ranks, blocks and factors; the tensors and the base bound them further
constexpr int64_t kMaxNeumannTerms = 64;
constexpr double kMaxAlpha = 1e9;

// A value that says "not used": what a key that this program does not know may hold.
bool is_unset(const Json& value) {
    if (value.is_string()) return value.get_ref<const std::string&>().empty();
    if (value.is_array() || value.is_object()) return value.empty();
    return value.is_null() || value == false;
}

struct Refused {
    const char* key;
    const char* expected;
};

void refuse(Fields& f, std::initializer_list<Refused> list) {
    for (const auto& [key, expected] : list) {
        const Json* value = f.any(key);
        if (value && !is_unset(*value)) f.fail(key, describe(*value), expected);
    }
}

void ignore(Fields& f, std::initializer_list<const char*> keys) {
    for (const char* key : keys) f.ignore(key);
}

// Keys that may hold null for "the default".
int64_t integer_or_null(Fields& f, const char* key, int64_t fallback, int64_t min, int64_t max) {
    return f.any(key) ? f.integer(key, fallback, min, max) : fallback;
}

std::optional<std::vector<std::string>> string_list(Fields& f, const char* key) {
    const Json* value = f.any(key);
    if (!value || value->is_string()) return std::nullopt;
    std::vector<std::string> list;
    if (!value->is_array()) f.fail(key, describe(*value), "a list of module names, a pattern or null");
    for (const Json& item : *value) {
        if (item.is_string()) {
            list.push_back(item.get<std::string>());
        } else {
            f.fail(key, describe(item), "module names");
        }
    }
    return list;
}

std::optional<std::vector<int64_t>> layer_list(Fields& f) {
    const Json* value = f.any("layers_to_transform");
    if (!value) return std::nullopt;
    std::vector<int64_t> layers;
    const auto add = [&](const Json& item) {
        const bool good = item.is_number_integer() && item.get<double>() >= 0 && item.get<double>() < 1e6;
        if (good)
            layers.push_back(item.get<int64_t>());
        else
            f.fail("layers_to_transform", describe(item), "layer numbers");
    };
    if (value->is_array()) {
        if (value->empty()) return std::nullopt;  // all layers, as for PEFT
        for (const Json& item : *value) add(item);
    } else {
        add(*value);
    }
    return layers;
}

void read_layers_pattern(Fields& f) {
    const Json* value = f.any("layers_pattern");
    if (!value || is_unset(*value)) return;
    const bool known = *value == "layers" || (value->is_array() && value->size() == 1 && (*value)[0] == "layers");
    if (!known) f.fail("layers_pattern", describe(*value), "\"layers\" or null");
}

void read_bias(Fields& f, PeftConfig& c, const char* only) {
    c.keeps_bias = f.one_of("bias", "none", {"none", "all", only}) != "none";
}

std::vector<int64_t> read_ids(Fields& f, const Json& list) {
    std::vector<int64_t> ids;
    const auto bad = [&](const Json& what, const char* expected) {
        f.fail("trainable_token_indices", describe(what), expected);
        return std::vector<int64_t>();
    };
    if (!list.is_array() || list.empty()) return bad(list, "a list of token ids, or one for each module's name");
    for (const Json& item : list) {
        const bool good = item.is_number_integer() && item.get<double>() >= 0 && item.get<double>() < double(1 << 30);
        if (!good) return bad(item, "token ids");
        if (std::count(ids.begin(), ids.end(), item.get<int64_t>())) return bad(item, "each token once");
        ids.push_back(item.get<int64_t>());
    }
    return ids;
}

// A list means the embedding's tokens; an object names the modules.
void read_tokens(Fields& f, PeftConfig& c) {
    const Json* value = f.any("trainable_token_indices");
    if (!value || is_unset(*value)) return;
    if (!value->is_object()) {
        c.tokens.emplace_back("embed_tokens", read_ids(f, *value));
        return;
    }
    for (const auto& [name, ids] : value->items()) c.tokens.emplace_back(name, read_ids(f, ids));
}

// What all tuners share.
void read_common(Fields& f, PeftConfig& c) {
    if (const Json* name = f.any("base_model_name_or_path"); name) c.base_name = f.string("base_model_name_or_path");
    if (f.any("task_type")) f.one_of("task_type", "CAUSAL_LM", {"CAUSAL_LM"});
    c.targets = string_list(f, "target_modules");
    c.excluded = string_list(f, "exclude_modules");
    c.layers = layer_list(f);
    read_layers_pattern(f);
    ignore(f, {"revision", "inference_mode", "auto_mapping", "init_weights"});
    if (auto saved = string_list(f, "modules_to_save")) c.saved = std::move(*saved);
    read_tokens(f, c);
    refuse(f, {{"target_parameters", "null: adapted parameters outside linear layers are not supported"}});
    if (f.boolean("fan_in_fan_out"))
        c.warnings.push_back("fan_in_fan_out has no effect: every layer it could apply to is a linear layer");
}

void read_init_lora_weights(Fields& f) {
    const Json* value = f.any("init_lora_weights");
    if (!value || value->is_boolean()) return;
    constexpr const char* kLoftq =
        "true: LoftQ changes the base's weights too; convert it: save the base that it made with "
        "get_base_model().save_pretrained(), use that as the model, and set true";
    constexpr const char* kExpected =
        "true: this start changes the base's weights too; convert the adapter with PEFT's "
        "save_pretrained(…, path_initial_model_for_weight_conversion=…)";
    const std::string init = value->is_string() ? value->get<std::string>() : "";
    for (const char* harmless : {"gaussian", "eva", "orthogonal", "mica", "lora_ga"})
        if (init == harmless) return;
    if (init == "loftq") return f.fail("init_lora_weights", describe(*value), kLoftq);
    const bool changes_base =
        init.rfind("pissa", 0) == 0 || init == "olora" || init == "OLoRA" || init.rfind("corda", 0) == 0;
    f.fail("init_lora_weights", describe(*value), changes_base ? kExpected : "true, false or \"gaussian\"");
}

template <class T>
PatternList<T> read_pattern(Fields& f, const std::string& file, const char* key, T min, T max) {
    PatternList<T> list;
    const Json* value = f.any(key);
    if (!value) return list;
    if (!value->is_object()) {
        f.fail(key, describe(*value), "an object");
        return list;
    }
    Fields inner(*value, file, key);
    for (const auto& [pattern, number] : value->items()) {
        if constexpr (std::is_same_v<T, int64_t>) {
            list.emplace_back(pattern, inner.integer(pattern.c_str(), 0, min, max));
        } else {
            list.emplace_back(pattern, inner.number(pattern.c_str(), 0, min, max));
        }
    }
    if (auto done = inner.finish_known_only(); !done)
        f.fail(key, done.error().found + " for " + done.error().field, done.error().expected);
    return list;
}

void read_lora(Fields& f, PeftConfig& c) {
    c.r = f.integer("r", 8, 1, kMaxSize);
    c.alpha = f.number("lora_alpha", 8, -kMaxAlpha, kMaxAlpha);
    c.rslora = f.boolean("use_rslora");
    c.lora_bias = f.boolean("lora_bias");
    if (f.boolean("use_dora")) c.kind = AdapterKind::dora;
    if (c.lora_bias && c.kind == AdapterKind::dora) f.fail("lora_bias", "true", "false with use_dora, as in PEFT");
    c.rank_pattern = read_pattern<int64_t>(f, c.file, "rank_pattern", 1, kMaxSize);
    c.alpha_pattern = read_pattern<double>(f, c.file, "alpha_pattern", -kMaxAlpha, kMaxAlpha);
    read_bias(f, c, "lora_only");
    read_init_lora_weights(f);
    // How it was trained or started; without effect on the saved weights' meaning.
    ignore(f, {"lora_dropout", "runtime_config", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
               "megatron_core", "qalora_group_size"});
    c.ties_weights = f.boolean("ensure_weight_tying");
    refuse(f, {{"alora_invocation_tokens", "null: activated LoRA is not supported"},
               {"layer_replication", "null: replicated layers are not supported"},
               {"use_qalora", "false: QALoRA is not supported"},
               {"use_bdlora", "null: block-diagonal LoRA is not supported"},
               {"arrow_config", "null: Arrow routing is not supported"},
               {"kasa_config", "null: KaSA is not supported"},
               {"monteclora_config", "null: MonteCLoRA is not supported"},
               {"velora_config", "null: VeLoRA is not supported"},
               {"megatron_config", "null: Megatron layers are not supported"}});
}

void read_boft(Fields& f, PeftConfig& c) {
    c.boft_block_size = f.integer("boft_block_size", 4, 0, kMaxSize);
    c.boft_block_num = f.integer("boft_block_num", 0, 0, kMaxSize);
    c.boft_factors = f.integer("boft_n_butterfly_factor", 1, 1, 62);
    if ((c.boft_block_size == 0) == (c.boft_block_num == 0))
        f.fail("boft_block_size",
               std::to_string(c.boft_block_size) + " with boft_block_num " + std::to_string(c.boft_block_num),
               "exactly one of the two not 0");
    read_bias(f, c, "boft_only");
    ignore(f, {"boft_dropout"});
}

// "0.18.1.dev0@1a2b3c" → the series of that release; releases before 0.18 did not write the key.
std::optional<NeumannSeries> series_of(const std::string& version) {
    int major = 0, minor = 0;
    const char* end = version.data() + version.size();
    const auto first = std::from_chars(version.data(), end, major);
    if (first.ec != std::errc() || first.ptr == end || *first.ptr != '.') return std::nullopt;
    if (std::from_chars(first.ptr + 1, end, minor).ec != std::errc() || major < 0 || minor < 0) return std::nullopt;
    return major > 0 || minor >= 18 ? NeumannSeries::peft_0_18 : NeumannSeries::peft_0_16;
}

void read_oft(Fields& f, PeftConfig& c) {
    c.oft_r = f.integer("r", 0, 0, kMaxSize);
    c.has_oft_block_size = f.has("oft_block_size");
    c.oft_block_size = integer_or_null(f, "oft_block_size", 32, 0, kMaxSize);
    // Without the key the file is of PEFT 0.13 or before, and the tensors' refusal says more.
    if (c.has_oft_block_size && (c.oft_r == 0) == (c.oft_block_size == 0))
        f.fail("oft_block_size", std::to_string(c.oft_block_size) + " with r " + std::to_string(c.oft_r),
               "exactly one of the two not 0");
    c.oft_constrained = f.boolean("coft");
    c.oft_eps = f.number("eps", 6e-5, 0, 1e6);
    c.oft_block_share = f.boolean("block_share");
    c.oft_neumann = f.boolean("use_cayley_neumann", true);
    c.oft_terms = f.integer("num_cayley_neumann_terms", 5, 0, kMaxNeumannTerms);
    if (c.oft_neumann && c.oft_terms < 2)
        c.warnings.push_back("num_cayley_neumann_terms is " + std::to_string(c.oft_terms) +
                             ": every rotation is the identity");
    if (f.any("peft_version")) {
        const std::string version = f.string("peft_version");
        const auto series = series_of(version);
        if (series)
            c.oft_series = *series;
        else
            f.fail("peft_version", "\"" + shorten(version, 40) + "\"", "a version such as \"0.18.0\"");
    }
    read_bias(f, c, "oft_only");
    ignore(f, {"module_dropout"});
}

// What PEFT 0.21 has beside the kinds that are served, in a few words; null: not one of its kinds.
const char* about_other_kind(const std::string& type) {
    static const std::map<std::string, const char*> kinds = {
        {"PROMPT_TUNING", "virtual tokens before the prompt"},
        {"MULTITASK_PROMPT_TUNING", "virtual tokens before the prompt"},
        {"P_TUNING", "virtual tokens before the prompt"},
        {"CPT", "context tokens before the prompt"},
        {"PREFIX_TUNING", "keys and values before the prompt's"},
        {"CARTRIDGE", "keys and values before the prompt's"},
        {"ADAPTION_PROMPT", "prompts inside the attention"},
        {"IA3", "IA³, which scales keys, values and MLP activations"},
        {"ADALORA", "LoRA with singular values"},
        {"XLORA", "X-LoRA, a mixture of LoRA adapters"},
        {"POLY", "a mixture of LoRA adapters"},
        {"VERA", "VeRA, scaled random projections"},
        {"PVERA", "scaled random projections"},
        {"VBLORA", "LoRA from a bank of vectors"},
        {"RANDLORA", "scaled random projections"},
        {"LOHA", "LoHa, a Hadamard product of low-rank pairs"},
        {"LOKR", "LoKr, a Kronecker product"},
        {"HIRA", "a Hadamard product with the weight"},
        {"HRA", "HRA, Householder reflections"},
        {"ROAD", "RoAd, which rotates and scales the output"},
        {"PSOFT", "rotations of the principal subspace"},
        {"LN_TUNING", "trained layer norms alone"},
        {"FOURIERFT", "a change sparse in the frequencies"},
        {"WAVEFT", "a change sparse in the wavelets"},
        {"C3A", "circular convolutions"},
        {"TRAINABLE_TOKENS", "trained tokens alone; LoRA with trainable_token_indices is served"}};
    static const std::set<std::string> others = {"ADAMSS",   "BEFT",   "LILY",   "FROD",        "GLORA",  "UNILORA",
                                                 "MISS",     "BONE",   "SHIRA",  "OSF",         "DELORA", "GRALORA",
                                                 "TINYLORA", "PEANUT", "SHADOW", "SUPERTUNING", "DEFT",   "MIXED"};
    const auto it = kinds.find(type);
    return it != kinds.end() ? it->second : others.count(type) ? "another kind of PEFT" : nullptr;
}

// Unknown keys pass when they say nothing; PEFT only warns about them.
void refuse_unknown(Fields& f, const Json& json) {
    for (const auto& [key, value] : json.items())
        if (!f.was_read(key) && !is_unset(value))
            f.fail(shorten(key, 80), describe(value) + " under a key that is not known", "no such key");
}

}  // namespace

Result<PeftConfig> parse_peft_config(const Json& json, const std::string& file) {
    Fields f(json, file);
    f.require("peft_type");
    if (const Json* type = f.any("peft_type"); type && type->is_string())
        if (const char* about = about_other_kind(type->get<std::string>()))
            return Error{file, "peft_type", describe(*type) + ", " + about,
                         "LORA, BOFT, OFT; of other kinds, PEFT's merge_and_unload() makes a model that can be served"};
    const std::string type = f.one_of("peft_type", "", {"LORA", "BOFT", "OFT"});
    TRY_VOID(f.finish_known_only());

    PeftConfig c;
    c.file = file;
    c.kind = type == "BOFT" ? AdapterKind::boft : type == "OFT" ? AdapterKind::oft : AdapterKind::lora;
    read_common(f, c);
    if (c.kind == AdapterKind::boft)
        read_boft(f, c);
    else if (c.kind == AdapterKind::oft)
        read_oft(f, c);
    else
        read_lora(f, c);
    f.ignore("peft_version");
    refuse_unknown(f, json);
    if (auto done = f.finish_known_only(); !done) c.problem = done.error();
    return c;
}

template <class T>
Result<const T*> find_pattern(const PatternList<T>& patterns, const std::string& module, const std::string& file,
                              const std::string& field) {
    for (const auto& [key, value] : patterns) {
        const auto match = module_matches(key, module);
        if (!match) return Error{file, field, match.error().found, match.error().expected};
        if (*match) return &value;
    }
    return static_cast<const T*>(nullptr);
}

template Result<const int64_t*> find_pattern(const PatternList<int64_t>&, const std::string&, const std::string&,
                                             const std::string&);
template Result<const double*> find_pattern(const PatternList<double>&, const std::string&, const std::string&,
                                            const std::string&);

bool matches_list(const std::vector<std::string>& entries, const std::string& module) {
    return std::any_of(entries.begin(), entries.end(), [&](const std::string& entry) {
        if (entry.size() > module.size()) return false;
        const size_t start = module.size() - entry.size();
        return module.compare(start, entry.size(), entry) == 0 && (start == 0 || module[start - 1] == '.');
    });
}

const std::vector<int64_t>* PeftConfig::tokens_of(const std::string& module) const {
    for (const auto& [name, ids] : tokens)
        if (matches_list({name}, module)) return &ids;
    return nullptr;
}

}  // namespace spartan
