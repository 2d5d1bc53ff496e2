#include "core/adapter/adapter.h"
#include "core/adapter/adapter_name.h"
#include "core/adapter/base_facts.h"
#include "core/adapter/fold.h"
#include "core/adapter/peft_folder.h"
#include "core/adapter/peft_tensor_name.h"
#include "core/adapter/tables.h"
#include "core/base/run_items.h"
#include "core/base/sha256.h"
#include "core/base/text.h"
#include "core/model/float_rows.h"
#include "kernels/device.h"

#include <algorithm>
#include <cmath>

namespace spartan {
namespace {

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
    FolderLoader(const PeftFolder& folder, const Model& model, Progress& progress, AdapterForm form)
        : folder_(folder), model_(model), progress_(progress), form_(form), tables_(folder, model, progress) {}

    // Null: it has to be folded.
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
        TRY_VOID(tables_.plan(*adapter));
        const PlacedParts placed = place_parts(planned_, model_.dtype, form_);
        adapter->factor_bytes = placed.factor_bytes;
        const int64_t bytes = tables_.place(*adapter, placed.bytes);
        TRY_VOID(check_memory(bytes, path()));
        adapter->blob.resize(size_t(bytes));
        const int64_t skew_values = place_skew(planned_, *adapter);
        TRY_VOID(check_memory(skew_values * int64_t(sizeof(float)), path()));
        SkewHalves skew(skew_values);
        TRY_VOID(fold_all(*adapter, skew));
        TRY_VOID(folder_.file->file()->check_unchanged());
        if (skew.too_large()) return std::shared_ptr<const Adapter>();
        skew.hand_over(*adapter);
        hand_over(*adapter);
        return std::shared_ptr<const Adapter>(std::move(adapter));
    }

private:
    const std::string& path() const { return folder_.file->path(); }
    bool is_lora() const {
        return folder_.config.kind == AdapterKind::lora || folder_.config.kind == AdapterKind::dora;
    }

    Result<void> plan() {
        for (size_t i = 0; i < folder_.modules.size(); ++i) {
            const PeftModule& module = folder_.modules[i];
            first_part_.push_back(planned_.size());
            if (module.where.kind == ModuleName::Kind::norm) continue;
            TRY_VOID(check_against_base(module));
            const bool is_table = module.where.kind >= ModuleName::Kind::embedding;
            if (is_table && !module.adapts()) continue;
            if (is_table)
                TRY_VOID(plan_table(module));
            else
                TRY_VOID(plan_projections(module));
        }
        first_part_.push_back(planned_.size());
        return {};
    }

    // Geometry as the file has it; in and out are the caller's.
    Result<PlannedPart> plan_part(const PeftModule& module) const {
        PlannedPart planned;
        planned.name = module.name;
        AdapterPart& part = planned.part;
        part.rank = module.r;
        part.block_size = module.b;
        part.num_factors = module.m;
        if (module.b > 0) part.group = module.b << (module.m - 1);
        planned.has_gain =
            module.at(TensorRole::boft_s) || module.at(TensorRole::old_oft_s) || module.at(TensorRole::magnitude);
        planned.has_bias = module.at(TensorRole::bias) || module.at(TensorRole::lora_b_bias);
        if (module.adapts() && is_lora()) {
            TRY_ASSIGN(scale, scale_of(module));
            part.scale = scale;
        }
        return planned;
    }

    Result<void> plan_projections(const PeftModule& module) {
        const auto first = int(planned_.size());
        int64_t row = 0;
        for (const Projection p : projections_of(module.where)) {
            TRY_ASSIGN(planned, plan_part(module));
            planned.part.layer = module.where.layer;
            planned.part.projection = p;
            planned.part.in = in_features(model_.config(), p);
            planned.part.out = out_features(model_.config(), p);
            planned.leaves_skew = form_ == AdapterForm::skew && leave_skew(planned.part, rules(module));
            planned.first_row = row;
            if (int(planned_.size()) > first) planned.shares_input = first;
            row += planned.part.out;
            planned_.push_back(planned);
        }
        return {};
    }

    Result<void> plan_table(const PeftModule& module) {
        const ModelConfig& base = model_.config();
        const bool is_head = module.where.kind == ModuleName::Kind::head;
        TRY_ASSIGN(planned, plan_part(module));
        planned.place = is_head ? PlannedPart::Place::head : PlannedPart::Place::embedding;
        planned.part.in = base.hidden_size;
        planned.part.out = is_head ? base.vocab_size : base.hidden_size;
        if (!is_head) planned.a_width = base.vocab_size;
        planned_.push_back(planned);
        return {};
    }

