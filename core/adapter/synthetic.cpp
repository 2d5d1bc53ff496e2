// synthetic:KIND:COUNT:SIZES: adapters of known geometry with made-up weights, small enough that a model still makes
// sense.
#include "core/adapter/adapter.h"
#include "core/adapter/adapter_name.h"
#include "core/adapter/fold.h"
#include "core/adapter/synthetic_weights.h"
#include "core/base/file.h"
#include "core/base/json.h"
#include "core/base/run_items.h"
#include "core/base/text.h"
#include "core/model/safetensors.h"
#include "kernels/check.h"
#include "kernels/device.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <filesystem>

namespace spartan {
namespace {

constexpr std::string_view kScheme = "synthetic:";
constexpr const char* kForm = "synthetic:KIND:COUNT:SIZES, such as synthetic:boft:12:b=16,m=2,b=32,m=1";
constexpr int64_t kMaxCount = 100'000, kMaxSize = 1 << 20, kMaxFactors = 20;

bool is_lora(const SyntheticSpec& spec) { return spec.kind == AdapterKind::lora; }

// 0: not a whole number from 1 to `max`.
int64_t whole_number(std::string_view text, int64_t max) {
    int64_t value = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
    const bool is_number = parsed.ec == std::errc() && parsed.ptr == text.data() + text.size();
    return is_number && value >= 1 && value <= max ? value : 0;
}

std::vector<std::string> split(const std::string& s, char separator) {
    std::vector<std::string> parts;
    size_t start = 0;
    for (size_t at = s.find(separator); at != std::string::npos; at = s.find(separator, start)) {
        parts.push_back(s.substr(start, at - start));
        start = at + 1;
    }
    parts.push_back(s.substr(start));
    return parts;
}

std::string quoted(const std::string& s) { return "\"" + shorten(s, 80) + "\""; }

// One "KEY=N" of SIZES.
Result<void> add_size(SyntheticSpec& spec, const std::string& text, const std::string& item) {
    const size_t equals = item.find('=');
    const std::string key = item.substr(0, equals);
    const int64_t value = equals == std::string::npos ? 0
                                                      : whole_number(std::string_view(item).substr(equals + 1),
                                                                     key == "m" ? kMaxFactors : kMaxSize);
    if (is_lora(spec)) {
        if (key != "r" || value == 0) return Error{text, "SIZES", quoted(item), "r=N for lora, N at least 1"};
        spec.sizes.push_back({.b = 0, .m = 1, .r = value});
        return {};
    }
    if (key == "b" && value >= 2) {
        spec.sizes.push_back({.b = value, .m = 1, .r = 0});
        return {};
    }
    const bool takes_m = spec.kind == AdapterKind::boft && !spec.sizes.empty();
    if (key == "m" && value > 0 && takes_m && spec.sizes.back().m == 1) {
        spec.sizes.back().m = value;
        return {};
    }
    if (spec.kind == AdapterKind::oft) return Error{text, "SIZES", quoted(item), "b=N for oft, N at least 2"};
    return Error{text, "SIZES", quoted(item), "b=N (at least 2), then m=N (1 to 20) of that b if wanted"};
}

const SyntheticSpec::Size& size_of_index(const SyntheticSpec& spec, int64_t index_in_spec) {
    return spec.sizes[size_t(index_in_spec) % spec.sizes.size()];
}

std::string size_text(const SyntheticSpec& spec, const SyntheticSpec::Size& size) {
    if (is_lora(spec)) return "r=" + std::to_string(size.r);
    std::string text = "b=" + std::to_string(size.b);
    if (spec.kind == AdapterKind::boft) text += ",m=" + std::to_string(size.m);
    return text;
}

std::string spec_text(const SyntheticSpec& spec, int64_t index_in_spec) {
    return std::string(kScheme) + name_of(spec.kind) + ":1:" + size_text(spec, size_of_index(spec, index_in_spec));
}

// Whether the size fits every targeted layer.
Result<void> check_size(const SyntheticSpec& spec, int64_t index_in_spec, const ModelConfig& config) {
    const SyntheticSpec::Size& size = size_of_index(spec, index_in_spec);
    const std::string text = spec_text(spec, index_in_spec);
    for (const Projection projection : kSyntheticTargets) {
        const int64_t in = in_features(config, projection);
        const std::string divided = std::to_string(in) + ", the inputs of " + name_of(projection);
        if (is_lora(spec)) {
            if (size.r > in) return make_error(text + ": r=" + std::to_string(size.r) + " is larger than " + divided);
            continue;
        }
        if (in % size.b != 0) return make_error(text + ": b=" + std::to_string(size.b) + " does not divide " + divided);
        if (size.m == 1) continue;
        const std::string chain = "b=" + std::to_string(size.b) + " with m=" + std::to_string(size.m);
        if (size.b % 2 != 0) return make_error(text + ": " + chain + ": b must be even when m is above 1");
        const int64_t group = size.b << (size.m - 1);
        if (in % group != 0)
            return make_error(text + ": " + chain + " spans groups of " + std::to_string(group) +
                              ", which do not divide " + divided);
    }
    return {};
}

std::vector<PlannedPart> plan(const SyntheticSpec& spec, int64_t index_in_spec, const ModelConfig& config) {
    const SyntheticSpec::Size& size = size_of_index(spec, index_in_spec);
    std::vector<PlannedPart> parts;
    for (int layer = 0; layer < int(config.num_layers); ++layer) {
        for (const Projection projection : kSyntheticTargets) {
            PlannedPart planned;
            AdapterPart& part = planned.part;
            part.layer = layer;
            part.projection = projection;
            part.in = in_features(config, projection);
            part.out = out_features(config, projection);
            part.rank = size.r;
            part.block_size = size.b;
            part.num_factors = is_lora(spec) ? 0 : size.m;
            part.group = is_lora(spec) ? 0 : size.b << (size.m - 1);
            planned.has_gain = spec.kind == AdapterKind::boft;
            planned.name = "model.layers." + std::to_string(layer) + ".self_attn." + name_of(projection);
            parts.push_back(std::move(planned));
        }
    }
    return parts;
}

// What decides the weights; two adapters that differ in none of it are the same adapter.
std::string identity(const SyntheticSpec& spec, int64_t index_in_spec, int64_t global_index, uint64_t seed) {
    return std::string(kScheme) + name_of(spec.kind) + ":" + size_text(spec, size_of_index(spec, index_in_spec)) +
           " index " + std::to_string(global_index) + " seed " + std::to_string(seed);
}

Result<std::shared_ptr<const Adapter>> make(const SyntheticSpec& spec, int64_t index_in_spec, int64_t global_index,
                                            uint64_t seed, const Model& model, Progress& progress, AdapterForm form) {
    TRY_VOID(check_size(spec, index_in_spec, model.config()));
    auto adapter = std::make_shared<Adapter>();
    adapter->name = synthetic_name(spec, index_in_spec, global_index);
    adapter->path = spec_text(spec, index_in_spec);
    adapter->kind = spec.kind;
    adapter->content_hash = sha256_hex(identity(spec, index_in_spec, global_index, seed));
    adapter->dtype = model.dtype;
    std::vector<PlannedPart> parts = plan(spec, index_in_spec, model.config());
    const RotationRules rules{.oft = spec.kind == AdapterKind::oft};
    for (PlannedPart& planned : parts)
        planned.leaves_skew = form == AdapterForm::skew && leave_skew(planned.part, rules);
    const PlacedParts placed = place_parts(parts, model.dtype, form);
    TRY_VOID(check_memory(placed.bytes, adapter->path));
    adapter->factor_bytes = placed.factor_bytes;
    adapter->blob.resize(size_t(placed.bytes));
    const int64_t skew_values = place_skew(parts, *adapter);
    TRY_VOID(check_memory(skew_values * int64_t(sizeof(float)), adapter->path));
    SkewHalves skew(skew_values);
    progress.total.store(adapter->bytes(), std::memory_order_relaxed);

    std::vector<double> errors(parts.size(), 0.0);
    TRY_VOID(run_items(int64_t(parts.size()), usable_cpus(), adapter->path, [&](int64_t i, int) -> Result<void> {
        if (progress.cancelled()) return Error{"", "", "", "", true};
        const PlannedPart& planned = parts[size_t(i)];
        const ModuleWeights weights = synthetic_weights(planned.part, spec.kind, global_index, seed);
        TRY_ASSIGN(error, fold_part(planned, weights, rules, model, adapter->blob.data(), skew, progress));
        errors[size_t(i)] = error;
        progress.add(adapter->bytes() / int64_t(parts.size()));
        return {};
    }));
    adapter->orthogonality_error = *std::max_element(errors.begin(), errors.end());
    for (const PlannedPart& planned : parts) adapter->parts.push_back(planned.part);
    CHECK(!skew.too_large());
    skew.hand_over(*adapter);
    return std::shared_ptr<const Adapter>(std::move(adapter));
}

// --- as a PEFT folder ---

Json peft_config(const SyntheticSpec& spec, const SyntheticSpec::Size& size, const std::string& base_name) {
    Json config = {{"peft_type", spec.kind == AdapterKind::boft  ? "BOFT"
                                 : spec.kind == AdapterKind::oft ? "OFT"
                                                                 : "LORA"},
                   {"task_type", "CAUSAL_LM"},
                   {"base_model_name_or_path", base_name},
                   {"inference_mode", true},
                   {"bias", "none"},
                   {"fan_in_fan_out", false},
                   {"modules_to_save", nullptr},
                   {"layers_to_transform", nullptr},
                   {"layers_pattern", nullptr},
                   {"target_modules", Json::array()}};
    for (const Projection projection : kSyntheticTargets) config["target_modules"].push_back(name_of(projection));
    if (is_lora(spec)) {
        config.update({{"r", size.r},
                       {"lora_alpha", size.r},
                       {"lora_dropout", 0.0},
                       {"use_rslora", false},
                       {"use_dora", false},
                       {"init_lora_weights", true},
                       {"rank_pattern", Json::object()},
                       {"alpha_pattern", Json::object()}});
    } else if (spec.kind == AdapterKind::boft) {
        config.update({{"boft_block_size", size.b},
                       {"boft_block_num", 0},
                       {"boft_n_butterfly_factor", size.m},
                       {"boft_dropout", 0.0},
                       {"init_weights", true}});
    } else {
        config.update({{"r", 0},
                       {"oft_block_size", size.b},
                       {"use_cayley_neumann", false},
                       {"coft", false},
                       {"block_share", false},
                       {"module_dropout", 0.0},
                       {"init_weights", true}});
    }
    return config;
}

// Owns the bytes of the tensors that will be written. The weights fit bf16 exactly (synthetic_weights.h).
class TensorList {
public:
    void add(const std::string& name, std::vector<int64_t> shape, const std::vector<float>& values) {
        std::vector<bf16> rounded(values.size());
        std::transform(values.begin(), values.end(), rounded.begin(), to_bf16);
        data_.push_back(std::move(rounded));
        tensors_.push_back(
            {"base_model.model." + name, "BF16", std::move(shape), std::as_bytes(std::span(data_.back()))});
    }
    std::span<const SafetensorsTensor> tensors() const { return tensors_; }

private:
    std::vector<std::vector<bf16>> data_;
    std::vector<SafetensorsTensor> tensors_;
};

void add_module(TensorList& list, const PlannedPart& planned, AdapterKind kind, int64_t global_index, uint64_t seed) {
    const AdapterPart& part = planned.part;
    const ModuleWeights w = synthetic_weights(part, kind, global_index, seed);
    const int64_t b = part.block_size;
    if (kind == AdapterKind::lora) {
        list.add(planned.name + ".lora_A.weight", {part.rank, part.in}, w.lora_a);
        list.add(planned.name + ".lora_B.weight", {part.out, part.rank}, w.lora_b);
    } else if (kind == AdapterKind::boft) {
        list.add(planned.name + ".boft_R", {part.num_factors, part.in / b, b, b}, w.boft_r);
        list.add(planned.name + ".boft_s", {part.out, 1}, w.boft_s);
    } else {
        list.add(planned.name + ".oft_R.weight", {part.in / b, b * (b - 1) / 2}, w.oft_r);
    }
}

// Makes the folder; one that holds anything is refused.
Result<void> prepare_folder(const std::string& dir) {
    namespace fs = std::filesystem;
    std::error_code code;
    if (fs::exists(dir, code)) {
        if (!fs::is_directory(dir, code)) return Error{dir, "", "a file", "a folder that is empty or does not exist"};
        if (!fs::is_empty(dir, code) || code)
            return Error{dir, "", "a folder that is not empty", "a folder that is empty or does not exist"};
        return {};
    }
    fs::create_directories(dir, code);
    if (code) return Error{dir, "", code.message(), "a folder that can be made"};
    return {};
}

}  // namespace

Result<SyntheticSpec> parse_synthetic_spec(const std::string& spec) {
    const std::string shown = shorten(spec, 200);
    const std::vector<std::string> parts = split(spec, ':');
    if (parts.size() != 4 || parts[0] + ":" != kScheme) return Error{"", "adapter", quoted(spec), kForm};
    SyntheticSpec parsed;
    if (parts[1] == "boft") {
        parsed.kind = AdapterKind::boft;
    } else if (parts[1] == "oft") {
        parsed.kind = AdapterKind::oft;
    } else if (parts[1] == "lora") {
        parsed.kind = AdapterKind::lora;
    } else {
        return Error{shown, "KIND", quoted(parts[1]), "boft, oft or lora"};
    }
    parsed.count = whole_number(parts[2], kMaxCount);
    if (parsed.count == 0)
        return Error{shown, "COUNT", quoted(parts[2]), "a number from 1 to " + std::to_string(kMaxCount)};
    for (const std::string& item : split(parts[3], ',')) TRY_VOID(add_size(parsed, shown, item));
    return parsed;
}

std::string synthetic_name(const SyntheticSpec& spec, int64_t index_in_spec, int64_t global_index) {
    const SyntheticSpec::Size& size = size_of_index(spec, index_in_spec);
    std::string name = std::string(name_of(spec.kind)) + "-";
    if (is_lora(spec))
        name += "r" + std::to_string(size.r);
    else
        name += "b" + std::to_string(size.b);
    if (spec.kind == AdapterKind::boft) name += "-m" + std::to_string(size.m);
    char number[24];
    std::snprintf(number, sizeof number, "-%04lld", static_cast<long long>(global_index));
    return name + number;
}

Result<std::shared_ptr<const Adapter>> make_synthetic_adapter(const SyntheticSpec& spec, int64_t index_in_spec,
                                                              int64_t global_index, uint64_t seed, const Model& model,
                                                              AdapterForm form) {
    Progress progress;
    return make(spec, index_in_spec, global_index, seed, model, progress, form);
}

Result<void> write_synthetic_adapter(const SyntheticSpec& spec, int64_t index_in_spec, int64_t global_index,
                                     uint64_t seed, const ModelConfig& config, const std::string& base_name,
                                     const std::string& dir) {
    TRY_VOID(check_size(spec, index_in_spec, config));
    TRY_VOID(prepare_folder(dir));
    TensorList list;
    for (const PlannedPart& planned : plan(spec, index_in_spec, config))
        add_module(list, planned, spec.kind, global_index, seed);
    // The config last: a folder that has one is whole.
    TRY_VOID(write_safetensors(dir + "/adapter_model.safetensors", list.tensors(), {{"format", "pt"}}));
    const Json json = peft_config(spec, size_of_index(spec, index_in_spec), base_name);
    return write_file_atomically(dir + "/adapter_config.json", json.dump(2) + "\n");
}

Result<std::shared_ptr<const Adapter>> load_adapter(const AdapterRequest& request, const Model& model, uint64_t seed,
                                                    Progress& progress, AdapterForm form) {
    if (!request.dir.empty()) return load_adapter(request.name, request.dir, model, progress, form);
    return make(request.spec, request.index_in_spec, request.global_index, seed, model, progress, form);
}

}  // namespace spartan
