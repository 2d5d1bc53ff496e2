#include "core/adapter/inspect.h"

#include "core/adapter/peft_folder.h"

namespace spartan {
namespace {

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
