#include "core/adapter/adapter.h"
#include "core/adapter/adapter_name.h"
#include "core/adapter/fold.h"
#include "core/adapter/peft_folder.h"
#include "core/base/run_items.h"
#include "core/base/sha256.h"
#include "core/base/text.h"
#include "core/model/float_rows.h"
#include "kernels/device.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace spartan {
namespace {

constexpr double kWarnedError = 1e-2;

Error cancelled() { return {"", "", "", "", true}; }

std::string lower(std::string s) {
    std::transform(s.begin(), s.end(), s.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? char(c + 32) : c; });
    return s;
}

std::string last_component(std::string path) {
    while (!path.empty() && path.back() == '/') path.pop_back();
    return path.substr(path.rfind('/') + 1);
}

// PEFT never checks the base's identity; shapes are enforced, the name only warns. "NAME.Q4_1" is NAME, quantised.
bool names_same_base(const std::string& of_adapter, const std::string& of_model) {
    const std::string wanted = lower(last_component(of_adapter)), have = lower(last_component(of_model));
    return have == wanted || have.compare(0, wanted.size() + 1, wanted + ".") == 0;
}

class FolderLoader {
public:
    FolderLoader(const PeftFolder& folder, const Model& model, Progress& progress)
        : folder_(folder), model_(model), progress_(progress) {}

    Result<std::shared_ptr<const Adapter>> load(const std::string& name) {
        auto adapter = std::make_shared<Adapter>();
        adapter->name = name;
        adapter->path = folder_.dir;
        adapter->kind = folder_.config.kind;
        adapter->dtype = model_.dtype;
        adapter->file_bytes = folder_.bytes;
        adapter->warnings = folder_.warnings;
        progress_.total.store(2 * folder_.file->file()->size(), std::memory_order_relaxed);
        TRY_VOID(plan());
        check_base_name(*adapter);
        TRY_VOID(check_targets(*adapter));
        TRY_VOID(check_embedding_copies(*adapter));
        const int64_t bytes = place_parts(planned_, model_.dtype);
        TRY_VOID(check_memory(bytes, path()));
        adapter->blob.resize(size_t(bytes));
        TRY_VOID(fold_all(*adapter));
        TRY_VOID(folder_.file->file()->check_unchanged());
        for (const PlannedPart& planned : planned_) adapter->parts.push_back(planned.part);
        return std::shared_ptr<const Adapter>(std::move(adapter));
    }

private:
    const std::string& path() const { return folder_.file->path(); }
    bool is_lora() const {
        return folder_.config.kind == AdapterKind::lora || folder_.config.kind == AdapterKind::dora;
    }

    Result<void> plan() {
        for (const PeftModule& module : folder_.modules) {
            TRY_VOID(check_against_base(module));
            PlannedPart planned;
            planned.name = module.name;
            AdapterPart& part = planned.part;
            part.layer = module.layer;
            part.projection = module.projection;
            part.in = in_features(model_.config(), module.projection);
            part.out = out_features(model_.config(), module.projection);
            part.rank = module.r;
            part.block_size = module.b;
            part.num_factors = module.m;
            if (module.b > 0) part.group = module.b << (module.m - 1);
            planned.has_gain = module.at(TensorRole::boft_s) || module.at(TensorRole::magnitude);
            planned.has_bias = module.at(TensorRole::bias) || module.at(TensorRole::lora_b_bias);
            if (module.adapts() && is_lora()) {
                TRY_ASSIGN(scale, scale_of(module));
                part.scale = scale;
            }
            planned_.push_back(planned);
        }
        return {};
    }

    // alpha / r, or alpha / sqrt(r) with rsLoRA.
    Result<float> scale_of(const PeftModule& module) const {
        const PeftConfig& c = folder_.config;
        TRY_ASSIGN(pattern, find_pattern(c.alpha_pattern, module.name, c.file, "alpha_pattern"));
        const double alpha = pattern ? *pattern : c.alpha;
        return float(alpha / (c.rslora ? std::sqrt(double(module.r)) : double(module.r)));
    }

