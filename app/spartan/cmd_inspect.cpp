#include "app/spartan/session.h"
#include "core/adapter/inspect.h"
#include "core/base/text.h"
#include "core/model/inspect.h"

#include <filesystem>
#include <map>
#include <memory>

namespace spartan {
namespace {

bool is_adapter_folder(const std::string& path) {
    std::error_code ignored;
    const std::filesystem::path p(path);
    return std::filesystem::exists(p / "adapter_config.json", ignored) ||
           std::filesystem::exists(p / "adapter_model.safetensors", ignored);
}

// "BOFT b16 m2, 576 -> 576" and how many modules have it.
std::map<std::string, int> geometries(const AdapterInfo& info) {
    std::map<std::string, int> counts;
    for (const AdapterModule& m : info.modules) {
        std::string text;
        if (m.r > 0) text = "r" + std::to_string(m.r);
        if (m.b > 0) text = "b" + std::to_string(m.b) + " m" + std::to_string(m.m);
        if (m.in > 0 && m.out > 0) text += ", " + std::to_string(m.in) + " -> " + std::to_string(m.out);
        ++counts[text];
    }
    return counts;
}

void print_adapter(const std::string& path, const AdapterInfo& info) {
    print(escape_control(path) + "\n  adapter   " + name_of(info.kind) + ", " + std::to_string(info.modules.size()) +
          " modules, " + format_bytes(info.bytes) + "\n");
    if (!info.base_name.empty()) print("  base      " + escape_control(info.base_name) + "\n");
    for (const auto& [geometry, count] : geometries(info))
        print("  " + std::to_string(count) + " modules  " + geometry + "\n");
    for (const std::string& w : info.warnings) print("  warning   " + escape_control(w) + "\n");
    for (const std::string& p : info.problems) print("  problem   " + escape_control(p) + "\n");
}

// Problems stand in the output; the line beside it is for whoever looks at the exit code.
int conclude(const std::vector<std::string>& problems) {
    return problems.empty() ? kDone : report(make_error(first_of(problems)));
}

int inspect_adapter_folder(const std::string& path, bool json) {
    const auto info = inspect_adapter(path);
    if (!info) return report(info.error());
    if (json)
        print_json(inspect_adapter_json(*info));
    else
        print_adapter(path, *info);
    return conclude(info->problems);
}

int inspect_model(const GlobalOptions& options, const std::string& path) {
    const auto opened = open_model(path, options.seed_or());
    if (!opened) return report(opened.error());
    if (options.json) {
        print_json(inspect_model_json(*opened));
    } else {
        for (const std::string& line : inspect_model_text(*opened)) print(line + "\n");
    }
    return conclude(opened->problems);
}

}  // namespace

void add_inspect(CLI::App& app, GlobalOptions& options, Action& action) {
    CLI::App* command =
        add_command(app, "inspect", "What a model or adapter is: kind, shapes, sizes, memory, problems",
                    {"spartan inspect ~/models/Llama-3.2-1B", "spartan inspect resources/demo/pirate --json",
                     "spartan inspect synthetic:llama-2-7b"});
    auto path = std::make_shared<std::string>();
    command->add_option("PATH", *path, "An adapter folder, or a MODEL: a folder, a .gguf file, synthetic:SHAPE or demo")
        ->type_name("")
        ->check(not_empty("a model or an adapter folder"))
        ->required();
    add_json_flag(command, options);
    command->callback([&options, &action, path] {
        action = [&options, path] {
            return is_adapter_folder(*path) ? inspect_adapter_folder(*path, options.json)
                                            : inspect_model(options, *path);
        };
    });
}

}  // namespace spartan
