#include "app/spartan/session.h"
#include "core/base/text.h"
#include "core/engine/bench.h"
#include "core/engine/bench_arrivals.h"
#include "core/run/device_info.h"
#include "core/run/html.h"
#include "core/run/kernel_bench.h"
#include "core/run/output_file.h"
#include "core/run/table.h"

#include <algorithm>
#include <memory>
#include <span>

namespace spartan {
namespace {

struct BenchOptions {
    ModelOptions model;
    std::vector<int64_t> sizes;  // decode: rows; prefill: prompt lengths
    std::vector<std::string> kinds, set, strategies;
    std::vector<int64_t> adapters;
    std::string boft, lora, csv;
    int64_t context = 256, steps = 20, repeats = 3, sequences = 1, max_batch_tokens = 0;
    bool ablation = false;
    std::string only;  // kernels
};

// The first as it comes, each other with one thing changed.
constexpr RunnerSwitches kAblation[] = {{}, {.graphs = false}, {.overlap = false}, {.ahead_bytes = 0}};
constexpr const char* kAblationNames[] = {"step ms", "without graphs", "without overlap", "nothing ahead"};

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

std::string cpu_kernels_text(const Json& kernels) {
    std::vector<std::vector<std::string>> rows;
    for (const Json& k : kernels)
        rows.push_back({k["name"].get<std::string>(), scaled(k["ms"]), scaled(k["bytes"], 1e6), scaled(k["flops"], 1e6),
                        k["wrong"].is_null() ? percent(k["share"].get<double>()) : k["wrong"].get<std::string>()});
    return text_table({"kernel", "ms", "MB", "MFLOP", "of the limit"}, rows);
}

std::string gpu_kernels_text(const Json& kernels) {
    std::vector<std::vector<std::string>> rows;
    for (const Json& k : kernels) {
        std::vector<std::string> row{k["name"].get<std::string>(), scaled(k["bytes"], 1e6), scaled(k["flops"], 1e6)};
        for (const char* way : {"alone", "chain", "peer"}) {
            const Json& timing = k[way];
            row.push_back(timing.is_null() ? "" : scaled(timing["us"]));
            row.push_back(timing.is_null() ? "" : percent(timing["share"].get<double>()));
        }
        if (!k["wrong"].is_null()) row.back() = k["wrong"].get<std::string>();
        rows.push_back(std::move(row));
    }
    return "Of the limit: alone, in a chain of overlapping launches, and cuBLASLt's best.\n\n" +
           text_table({"kernel", "MB", "MFLOP", "alone us", "%", "chain us", "%", "peer us", "%"}, rows);
}

Result<int> bench_kernels(const GlobalOptions& options, const BenchOptions& o, Progress& progress) {
    TRY_ASSIGN(device, chosen_device(options));
    Json d = document_of(options, device);
    TRY_ASSIGN(timed, bench_kernels_json(options.threads, device, o.only, progress));
    d.update(timed);
    const Json& kernels = d["kernels"];
    show(options, d, limits_text(d["limits"]) + (device < 0 ? cpu_kernels_text(kernels) : gpu_kernels_text(kernels)));
    if (std::any_of(kernels.begin(), kernels.end(), [](const Json& k) { return !k["wrong"].is_null(); }))
        return make_error("a kernel disagrees with its plain loop in double precision");
    return kDone;
}

std::vector<BatchKind> kinds_of(const BenchOptions& o) {
    std::vector<BatchKind> kinds;
    for (const std::string& name : o.kinds) kinds.push_back(*parse_batch_kind(name));
    return kinds;
}

// What --set and --ablation ask of the runner.
Result<void> set_switches(const BenchOptions& o, DecodeBenchOptions& decode) {
    if (decode.cuda_device < 0 && (o.ablation || !o.set.empty()))
        return Error{o.ablation ? "--ablation" : "--set", "", "the CPU",
                     "a GPU: nothing else has graphs and launches that overlap"};
    if (o.ablation) {
        decode.switches.assign(std::begin(kAblation), std::end(kAblation));
        return {};
    }
    for (const std::string& set : o.set) {
        const std::string key = set.substr(0, set.find('='));
        if (key == "ahead") {
            decode.switches[0].ahead_bytes = std::stoll(set.substr(key.size() + 1)) << 20;
            continue;
        }
        bool& value = key == "graphs"            ? decode.switches[0].graphs
                      : key == "overlap"         ? decode.switches[0].overlap
                      : key == "batch_invariant" ? decode.batch_invariant
                                                 : decode.phase_times;
        value = set.ends_with("=true");
    }
    return {};
}

std::vector<std::string> switch_values() {
    std::vector<std::string> values;
    for (const char* key : {"graphs", "overlap", "batch_invariant", "phase_times"})
        for (const char* value : {"=true", "=false"}) values.push_back(std::string(key) + value);
    for (const char* megabytes : {"0", "2", "4", "8", "16", "32"}) values.push_back(std::string("ahead=") + megabytes);
    return values;
}

// One line for each object of `rows`.
std::string csv_text(const std::vector<std::string>& columns, const Json& rows) {
    std::string text = join(columns, ",") + "\n";
    for (const Json& row : rows) {
        std::vector<std::string> cells;
        for (const std::string& column : columns) {
            const Json& v = row.at(column);
            cells.push_back(v.is_null() ? "" : v.is_string() ? csv_cell(v.get<std::string>()) : v.dump());
        }
        text += join(cells, ",") + "\n";
    }
    return text;
}

Result<void> write_csv(const std::string& path, const std::vector<std::string>& columns, const Json& rows) {
    if (path.empty()) return {};
    TRY_ASSIGN(file, OutputFile::create(path));
    file.write(csv_text(columns, rows));
    return file.commit();
}

// Before anything is measured.
Result<void> check_csv(const BenchOptions& o) {
    if (o.csv.empty()) return {};
    return OutputFile::check(o.csv);
}

std::string decode_table(const std::vector<DecodeFigure>& figures, bool on_gpu) {
    std::vector<std::vector<std::string>> rows;
    const bool compares = std::any_of(figures.begin(), figures.end(),
                                      [&](const DecodeFigure& f) { return f.strategy != AdapterStrategy::folded; });
    for (const DecodeFigure& f : figures)
        rows.push_back({name_of(f.kind), std::to_string(f.rows), std::to_string(f.distinct_adapters),
                        format_figure(f.median_ms), format_figure(f.min_ms), format_figure(f.tokens_per_s),
                        format_figure(double(f.bytes.weights + f.bytes.adapters + f.bytes.kv) / 1e6),
                        format_figure(f.floor_ms), percent(f.bandwidth_share),
                        f.added_ms != 0 ? format_figure(f.added_ms) : "",
                        f.added_over_floor != 0 ? format_figure(f.added_over_floor) : ""});
    std::vector<std::string> header{"adapters",
                                    "rows",
                                    "distinct",
                                    "step ms",
                                    "least ms",
                                    "tokens/s",
                                    "MB read",
                                    "floor ms",
                                    "of floor",
                                    "added ms",
                                    "added / adapters' floor"};
    if (on_gpu) {
        header.insert(header.begin() + 5, "gap us");
        for (size_t i = 0; i < rows.size(); ++i)
            rows[i].insert(rows[i].begin() + 5, format_figure(figures[i].gap_ms.value_or(0) * 1e3));
    }
    if (compares) {
        header.insert(header.begin(), "strategy");
        header.emplace_back("MB written");
        for (size_t i = 0; i < rows.size(); ++i) {
            rows[i].insert(rows[i].begin(), name_of(figures[i].strategy));
            rows[i].push_back(format_figure(double(figures[i].bytes.staging) / 1e6));
        }
    }
    const bool cached =
        std::any_of(figures.begin(), figures.end(), [](const DecodeFigure& f) { return f.bandwidth_share > 1.1; });
    if (!cached) return text_table(header, rows);
    return text_table(header, rows) +
           "\nFar more than 100 % of the floor: what a step reads lies in caches, faster than the memory of the "
           "floor.\n";
}

std::string ablation_table(const std::vector<DecodeFigure>& figures) {
    std::vector<std::vector<std::string>> rows;
    for (const DecodeFigure& whole : figures) {
        if (!whole.switches.same_as(kAblation[0])) continue;
        std::vector<std::string> row{name_of(whole.strategy), name_of(whole.kind), std::to_string(whole.rows),
                                     std::to_string(whole.distinct_adapters), format_figure(whole.median_ms)};
        for (const RunnerSwitches& switches : std::span(kAblation).subspan(1))
            for (const DecodeFigure& f : figures)
                if (f.kind == whole.kind && f.strategy == whole.strategy && f.rows == whole.rows &&
                    f.distinct_adapters == whole.distinct_adapters && f.switches.same_as(switches))
                    row.push_back(format_figure(f.median_ms) + " (x" + format_figure(f.median_ms / whole.median_ms) +
                                  ")");
        rows.push_back(std::move(row));
    }
    std::vector<std::string> header{"strategy", "adapters", "rows", "distinct"};
    header.insert(header.end(), std::begin(kAblationNames), std::end(kAblationNames));
    return text_table(header, rows);
}

Result<int> bench_decode(const GlobalOptions& options, const BenchOptions& o, Progress& progress) {
    TRY_ASSIGN(device, chosen_device(options));
    DecodeBenchOptions decode;
    decode.cuda_device = device;
    TRY_VOID(set_switches(o, decode));
    TRY_VOID(check_csv(o));
    Json d = document_of(options, device);
    TRY_ASSIGN(model, load_bench_model(options, o, progress, d));
    TRY_ASSIGN(limits, measure_limits_json(options.threads, device));
    d["limits"] = limits;
    decode.threads = options.threads;
    decode.kinds = kinds_of(o);
    if (!o.strategies.empty()) decode.strategies.clear();
    for (const std::string& name : o.strategies) decode.strategies.push_back(*parse_adapter_strategy(name));
    decode.rows = o.sizes;
    decode.adapters = o.adapters;
    decode.sizes = {o.boft, o.lora};
    decode.context = o.context;
    decode.steps = o.steps;
    decode.read_bytes_per_s = d["limits"]["read_bytes_per_s"].get<double>();
    decode.seed = options.seed_or();
    TRY_ASSIGN(figures, measure_decode(model, decode, progress));
    d["decode"] = to_json(figures);
    TRY_VOID(write_csv(o.csv,
                       {"adapters",
                        "rows",
                        "distinct_adapters",
                        "context",
                        "graphs",
                        "overlap",
                        "ahead_bytes",
                        "steps",
                        "median_ms",
                        "min_ms",
                        "gap_ms",
                        "tokens_per_s",
                        "weight_bytes",
                        "adapter_bytes",
                        "kv_bytes",
                        "floor_ms",
                        "bandwidth_share",
                        "added_ms",
                        "added_over_floor",
                        "strategy",
                        "passes",
                        "common_block",
                        "staging_bytes"},
                       d["decode"]));
    if (o.csv == "-") return kDone;
    std::string text = limits_text(d["limits"]);
    if (o.ablation) text += ablation_table(figures) + "\n";
    std::erase_if(figures, [&](const DecodeFigure& f) { return !f.switches.same_as(decode.switches[0]); });
    show(options, d, text + decode_table(figures, device >= 0));
    return kDone;
}

Result<int> bench_prefill(const GlobalOptions& options, const BenchOptions& o, Progress& progress) {
    TRY_ASSIGN(device, chosen_device(options));
    TRY_VOID(check_csv(o));
    Json d = document_of(options, device);
    TRY_ASSIGN(model, load_bench_model(options, o, progress, d));
    TRY_ASSIGN(limits, measure_limits_json(options.threads, device));
    d["limits"] = limits;
    PrefillBenchOptions prefill;
    prefill.cuda_device = device;
    prefill.threads = options.threads;
    if (!o.kinds.empty())
        prefill.kinds = kinds_of(o);
    else if (!o.adapters.empty())
        prefill.kinds = default_decode_kinds(device);
    prefill.lengths = o.sizes;
    prefill.sequences = o.sequences;
    prefill.adapters = o.adapters.empty() ? o.sequences : o.adapters[0];
    prefill.sizes = {o.boft, o.lora};
    prefill.chunk = o.max_batch_tokens > 0 ? o.max_batch_tokens : device < 0 ? 512 : 4096;
    prefill.repeats = o.repeats;
    prefill.seed = options.seed_or();
    TRY_ASSIGN(figures, measure_prefill(model, prefill, progress));
    d["prefill"] = to_json(figures);
    d["max_batch_tokens"] = prefill.chunk;
    const double peak = d["limits"][model->dtype == DType::f32 ? "f32_flops" : "bf16_flops"].get<double>();
    std::vector<std::vector<std::string>> rows;
    for (size_t i = 0; i < figures.size(); ++i) {
        const PrefillFigure& f = figures[i];
        const double share = peak > 0 ? f.flops_per_s / peak : 0;
        d["prefill"][i]["peak_share"] = share;
        rows.push_back({name_of(f.kind), std::to_string(f.sequences), std::to_string(f.tokens),
                        std::to_string(f.distinct_adapters), format_figure(f.median_ms), format_figure(f.tokens_per_s),
                        format_figure(f.flops_per_s / 1e9), percent(share),
                        f.added_share != 0 ? format_figure(f.added_share * 100) + " %" : ""});
    }
    TRY_VOID(write_csv(o.csv,
                       {"adapters", "tokens", "sequences", "distinct_adapters", "median_ms", "tokens_per_s",
                        "flops_per_s", "peak_share", "added_share"},
                       d["prefill"]));
    if (o.csv == "-") return kDone;
    show(options, d,
         limits_text(d["limits"]) + text_table({"adapters", "prompts", "tokens each", "distinct", "ms", "tokens/s",
                                                "GFLOP/s", "of the peak", "added"},
                                               rows));
    return kDone;
}

Result<int> bench_arrivals(const GlobalOptions& options, const BenchOptions& o, Progress& progress) {
    TRY_ASSIGN(device, chosen_device(options));
    if (device < 0) return Error{"", "--device", "the CPU", "a GPU: on a CPU nothing comes in beside a step"};
    Json d = document_of(options, device);
    TRY_ASSIGN(model, load_bench_model(options, o, progress, d));
    ArrivalBenchOptions arrivals;
    arrivals.cuda_device = device;
    arrivals.rows = o.sizes[0];
    if (!o.adapters.empty()) arrivals.adapters = o.adapters[0];
    arrivals.sizes = {o.boft, o.lora};
    arrivals.context = o.context;
    arrivals.steps = o.steps;
    arrivals.seed = options.seed_or();
    TRY_ASSIGN(figures, measure_arrivals(model, arrivals, progress));
    d["arrivals"] = to_json(figures);
    d["rows"] = arrivals.rows;
    d["context"] = arrivals.context;
    std::vector<std::vector<std::string>> rows;
    for (const ArrivalFigure& f : figures)
        rows.push_back({f.kind, f.pace_ms > 0 ? "every " + format_figure(f.pace_ms) + " ms" : "no pause",
                        format_bytes(f.host_bytes), format_bytes(f.pool_bytes), format_figure(f.alone_ms),
                        format_figure(f.beside_ms), format_figure(f.every_ms), format_figure(f.step_ms),
                        format_figure(f.step_beside_ms), format_figure(f.slower * 100) + " %",
                        percent(f.streaming_share)});
    show(options, d,
         text_table({"adapters", "pace", "travel", "in the pool", "alone ms", "beside ms", "one every ms", "step ms",
                     "beside ms", "slower", "streaming"},
                    rows));
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

CLI::Option* add_number(CLI::App* command, const std::string& flag, int64_t& value, const std::string& description,
                        int64_t most) {
    return command->add_option(flag, value, description)->type_name("N")->check(integer_in(1, most));
}

void add_adapter_sizes(CLI::App* command, const std::string& kind, std::string& sizes, const std::string& standard) {
    const auto check = [kind](std::string& text) {
        const auto spec = parse_synthetic_spec("synthetic:" + kind + ":1:" + text);
        return spec ? std::string() : spec.error().message();
    };
    command
        ->add_option("--" + kind, sizes,
                     "Sizes of the synthetic adapters, dealt out in turn (default " + standard + ")")
        ->type_name("SIZES")
        ->check(CLI::Validator(check, ""));
}

// Which adapters the batches of decode and prefill use, and where the figures go.
void add_batch_options(CLI::App* command, BenchOptions& o, const std::string& kinds, const std::string& adapters) {
    command->add_option("--kinds", o.kinds, kinds)
        ->delimiter(',')
        ->type_name("KIND,…")
        ->check(one_of(batch_kind_names()));
    add_sizes(command, "--adapters", o.adapters, adapters);
    add_adapter_sizes(command, "boft", o.boft, "b=32,m=1; b=32,m=2 on a GPU");
    add_adapter_sizes(command, "lora", o.lora, "r=16; r=64 on a GPU");
    command->add_option("--csv", o.csv, "The figures as CSV into this file, a row each (- is standard output)")
        ->type_name("FILE")
        ->check(not_empty("the path of a file"));
}

void refuse_two_documents(const GlobalOptions& options, const BenchOptions& o) {
    if (options.json && o.csv == "-")
        throw CLI::ValidationError("--csv", "found - beside --json, expected the path of a file");
}

}  // namespace

void add_bench(CLI::App& app, GlobalOptions& options, Action& action) {
    CLI::App* bench = add_command(app, "bench", "Measured against the machine's limits",
                                  {"spartan bench kernels", "spartan bench decode --model demo --batch 1,8,32 --json",
                                   "spartan bench load --model demo"});
    bench->require_subcommand(1);
    const auto o = std::make_shared<BenchOptions>();
    CLI::App* kernels = add_bench_command(*bench, "kernels", "Every kernel, checked and then timed", " --json", options,
                                          action, o, bench_kernels);
    kernels->add_option("--only", o->only, "Those whose name contains this")->type_name("NAME");

    CLI::App* decode = add_bench_command(*bench, "decode", "Decode steps: the base alone, then with adapters",
                                         " --model demo --batch 1,8,32", options, action, o, bench_decode);
    add_model_option(decode, o->model);
    add_sizes(decode, "--batch", o->sizes, "Requests side by side, a comma list (default 1,8,32)");
    add_batch_options(decode, *o,
                      "base, boft, lora, boft+lora, half (both, and every third row on the base); default "
                      "base,boft+lora,lora; on a GPU base,boft,lora,half",
                      "Distinct adapters in a batch, dealt round robin, a comma list (default: one a row)");
    decode
        ->add_option("--strategy", o->strategies,
                     "How adapters meet the weights, a comma list: " + join(adapter_strategy_names(), ", ") +
                         " (default folded)")
        ->delimiter(',')
        ->type_name("STRATEGY,…")
        ->check(one_of(adapter_strategy_names()));
    add_number(decode, "--context", o->context, "Tokens before the one that is decoded (default 256)", 1 << 20);
    add_number(decode, "--steps", o->steps, "Timed steps of each case (default 20)", 100'000);
    CLI::Option* set =
        add_repeatable(decode, "--set", o->set,
                       "On a GPU: graphs=false, overlap=false, ahead=MB (of weights asked for by the kernel "
                       "before), batch_invariant=true, phase_times=true (excludes graphs); may be repeated")
            ->type_name("KEY=VALUE")
            ->check(one_of(switch_values()));
    decode
        ->add_flag("--ablation", o->ablation,
                   "On a GPU: each case without graphs, without overlapping launches, with nothing asked for ahead")
        ->excludes(set);
    decode->parse_complete_callback([&options, o] {
        refuse_two_documents(options, *o);
        if (o->sizes.empty()) o->sizes = {1, 8, 32};
    });

    CLI::App* prefill =
        add_bench_command(*bench, "prefill", "The prefill of one prompt, or of several on different adapters",
                          " --model demo --sequences 8 --adapters 8", options, action, o, bench_prefill);
    add_model_option(prefill, o->model);
    add_sizes(prefill, "--prompt-tokens", o->sizes, "Lengths, a comma list (default 128,512)");
    add_number(prefill, "--sequences", o->sequences, "Prompts of that length side by side (default 1)", 1024);
    add_batch_options(prefill, *o, "As of bench decode (default base; with --adapters as there)",
                      "Distinct adapters among the prompts (default: one a prompt)");
    prefill->get_option("--adapters")->expected(1)->delimiter('\0')->type_name("N");
    add_number(prefill, "--max-batch-tokens", o->max_batch_tokens, "Tokens a step (default 512; on a GPU 4096)",
               1 << 20);
    add_number(prefill, "--repeats", o->repeats, "Rounds (default 3)", 1000);
    prefill->parse_complete_callback([&options, o] {
        refuse_two_documents(options, *o);
        if (o->sizes.empty()) o->sizes = {128, 512};
    });

    CLI::App* arrivals = add_bench_command(*bench, "arrivals", "On a GPU: adapters that come in beside decode steps",
                                           " --model synthetic:llama-2-7b", options, action, o, bench_arrivals);
    add_model_option(arrivals, o->model);
    add_sizes(arrivals, "--batch", o->sizes, "Requests that decode side by side (default 96)")
        ->expected(1)
        ->delimiter('\0')
        ->type_name("N");
    add_sizes(arrivals, "--adapters", o->adapters, "Distinct BOFT adapters that they use (default 8)")
        ->expected(1)
        ->delimiter('\0')
        ->type_name("N");
    add_adapter_sizes(arrivals, "boft", o->boft, "b=32,m=2");
    add_adapter_sizes(arrivals, "lora", o->lora, "r=64");
    add_number(arrivals, "--context", o->context, "Tokens before those that are decoded (default 256)", 1 << 20);
    add_number(arrivals, "--steps", o->steps, "Timed steps, alone and beside (default 20)", 100'000);
    arrivals->parse_complete_callback([o] {
        if (o->sizes.empty()) o->sizes = {96};
    });

    CLI::App* load = add_bench_command(*bench, "load", "From the files to a model that is ready", " --model demo",
                                       options, action, o, bench_load);
    add_model_option(load, o->model);
    add_adapter_option(load, o->model);
    add_number(load, "--repeats", o->repeats, "Rounds (default 3)", 1000);

    CLI::App* serve = bench->add_subcommand("serve", "not in this version")->group("")->prefix_command();
    serve->callback([&action] { action = [] { return bad_arguments("bench serve: not in this version"); }; });
}

}  // namespace spartan