    Result<void> check_against_base(const PeftModule& module) const {
        const ModelConfig& base = model_.config();
        const auto tensor = std::find_if(module.tensors.begin(), module.tensors.end(), [](const auto* t) { return t; });
        const std::string field = shorten((*tensor)->name, 200);
        if (module.layer >= base.num_layers)
            return Error{path(), field, "layer " + std::to_string(module.layer),
                         "a layer from 0 to " + std::to_string(base.num_layers - 1) + " of " + model_.info.name};
        const int64_t in = in_features(base, module.projection), out = out_features(base, module.projection);
        const std::string expected = std::to_string(in) + " inputs and " + std::to_string(out) + " outputs, as " +
                                     name_of(module.projection) + " of " + model_.info.name + " has";
        if (module.b > 0 && module.in < 0 && in % module.b != 0)  // OFT with shared blocks
            return Error{path(), field, "blocks of " + std::to_string(module.b),
                         "a divisor of " + std::to_string(in) + ", the inputs of " + module.name};
        const bool same_in = module.in < 0 || module.in == in, same_out = module.out < 0 || module.out == out;
        if (!same_in || !same_out) return Error{path(), field, found_shape(module), expected};
        if (module.at(TensorRole::bias) && !has_base_bias(module))
            return Error{path(), shorten(module.at(TensorRole::bias)->name, 200), "a bias",
                         std::string("none: ") + name_of(module.projection) + " of " + model_.info.name +
                             " has none to replace"};
        return {};
    }

    static std::string found_shape(const PeftModule& module) {
        std::string text;
        if (module.in >= 0) text = std::to_string(module.in) + " inputs";
        if (module.out >= 0) text += (text.empty() ? "" : " and ") + std::to_string(module.out) + " outputs";
        return text;
    }

    bool has_base_bias(const PeftModule& module) const {
        return std::visit(
            [&](const auto& weights) {
                return !weights.layers[size_t(module.layer)].bias[size_t(module.projection)].empty();
            },
            model_.weights);
    }

    void check_base_name(Adapter& adapter) const {
        const std::string& wanted = folder_.config.base_name;
        if (wanted.empty() || names_same_base(wanted, model_.info.name)) return;
        adapter.warnings.push_back("trained for " + shorten(wanted, 100) + ", loaded on " +
                                   shorten(model_.info.name, 100) + "; the shapes fit");
    }

    // What a list of targets names and the file does not adapt: PEFT leaves such modules as they are.
    Result<void> check_targets(Adapter& adapter) const {
        if (!folder_.config.targets) return {};
        for (const std::string& target : *folder_.config.targets) {
            const bool used = std::any_of(folder_.modules.begin(), folder_.modules.end(),
                                          [&](const PeftModule& m) { return matches_list({target}, m.name); });
            if (used) continue;
            const std::string shown = "\"" + shorten(target, 80) + "\"";
            if (!names_module_of_base(target))
                return Error{folder_.config.file, "target_modules", shown,
                             "names of linear layers of " + model_.info.name};
            adapter.warnings.push_back("target_modules names " + shown + ", for which the file holds no tensors");
        }
        return {};
    }

    bool names_module_of_base(const std::string& target) const {
        for (int64_t layer = 0; layer < model_.config().num_layers; ++layer) {
            for (int p = 0; p < kNumProjections; ++p) {
                const std::string block = Projection(p) >= Projection::gate ? ".mlp." : ".self_attn.";
                const std::string module = "model.layers." + std::to_string(layer) + block + name_of(Projection(p));
                if (matches_list({target}, module)) return true;
            }
        }
        return false;
    }

    // PEFT may save the embeddings unchanged; changed ones are not supported.
    Result<void> check_embedding_copies(Adapter& adapter) const {
        for (const SafetensorsEntry* entry : folder_.embedding_copies) {
            const Error refused{path(), shorten(entry->name, 200), "a full copy that differs from the base's",
                                "adapters of linear layers: changed embeddings and output heads are not supported"};
            const ModelConfig& base = model_.config();
            if (entry->shape != std::vector<int64_t>{base.vocab_size, base.hidden_size}) return refused;
            const bool is_head = entry->name.find("lm_head") != std::string::npos;
            TRY_ASSIGN(same, equals_base(*entry, is_head));
            if (!same) return refused;
        }
        if (!folder_.embedding_copies.empty())
            adapter.warnings.push_back("the file holds copies of embeddings, equal to the base's; they have no effect");
        return {};
    }

    Result<bool> equals_base(const SafetensorsEntry& entry, bool is_head) const {
        return std::visit(
            [&](const auto& weights) -> Result<bool> {
                const auto& matrix = is_head ? weights.output() : weights.embedding;
                using T = typename std::remove_cvref_t<decltype(matrix)>::Value;
                const int64_t cols = matrix.cols();
                std::vector<float> mine(static_cast<size_t>(cols)), base = mine;
                for (int64_t row = 0; row < matrix.rows(); ++row) {
                    if (progress_.cancelled()) return cancelled();
                    TRY_VOID(folder_.file->read_floats(entry, row * cols, cols, mine.data()));
                    matrix.get_row(row, base.data());
                    for (size_t i = 0; i < mine.size(); ++i)
                        if (!(to_float(from_float<T>(mine[i])) == base[i])) return false;
                }
                return true;
            },
            model_.weights);
    }

