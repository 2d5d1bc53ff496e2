#include "app/spartan/session.h"

#include "core/base/text.h"
#include "core/engine/admission.h"
#include "core/run/device_info.h"

#include <algorithm>

namespace spartan {
void add_model_option(CLI::App* command, ModelOptions& options) {
    command
        ->add_option("--model", options.model,
                     "A Hugging Face folder, a .gguf file, synthetic:SHAPE, or demo for the demo model in the cache")
        ->type_name("MODEL")
        ->check(not_empty("a folder, a .gguf file or synthetic:SHAPE"))
        ->required();
}

void add_adapter_option(CLI::App* command, ModelOptions& options) {
    add_repeatable(command, "--adapter", options.adapters, "NAME=FOLDER or synthetic:KIND:COUNT:SIZES; may be repeated")
        ->type_name("ADAPTERS");
}

void check_adapter_arguments(const std::string& flag, const std::vector<std::string>& arguments,
                             const std::string& use_flag, const std::string& used) {
    const auto requests = parse_adapter_arguments(arguments, "");
    if (!requests) throw CLI::ValidationError(flag, requests.error().message());
    const auto named = [&](const AdapterRequest& r) { return r.name == used; };
    if (used.empty() || std::any_of(requests->begin(), requests->end(), named)) return;
    throw CLI::ValidationError(use_flag, "no adapter of the name " + shorten(used, 80));
}

Result<int> chosen_device(const GlobalOptions& options) {
    auto device = choose_device(options.device);
    if (device) return *device;
    Error error = device.error();
    error.file = "--device";
    return error;
}

Result<Precision> chosen_precision(const GlobalOptions& options) {
    TRY_ASSIGN(device, chosen_device(options));
    auto dtype = choose_dtype(options.dtype, device >= 0);
    if (dtype) return Precision(*dtype, options.weights == "keep");
    Error error = dtype.error();
    error.file = "--dtype";
    error.field.clear();
    return error;
}

Result<void> check_utf8(const std::string& text, const std::string& source) {
    const size_t valid = valid_utf8_bytes(text);
    if (valid == text.size()) return {};
    return Error{source, "byte " + std::to_string(valid), escape_control(text.substr(valid, 1)), "UTF-8 text"};
}

Result<AdapterId> Session::find_adapter(const std::string& name, const std::string& file,
                                        const std::string& field) const {
    if (name.empty()) return AdapterId::base;
    for (size_t i = 0; i < adapter_names.size(); ++i)
        if (adapter_names[i] == name) return adapters[i];
    return Error{file, field, "\"" + shorten(name, 80) + "\"",
                 adapter_names.empty() ? "no adapter: none is loaded (--adapter)"
                                       : "one of " + shorten(join(adapter_names, ", "), 300)};
}

Result<std::shared_ptr<const Model>> load_session_model(const GlobalOptions& options, const std::string& path,
                                                        uint64_t seed, Progress& progress, ProgressLine& line,
                                                        std::vector<std::string>& warnings) {
    TRY_ASSIGN(precision, chosen_precision(options));
    TRY_ASSIGN(opened, open_model(path, seed));
    warnings.insert(warnings.end(), opened.warnings.begin(), opened.warnings.end());
    const std::string what = "Loading " + opened.name;
    const int threads = options.threads > 0 ? options.threads : cpu_device_info().threads;
    const size_t known = opened.warnings.size();
    TRY_ASSIGN(model, with_progress(line, what, progress,
                                    [&] { return load_model(std::move(opened), precision, threads, progress); }));
    warnings.insert(warnings.end(), model->info.warnings.begin() + int64_t(known), model->info.warnings.end());
    return model;
}

void leave_if_silent(const Engine& engine) {
    const std::string silence = engine.watchdog()->silence();
    if (!silence.empty()) leave_at_once(report(make_error(silence)));
}

Result<Session> open_session(const GlobalOptions& options, const ModelOptions& model, uint64_t seed,
                             EngineOptions engine_options, Progress& progress, Engine::LogitsSink logits) {
    Session s;
    ProgressLine line;
    TRY_ASSIGN(requests, parse_adapter_arguments(model.adapters, ""));
    TRY_ASSIGN(loaded, load_session_model(options, model.model, seed, progress, line, s.warnings));
    s.model = loaded;
    s.recorder = std::make_unique<Recorder>();
    engine_options.threads = options.threads;
    TRY_ASSIGN(device, chosen_device(options));
    engine_options.cuda_device = device;
    TRY_ASSIGN(engine, Engine::create(s.model, engine_options, s.recorder->sink(), std::move(logits)));
    s.engine = std::move(engine);
    const AdapterForm form = form_of(strategy_of(s.engine->options()), device);
    for (const AdapterRequest& request : requests) {
        TRY_ASSIGN(adapter, with_progress(line, "Loading adapter " + request.name, progress,
                                          [&] { return load_adapter(request, *s.model, seed, progress, form); }));
        for (const std::string& w : adapter->warnings) s.warnings.push_back("adapter " + request.name + ": " + w);
        TRY_ASSIGN(id, s.engine->add_adapter(adapter));
        s.adapters.push_back(id);
        s.adapter_names.push_back(request.name);
    }
    return s;
}

}  // namespace spartan
