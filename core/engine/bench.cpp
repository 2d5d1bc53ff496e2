#include "core/engine/bench.h"

#include "core/base/memory.h"
#include "core/base/text.h"
#include "core/engine/admission.h"
#include "core/engine/model_runner.h"
#include "kernels/check.h"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <limits>

namespace spartan {
namespace {

using Clock = std::chrono::steady_clock;

double milliseconds(Clock::duration d) { return std::chrono::duration<double, std::milli>(d).count(); }

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    const size_t n = values.size();
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

Error cancelled() {
    Error e = make_error("cancelled");
    e.cancelled = true;
    return e;
}

// Pages, block tables and batches for forward passes without an engine around them.
class Bench {
public:
    static constexpr int64_t kBlockTokens = 16;

    static Result<std::unique_ptr<Bench>> make(std::shared_ptr<const Model> model, int cuda_device, int threads,
                                               int64_t max_tokens, int64_t sequences, int64_t tokens,
                                               const std::vector<std::shared_ptr<const Adapter>>& adapters) {
        const int64_t page_bytes = page_bytes_of(*model, kBlockTokens);
        const int64_t blocks = (tokens + kBlockTokens - 1) / kBlockTokens;
        int64_t pages = sequences * blocks * model->config().num_layers;
        for (const auto& a : adapters) pages += adapter_pages_of(*a, page_bytes);
        if (pages > std::numeric_limits<int32_t>::max())
            return Error{"", "context", std::to_string(tokens), "fewer tokens"};
        if (const int64_t bytes = pages * page_bytes, available = available_memory_bytes();
            cuda_device < 0 && bytes > available)
            return Error{"", "memory", format_bytes(bytes) + " for keys, values and adapters",
                         "at most the " + format_bytes(available) + " available"};
        const int used = threads > 0 ? threads : usable_cpus();
        TRY_ASSIGN(runner, make_runner(model, {used, max_tokens, kBlockTokens, int32_t(pages)}, cuda_device));
        auto bench = std::make_unique<Bench>(std::move(model), std::move(runner), int32_t(pages));
        bench->add_sequences(sequences, blocks);
        for (const auto& a : adapters) bench->add_adapter(a, adapter_pages_of(*a, page_bytes));
        return bench;
    }

    Bench(std::shared_ptr<const Model> model, std::unique_ptr<ModelRunner> runner, int32_t pages)
        : model_(std::move(model)), runner_(std::move(runner)), pool_(pages) {
        // Real values everywhere (0.0115): untouched pages would all be one page of zeros in the cache.
        runner_->fill_pages({0, pages}, std::byte{0x3c});
    }

    // One token each of the first `rows` sequences at position `context`; row i uses adapters[i] (empty: base).
    Batch decode(int64_t rows, int64_t context, const std::vector<AdapterId>& adapters) const {
        Batch b;
        for (int32_t i = 0; i < int32_t(rows); ++i) {
            append(b, i, int32_t(context), 1);
            const AdapterId id = adapters.empty() ? AdapterId::base : adapters[size_t(i)];
            if (b.segments.empty() || b.segments.back().adapter != id)
                b.segments.push_back({id, i, i + 1});
            else
                b.segments.back().row_end = i + 1;
            b.heads.push_back({i, i, false, true});
        }
        return b;
    }
    Batch prefill(int64_t first, int64_t count, bool last) const {
        Batch b;
        append(b, 0, int32_t(first), int32_t(count));
        b.segments.push_back({AdapterId::base, 0, int32_t(count)});
        if (last) b.heads.push_back({int32_t(count) - 1, 0, false, true});
        return b;
    }

    double forward_ms(const Batch& batch) {
        const auto begin = Clock::now();
        runner_->forward(
            batch, [] { return true; }, [](int32_t, int64_t, int64_t, const float*) {}, result);
        return milliseconds(Clock::now() - begin);
    }

    ForwardResult result;

private:
    void add_sequences(int64_t sequences, int64_t blocks) {
        const auto layers = size_t(model_->config().num_layers);
        std::vector<int32_t> pages(layers);
        tables_.resize(size_t(sequences));
        for (size_t s = 0; s < tables_.size(); ++s) {
            tables_[s].resize(layers);
            for (int64_t b = 0; b < blocks; ++b) {
                CHECK(pool_.allocate_kv(RequestId(s + 1), pages));
                for (size_t l = 0; l < layers; ++l) tables_[s][l].push_back(pages[l]);
            }
        }
    }
    void add_adapter(const std::shared_ptr<const Adapter>& adapter, int32_t pages) {
        const auto id = AdapterId(++num_adapters_);
        const auto run = pool_.allocate_adapter(id, pages);
        CHECK(run);
        runner_->load_adapter(id, *run, adapter);
    }
    void append(Batch& b, int32_t sequence, int32_t first, int32_t count) const {
        const auto row = int32_t(b.ids.size());
        for (int32_t i = 0; i < count; ++i) {
            b.ids.push_back(Token((first + i + 7 * sequence) % model_->config().vocab_size));
            b.positions.push_back(first + i);
        }
        b.sequences.push_back({row, row + count, first, &tables_[size_t(sequence)], &wanted_});
        b.sampling.push_back({});
        b.sample_position.push_back(first + count);
        b.context_tokens += first + count;
    }

