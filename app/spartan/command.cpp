#include "app/spartan/command.h"

#include "app/spartan/console.h"
#include "core/base/text.h"

#include <charconv>

namespace spartan {
namespace {

// The sentence that CLI11 puts after the option's name.
std::string refusal(const std::string& found, const std::string& expected) {
    return "found " + (found.empty() ? "nothing" : shorten(found, 100)) + ", expected " + expected;
}

template <class T>
bool parse_whole(const std::string& text, T& out) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
    return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

CLI::App* add_command(CLI::App& app, const std::string& name, const std::string& description,
                      const std::vector<std::string>& examples) {
    CLI::App* command = app.add_subcommand(name, description);
    std::string footer = "Examples:\n";
    for (const std::string& example : examples) footer += "  " + example + "\n";
    command->footer(footer + "\nGlobal options (--device, --dtype, --weights, --threads, --seed): spartan --help");
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

CLI::Validator integer_in(int64_t min, int64_t max) {
    return {[=](std::string& text) {
                int64_t value = 0;
                if (parse_whole(text, value) && value >= min && value <= max) return std::string();
                return refusal(text, "an integer from " + std::to_string(min) + " to " + std::to_string(max));
            },
            ""};
}

CLI::Validator number_in(double min, double max, std::string expected) {
    return {[=, expected = std::move(expected)](std::string& text) {
                double value = 0;
                if (parse_whole(text, value) && value >= min && value <= max) return std::string();  // not for NaN
                return refusal(text, expected);
            },
            ""};
}

CLI::Validator one_of(std::vector<std::string> words) {
    return {[words = std::move(words)](std::string& text) {
                for (const std::string& word : words)
                    if (text == word) return std::string();
                return refusal(text, "one of " + join(words, ", "));
            },
            ""};
}

CLI::Validator not_empty(std::string expected) {
    return {[expected = std::move(expected)](std::string& text) {
                return text.empty() ? refusal(text, expected) : std::string();
            },
            ""};
}

void add_later_commands(CLI::App& app, Action& action) {
    for (const char* name : {"serve", "simulate"}) {
        CLI::App* command = app.add_subcommand(name, "not in this version")->group("")->prefix_command();
        command->callback([&action, name] {
            action = [name] { return bad_arguments(std::string(name) + ": not in this version"); };
        });
    }
}

}  // namespace spartan
