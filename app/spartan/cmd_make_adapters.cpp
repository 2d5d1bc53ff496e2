#include "app/spartan/new_folder.h"
#include "app/spartan/session.h"
#include "core/base/text.h"

#include <memory>

namespace spartan {
namespace {

Result<void> make_adapters(const GlobalOptions& options, const std::string& model,
                           const std::vector<std::string>& specs, const std::string& out, Progress& progress) {
    TRY_ASSIGN(requests, parse_adapter_arguments(specs, ""));
    TRY_ASSIGN(opened, open_model(model, options.seed_or()));
    TRY_ASSIGN(folder, NewFolder::create(out));
    ProgressLine line;
    for (size_t i = 0; i < requests.size(); ++i) {
        if (progress.cancelled()) return Error{"", "", "", "", true};
        line.show("Writing " + requests[i].name + ", " + std::to_string(i + 1) + " of " +
                  std::to_string(requests.size()));
        const AdapterRequest& r = requests[i];
        TRY_VOID(write_synthetic_adapter(r.spec, r.index_in_spec, r.global_index, options.seed_or(), opened.config,
                                         opened.name, folder.inside(r.name)));
    }
    line.clear();
    TRY_VOID(folder.commit());
    print(std::to_string(requests.size()) + " adapters in " + for_output(out) + "\n");
    return {};
}

}  // namespace

void add_make_adapters(CLI::App& app, GlobalOptions& options, Action& action) {
    CLI::App* command = add_command(
        app, "make-adapters", "Random adapters of known geometry as PEFT folders, for tests and measurements",
        {"spartan make-adapters --model synthetic:llama-2-7b --spec synthetic:boft:12:b=16,m=2,b=32,m=1 --out adapters",
         "spartan make-adapters --model demo --spec synthetic:lora:4:r=8,r=16 --out adapters --seed 7"});
    auto model = std::make_shared<ModelOptions>();
    auto specs = std::make_shared<std::vector<std::string>>();
    auto out = std::make_shared<std::string>();
    add_model_option(command, *model);
    add_repeatable(command, "--spec", *specs, "synthetic:KIND:COUNT:SIZES (boft, oft, lora); may be repeated")
        ->type_name("SPEC")
        ->required();
    command->add_option("--out", *out, "A new or empty folder; gets one folder per adapter")
        ->type_name("FOLDER")
        ->check(not_empty("a new or empty folder"))
        ->required();
    command->callback([&options, &action, model, specs, out] {
        for (const std::string& spec : *specs)
            if (spec.rfind("synthetic:", 0) != 0)
                throw CLI::ValidationError("--spec",
                                           "found " + shorten(spec, 100) + ", expected synthetic:KIND:COUNT:SIZES");
        check_adapter_arguments("--spec", *specs);
        action = [&options, model, specs, out] {
            return perform(
                [&](Progress& progress) { return make_adapters(options, model->model, *specs, *out, progress); });
        };
    });
}

}  // namespace spartan
