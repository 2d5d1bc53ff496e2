// spartan: the serving core on the command line. Exit codes: 0 done, 1 a failure that one line on standard error
// explains, 2 bad arguments, 130 interrupted.
#include "app/spartan/command.h"
#include "app/spartan/console.h"

#include <csignal>
#include <limits>

namespace spartan {
namespace {

void add_global_options(CLI::App& app, GlobalOptions& o) {
    const auto device = [](std::string& text) {
        const bool numbered = text.size() > 5 && text.rfind("cuda:", 0) == 0 &&
                              text.find_first_not_of("0123456789", 5) == std::string::npos;
        return text == "auto" || text == "cpu" || text == "cuda" || numbered ? "" : "cpu, cuda, cuda:N or auto";
    };
    app.add_option("--device", o.device, "cpu, cuda, cuda:N or auto")->check(CLI::Validator(device, "DEVICE"));
    app.add_option("--dtype", o.dtype, "f32, bf16, f16 or auto")->check(CLI::IsMember({"f32", "bf16", "f16", "auto"}));
    app.add_option("--threads", o.threads, "Threads (default: the CPUs this process may use)")
        ->check(CLI::Range(1, 1024));
    // Through a signed number: the parser would wrap -1 around to the largest unsigned one.
    app.add_option_function<int64_t>(
           "--seed", [&o](int64_t seed) { o.seed = uint64_t(seed); },
           "Seed of sampling, workloads and synthetic weights (default 42)")
        ->check(CLI::Range(int64_t(0), std::numeric_limits<int64_t>::max()));
}

std::string usage_line(const CLI::App& app) {
    for (const CLI::App* command : app.get_subcommands()) return "Usage: spartan " + command->get_name() + " --help";
    return "Usage: spartan --help";
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
        "Shell completion: source <(spartan completion bash), likewise zsh; spartan completion fish | source");
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
        for (char& c : what)
            if (c == '\n') c = ' ';
        bad_arguments(what);
        return bad_arguments(usage_line(app));
    }
    return action();
}

}  // namespace
}  // namespace spartan

int main(int argc, char** argv) {
    // A full disk and a reader that went away are errors to report, not reasons to die.
    std::signal(SIGXFSZ, SIG_IGN);
    std::signal(SIGPIPE, SIG_IGN);
    try {
        return spartan::finish_output(spartan::run(argc, argv));
    } catch (const std::bad_alloc&) {
        return spartan::report(spartan::make_error("out of memory"));
    }
}