    std::shared_ptr<const Model> model_;
    std::unique_ptr<ModelRunner> runner_;
    PagePool pool_;
    std::vector<std::vector<std::vector<int32_t>>> tables_;  // [sequence][layer][block]
    uint32_t num_adapters_ = 0;
    static constexpr bool wanted_ = false;  // BatchSequence::over
};

// Adapters 1 .. half are BOFT b=32 m=1, the following `all` are LoRA r=16.
Result<std::vector<std::shared_ptr<const Adapter>>> bench_adapters(const Model& model, int64_t half, int64_t all,
                                                                   uint64_t seed, Progress& progress) {
    std::vector<std::shared_ptr<const Adapter>> out;
    TRY_ASSIGN(boft,
               parse_synthetic_spec("synthetic:boft:" + std::to_string(std::max<int64_t>(half, 1)) + ":b=32,m=1"));
    TRY_ASSIGN(lora, parse_synthetic_spec("synthetic:lora:" + std::to_string(all) + ":r=16"));
    for (int64_t i = 0; i < half + all; ++i) {
        if (progress.cancelled()) return cancelled();
        const bool rotates = i < half;
        TRY_ASSIGN(adapter, make_synthetic_adapter(rotates ? boft : lora, rotates ? i : i - half, i, seed, model));
        out.push_back(std::move(adapter));
    }
    return out;
}

std::vector<AdapterId> ids_from(int64_t first, int64_t count) {
    std::vector<AdapterId> ids;
    for (int64_t i = 0; i < count; ++i) ids.push_back(AdapterId(uint32_t(first + i)));
    return ids;
}

Result<void> check_lengths(const Model& model, const char* field, int64_t tokens) {
    if (tokens >= 1 && tokens <= model.config().max_position) return {};
    return Error{"", field, std::to_string(tokens), "1 to " + std::to_string(model.config().max_position)};
}

// Of pairs of steps that followed each other, so that what slows the machine for a while falls on both.
double median_difference(const std::vector<double>& a, const std::vector<double>& b) {
    std::vector<double> differences;
    for (size_t i = 0; i < a.size(); ++i) differences.push_back(a[i] - b[i]);
    return median(differences);
}

// The median step's times belong to one real step.
struct Samples {
    std::vector<double> ms;
    std::vector<StepTimes> times;

