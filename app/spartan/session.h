// Model, adapters and engine as the commands' options describe them.
#pragma once

#include "app/spartan/command.h"
#include "app/spartan/console.h"
#include "core/engine/engine.h"
#include "core/run/recorder.h"

#include <map>

namespace spartan {

struct ModelOptions {
    std::string model;
    std::vector<std::string> adapters;
};
void add_model_option(CLI::App* command, ModelOptions& options);
void add_adapter_option(CLI::App* command, ModelOptions& options);

// While arguments are parsed: throws CLI::ValidationError for what cannot be NAME=FOLDER or a synthetic spec, for names
// that are not unique, and for a `used` name (may be empty) that is not among them.
void check_adapter_arguments(const std::string& flag, const std::vector<std::string>& arguments,
                             const std::string& use_flag = "", const std::string& used = "");

// What --device stands for: -1 the CPU, else a GPU's ordinal. Refuses what cannot be used, with the reason.
Result<int> chosen_device(const GlobalOptions& options);
Result<Precision> chosen_precision(const GlobalOptions& options);

// Text for a tokenizer: refuses bytes that are not UTF-8, naming the first of them.
Result<void> check_utf8(const std::string& text, const std::string& source);

struct Session {
    std::shared_ptr<const Model> model;
    std::unique_ptr<Recorder> recorder;  // outlives the engine
    std::unique_ptr<Engine> engine;
    std::vector<AdapterId> adapters;  // in the order of the arguments
    std::vector<std::string> adapter_names;
    std::vector<std::string> warnings;

    // Null and "" are the base. Refuses names that are not loaded.
    Result<AdapterId> find_adapter(const std::string& name, const std::string& file, const std::string& field) const;
};

Result<std::shared_ptr<const Model>> load_session_model(const GlobalOptions& options, const std::string& path,
                                                        uint64_t seed, Progress& progress, ProgressLine& line,
                                                        std::vector<std::string>& warnings);

// Ends the program with one line when the device has not answered for so long that it may never.
void leave_if_silent(const Engine& engine);

// Loads everything and starts the engine. `engine_options`' threads and device come from `options`.
Result<Session> open_session(const GlobalOptions& options, const ModelOptions& model, uint64_t seed,
                             EngineOptions engine_options, Progress& progress, Engine::LogitsSink logits = {});

}  // namespace spartan
