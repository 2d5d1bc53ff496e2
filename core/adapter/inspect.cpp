#include "core/adapter/inspect.h"

#include "core/adapter/fold.h"
#include "core/base/run_items.h"
#include "kernels/device.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace spartan {
namespace {

constexpr double kMostMultiplications = 8e9;

const SafetensorsEntry* rotation_of(const PeftModule& module) {
    for (const TensorRole role :
         {TensorRole::boft_r, TensorRole::oft_r, TensorRole::oft_embedding_r, TensorRole::old_oft_r})
        if (const SafetensorsEntry* entry = module.at(role)) return entry;
    return nullptr;
}

Result<double> worst_block(const PeftFolder& folder, const PeftModule& module) {
    const SafetensorsEntry& entry = *rotation_of(module);
    TRY_ASSIGN(values, folder.file->read_finite(entry));
    // What the file alone does not tell changes no bound: it is the limit of a rotation that is exact whatever it is.
    const RotationRules rules =
        rotation_rules(folder.config, module, std::max(module.in, module.b), std::max<int64_t>(module.out, 1));
    const Progress progress;
    double worst = 0;
    for (size_t at = 0; at < values.size(); at += size_t(stored_values(module.b, rules))) {
        const Matrix q = rotation_block(&values[at], module.b, rules, progress);
        // Not std::max: a NaN must stay.
        if (const double error = orthogonality_error(q, module.b, progress); !(error <= worst)) worst = error;
    }
    if (const auto good = check_orthogonality(worst, rules); !good)
        return Error{folder.file->path(), module.name, good.error().found, good.error().expected};
    return worst;
}

Json size_or_null(int64_t size) { return size > 0 ? Json(size) : Json(nullptr); }

}  // namespace

Result<AdapterInfo> inspect_adapter(const std::string& dir) {
    TRY_ASSIGN(folder, read_peft_folder(dir));
    AdapterInfo info;
    info.kind = folder.config.kind;
    info.base_name = folder.config.base_name;
    info.bytes = folder.bytes;
    info.warnings = folder.warnings;
    for (const PeftModule& module : folder.modules)
        info.modules.push_back({module.name, module.b, module.m, module.r, module.in, module.out});
    for (const Error& problem : folder.problems) info.problems.push_back(problem.message());
    return info;
}

Result<std::optional<double>> measure_orthogonality(const std::string& dir) {
    TRY_ASSIGN(folder, read_peft_folder(dir));
    if (!folder.problems.empty()) return folder.problems.front();
    std::vector<const PeftModule*> rotating;
    double multiplications = 0;
    for (const PeftModule& module : folder.modules) {
        if (module.b == 0) continue;
        rotating.push_back(&module);
        const SafetensorsEntry& entry = *rotation_of(module);
        const double blocks = double(entry.shape[0]) * (entry.shape.size() == 4 ? double(entry.shape[1]) : 1);
        multiplications += blocks * std::pow(double(module.b), 3);
    }
    if (rotating.empty() || multiplications > kMostMultiplications) return std::optional<double>();
    std::vector<double> errors(rotating.size());
    TRY_VOID(
        run_items(int64_t(rotating.size()), usable_cpus(), folder.file->path(), [&](int64_t i, int) -> Result<void> {
            TRY_ASSIGN(error, worst_block(folder, *rotating[size_t(i)]));
            errors[size_t(i)] = error;
            return {};
        }));
    return std::optional(*std::max_element(errors.begin(), errors.end()));
}

Json inspect_adapter_json(const AdapterInfo& info) {
    Json modules = Json::array();
    for (const AdapterModule& m : info.modules)
        modules.push_back({{"name", m.name},
                           {"b", size_or_null(m.b)},
                           {"m", size_or_null(m.m)},
                           {"r", size_or_null(m.r)},
                           {"in", size_or_null(m.in)},
                           {"out", size_or_null(m.out)}});
    return {{"type", "adapter"},   {"kind", name_of(info.kind)}, {"modules", std::move(modules)},
            {"bytes", info.bytes}, {"warnings", info.warnings},  {"problems", info.problems}};
}

}  // namespace spartan