    void hand_over(Adapter& adapter) const {
        for (const PlannedPart& planned : planned_) {
            if (planned.place == PlannedPart::Place::layer) {
                adapter.parts.push_back(planned.part);
                continue;
            }
            std::optional<TablePart>& table =
                planned.place == PlannedPart::Place::head ? adapter.head : adapter.embedding;
            if (!table) table.emplace();
            table->part = planned.part;
        }
        std::stable_sort(adapter.parts.begin(), adapter.parts.end(), [](const AdapterPart& a, const AdapterPart& b) {
            return std::pair(a.layer, a.projection) < std::pair(b.layer, b.projection);
        });
    }

    // alpha / r, or alpha / sqrt(r) with rsLoRA.
    Result<float> scale_of(const PeftModule& module) const {
        const PeftConfig& c = folder_.config;
        TRY_ASSIGN(pattern, find_pattern(c.alpha_pattern, module.name, c.file, "alpha_pattern"));
        const double alpha = pattern ? *pattern : c.alpha;
        return float(alpha / (c.rslora ? std::sqrt(double(module.r)) : double(module.r)));
    }

    // Inputs and outputs of a module of the base; an embedding looked up by LoRA has tokens for inputs.
    struct Size {
        int64_t in = 0, out = 0;
    };
    Size base_size(const PeftModule& module) const {
        const ModelConfig& base = model_.config();
        if (module.where.kind == ModuleName::Kind::head) return {base.hidden_size, base.vocab_size};
        if (module.where.kind == ModuleName::Kind::embedding)
            return {is_lora() ? base.vocab_size : base.hidden_size, base.hidden_size};
        Size size;
        for (const Projection p : projections_of(module.where)) {
            size.in = in_features(base, p);
            size.out += out_features(base, p);
        }
        return size;
    }

    Result<void> check_against_base(const PeftModule& module) const {
        const ModelConfig& base = model_.config();
        const auto tensor = std::find_if(module.tensors.begin(), module.tensors.end(), [](const auto* t) { return t; });
        const std::string field = shorten((*tensor)->name, 200);
        if (module.where.layer >= base.num_layers)
            return Error{path(), field, "layer " + std::to_string(module.where.layer),
                         "a layer from 0 to " + std::to_string(base.num_layers - 1) + " of " + model_.info.name};
        TRY_VOID(check_fused(module, field));
        const auto [in, out] = base_size(module);
        const std::string leaf = module.name.substr(module.name.rfind('.') + 1);
        const std::string expected = std::to_string(in) + " inputs and " + std::to_string(out) + " outputs, as " +
                                     leaf + " of " + model_.info.name + " has";
        if (module.b > 0 && module.in < 0 && in % module.b != 0)  // OFT with shared blocks
            return Error{path(), field, "blocks of " + std::to_string(module.b),
                         "a divisor of " + std::to_string(in) + ", the inputs of " + module.name};
        const bool same_in = module.in < 0 || module.in == in, same_out = module.out < 0 || module.out == out;
        if (!same_in || !same_out) return Error{path(), field, found_shape(module), expected};
        if (module.at(TensorRole::bias) && !has_base_bias(module))
            return Error{path(), shorten(module.at(TensorRole::bias)->name, 200), "a bias",
                         "none: " + leaf + " of " + model_.info.name + " has none to replace"};
        return {};
    }

    // q_proj of a base with qkv_proj, and the other way round.
    Result<void> check_fused(const PeftModule& module, const std::string& field) const {
        const ModuleName& where = module.where;
        const bool is_fused = where.kind == ModuleName::Kind::fused, base_is = has_fused_projections(model_.config());
        const bool could_be = where.kind == ModuleName::Kind::projection && where.projection != Projection::o &&
                              where.projection != Projection::down;
        if ((!is_fused || base_is) && (!could_be || !base_is)) return {};
        return Error{
            path(), field, "the module " + module.name,
            base_is ? "qkv_proj or gate_up_proj, which " + model_.info.name + " has in its place"
                    : "q_proj, k_proj, v_proj, gate_proj and up_proj, which " + model_.info.name + " has in its place"};
    }

    static std::string found_shape(const PeftModule& module) {
        std::string text;
        if (module.in >= 0) text = std::to_string(module.in) + " inputs";
        if (module.out >= 0) text += (text.empty() ? "" : " and ") + std::to_string(module.out) + " outputs";
        return text;
    }

