#include "app/spartan/session.h"
#include "core/base/text.h"
#include "core/engine/bench.h"
#include "core/run/device_info.h"
#include "core/run/html.h"
#include "core/run/kernel_bench.h"
#include "core/run/table.h"

#include <memory>

namespace spartan {
namespace {

struct BenchOptions {
    ModelOptions model;
    std::vector<int64_t> sizes;  // decode: rows; prefill: prompt lengths
    int64_t context = 256, steps = 20, repeats = 3;
};

std::string scaled(const Json& value, double unit = 1) {
    return value.is_number() ? format_figure(value.get<double>() / unit) : "–";
}
std::string percent(double share) { return share > 0 ? format_figure(share * 100) + " %" : "–"; }

Json document_of(const GlobalOptions& options, int cuda_device) {
    DeviceInfo device = device_info(cuda_device);
    if (cuda_device < 0 && options.threads > 0) device.threads = options.threads;
    return {{"device", device_json(device)}};
}

std::string limits_text(const Json& limits) {
    return "memory reads " + scaled(limits["read_bytes_per_s"], 1e9) + " GB/s; arithmetic peaks at " +
           scaled(limits["f32_flops"], 1e9) + " GFLOP/s in f32, " + scaled(limits["bf16_flops"], 1e9) + " in bf16\n\n";
}

void show(const GlobalOptions& options, const Json& document, const std::string& text) {
    if (options.json)
        print_json(document);
    else
        print(for_output(text));
}

Result<std::shared_ptr<const Model>> load_bench_model(const GlobalOptions& options, const BenchOptions& o,
                                                      Progress& progress, Json& document) {
    ProgressLine line;
    std::vector<std::string> warnings;
    TRY_ASSIGN(model, load_session_model(options, o.model.model, options.seed_or(), progress, line, warnings));
    warn(warnings);
    document["model"] = model->info.name;
    document["dtype"] = name_of(model->dtype);
    document["weights"] = options.weights;
    return std::move(model);
}

Result<int> bench_kernels(const GlobalOptions& options, const BenchOptions&, Progress& progress) {
    TRY_ASSIGN(device, chosen_device(options));
    if (device >= 0) return Error{"--device", "", options.device, "cpu: the kernels of a GPU are not timed here yet"};
    Json d = document_of(options, device);
    d.update(bench_kernels_json(options.threads, progress));
    std::vector<std::vector<std::string>> rows;
    bool wrong = false;
    for (const Json& k : d["kernels"]) {
        wrong |= !k["wrong"].is_null();
        rows.push_back({k["name"].get<std::string>(), scaled(k["ms"]), scaled(k["bytes"], 1e6), scaled(k["flops"], 1e6),
                        k["wrong"].is_null() ? percent(k["share"].get<double>()) : k["wrong"].get<std::string>()});
    }
    show(options, d, limits_text(d["limits"]) + text_table({"kernel", "ms", "MB", "MFLOP", "of the limit"}, rows));
    if (wrong) return make_error("a kernel disagrees with its plain loop in double precision");
    return kDone;
}

Result<int> bench_decode(const GlobalOptions& options, const BenchOptions& o, Progress& progress) {
    TRY_ASSIGN(device, chosen_device(options));
    Json d = document_of(options, device);
    TRY_ASSIGN(model, load_bench_model(options, o, progress, d));
    TRY_ASSIGN(limits, measure_limits_json(options.threads, device));
    d["limits"] = limits;
    DecodeBenchOptions decode;
    decode.cuda_device = device;
    decode.threads = options.threads;
    decode.rows = o.sizes;
    decode.context = o.context;
    decode.steps = o.steps;
    decode.read_bytes_per_s = d["limits"]["read_bytes_per_s"].get<double>();
    decode.seed = options.seed_or();
    TRY_ASSIGN(figures, measure_decode(model, decode, progress));
    d["decode"] = to_json(figures);
    std::vector<std::vector<std::string>> rows;
    for (const DecodeFigure& f : figures)
        rows.push_back({f.adapters, std::to_string(f.rows), format_figure(f.median_ms), format_figure(f.tokens_per_s),
                        format_figure(double(f.bytes.weights + f.bytes.adapters + f.bytes.kv) / 1e6),
                        percent(f.bandwidth_share), f.added_ms != 0 ? format_figure(f.added_ms) : "",
                        f.added_over_floor != 0 ? format_figure(f.added_over_floor) : ""});
    show(options, d,
         limits_text(d["limits"]) + text_table({"adapters", "rows", "step ms", "tokens/s", "MB read", "of bandwidth",
                                                "added ms", "added / adapter bytes at bandwidth"},
                                               rows));
    return kDone;
}

Result<int> bench_prefill(const GlobalOptions& options, const BenchOptions& o, Progress& progress) {
    TRY_ASSIGN(device, chosen_device(options));
    Json d = document_of(options, device);
    TRY_ASSIGN(model, load_bench_model(options, o, progress, d));
    TRY_ASSIGN(limits, measure_limits_json(options.threads, device));
    d["limits"] = limits;
    PrefillBenchOptions prefill;
    prefill.cuda_device = device;
    prefill.threads = options.threads;
    prefill.lengths = o.sizes;
    prefill.repeats = o.repeats;
    TRY_ASSIGN(figures, measure_prefill(model, prefill, progress));
    d["prefill"] = to_json(figures);
    const double peak = d["limits"][model->dtype == DType::bf16 ? "bf16_flops" : "f32_flops"].get<double>();
    std::vector<std::vector<std::string>> rows;
    for (size_t i = 0; i < figures.size(); ++i) {
        const PrefillFigure& f = figures[i];
        const double share = peak > 0 ? f.flops_per_s / peak : 0;
        d["prefill"][i]["peak_share"] = share;
        rows.push_back({std::to_string(f.tokens), format_figure(f.median_ms), format_figure(f.tokens_per_s),
                        format_figure(f.flops_per_s / 1e9), percent(share)});
    }
    show(options, d,
         limits_text(d["limits"]) + text_table({"prompt tokens", "ms", "tokens/s", "GFLOP/s", "of the peak"}, rows, 0));
    return kDone;
}

Result<int> bench_load(const GlobalOptions& options, const BenchOptions& o, Progress& progress) {
    TRY_ASSIGN(device, chosen_device(options));
    TRY_ASSIGN(precision, chosen_precision(options));
    TRY_ASSIGN(adapters, parse_adapter_arguments(o.model.adapters, ""));
    Json d = document_of(options, device);
    d["load"] = Json::array();
    std::vector<std::vector<std::string>> rows;
    double best = 0;
    for (int64_t i = 0; i < o.repeats; ++i) {
        TRY_ASSIGN(f, measure_load(o.model.model, precision, options.threads, adapters, options.seed_or(), progress));
        d["model"] = f.model->info.name;
        d["dtype"] = name_of(f.model->dtype);
        d["weights"] = options.weights;
        d["load"].push_back(to_json(f));
        const double ready = f.open_ms + f.load_ms;
        best = i == 0 ? ready : std::min(best, ready);
        double adapter_ms = 0;
        for (const auto& [name, ms] : f.adapter_ms) adapter_ms += ms;
        rows.push_back({std::to_string(i + 1), format_figure(f.open_ms), format_figure(f.load_ms),
                        f.adapter_ms.empty() ? "" : format_figure(adapter_ms), format_bytes(f.file_bytes),
                        format_bytes(f.weight_bytes), format_bytes(f.peak_resident_bytes)});
    }
    d["best_ready_ms"] = best;
    show(options, d,
         d["model"].get<std::string>() + " in " + d["dtype"].get<std::string>() + ": ready in " + format_figure(best) +
             " ms\n\n" +
             text_table({"round", "open ms", "load ms", "adapters ms", "files", "weights", "peak memory"}, rows, 0));
    return kDone;
}

using Bench = Result<int> (*)(const GlobalOptions&, const BenchOptions&, Progress&);

CLI::App* add_bench_command(CLI::App& parent, const std::string& name, const std::string& description,
                            const std::string& example, GlobalOptions& options, Action& action,
                            const std::shared_ptr<BenchOptions>& o, Bench bench) {
    CLI::App* command = add_command(parent, name, description, {"spartan bench " + name + example});
    add_json_flag(command, options);
    command->callback([&options, &action, o, bench] {
        check_adapter_arguments("--adapter", o->model.adapters);
        action = [&options, o, bench] {
            return perform([&](Progress& progress) { return bench(options, *o, progress); });
        };
    });
    return command;
}

CLI::Option* add_sizes(CLI::App* command, const std::string& flag, std::vector<int64_t>& sizes,
                       const std::string& description) {
    return command->add_option(flag, sizes, description)
        ->delimiter(',')
        ->type_name("N,…")
        ->check(integer_in(1, 1 << 20));
}

}  // namespace

void add_bench(CLI::App& app, GlobalOptions& options, Action& action) {
    CLI::App* bench = add_command(app, "bench", "Measured against the machine's limits",
                                  {"spartan bench kernels", "spartan bench decode --model demo --batch 1,8,32 --json",
                                   "spartan bench load --model demo"});
    bench->require_subcommand(1);
    const auto o = std::make_shared<BenchOptions>();
    add_bench_command(*bench, "kernels", "Every kernel, checked and then timed", " --json", options, action, o,
                      bench_kernels);

    CLI::App* decode = add_bench_command(*bench, "decode", "Decode steps: the base alone, BOFT and LoRA mixed, LoRA",
                                         " --model demo --batch 1,8,32", options, action, o, bench_decode);
    add_model_option(decode, o->model);
    add_sizes(decode, "--batch", o->sizes, "Requests side by side, a comma list (default 1,8,32)");
    decode->add_option("--context", o->context, "Tokens before the one that is decoded (default 256)")
        ->type_name("N")
        ->check(integer_in(1, 1 << 20));
    decode->add_option("--steps", o->steps, "Timed steps of each case (default 20)")
        ->type_name("N")
        ->check(integer_in(1, 100'000));
    decode->parse_complete_callback([o] {
        if (o->sizes.empty()) o->sizes = {1, 8, 32};
    });

    CLI::App* prefill = add_bench_command(*bench, "prefill", "The prefill of one prompt", " --model demo", options,
                                          action, o, bench_prefill);
    add_model_option(prefill, o->model);
    add_sizes(prefill, "--prompt-tokens", o->sizes, "Lengths, a comma list (default 128,512)");
    prefill->add_option("--repeats", o->repeats, "Rounds (default 3)")->type_name("N")->check(integer_in(1, 1000));
    prefill->parse_complete_callback([o] {
        if (o->sizes.empty()) o->sizes = {128, 512};
    });

    CLI::App* load = add_bench_command(*bench, "load", "From the files to a model that is ready", " --model demo",
                                       options, action, o, bench_load);
    add_model_option(load, o->model);
    add_adapter_option(load, o->model);
    load->add_option("--repeats", o->repeats, "Rounds (default 3)")->type_name("N")->check(integer_in(1, 1000));

    CLI::App* serve = bench->add_subcommand("serve", "not in this version")->group("")->prefix_command();
    serve->callback([&action] { action = [] { return bad_arguments("bench serve: not in this version"); }; });
}

}  // namespace spartan