    // Task 0 hashes the file, the others read and fold one module each.
    Result<void> fold_all(Adapter& adapter) {
        std::vector<double> errors(planned_.size(), 0.0);
        TRY_VOID(run_items(int64_t(planned_.size()) + 1, usable_cpus(), path(), [&](int64_t task, int) -> Result<void> {
            if (task == 0) {
                TRY_ASSIGN(hash, hash_files());
                adapter.content_hash = hash;
                return {};
            }
            TRY_ASSIGN(error, fold_module(size_t(task - 1), adapter.blob.data()));
            errors[size_t(task - 1)] = error;
            return {};
        }));
        adapter.orthogonality_error = *std::max_element(errors.begin(), errors.end());
        if (adapter.orthogonality_error > kWarnedError) {
            char figure[32];
            std::snprintf(figure, sizeof figure, "%.2g", adapter.orthogonality_error);
            adapter.warnings.push_back(std::string("rotations are not quite orthogonal: |RᵀR - I| = ") + figure +
                                       ", as PEFT's Neumann series leaves them");
        }
        return {};
    }

    Result<std::string> hash_files() {
        Sha256 hash;
        hash.update(folder_.config_bytes);
        const InputFile& file = *folder_.file->file();
        std::vector<char> buffer(1 << 20);
        for (int64_t at = 0; at < file.size(); at += int64_t(buffer.size())) {
            if (progress_.cancelled()) return cancelled();
            const int64_t count = std::min(int64_t(buffer.size()), file.size() - at);
            TRY_VOID(file.read(at, buffer.data(), count));
            hash.update(buffer.data(), size_t(count));
            progress_.add(count);
        }
        return to_hex(hash.finish());
    }

    Result<double> fold_module(size_t index, std::byte* blob) {
        const PeftModule& module = folder_.modules[index];
        TRY_ASSIGN(weights, read_weights(module));
        if (progress_.cancelled()) return cancelled();
        auto error = fold_part(planned_[index], weights, rules(), model_, blob, progress_);
        if (!error && !error.error().cancelled) {
            Error named = error.error();
            named.file = path();
            named.field = module.name;
            return named;
        }
        return error;
    }

    Result<ModuleWeights> read_weights(const PeftModule& module) {
        ModuleWeights w;
        const std::pair<TensorRole, std::vector<float>*> places[] = {
            {TensorRole::boft_r, &w.boft_r},       {TensorRole::boft_s, &w.boft_s},
            {TensorRole::oft_r, &w.oft_r},         {TensorRole::lora_a, &w.lora_a},
            {TensorRole::lora_b, &w.lora_b},       {TensorRole::lora_b_bias, &w.lora_b_bias},
            {TensorRole::magnitude, &w.magnitude}, {TensorRole::bias, &w.bias}};
        for (const auto& [role, values] : places) {
            const SafetensorsEntry* entry = module.at(role);
            if (!entry) continue;
            TRY_ASSIGN(read, folder_.file->read_finite(*entry));
            *values = std::move(read);
            const bool is_rounded = role == TensorRole::lora_a || role == TensorRole::lora_b;
            const int64_t bad =
                is_rounded ? first_not_representable(values->data(), int64_t(values->size()), model_.dtype) : -1;
            if (bad >= 0)
                return Error{path(), shorten(entry->name, 200) + "[" + std::to_string(bad) + "]",
                             value_text((*values)[size_t(bad)]),
                             std::string("a value that ") + name_of(model_.dtype) + " can hold"};
            progress_.add(entry->bytes);
        }
        return w;
    }

    RotationRules rules() const {
        const PeftConfig& c = folder_.config;
        return {.oft = c.kind == AdapterKind::oft,
                .neumann = c.oft_neumann,
                .constrained = c.oft_constrained,
                .shared = c.kind == AdapterKind::oft && c.oft_block_share,
                .terms = c.oft_terms,
                .series = c.oft_series,
                .eps = c.oft_eps};
    }

    const PeftFolder& folder_;
    const Model& model_;
    Progress& progress_;
    std::vector<PlannedPart> planned_;
};

}  // namespace

Result<std::shared_ptr<const Adapter>> load_adapter(const std::string& name, const std::string& dir, const Model& model,
                                                    Progress& progress) {
    TRY_VOID(check_adapter_name(name, dir));
    TRY_ASSIGN(folder, read_peft_folder(dir));
    if (!folder.problems.empty()) return folder.problems.front();
    return FolderLoader(folder, model, progress).load(name);
}

}  // namespace spartan
