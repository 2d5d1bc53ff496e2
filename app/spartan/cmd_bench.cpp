#include "app/spartan/session.h"
#include "core/base/text.h"
#include "core/run/bench.h"
#include "core/run/device_info.h"
#include "core/run/html.h"
#include "core/run/table.h"

#include <algorithm>
#include <chrono>
#include <memory>

#include <sys/resource.h>

namespace spartan {
namespace {

struct BenchOptions {
    ModelOptions model;
    std::vector<int64_t> sizes;
    int64_t context = 128, tokens = 32;
    int repeats = 3;
};

std::string figure(const Json& value) { return value.is_number() ? format_figure(value.get<double>()) : "–"; }
std::string scaled(const Json& value, double unit) {
    return value.is_number() ? format_figure(value.get<double>() / unit) : "–";
}
std::string percent(const Json& value) {
    return value.is_number() ? format_figure(value.get<double>() * 100) + " %" : "–";
}

Json device_of(const GlobalOptions& options) {
    DeviceInfo device = cpu_device_info();
    if (options.threads > 0) device.threads = options.threads;
    return device_json(device);
}

std::string limits_text(const Json& limits) {
    return "memory reads " + scaled(limits["read_bytes_per_s"], 1e9) + " GB/s; peak " +
           scaled(limits["f32_flops"], 1e9) + " GFLOP/s in f32, " + scaled(limits["bf16_flops"], 1e9) + " in bf16\n\n";
}

int finish(const GlobalOptions& options, const Json& document, const std::string& text) {
    if (options.json)
        print_json(document);
    else
        print(for_output(text));
    return kDone;
}

Result<int> bench_all_kernels(const GlobalOptions& options, Progress& progress) {
    TRY_VOID(check_device(options));
    Json d{{"device", device_of(options)}};
    d.update(bench_kernels_json(options.threads, progress));
    std::vector<std::vector<std::string>> rows;
    for (const Json& k : d["kernels"])
        rows.push_back({k["name"].get<std::string>(), figure(k["ms"]), scaled(k["bytes"], 1e6), scaled(k["flops"], 1e6),
                        k["wrong"].is_null() ? percent(k["share"]) : k["wrong"].get<std::string>()});
    finish(options, d,
           limits_text(d["limits"]) + text_table({"kernel", "ms", "MB", "MFLOP", "share of the limit"}, rows));
    return progress.cancelled() ? kInterrupted : kDone;
}

std::string decode_text(const Json& d) {
    std::vector<std::vector<std::string>> rows;
    for (const Json& e : d["decode"])
        rows.push_back({figure(e["rows"]), figure(e["adapters"]), figure(e["step_ms"]), figure(e["tokens_per_s"]),
                        scaled(e["bytes"], 1e6), scaled(e["bytes_per_s"], 1e9), percent(e["share"]),
                        e.contains("added_ms") ? figure(e["added_ms"]) : "",
                        e.contains("added_over_limit") ? figure(e["added_over_limit"]) : ""});
    return limits_text(d["limits"]) + text_table({"requests", "adapters", "step ms", "tokens/s", "MB read", "GB/s",
                                                  "of bandwidth", "added ms", "added / adapter bytes at bandwidth"},
                                                 rows, 0);
}

std::string prefill_text(const Json& d) {
    std::vector<std::vector<std::string>> rows;
    for (const Json& e : d["prefill"])
        rows.push_back({figure(e["prompt_tokens"]), figure(e["adapters"]), figure(e["ms"]), figure(e["tokens_per_s"]),
                        scaled(e["flops_per_s"], 1e9), percent(e["share"])});
    return limits_text(d["limits"]) +
           text_table({"prompt tokens", "adapters", "ms", "tokens/s", "GFLOP/s", "of peak"}, rows, 0);
}

Result<int> bench_engine(const GlobalOptions& options, const BenchOptions& o, bool decode, Progress& progress) {
    EngineOptions engine;
    if (decode)
        engine.max_batch_rows =
            int32_t(std::max<int64_t>(engine.max_batch_rows, *std::max_element(o.sizes.begin(), o.sizes.end())));
    engine.max_batch_tokens = std::max(engine.max_batch_tokens, decode ? engine.max_batch_rows : 0);
    const Json limits = measure_limits_json(options.threads);
    TRY_ASSIGN(session, open_session(options, o.model, options.seed_or(), engine, progress));
    warn(session.warnings);
    const EngineBench bench{*session.engine, *session.recorder, session.adapters, o.sizes,
                            o.context,       o.tokens,          o.repeats,        limits};
    TRY_ASSIGN(figures, decode ? bench_decode(bench, progress) : bench_prefill(bench, progress));
    Json d{{"device", device_of(options)},
           {"model", session.model->info.name},
           {"dtype", name_of(session.model->dtype)},
           {"limits", limits}};
    d[decode ? "decode" : "prefill"] = figures;
    return finish(options, d, decode ? decode_text(d) : prefill_text(d));
}

int64_t peak_memory_bytes() {
    struct rusage usage {};
    ::getrusage(RUSAGE_SELF, &usage);
    return int64_t(usage.ru_maxrss) * 1024;
}

Result<int> bench_load(const GlobalOptions& options, const BenchOptions& o, Progress& progress) {
    using Clock = std::chrono::steady_clock;
    Json seconds = Json::array();
    std::shared_ptr<const Model> model;
    ProgressLine line;
    for (int i = 0; i < o.repeats; ++i) {
        model.reset();
        std::vector<std::string> warnings;
        const auto begin = Clock::now();
        TRY_ASSIGN(loaded, load_session_model(options, o.model.model, options.seed_or(), progress, line, warnings));
        seconds.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
        model = std::move(loaded);
        if (i == 0) warn(warnings);
    }
    const double best = *std::min_element(seconds.begin(), seconds.end());
    const Json d{{"device", device_of(options)},
                 {"model", model->info.name},
                 {"dtype", name_of(model->dtype)},
                 {"load",
                  {{"seconds", seconds},
                   {"best_s", best},
                   {"file_bytes", model->info.file_bytes},
                   {"bytes_per_s", double(model->info.file_bytes) / best},
                   {"weight_bytes", model->weight_bytes},
                   {"peak_memory_bytes", peak_memory_bytes()}}}};
    return finish(options, d,
                  model->info.name + ": ready in " + format_figure(best) + " s (the fastest of " +
                      std::to_string(o.repeats) + "), " + format_bytes(model->info.file_bytes) + " of files, " +
                      format_bytes(model->weight_bytes) + " of weights in " + name_of(model->dtype) + ", peak memory " +
                      format_bytes(peak_memory_bytes()) + "\n");
}

using Bench = Result<int> (*)(const GlobalOptions&, const BenchOptions&, Progress&);

void on_call(CLI::App* command, GlobalOptions& options, Action& action, std::shared_ptr<BenchOptions> o, Bench bench) {
    command->callback([&options, &action, o, bench] {
        action = [&options, o, bench] {
            Progress progress;
            const InterruptGuard guard(progress);
            const auto code = bench(options, *o, progress);
            return code ? *code : report(code.error());
        };
    });
}

void add_engine_bench(CLI::App& parent, const std::string& name, const std::string& description, GlobalOptions& options,
                      Action& action, const std::vector<int64_t>& sizes, Bench bench) {
    auto o = std::make_shared<BenchOptions>();
    o->sizes = sizes;
    const bool decode = name == "decode";
    CLI::App* command =
        add_command(parent, name, description,
                    {"spartan bench " + name + " --model demo",
                     "spartan bench " + name + " --model demo --adapter synthetic:boft:16:b=32,m=1 --json"});
    add_model_option(command, o->model);
    add_adapter_option(command, o->model);
    command
        ->add_option(
            decode ? "--batch" : "--prompt-tokens", o->sizes,
            decode ? "Requests side by side, a comma list (default 1,8,32)" : "Lengths, a comma list (default 512)")
        ->delimiter(',')
        ->check(CLI::Range(1, 1 << 16));
    if (decode) {
        command->add_option("--context", o->context, "Prompt tokens of each request (default 128)")
            ->check(CLI::Range(1, 1 << 20));
        command->add_option("--tokens", o->tokens, "Steps that are timed (default 32)")->check(CLI::Range(1, 1 << 16));
    }
    command->add_option("--repeats", o->repeats, "Rounds (default 3)")->check(CLI::Range(1, 1000));
    add_json_flag(command, options);
    on_call(command, options, action, o, bench);
}

}  // namespace

void add_bench(CLI::App& app, GlobalOptions& options, Action& action) {
    CLI::App* bench = add_command(app, "bench", "Measured against the machine's limits",
                                  {"spartan bench kernels", "spartan bench decode --model demo --batch 1,8,32 --json",
                                   "spartan bench load --model demo --repeats 5"});
    bench->require_subcommand(1);
    CLI::App* kernels =
        add_command(*bench, "kernels", "Every kernel, checked and then timed", {"spartan bench kernels --json"});
    add_json_flag(kernels, options);
    on_call(kernels, options, action, std::make_shared<BenchOptions>(),
            [](const GlobalOptions& g, const BenchOptions&, Progress& p) { return bench_all_kernels(g, p); });
    add_engine_bench(
        *bench, "decode", "A decode step: base alone, and with adapters", options, action, {1, 8, 32},
        [](const GlobalOptions& g, const BenchOptions& o, Progress& p) { return bench_engine(g, o, true, p); });
    add_engine_bench(
        *bench, "prefill", "The prefill of one prompt", options, action, {512},
        [](const GlobalOptions& g, const BenchOptions& o, Progress& p) { return bench_engine(g, o, false, p); });
    auto o = std::make_shared<BenchOptions>();
    CLI::App* load =
        add_command(*bench, "load", "From the files to a model that is ready", {"spartan bench load --model demo"});
    add_model_option(load, o->model);
    load->add_option("--repeats", o->repeats, "Rounds (default 3)")->check(CLI::Range(1, 1000));
    add_json_flag(load, options);
    on_call(load, options, action, o, bench_load);
    CLI::App* serve = bench->add_subcommand("serve", "not in this version")->group("")->prefix_command();
    serve->callback([&action] { action = [] { return bad_arguments("bench serve: not in this version"); }; });
}

}  // namespace spartan
