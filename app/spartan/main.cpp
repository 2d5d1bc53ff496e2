// spartan: the serving core on the command line. Exit codes: 0 done, 1 a failure that one line on standard error
// explains, 2 bad arguments, 130 interrupted.
#include "app/spartan/command.h"
#include "app/spartan/console.h"
#include "core/base/text.h"

#include <algorithm>
#include <csignal>
#include <exception>
#include <limits>

namespace spartan {
namespace {

std::vector<std::string> command_names(const CLI::App& app) {
    std::vector<std::string> names;
    for (const CLI::App* command : app.get_subcommands([](const CLI::App* c) { return !c->get_group().empty(); }))
        names.push_back(command->get_name());
    return names;
}

void add_global_options(CLI::App& app, GlobalOptions& o) {
    const auto device = [](std::string& text) {
        const bool numbered = text.size() > 5 && text.size() < 10 && text.rfind("cuda:", 0) == 0 &&
                              text.find_first_not_of("0123456789", 5) == std::string::npos;
        if (text == "auto" || text == "cpu" || text == "cuda" || numbered) return std::string();
        return "found " + shorten(text, 100) + ", expected cpu, cuda, cuda:N or auto";
    };
    app.add_option("--device", o.device, "cpu, cuda, cuda:N or auto (the default)")
        ->type_name("DEVICE")
        ->check(CLI::Validator(device, ""));
    app.add_option(
           "--dtype", o.dtype,
           "f32, bf16, f16 (on a GPU only) or auto (the default: bf16 on a GPU and where the CPU has it, else f32)")
        ->type_name("DTYPE")
        ->check(one_of({"f32", "bf16", "f16", "auto"}));
    app.add_option("--weights", o.weights,
                   "convert (the default: to the dtype) or keep (quantised ones stay as the file has them: the same "
                   "answers in less memory)")
        ->type_name("WEIGHTS")
        ->check(one_of({"convert", "keep"}));
    app.add_option("--threads", o.threads, "Threads (default: the CPUs this process may use)")
        ->type_name("N")
        ->check(integer_in(1, 1024));
    app.add_option("--seed", o.seed, "Seed of sampling, workloads and synthetic weights (default 42)")
        ->type_name("N")
        ->check(integer_in(0, std::numeric_limits<int64_t>::max()));
}

// The innermost command that was recognised; `app` itself if none was.
const CLI::App& parsed_command(const CLI::App& app) {
    for (const CLI::App* command : app.get_subcommands()) return parsed_command(*command);
    return app;
}

std::vector<std::string> option_names(const CLI::App& app, const CLI::App& command) {
    std::vector<std::string> names;
    for (const CLI::App* at : {&command, &app}) {
        for (const CLI::Option* option : at->get_options())
            for (const std::string& name : option->get_lnames())
                if (std::find(names.begin(), names.end(), "--" + name) == names.end()) names.push_back("--" + name);
        if (at == &app) break;
    }
    return names;
}

// An option that `command` does not have, and the one that was meant.
std::string unknown_option(const std::string& argument, const CLI::App& app, const CLI::App& command) {
    const std::string found = argument.substr(0, argument.find('='));
    const std::vector<std::string> names = option_names(app, command);
    const std::string nearest = nearest_word(found, names);
    return "found " + shorten(found, 100) + ", expected " + (nearest.empty() ? "one of " + join(names, ", ") : nearest);
}

// CLI11 lists all that it did not expect, the last first, and not what it would have; or only that something else is
// missing, which may be what was misspelt. Empty: nothing was unexpected.
std::string unexpected(const CLI::App& app, const CLI::App& command, bool something_is_missing) {
    const std::vector<std::string> extras = app.remaining(true);
    for (const std::string& extra : extras)
        if (extra.size() > 1 && extra[0] == '-') return unknown_option(extra, app, command);
    if (extras.empty() || something_is_missing) return "";
    return "found " + shorten(extras.front(), 100) + ", expected no further argument";
}

// CLI11 only says that a command is missing; the first word after the last one that it knew is what was meant.
std::string missing_command(const CLI::App& app, const CLI::App& parent, int argc, char** argv) {
    const std::vector<std::string> options = option_names(app, parent);
    bool inside = parent.get_parent() == nullptr;
    for (int i = 1; i < argc; ++i) {
        const std::string argument = argv[i];
        const bool takes_value = argument == "--device" || argument == "--dtype" || argument == "--weights" ||
                                 argument == "--threads" || argument == "--seed";
        const std::string option = argument.substr(0, argument.find('='));
        if (takes_value) {
            ++i;
        } else if (argument.rfind("--", 0) == 0 && std::find(options.begin(), options.end(), option) == options.end()) {
            return unknown_option(argument, app, parent);
        } else if (argument.rfind('-', 0) != 0) {
            if (inside)
                return "found " + shorten(argument, 100) + ", expected a command: " + join(command_names(parent), ", ");
            inside = argument == parent.get_name();
        }
    }
    return "no command; expected one of " + join(command_names(parent), ", ");
}

std::string usage_line(const CLI::App& command) {
    std::string path;
    for (const CLI::App* at = &command; at->get_parent(); at = at->get_parent()) path = at->get_name() + " " + path;
    return "Usage: spartan " + path + "--help";
}

int run(int argc, char** argv) {
    CLI::App app("Serve one base language model with many adapters at once: BOFT, OFT, LoRA and DoRA in one batch.",
                 "spartan");
    GlobalOptions options;
    options.program = program_info(argc, argv);
    Action action;
    app.set_version_flag("--version", "spartan " + options.program.version + " (" + options.program.commit + ")");
    app.footer(
        "Examples:\n"
        "  spartan inspect resources/demo/pirate\n"
        "  spartan generate --model demo --adapter pirate=resources/demo/pirate --chat --prompt \"What is rain?\"\n"
        "  spartan run resources/workloads/demo.json --out demo.wbrun\n\n"
        "Global options may also follow the command. Shell completion: see spartan completion --help");
    app.require_subcommand(1);
    add_global_options(app, options);
    add_inspect(app, options, action);
    add_tokenize(app, options, action);
    add_logits(app, options, action);
    add_generate(app, options, action);
    add_run(app, options, action);
    add_bench(app, options, action);
    add_compare(app, options, action);
    add_export(app, options, action);
    add_make_adapters(app, options, action);
    add_merge(app, options, action);
    add_verify(app, options, action);
    add_devices(app, options, action);
    add_completion(app, options, action);
    add_later_commands(app, action);
    try {
        app.parse(argc, argv);
    } catch (const CLI::Success& e) {  // --help, --version
        app.exit(e);
        return kDone;
    } catch (const CLI::ParseError& e) {
        std::string what = e.what();
        const CLI::App& command = parsed_command(app);
        const bool missing = dynamic_cast<const CLI::RequiredError*>(&e);
        const bool extra = missing || dynamic_cast<const CLI::ExtrasError*>(&e);
        if (missing && command.get_require_subcommand_min() > 0)
            what = missing_command(app, command, argc, argv);
        else if (const std::string words = extra ? unexpected(app, command, missing) : ""; !words.empty())
            what = words;
        for (char& c : what)
            if (c == '\n') c = ' ';
        bad_arguments(what);
        return bad_arguments(usage_line(command));
    }
    return action();
}

}  // namespace
}  // namespace spartan

int main(int argc, char** argv) {
    // A full disk and a reader that went away are errors to report, not reasons to die.
    std::signal(SIGXFSZ, SIG_IGN);
    std::signal(SIGPIPE, SIG_IGN);
    spartan::handle_interrupts();
    try {
        return spartan::finish_output(spartan::run(argc, argv));
    } catch (const std::bad_alloc&) {
        return spartan::report(spartan::make_error("out of memory"));
    } catch (const std::exception& e) {  // such as a system call that failed where nobody expects it to
        return spartan::report(spartan::make_error(e.what()));
    }
}
