#include "app/spartan/session.h"
#include "core/adapter/fold.h"
#include "core/adapter/inspect.h"
#include "core/base/text.h"
#include "core/model/inspect.h"

#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>

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

bool rotates(AdapterKind kind) { return kind == AdapterKind::boft || kind == AdapterKind::oft; }

std::string orthogonality_text(double error) {
    char figure[48];
    std::snprintf(figure, sizeof figure, "|RᵀR - I| at most %.1e", error);
    return figure;
}

struct Check {
    std::string name, figure;
};

std::string modules_text(size_t count) { return std::to_string(count) + (count == 1 ? " module" : " modules"); }

// What loading has compared and measured; whatever does not hold was an error before this, or is a warning.
std::vector<Check> checks_of(const Adapter& adapter, const Model& model) {
    const size_t tables = size_t(adapter.embedding.has_value()) + size_t(adapter.head.has_value());
    std::vector<Check> checks = {
        {"config", "every key is one that is followed or says nothing"},
        {"tensors",
         "every one belongs to a module; all values are finite and fit " + std::string(name_of(adapter.dtype))},
        {"shapes", modules_text(adapter.parts.size()) + ", " + std::to_string(tables) + " of 2 tables and " +
                       std::to_string(adapter.norms.size()) + " norms fit " + model.info.name + " (" +
                       std::to_string(model.config().num_layers) + " layers, " +
                       std::to_string(model.config().hidden_size) + " wide, " +
                       std::to_string(model.config().vocab_size) + " tokens)"}};
    if (rotates(adapter.kind)) checks.push_back({"rotations", orthogonality_text(adapter.orthogonality_error)});
    checks.push_back({"memory", format_bytes(adapter.bytes()) + " folded in " + name_of(adapter.dtype)});
    checks.push_back({"content", "SHA-256 " + adapter.content_hash});
    return checks;
}

// The adapter loaded on a base, as a run would.
Result<int> inspect_on_model(const GlobalOptions& options, const std::string& path, const std::string& model_path,
                             Progress& progress) {
    TRY_ASSIGN(info, inspect_adapter(path));
    ProgressLine line;
    std::vector<std::string> of_model;
    TRY_ASSIGN(model, load_session_model(options, model_path, options.seed_or(), progress, line, of_model));
    TRY_ASSIGN(adapter, load_adapter("adapter", path, *model, progress));
    info.warnings = adapter->warnings;
    const std::vector<Check> checks = checks_of(*adapter, *model);
    if (options.json) {
        Json json = inspect_adapter_json(info);
        json["base"] = model->info.name;
        json["orthogonality_error"] = adapter->orthogonality_error;
        json["checks"] = Json::array();
        for (const Check& c : checks) json["checks"].push_back({{"name", c.name}, {"figure", c.figure}});
        print_json(json);
        return kDone;
    }
    print_adapter(path, info);
    for (const Check& c : checks) print("  check     " + c.name + ": " + escape_control(c.figure) + "\n");
    return kDone;
}

int inspect_adapter_folder(const GlobalOptions& options, const std::string& path, const std::string& model) {
    if (!model.empty())
        return perform([&](Progress& progress) { return inspect_on_model(options, path, model, progress); });
    auto info = inspect_adapter(path);
    if (!info) return report(info.error());
    std::optional<double> error;
    if (rotates(info->kind) && info->problems.empty()) {
        const auto measured = measure_orthogonality(path);
        if (!measured)
            info->problems.push_back(measured.error().message());
        else
            error = *measured;
        if (error)
            if (auto warning = orthogonality_warning(*error)) info->warnings.push_back(std::move(*warning));
    }
    if (options.json) {
        Json json = inspect_adapter_json(*info);
        json["orthogonality_error"] = error ? Json(*error) : Json(nullptr);
        print_json(json);
    } else {
        print_adapter(path, *info);
        if (error)
            print("  rotations " + orthogonality_text(*error) + "\n");
        else if (rotates(info->kind) && info->problems.empty())
            print("  rotations not measured: blocks this large take long; --model does\n");
    }
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
    CLI::App* command = add_command(
        app, "inspect", "What a model or adapter is: kind, shapes, sizes, memory, problems",
        {"spartan inspect ~/models/Llama-3.2-1B", "spartan inspect resources/demo/pirate --json",
         "spartan inspect resources/demo/pirate --model demo     every check against that base, with its figure",
         "spartan inspect synthetic:llama-2-7b"});
    auto path = std::make_shared<std::string>();
    command->add_option("PATH", *path, "An adapter folder, or a MODEL: a folder, a .gguf file, synthetic:SHAPE or demo")
        ->type_name("")
        ->check(not_empty("a model or an adapter folder"))
        ->required();
    auto model = std::make_shared<std::string>();
    command->add_option("--model", *model, "Load the adapter at PATH on this base and show every check with its figure")
        ->type_name("MODEL")
        ->check(not_empty("a folder, a .gguf file or synthetic:SHAPE"));
    add_json_flag(command, options);
    command->callback([&options, &action, path, model] {
        action = [&options, path, model] {
            if (is_adapter_folder(*path)) return inspect_adapter_folder(options, *path, *model);
            if (!model->empty())
                return bad_arguments("inspect: --model goes with the folder of an adapter, not of a model");
            return inspect_model(options, *path);
        };
    });
}

}  // namespace spartan
