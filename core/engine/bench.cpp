#include "core/engine/bench.h"

#include "kernels/device.h"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <limits>

namespace spartan {
namespace {

using Clock = std::chrono::steady_clock;

Result<void> check_lengths(const Model& model, const char* field, int64_t tokens) {
    if (tokens >= 1 && tokens <= model.config().max_position) return {};
    return Error{"", field, std::to_string(tokens), "1 to " + std::to_string(model.config().max_position)};
}

BenchSizes with_defaults(BenchSizes sizes, int cuda_device) {
    const BenchSizes standard = default_bench_sizes(cuda_device);
    if (sizes.boft.empty()) sizes.boft = standard.boft;
    if (sizes.lora.empty()) sizes.lora = standard.lora;
    return sizes;
}

// Of pairs of steps that followed each other, so that what slows the machine for a while falls on both.
double median_difference(const std::vector<double>& a, const std::vector<double>& b) {
    std::vector<double> differences;
    for (size_t i = 0; i < a.size(); ++i) differences.push_back(a[i] - b[i]);
    return median(differences);
}

// The median step's times belong to one real step.
struct Samples {
    std::vector<double> ms, gap_ms;
    std::vector<StepTimes> times;

    StepTimes of_median() const {
        const double middle = median(ms);
        size_t best = 0;
        for (size_t i = 1; i < ms.size(); ++i)
            if (std::abs(ms[i] - middle) < std::abs(ms[best] - middle)) best = i;
        return times[best];
    }
};

struct DecodeCase {
    BatchKind kind{};
    AdapterStrategy strategy = AdapterStrategy::folded;
    RunnerSwitches switches;
    int64_t rows = 0;
    Deal deal;
    Batch batch = {};
    Samples samples = {};
    StepBytes bytes = {};
    int32_t passes = 1;
    int64_t common_block = 0;
};

std::vector<DecodeCase> cases_of(int64_t rows, AdapterStrategy strategy, const DecodeBenchOptions& o) {
    const std::vector<int64_t> wanted = o.adapters.empty() ? std::vector{rows} : o.adapters;
    std::vector<DecodeCase> cases;
    for (RunnerSwitches switches : o.switches) {
        switches.timed = true;
        for (const BatchKind kind : o.kinds) {
            std::vector<int64_t> seen;
            for (const int64_t n : wanted) {
                Deal deal = deal_adapters(kind, rows, n);
                if (std::find(seen.begin(), seen.end(), deal.distinct()) != seen.end()) continue;
                seen.push_back(deal.distinct());
                cases.push_back({kind, strategy, switches, rows, std::move(deal)});
            }
        }
    }
    return cases;
}

// One more step of a case; kept unless it is a warm-up.
Result<void> time_step(BenchRunner& bench, DecodeCase& c, bool keep, Progress& progress) {
    bench.set_switches(c.switches);
    const double ms = bench.forward_ms(c.batch);
    c.bytes = bench.result.bytes;
    c.passes = bench.result.passes;
    c.common_block = bench.result.common_block;
    progress.add(1);
    if (progress.cancelled()) return cancelled_error();
    if (!keep) return {};
    c.samples.ms.push_back(ms);
    c.samples.gap_ms.push_back(ms - bench.result.device_ms);
    c.samples.times.push_back(bench.result.times);
    return {};
}

// One step of each case in turn; with `merged` case by case, as steps of the same adapter follow each other there.
Result<void> time_cases(BenchRunner& bench, std::vector<DecodeCase>& cases, const DecodeBenchOptions& o,
                        Progress& progress) {
    const bool one_by_one = !cases.empty() && cases[0].strategy == AdapterStrategy::merged;
    if (one_by_one) {
        for (DecodeCase& c : cases)
            for (int64_t step = -o.warmup; step < o.steps; ++step) TRY_VOID(time_step(bench, c, step >= 0, progress));
        return {};
    }
    for (int64_t step = -o.warmup; step < o.steps; ++step)
        for (DecodeCase& c : cases) TRY_VOID(time_step(bench, c, step >= 0, progress));
    return {};
}

DecodeFigure summarise(const DecodeCase& c, const DecodeCase* base, const DecodeBenchOptions& o) {
    DecodeFigure f;
    f.kind = c.kind;
    f.strategy = c.strategy;
    f.passes = c.passes;
    f.common_block = c.common_block;
    f.rows = c.rows;
    f.distinct_adapters = c.deal.distinct();
    f.context = o.context;
    f.steps = o.steps;
    f.switches = c.switches;
    f.median_ms = median(c.samples.ms);
    f.min_ms = *std::min_element(c.samples.ms.begin(), c.samples.ms.end());
    f.tokens_per_s = double(c.rows) / f.median_ms * 1e3;
    if (o.cuda_device >= 0) f.gap_ms = median(c.samples.gap_ms);
    f.bytes = c.bytes;
    f.times = c.samples.of_median();
    if (o.read_bytes_per_s > 0) {
        f.floor_ms = double(c.bytes.weights + c.bytes.adapters + c.bytes.kv) / o.read_bytes_per_s * 1e3;
        f.bandwidth_share = f.floor_ms / f.median_ms;
    }
    if (!base || base == &c) return f;
    f.added_ms = median_difference(c.samples.ms, base->samples.ms);
    if (o.read_bytes_per_s > 0 && c.bytes.adapters > 0)
        f.added_over_floor = f.added_ms / (double(c.bytes.adapters) / o.read_bytes_per_s * 1e3);
    return f;
}

const DecodeCase* base_of(const std::vector<DecodeCase>& cases, const DecodeCase& of) {
    for (const DecodeCase& c : cases)
        if (c.kind == BatchKind::base && c.switches.same_as(of.switches)) return &c;
    return nullptr;
}

// Adapters in the strategy's form on a runner of its own; adds to `figures`.
Result<void> measure_strategy(const std::shared_ptr<const Model>& model, AdapterStrategy strategy,
                              const DecodeBenchOptions& o, Progress& progress, std::vector<DecodeFigure>& figures) {
    std::vector<std::vector<DecodeCase>> cases;  // by rows
    int64_t num_cases = 0, boft = 0, lora = 0;
    for (const int64_t rows : o.rows) {
        cases.push_back(cases_of(rows, strategy, o));
        num_cases += int64_t(cases.back().size());
        for (const DecodeCase& c : cases.back()) {
            boft = std::max(boft, c.deal.boft);
            lora = std::max(lora, c.deal.lora);
        }
    }
    TRY_ASSIGN(adapters,
               make_bench_adapters(*model, o.sizes, boft, lora, o.seed, progress, form_of(strategy, o.cuda_device)));
    const int64_t most = *std::max_element(o.rows.begin(), o.rows.end());
    const RunnerLimits limits{
        .threads = o.threads, .strategy = strategy, .phase_times = o.phase_times, .batch_invariant = o.batch_invariant};
    TRY_ASSIGN(bench, BenchRunner::make(model, o.cuda_device, limits, {most, most, o.context + 1}, adapters.all));

    progress.done = 0;
    progress.total = num_cases * (o.steps + o.warmup);
    for (std::vector<DecodeCase>& together : cases) {
        for (DecodeCase& c : together) c.batch = bench->decode(o.context, adapters.ids(c.deal));
        TRY_VOID(time_cases(*bench, together, o, progress));
        for (const DecodeCase& c : together) figures.push_back(summarise(c, base_of(together, c), o));
    }
    return {};
}

Json to_json(const StepTimes& t) {
    return {{"rotate_us", t.rotate}, {"lora_us", t.lora}, {"products_us", t.products}, {"attention_us", t.attention},
            {"other_us", t.other},   {"head_us", t.head}, {"sample_us", t.sample}};
}

// Every prompt's tokens one after another, a step as soon as it is full.
std::vector<Batch> prefill_steps(const BenchRunner& bench, int64_t length, int64_t chunk,
                                 const std::vector<AdapterId>& adapters) {
    std::vector<Batch> steps;
    std::vector<BenchRunner::Span> spans;
    int64_t room = chunk;
    for (size_t s = 0; s < adapters.size(); ++s) {
        for (int64_t first = 0; first < length;) {
            const int64_t count = std::min(room, length - first);
            spans.push_back({int32_t(s), int32_t(first), int32_t(count), adapters[s], first + count == length});
            first += count;
            room -= count;
            if (room > 0) continue;
            steps.push_back(bench.batch(std::move(spans)));
            spans.clear();
            room = chunk;
        }
    }
    if (!spans.empty()) steps.push_back(bench.batch(std::move(spans)));
    return steps;
}

double product_flops_per_token(const ModelConfig& c) {
    double flops = 0;
    for (int p = 0; p < kNumProjections; ++p)
        flops += 2.0 * double(c.num_layers * in_features(c, Projection(p)) * out_features(c, Projection(p)));
    return flops;
}

}  // namespace

std::vector<BatchKind> default_decode_kinds(int cuda_device) {
    if (cuda_device < 0) return {BatchKind::base, BatchKind::boft_lora, BatchKind::lora};
    return {BatchKind::base, BatchKind::boft, BatchKind::lora, BatchKind::half};
}

BenchSizes default_bench_sizes(int cuda_device) {
    if (cuda_device < 0) return {"b=32,m=1", "r=16"};
    return {"b=32,m=2", "r=64"};
}

Result<std::vector<DecodeFigure>> measure_decode(std::shared_ptr<const Model> model, const DecodeBenchOptions& options,
                                                 Progress& progress) {
    DecodeBenchOptions o = options;
    o.sizes = with_defaults(o.sizes, o.cuda_device);
    if (o.kinds.empty()) o.kinds = default_decode_kinds(o.cuda_device);
    TRY_VOID(check_lengths(*model, "context", o.context + 1));
    if (o.rows.empty() || o.switches.empty() || o.steps < 1 || o.warmup < 0)
        return make_error("decode needs a batch size and a step to time");
    for (const int64_t rows : o.rows)
        if (rows < 1 || rows > 1024) return Error{"", "rows", std::to_string(rows), "1 to 1024"};

    progress.done = 0;
    std::vector<DecodeFigure> figures;
    for (const AdapterStrategy strategy : o.strategies) {
        const auto measured = measure_strategy(model, strategy, o, progress, figures);
        if (measured) continue;
        if (measured.error().cancelled && !figures.empty()) break;
        return measured.error();
    }
    return figures;
}

Result<std::vector<PrefillFigure>> measure_prefill(std::shared_ptr<const Model> model, const PrefillBenchOptions& o,
                                                   Progress& progress) {
    if (o.lengths.empty() || o.kinds.empty() || o.repeats < 1 || o.chunk < 1 || o.sequences < 1)
        return make_error("prefill needs a length to time");
    for (const int64_t length : o.lengths) TRY_VOID(check_lengths(*model, "prompt length", length));
    int64_t boft = 0, lora = 0;
    std::vector<Deal> deals;  // by kind
    for (const BatchKind kind : o.kinds) {
        deals.push_back(deal_adapters(kind, o.sequences, o.adapters));
        boft = std::max(boft, deals.back().boft);
        lora = std::max(lora, deals.back().lora);
    }
    TRY_ASSIGN(adapters,
               make_bench_adapters(*model, with_defaults(o.sizes, o.cuda_device), boft, lora, o.seed, progress));
    const int64_t longest = *std::max_element(o.lengths.begin(), o.lengths.end());
    const BenchRunner::Room room{std::min(o.chunk, longest * o.sequences), o.sequences, longest};
    TRY_ASSIGN(bench, BenchRunner::make(model, o.cuda_device, {.threads = o.threads}, room, adapters.all));

    std::vector<PrefillFigure> figures;
    progress.total = int64_t(o.lengths.size() * o.kinds.size()) * (o.repeats + 1);
    progress.done = 0;
    for (const int64_t length : o.lengths) {
        std::vector<std::vector<double>> times(o.kinds.size());
        for (int64_t repeat = -1; repeat < o.repeats; ++repeat) {
            for (size_t k = 0; k < o.kinds.size(); ++k) {
                double ms = 0;
                for (const Batch& step : prefill_steps(*bench, length, o.chunk, adapters.ids(deals[k]))) {
                    ms += bench->forward_ms(step);
                    if (progress.cancelled()) return cancelled_error();
                }
                if (repeat >= 0) times[k].push_back(ms);
                progress.add(1);
            }
        }
        const auto base = std::find(o.kinds.begin(), o.kinds.end(), BatchKind::base) - o.kinds.begin();
        for (size_t k = 0; k < o.kinds.size(); ++k) {
            const double ms = median(times[k]), tokens = double(length * o.sequences);
            PrefillFigure f{o.kinds[k], length, o.sequences, deals[k].distinct(), ms, tokens / ms * 1e3};
            f.flops_per_s = f.tokens_per_s * product_flops_per_token(model->config());
            if (size_t(base) < o.kinds.size() && size_t(base) != k)
                f.added_share = median_difference(times[k], times[size_t(base)]) / median(times[size_t(base)]);
            figures.push_back(f);
        }
    }
    return figures;
}

Result<LoadFigure> measure_load(const std::string& model_path, Precision precision, int threads,
                                const std::vector<AdapterRequest>& adapters, uint64_t seed, Progress& progress) {
    LoadFigure f;
    auto begin = Clock::now();
    TRY_ASSIGN(opened, open_model(model_path, seed));
    f.open_ms = milliseconds(Clock::now() - begin);
    f.file_bytes = opened.file_bytes;
    begin = Clock::now();
    TRY_ASSIGN(model, load_model(std::move(opened), precision, threads > 0 ? threads : usable_cpus(), progress));
    f.load_ms = milliseconds(Clock::now() - begin);
    f.model = model;
    f.weight_bytes = model->weight_bytes;
    for (const AdapterRequest& request : adapters) {
        begin = Clock::now();
        TRY_ASSIGN(adapter, load_adapter(request, *model, seed, progress));
        f.adapter_ms.emplace_back(adapter->name, milliseconds(Clock::now() - begin));
    }
    f.peak_resident_bytes = peak_resident_bytes();
    return f;
}

Json to_json(const std::vector<DecodeFigure>& figures) {
    Json out = Json::array();
    for (const DecodeFigure& f : figures) {
        const bool on_gpu = f.gap_ms.has_value();
        out.push_back({{"strategy", name_of(f.strategy)},
                       {"adapters", name_of(f.kind)},
                       {"rows", f.rows},
                       {"distinct_adapters", f.distinct_adapters},
                       {"passes", f.passes},
                       {"common_block", f.common_block},
                       {"context", f.context},
                       {"steps", f.steps},
                       {"graphs", on_gpu ? Json(f.switches.graphs) : Json(nullptr)},
                       {"overlap", on_gpu ? Json(f.switches.overlap) : Json(nullptr)},
                       {"ahead_bytes", on_gpu ? Json(f.switches.ahead_bytes) : Json(nullptr)},
                       {"median_ms", f.median_ms},
                       {"min_ms", f.min_ms},
                       {"gap_ms", on_gpu ? Json(*f.gap_ms) : Json(nullptr)},
                       {"tokens_per_s", f.tokens_per_s},
                       {"weight_bytes", f.bytes.weights},
                       {"adapter_bytes", f.bytes.adapters},
                       {"kv_bytes", f.bytes.kv},
                       {"staging_bytes", f.bytes.staging},
                       {"floor_ms", f.floor_ms},
                       {"bandwidth_share", f.bandwidth_share},
                       {"added_ms", f.added_ms},
                       {"added_over_floor", f.added_over_floor},
                       {"times", to_json(f.times)}});
    }
    return out;
}

Json to_json(const std::vector<PrefillFigure>& figures) {
    Json out = Json::array();
    for (const PrefillFigure& f : figures)
        out.push_back({{"adapters", name_of(f.kind)},
                       {"tokens", f.tokens},
                       {"sequences", f.sequences},
                       {"distinct_adapters", f.distinct_adapters},
                       {"median_ms", f.median_ms},
                       {"tokens_per_s", f.tokens_per_s},
                       {"flops_per_s", f.flops_per_s},
                       {"added_share", f.added_share}});
    return out;
}

Json to_json(const LoadFigure& f) {
    Json adapters = Json::object();
    for (const auto& [name, ms] : f.adapter_ms) adapters[name] = ms;
    return {{"open_ms", f.open_ms},           {"load_ms", f.load_ms},   {"file_bytes", f.file_bytes},
            {"weight_bytes", f.weight_bytes}, {"adapter_ms", adapters}, {"peak_resident_bytes", f.peak_resident_bytes}};
}

int64_t peak_resident_bytes() {
    std::ifstream status("/proc/self/status");
    for (std::string key; status >> key;) {
        int64_t kib = 0;
        if (key == "VmHWM:" && status >> kib) return kib * 1024;
        status.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
    }
    return 0;
}

}  // namespace spartan
