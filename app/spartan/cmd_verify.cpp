// The same prompts here and in transformers + PEFT: this program's logits come from a run of `spartan logits`, the
// reference's from a Python script that also compares them.
#include "app/spartan/session.h"
#include "core/base/file.h"
#include "core/base/text.h"
#include "core/tokenizer/tokenizer.h"
#include "verify_script.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

namespace spartan {
namespace {

namespace fs = std::filesystem;

constexpr int kGreedy = 8;
constexpr int kPackageMissing = 3;  // of the script
constexpr const char* kTexts[] = {"The capital of France is",
                                  "def fibonacci(n):", "Once upon a time, in a small village by the sea, there lived"};

struct VerifyOptions {
    ModelOptions model;
    std::vector<std::string> prompts;
    std::string python = "python3";
    double bar = 1e-4;
};

class ScratchFolder {
public:
    ScratchFolder() {
        std::string name = (fs::temp_directory_path() / "spartan-verify-XXXXXX").string();
        if (::mkdtemp(name.data())) path_ = name;
    }
    ~ScratchFolder() {
        std::error_code ignored;
        if (!path_.empty()) fs::remove_all(path_, ignored);
    }
    ScratchFolder(const ScratchFolder&) = delete;
    ScratchFolder& operator=(const ScratchFolder&) = delete;
    std::string inside(const std::string& name) const { return (path_ / name).string(); }
    bool exists() const { return !path_.empty(); }

private:
    fs::path path_;
};

// Runs a program to its end; its exit code, 128 + N after signal N. An error when there is none to run.
Result<int> run_program(const std::vector<std::string>& arguments) {
    std::vector<char*> argv;
    for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
    argv.push_back(nullptr);
    pid_t child = 0;
    if (const int error = ::posix_spawnp(&child, argv[0], nullptr, nullptr, argv.data(), environ))
        return Error{arguments[0], "", std::strerror(error), "a program that can be run"};
    int status = 0;
    while (::waitpid(child, &status, 0) < 0)
        if (errno != EINTR) return Error{arguments[0], "", std::strerror(errno), "an exit code"};
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// Text becomes ids here, so that the comparison is of models and not of tokenizers.
std::vector<std::vector<Token>> prompt_ids(const OpenedModel& model, const std::vector<std::string>& texts) {
    std::vector<std::vector<Token>> prompts;
    for (const std::string& text : texts) {
        if (model.tokenizer) {
            prompts.push_back(model.tokenizer->encode(text, true, SpecialTokens::as_text));
        } else {
            prompts.emplace_back();
            for (const char c : text) prompts.back().push_back(Token(uint8_t(c) * 97 % model.config.vocab_size));
        }
    }
    return prompts;
}

Result<Json> make_spec(const VerifyOptions& o, const OpenedModel& opened, const std::string& logits, bool json) {
    TRY_ASSIGN(requests, parse_adapter_arguments(o.model.adapters, ""));
    Json spec = {{"model", fs::absolute(opened.path).string()},
                 {"adapters", Json::object()},
                 {"greedy", kGreedy},
                 {"prompts", Json::array()},
                 {"logits", logits},
                 {"bar", o.bar},
                 {"json", json}};
    const std::vector<std::string> usual(std::begin(kTexts), std::end(kTexts));
    const auto prompts = prompt_ids(opened, o.prompts.empty() ? usual : o.prompts);
    const auto ask = [&](const Json& adapter) {
        for (const auto& ids : prompts) spec["prompts"].push_back({{"ids", ids}, {"adapter", adapter}});
    };
    ask(nullptr);
    for (const AdapterRequest& r : requests) {
        if (r.dir.empty())
            return Error{"--adapter", "", r.name + ", a synthetic adapter", "NAME=FOLDER, which PEFT can load"};
        spec["adapters"][r.name] = fs::absolute(r.dir).string();
        ask(r.name);
    }
    return spec;
}

std::vector<std::string> logits_command(const GlobalOptions& options, const VerifyOptions& o,
                                        const std::string& prompts, const std::string& out) {
    std::vector<std::string> command = {"/proc/self/exe", "logits",
                                        "--model",        o.model.model,
                                        "--prompts",      prompts,
                                        "--out",          out,
                                        "--greedy",       std::to_string(kGreedy),
                                        "--dtype",        options.dtype == "auto" ? "f32" : options.dtype,
                                        "--device",       options.device};
    if (options.threads > 0) command.insert(command.end(), {"--threads", std::to_string(options.threads)});
    for (const std::string& a : o.model.adapters) command.insert(command.end(), {"--adapter", a});
    return command;
}

Result<void> check_python(const std::string& python) {
    const auto code = run_program({python, "-c", ""});
    if (code && *code == 0) return {};
    return Error{
        python, "", code ? "exit code " + std::to_string(*code) : code.error().found,
        "Python with torch, transformers and peft, which verify compares with (--python PATH; pip install torch "
        "transformers peft safetensors)"};
}

Result<int> verify(const GlobalOptions& options, const VerifyOptions& o, Progress& progress) {
    TRY_ASSIGN(opened, open_model(o.model.model, options.seed_or()));
    if (opened.source != "safetensors")
        return Error{o.model.model, "", "a model from " + opened.source,
                     "a Hugging Face folder, which transformers loads"};
    TRY_VOID(check_python(o.python));
    const ScratchFolder scratch;
    if (!scratch.exists())
        return Error{fs::temp_directory_path().string(), "", std::strerror(errno), "a folder to write in"};
    const std::string logits = scratch.inside("logits.safetensors"), prompts = scratch.inside("prompts.json"),
                      spec_file = scratch.inside("spec.json"), script = scratch.inside("verify.py");
    TRY_ASSIGN(spec, make_spec(o, opened, logits, options.json));
    TRY_VOID(write_file_atomically(prompts, Json{{"prompts", spec["prompts"]}}.dump()));
    TRY_VOID(write_file_atomically(spec_file, spec.dump()));
    TRY_VOID(write_file_atomically(script, kVerifyScript));
    TRY_ASSIGN(mine, run_program(logits_command(options, o, prompts, logits)));
    if (mine != 0 || progress.cancelled()) return mine == 0 ? kInterrupted : mine;
    TRY_ASSIGN(compared, run_program({o.python, script, spec_file}));
    if (progress.cancelled()) return kInterrupted;
    return compared == kPackageMissing ? kFailed : compared;  // the script has said what is missing
}

}  // namespace

void add_verify(CLI::App& app, GlobalOptions& options, Action& action) {
    CLI::App* command = add_command(
        app, "verify", "Compare with transformers and PEFT on this machine: logits and greedy tokens",
        {"spartan verify ~/models/Llama-3.2-1B --adapter law=adapters/law",
         "spartan verify ~/models/Qwen3-0.6B --python ~/venv/bin/python --prompt \"Is water wet?\" --json"});
    auto o = std::make_shared<VerifyOptions>();
    command->add_option("MODEL", o->model.model, "A Hugging Face folder")
        ->type_name("")
        ->check(not_empty("a Hugging Face folder"))
        ->required();
    add_adapter_option(command, o->model);
    add_repeatable(command, "--prompt", o->prompts, "A prompt; may be repeated (default: three short ones)")
        ->type_name("TEXT")
        ->check(not_empty("a text"));
    command->add_option("--python", o->python, "A Python that has torch, transformers and peft (default: python3)")
        ->type_name("PATH")
        ->check(not_empty("a program"));
    command->add_option("--bar", o->bar, "Largest allowed difference over the largest logit (default 1e-4)")
        ->type_name("X")
        ->check(number_in(0, 1, "a number from 0 to 1"));
    add_json_flag(command, options);
    command->callback([&options, &action, o] {
        check_adapter_arguments("--adapter", o->model.adapters);
        action = [&options, o] { return perform([&](Progress& progress) { return verify(options, *o, progress); }); };
    });
}

}  // namespace spartan
