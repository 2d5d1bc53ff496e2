#include "app/spartan/command.h"

#include "app/spartan/console.h"

namespace spartan {

CLI::App* add_command(CLI::App& app, const std::string& name, const std::string& description,
                      const std::vector<std::string>& examples) {
    CLI::App* command = app.add_subcommand(name, description);
    std::string footer = "Examples:\n";
    for (const std::string& example : examples) footer += "  " + example + "\n";
    command->footer(footer + "\nGlobal options (--device, --dtype, --threads, --seed): spartan --help");
    command->fallthrough();
    return command;
}

CLI::Option* add_repeatable(CLI::App* command, const std::string& flag, std::vector<std::string>& values,
                            const std::string& description) {
    return command->add_option(flag, values, description)->expected(1)->allow_extra_args(false)->take_all();
}

void add_json_flag(CLI::App* command, GlobalOptions& options) {
    command->add_flag("--json", options.json, "Print one JSON document on standard output and nothing else");
}

void add_later_commands(CLI::App& app, Action& action) {
    for (const char* name : {"serve", "verify", "merge", "simulate"}) {
        CLI::App* command = app.add_subcommand(name, "not in this version")->group("")->prefix_command();
        command->callback([&action, name] {
            action = [name] { return bad_arguments(std::string(name) + ": not in this version"); };
        });
    }
}

}  // namespace spartan