    bool has_base_bias(const PeftModule& module) const {
        if (module.where.kind >= ModuleName::Kind::embedding) return false;
        return std::visit(
            [&](const auto& weights) {
                return !weights.layers[size_t(module.where.layer)].bias[size_t(module.where.projection)].empty();
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
                return Error{folder_.config.file, "target_modules", shown, "names of modules of " + model_.info.name};
            adapter.warnings.push_back("target_modules names " + shown + ", for which the file holds no tensors");
        }
        return {};
    }

    bool names_module_of_base(const std::string& target) const {
        const std::vector<std::string> names = adaptable_modules(model_.config());
        return std::any_of(names.begin(), names.end(),
                           [&](const std::string& name) { return matches_list({target}, name); });
    }

    // Task 0 hashes the file, the others read and fold one module each.
    Result<void> fold_all(Adapter& adapter, SkewHalves& skew) {
        std::vector<double> errors(folder_.modules.size(), 0.0);
        TRY_VOID(run_items(int64_t(folder_.modules.size()) + 1, usable_cpus(), path(),
                           [&](int64_t task, int) -> Result<void> {
                               if (task == 0) {
                                   TRY_ASSIGN(hash, hash_files());
                                   adapter.content_hash = hash;
                                   return {};
                               }
                               TRY_ASSIGN(error, fold_module(size_t(task - 1), adapter.blob.data(), skew));
                               errors[size_t(task - 1)] = error;
                               return tables_.fold(size_t(task - 1), adapter);
                           }));
        adapter.orthogonality_error = *std::max_element(errors.begin(), errors.end());
        if (auto warning = orthogonality_warning(adapter.orthogonality_error))
            adapter.warnings.push_back(std::move(*warning));
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

    Result<double> fold_module(size_t index, std::byte* blob, SkewHalves& skew) {
        const PeftModule& module = folder_.modules[index];
        const size_t first = first_part_[index], end = first_part_[index + 1];
        if (first == end) return 0.0;
        TRY_ASSIGN(weights, read_weights(module));
        double worst = 0;
        for (size_t i = first; i < end; ++i) {
            if (progress_.cancelled()) return cancelled();
            const auto error = end - first == 1
                                   ? fold_part(planned_[i], weights, rules(module), model_, blob, skew, progress_)
                                   : fold_part(planned_[i], rows_of(planned_[i], weights), rules(module), model_, blob,
                                               skew, progress_);
            if (!error) return named(error.error(), module);
            worst = std::max(worst, *error);
        }
        return worst;
    }

    Error named(Error error, const PeftModule& module) const {
        if (error.cancelled) return error;
        error.file = path();
        error.field = module.name;
        return error;
    }

    Result<ModuleWeights> read_weights(const PeftModule& module) {
        ModuleWeights w;
        const std::pair<TensorRole, std::vector<float>*> places[] = {{TensorRole::boft_r, &w.boft_r},
                                                                     {TensorRole::boft_s, &w.boft_s},
                                                                     {TensorRole::oft_r, &w.oft_r},
                                                                     {TensorRole::oft_embedding_r, &w.oft_r},
                                                                     {TensorRole::old_oft_r, &w.oft_r},
                                                                     {TensorRole::old_oft_s, &w.boft_s},
                                                                     {TensorRole::lora_a, &w.lora_a},
                                                                     {TensorRole::lora_b, &w.lora_b},
                                                                     {TensorRole::lora_embedding_a, &w.lora_a},
                                                                     {TensorRole::lora_embedding_b, &w.lora_b},
                                                                     {TensorRole::lora_b_bias, &w.lora_b_bias},
                                                                     {TensorRole::magnitude, &w.magnitude},
                                                                     {TensorRole::bias, &w.bias}};
        for (const auto& [role, values] : places) {
            const SafetensorsEntry* entry = module.at(role);
            if (!entry) continue;
            TRY_ASSIGN(read, folder_.file->read_finite(*entry));
            *values = std::move(read);
            const bool is_rounded = values == &w.lora_a || values == &w.lora_b;
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

    RotationRules rules(const PeftModule& module) const {
        const auto [in, out] = base_size(module);
        return rotation_rules(folder_.config, module, in, out);
    }

    const PeftFolder& folder_;
    const Model& model_;
    Progress& progress_;
    const AdapterForm form_;
    TableFolder tables_;
    std::vector<PlannedPart> planned_;
    std::vector<size_t> first_part_;  // of each module; one more at the end
};

}  // namespace

Result<std::shared_ptr<const Adapter>> load_adapter(const std::string& name, const std::string& dir, const Model& model,
                                                    Progress& progress, AdapterForm form) {
    TRY_VOID(check_adapter_name(name, dir));
    TRY_ASSIGN(folder, read_peft_folder(dir));
    if (!folder.problems.empty()) return folder.problems.front();
    TRY_ASSIGN(adapter, FolderLoader(folder, model, progress, form).load(name));
    if (adapter) return adapter;
    progress.done.store(0);  // once more, as some rotation is nothing that a device folds
    return FolderLoader(folder, model, progress, AdapterForm::folded).load(name);
}

}  // namespace spartan