    StepTimes of_median() const {
        const double middle = median(ms);
        size_t best = 0;
        for (size_t i = 1; i < ms.size(); ++i)
            if (std::abs(ms[i] - middle) < std::abs(ms[best] - middle)) best = i;
        return times[best];
    }
};

DecodeFigure summarise(const std::string& name, const Samples& samples, const StepBytes& bytes, int64_t rows,
                       const DecodeBenchOptions& o) {
    DecodeFigure f;
    f.adapters = name;
    f.rows = rows;
    f.context = o.context;
    f.steps = int64_t(samples.ms.size());
    f.median_ms = median(samples.ms);
    f.min_ms = *std::min_element(samples.ms.begin(), samples.ms.end());
    f.tokens_per_s = double(rows) / f.median_ms * 1e3;
    f.bytes = bytes;
    f.times = samples.of_median();
    const auto all = double(bytes.weights + bytes.adapters + bytes.kv);
    if (o.read_bytes_per_s > 0) f.bandwidth_share = all / (f.median_ms / 1e3) / o.read_bytes_per_s;
    return f;
}

Json to_json(const StepTimes& t) {
    return {{"rotate_us", t.rotate}, {"lora_us", t.lora}, {"products_us", t.products}, {"attention_us", t.attention},
            {"other_us", t.other},   {"head_us", t.head}, {"sample_us", t.sample}};
}

}  // namespace

Result<std::vector<DecodeFigure>> measure_decode(std::shared_ptr<const Model> model, const DecodeBenchOptions& o,
                                                 Progress& progress) {
    TRY_VOID(check_lengths(*model, "context", o.context + 1));
    if (o.rows.empty() || o.steps < 1 || o.warmup < 0)
        return make_error("decode needs a batch size and a step to time");
    for (const int64_t rows : o.rows)
        if (rows < 1 || rows > 1024) return Error{"", "rows", std::to_string(rows), "1 to 1024"};
    const int64_t most = *std::max_element(o.rows.begin(), o.rows.end());
    const int64_t half = most / 2;
    TRY_ASSIGN(adapters, bench_adapters(*model, half, most, o.seed, progress));
    TRY_ASSIGN(bench, Bench::make(model, o.cuda_device, o.threads, most, most, o.context + 1, adapters));

    std::vector<DecodeFigure> figures;
    progress.total = int64_t(o.rows.size()) * (o.steps + o.warmup);
    for (const int64_t rows : o.rows) {
        std::vector<AdapterId> mixed = ids_from(1, rows / 2);
        const std::vector<AdapterId> loras = ids_from(half + 1, rows);
        mixed.insert(mixed.end(), loras.begin(), loras.begin() + (rows - rows / 2));
        const std::pair<const char*, Batch> cases[] = {{"base", bench->decode(rows, o.context, {})},
                                                       {"boft+lora", bench->decode(rows, o.context, mixed)},
                                                       {"lora", bench->decode(rows, o.context, loras)}};
        Samples samples[3];
        StepBytes bytes[3];
        for (int64_t step = -o.warmup; step < o.steps; ++step) {
            for (size_t i = 0; i < 3; ++i) {
                const double ms = bench->forward_ms(cases[i].second);
                bytes[i] = bench->result.bytes;
                if (step < 0) continue;
                samples[i].ms.push_back(ms);
                samples[i].times.push_back(bench->result.times);
            }
            progress.add(1);
            if (progress.cancelled()) return cancelled();
        }
        for (size_t i = 0; i < 3; ++i) {
            DecodeFigure f = summarise(cases[i].first, samples[i], bytes[i], rows, o);
            if (i > 0) {
                f.added_ms = median_difference(samples[i].ms, samples[0].ms);
                if (o.read_bytes_per_s > 0)
                    f.added_over_floor = f.added_ms / (double(f.bytes.adapters) / o.read_bytes_per_s * 1e3);
            }
            figures.push_back(f);
        }
    }
    return figures;
}

Result<std::vector<PrefillFigure>> measure_prefill(std::shared_ptr<const Model> model, const PrefillBenchOptions& o,
                                                   Progress& progress) {
    if (o.lengths.empty() || o.repeats < 1 || o.chunk < 1) return make_error("prefill needs a length to time");
    for (const int64_t length : o.lengths) TRY_VOID(check_lengths(*model, "prompt length", length));
    const int64_t longest = *std::max_element(o.lengths.begin(), o.lengths.end());
    TRY_ASSIGN(bench, Bench::make(model, o.cuda_device, o.threads, std::min(o.chunk, longest), 1, longest, {}));
    const ModelConfig& c = model->config();
    double flops_per_token = 0;
    for (int p = 0; p < kNumProjections; ++p)
        flops_per_token += 2.0 * double(c.num_layers * in_features(c, Projection(p)) * out_features(c, Projection(p)));

    std::vector<PrefillFigure> figures;
    progress.total = int64_t(o.lengths.size()) * (o.repeats + 1);
    for (const int64_t length : o.lengths) {
        std::vector<double> times;
        for (int64_t repeat = -1; repeat < o.repeats; ++repeat) {
            double ms = 0;
            for (int64_t first = 0; first < length; first += o.chunk) {
                const int64_t count = std::min(o.chunk, length - first);
                ms += bench->forward_ms(bench->prefill(first, count, first + count == length));
                if (progress.cancelled()) return cancelled();
            }
            if (repeat >= 0) times.push_back(ms);
            progress.add(1);
        }
        const double ms = median(times);
        figures.push_back({length, ms, double(length) / ms * 1e3, double(length) * flops_per_token / ms * 1e3});
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
    for (const DecodeFigure& f : figures)
        out.push_back({{"adapters", f.adapters},
                       {"rows", f.rows},
                       {"context", f.context},
                       {"steps", f.steps},
                       {"median_ms", f.median_ms},
                       {"min_ms", f.min_ms},
                       {"tokens_per_s", f.tokens_per_s},
                       {"weight_bytes", f.bytes.weights},
                       {"adapter_bytes", f.bytes.adapters},
                       {"kv_bytes", f.bytes.kv},
                       {"bandwidth_share", f.bandwidth_share},
                       {"added_ms", f.added_ms},
                       {"added_over_floor", f.added_over_floor},
                       {"times", to_json(f.times)}});
    return out;
}

Json to_json(const std::vector<PrefillFigure>& figures) {
    Json out = Json::array();
    for (const PrefillFigure& f : figures)
        out.push_back({{"tokens", f.tokens},
                       {"median_ms", f.median_ms},
                       {"tokens_per_s", f.tokens_per_s},
                       {"flops_per_s", f.flops_per_s}});
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
