// What the commands share: the options that every command takes, and the list of commands.
#pragma once

#include "app/spartan/version.h"

#include <CLI/CLI.hpp>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace spartan {

struct GlobalOptions {
    std::string device = "auto", dtype = "auto", weights = "convert";
    int threads = 0;  // 0: what the process may use
    std::optional<uint64_t> seed;
    bool json = false;
    ProgramInfo program;

    uint64_t seed_or(uint64_t standard = 42) const { return seed.value_or(standard); }
};

// Set by the command that the arguments name; returns the exit code.
using Action = std::function<int()>;

void add_inspect(CLI::App&, GlobalOptions&, Action&);
void add_tokenize(CLI::App&, GlobalOptions&, Action&);
void add_logits(CLI::App&, GlobalOptions&, Action&);
void add_generate(CLI::App&, GlobalOptions&, Action&);
void add_run(CLI::App&, GlobalOptions&, Action&);
void add_bench(CLI::App&, GlobalOptions&, Action&);
void add_compare(CLI::App&, GlobalOptions&, Action&);
void add_export(CLI::App&, GlobalOptions&, Action&);
void add_make_adapters(CLI::App&, GlobalOptions&, Action&);
void add_merge(CLI::App&, GlobalOptions&, Action&);
void add_verify(CLI::App&, GlobalOptions&, Action&);
void add_devices(CLI::App&, GlobalOptions&, Action&);
void add_completion(CLI::App&, GlobalOptions&, Action&);
void add_later_commands(CLI::App&, Action&);  // refused by name

// Options of `command` beside the global ones; `examples` go to the end of its help.
CLI::App* add_command(CLI::App& app, const std::string& name, const std::string& description,
                      const std::vector<std::string>& examples);
// A repeatable option whose every value follows its own flag.
CLI::Option* add_repeatable(CLI::App* command, const std::string& flag, std::vector<std::string>& values,
                            const std::string& description);
void add_json_flag(CLI::App* command, GlobalOptions& options);

// Checks of an argument; what they refuse is said with what was found and what was expected.
CLI::Validator integer_in(int64_t min, int64_t max);
CLI::Validator number_in(double min, double max, std::string expected);
CLI::Validator one_of(std::vector<std::string> words);
CLI::Validator not_empty(std::string expected);

}  // namespace spartan
