#include "core/engine/admission.h"

#include "core/base/memory.h"
#include "core/base/text.h"
#include "core/engine/cuda_backend.h"
#include "core/engine/device_fit.h"
#include "core/engine/model_runner.h"
#include "kernels/rounding.h"
#include "kernels/skew.h"

#include <algorithm>
#include <cmath>

namespace spartan {
namespace {

Error refuse(std::string field, std::string found, std::string expected) {
    return Error{"", std::move(field), std::move(found), std::move(expected)};
}

Result<void> in_range(const char* field, int64_t value, int64_t min, int64_t max) {
    if (value >= min && value <= max) return {};
    return refuse(field, std::to_string(value), std::to_string(min) + " to " + std::to_string(max));
}

Result<void> only(const char* field, const std::string& value, const char* built) {
    if (value == built) return {};
    return refuse(field, "\"" + value + "\"", std::string("\"") + built + "\": others are not built yet");
}

Result<void> check_sampling(const SamplingParams& p, const Model& model) {
    if (!std::isfinite(p.temperature) || p.temperature < 0)
        return refuse("temperature", std::to_string(p.temperature), "a number from 0");
    if (!(p.top_p > 0 && p.top_p <= 1)) return refuse("top_p", std::to_string(p.top_p), "over 0, at most 1");
    if (p.top_k < 0) return refuse("top_k", std::to_string(p.top_k), "a count from 0 (0: all)");
    if (p.max_tokens < 0) return refuse("max_tokens", std::to_string(p.max_tokens), "a count from 0");
    if (p.num_logprobs != 0) return refuse("num_logprobs", std::to_string(p.num_logprobs), "0: not built yet");
    if (std::any_of(p.stop.begin(), p.stop.end(), [](const std::string& s) { return s.empty(); }))
        return refuse("stop", "an empty string", "text");
    if (!p.stop.empty() && !model.info.tokenizer)
        return refuse("stop", "stop strings", "none: the model has no tokenizer");
    return {};
}

// What weights and workspace leave of the GPU's free memory.
Result<int64_t> gpu_memory_for_pool(const EngineOptions& o, const Model& model) {
    TRY_ASSIGN(backend, cuda_backend());
    TRY_ASSIGN(devices, backend->devices());
    const std::string name = "cuda:" + std::to_string(o.cuda_device);
    if (size_t(o.cuda_device) >= devices.size())
        return refuse("device", name, "a GPU below cuda:" + std::to_string(devices.size()));
    const CudaDeviceInfo& device = devices[size_t(o.cuda_device)];
    if (!device.reason.empty()) return refuse("device", name + ", " + device.reason, "a GPU that can be used");
    const int64_t most_pages = device.free_bytes / page_bytes_of(model, o.block_tokens);
    return fit_into_device({.total_bytes = device.memory_bytes,
                            .free_bytes = device.free_bytes,
                            .weight_bytes = model.weight_bytes,
                            .dtype = model.dtype,
                            .max_batch_tokens = o.max_batch_tokens,
                            .least_pool_bytes = page_bytes_of(model, o.block_tokens) * model.config().num_layers,
                            .pool_bytes = o.pool_bytes,
                            .needed = [&o, &model, backend = backend, most_pages](int32_t max_batch_tokens) {
                                EngineOptions smaller = o;
                                smaller.max_batch_tokens = max_batch_tokens;
                                return backend->bytes_needed(model, runner_limits(smaller, int32_t(most_pages)));
                            }});
}

}  // namespace

Result<void> check_choices(const EngineOptions& o) {
    if (const auto strategy = parse_adapter_strategy(o.adapter_strategy); !strategy) return strategy.error();
    if (o.residency != "resident" && o.residency != "stream")
        return refuse("residency", "\"" + o.residency + "\"", "\"resident\" or \"stream\"");
    TRY_VOID(in_range("adapter_slots", o.adapter_slots, 0, 1 << 20));
    if (o.adapter_slots > 0 && o.residency != "stream")
        return refuse("adapter_slots", std::to_string(o.adapter_slots), "0, or residency \"stream\"");
    TRY_VOID(only("memory", o.memory, "unified"));
    return only("scheduler", o.scheduler, "fcfs");
}

Result<void> check_device_choices(const EngineOptions& o) {
    if (o.cuda_device >= 0 || o.batch_invariant.value_or(true)) return {};
    return refuse("batch_invariant", "false", "true: every kernel on the CPU is batch-invariant");
}

Result<EngineOptions> check_options(EngineOptions o, const Model& model) {
    TRY_VOID(check_choices(o));
    TRY_VOID(check_device_choices(o));
    const AdapterStrategy strategy = strategy_of(o);
    o.batch_invariant = o.batch_invariant.value_or(o.cuda_device < 0);
    TRY_VOID(in_range("watchdog_s", o.watchdog_s, 0, 86'400));
    TRY_VOID(in_range("threads", o.threads, 0, 1024));
    TRY_VOID(in_range("max_batch_tokens", o.max_batch_tokens, 1, 1 << 16));
    TRY_VOID(in_range("max_batch_rows", o.max_batch_rows, 1, 1 << 16));
    TRY_VOID(in_range("block_tokens", o.block_tokens, 1, 1024));
    TRY_VOID(in_range("max_waiting", o.max_waiting, 1, 1 << 30));
    TRY_VOID(in_range("pool_bytes", o.pool_bytes, 0, int64_t(1) << 50));
    TRY_VOID(in_range("adapter_bytes", o.adapter_bytes, 0, int64_t(1) << 50));
    if (page_bytes_of(model, o.block_tokens) % 64 != 0)
        return refuse("block_tokens", std::to_string(o.block_tokens), "a multiple of 16 for this model");

    const int64_t merged_copy = merged_copy_bytes(model, strategy);
    int64_t available = available_memory_bytes();
    if (o.cuda_device < 0 && merged_copy >= available)
        return refuse("memory", "the available " + format_bytes(available),
                      "more than the " + format_bytes(merged_copy) +
                          " of the copy of the weights that adapter_strategy merged works in");
    if (o.cuda_device < 0) available -= merged_copy;
    if (o.threads == 0) o.threads = usable_cpus();
    if (o.adapter_bytes == 0) o.adapter_bytes = available / 2;
    TRY_ASSIGN(for_pool, o.cuda_device < 0 ? available : gpu_memory_for_pool(o, model));
    if (o.pool_bytes > for_pool)
        return refuse("pool_bytes", format_bytes(o.pool_bytes), "at most the available " + format_bytes(for_pool));
    if (o.pool_bytes == 0)
        o.pool_bytes = o.cuda_device < 0 ? std::min<int64_t>(int64_t(4) << 30, for_pool / 4) : for_pool / 10 * 9;

    const PoolShape shape = pool_shape(o, model);
    if (shape.total_pages < shape.num_layers)
        return refuse("pool_bytes", format_bytes(o.pool_bytes),
                      "at least " + format_bytes(shape.page_bytes * shape.num_layers) + " for one sequence of " +
                          std::to_string(o.block_tokens) + " tokens");
    return o;
}

PoolShape pool_shape(const EngineOptions& o, const Model& model) {
    const int64_t page_bytes = page_bytes_of(model, o.block_tokens);
    constexpr int64_t kMaxPages = 1 << 30;
    return {page_bytes, o.block_tokens, model.config().num_layers,
            int32_t(std::min(o.pool_bytes / page_bytes, kMaxPages))};
}

AdapterStrategy strategy_of(const EngineOptions& checked) { return *parse_adapter_strategy(checked.adapter_strategy); }

RunnerLimits runner_limits(const EngineOptions& o, int32_t total_pages) {
    return {.threads = o.threads,
            .max_tokens = o.max_batch_tokens,
            .block_tokens = o.block_tokens,
            .total_pages = total_pages,
            .strategy = strategy_of(o),
            .graphs = o.graphs,
            .phase_times = o.phase_times,
            .batch_invariant = o.batch_invariant.value_or(false)};
}

Result<void> check_request(const Request& request, const Model& model, const PoolShape& pool, int32_t adapter_pages,
                           bool has_logits_sink) {
    const ModelConfig& c = model.config();
    if (request.prompt.empty()) return refuse("prompt", "no tokens", "at least one");
    for (size_t i = 0; i < request.prompt.size(); ++i)
        if (request.prompt[i] < 0 || request.prompt[i] >= c.vocab_size)
            return refuse("prompt[" + std::to_string(i) + "]", "id " + std::to_string(request.prompt[i]),
                          "0 to " + std::to_string(c.vocab_size - 1));
    TRY_VOID(check_sampling(request.sampling, model));
    if (request.want_logits && !has_logits_sink) return refuse("want_logits", "true", "false: nobody takes the logits");

    const auto prompt = int64_t(request.prompt.size());
    const int64_t length = prompt + request.sampling.max_tokens;
    const std::string lengths =
        std::to_string(prompt) + " prompt tokens and max_tokens " + std::to_string(request.sampling.max_tokens);
    if (length > c.max_position)
        return refuse("prompt", lengths, "at most the context of " + std::to_string(c.max_position));
    // The last token is never computed, so it needs no room.
    const int64_t stored = std::max(prompt, length - 1);
    const int64_t pages = divide_up(stored, pool.block_tokens) * pool.num_layers + adapter_pages;
    if (pages > pool.total_pages)
        return refuse("prompt", lengths + ", which take " + format_bytes(pages * pool.page_bytes) + " with the adapter",
                      "at most the whole pool of " + format_bytes(pool.total_pages * pool.page_bytes));
    return {};
}

namespace {

// That everything of an adapter lies within its blob and fits the model: what the runner relies on.
class AdapterCheck {
public:
    AdapterCheck(const Adapter& adapter, const ModelConfig& config) : adapter_(adapter), config_(config) {}

    Result<void> run() const {
        for (const AdapterPart& part : adapter_.parts) {
            TRY_VOID(check_layer(part.layer));
            TRY_VOID(check_part(part, "layer " + std::to_string(part.layer) + " " + name_of(part.projection),
                                in_features(config_, part.projection), out_features(config_, part.projection),
                                part.rank * part.in));
        }
        if (adapter_.embedding) TRY_VOID(check_table(*adapter_.embedding, "embed_tokens", config_.hidden_size));
        if (adapter_.head) TRY_VOID(check_table(*adapter_.head, "lm_head", config_.vocab_size));
        for (const NormPart& norm : adapter_.norms) TRY_VOID(check_norm(norm));
        return {};
    }

    Error wrong(const std::string& what, std::string found, std::string expected) const {
        return Error{adapter_.path, "adapter " + adapter_.name + (what.empty() ? "" : ", " + what), std::move(found),
                     std::move(expected)};
    }

private:
    Result<void> check_layer(int64_t layer) const {
        if (layer >= 0 && layer < config_.num_layers) return {};
        return wrong("layer", std::to_string(layer), "below " + std::to_string(config_.num_layers));
    }

    Result<void> check_span(const std::string& where, int64_t offset, int64_t bytes) const {
        if (offset < 0 || (offset % 64 == 0 && offset + bytes <= int64_t(adapter_.blob.size()))) return {};
        return wrong(where, "bytes from " + std::to_string(offset),
                     "64-byte aligned within the blob's " + std::to_string(adapter_.blob.size()));
    }

    // Behind the blob, where it will be folded, and what from.
    Result<void> check_skew(const AdapterPart& part, const std::string& where) const {
        const int64_t b = part.block_size, m = part.num_factors, end = part.rotation + part.in * part.group * t_size();
        if (!device_folds(b, m) || part.group != b << (m - 1) || part.in % part.group != 0)
            return wrong(where, std::to_string(m) + " factors of blocks of " + std::to_string(b),
                         "a geometry that is folded while it is loaded");
        if (part.rotation % 64 != 0 || part.rotation < int64_t(adapter_.blob.size()) || end > adapter_.bytes())
            return wrong(where, "bytes from " + std::to_string(part.rotation),
                         "64-byte aligned within the " + std::to_string(adapter_.unfolded_bytes) + " behind the blob");
        const int64_t values = int64_t(adapter_.skew.size()) / size_of(adapter_.skew_dtype);
        if (part.skew % 8 == 0 && part.skew + skew_values_of(part.in, b, m) <= values) return {};
        return wrong(where, "skew halves from value " + std::to_string(part.skew),
                     "whole ones of " + std::to_string(values) + " values");
    }

    int64_t t_size() const { return size_of(adapter_.dtype); }

    Result<void> check_part(const AdapterPart& part, const std::string& where, int64_t in, int64_t out,
                            int64_t a_values) const {
        if (part.in != in || part.out != out)
            return wrong(where, std::to_string(part.in) + " -> " + std::to_string(part.out),
                         std::to_string(in) + " -> " + std::to_string(out));
        if (part.rotation >= 0 && (part.group <= 0 || in % part.group != 0))
            return wrong(where, "group " + std::to_string(part.group), "a divisor of " + std::to_string(in));
        TRY_VOID(check_factors(part, where));
        if ((part.a >= 0) != (part.b_t >= 0) || (part.a >= 0 && part.rank <= 0))
            return wrong(where, "half a low-rank pair", "A and B of rank 1 or more");
        const int64_t t = t_size(), f = int64_t(sizeof(float));
        if (part.skew >= 0)
            TRY_VOID(check_skew(part, where));
        else
            TRY_VOID(check_span(where, part.rotation, in * part.group * t));
        TRY_VOID(check_span(where, part.a, a_values * t));
        TRY_VOID(check_span(where, part.b_t, part.rank * out * t));
        TRY_VOID(check_span(where, part.gain, out * f));
        return check_span(where, part.bias, out * f);
    }

    // The chain's last factor mixes block_size · 2^(num_factors - 1) features, and every factor but the first half
    // blocks.
    Result<void> check_factors(const AdapterPart& part, const std::string& where) const {
        if (part.factors < 0) return {};
        const int64_t b = part.block_size, m = part.num_factors;
        if (b < 1 || m < 1 || m > 40 || (m > 1 && b % 2 != 0) || part.in % (b << (m - 1)) != 0)
            return wrong(where, std::to_string(m) + " factors of blocks of " + std::to_string(b),
                         "blocks that fit " + std::to_string(part.in));
        const int64_t end = part.factors + m * part.in * b * size_of(adapter_.dtype);
        if (part.factors % 64 == 0 && end <= adapter_.factor_bytes &&
            adapter_.factor_bytes <= int64_t(adapter_.blob.size()))
            return {};
        return wrong(where, "factors up to byte " + std::to_string(end),
                     "64-byte aligned within the first " + std::to_string(adapter_.factor_bytes));
    }

    Result<void> check_table(const TablePart& table, const std::string& where, int64_t out) const {
        const int64_t vocab = config_.vocab_size, hidden = config_.hidden_size;
        const bool is_head = out == vocab && where == "lm_head";
        TRY_VOID(check_part(table.part, where, hidden, out, table.part.rank * (is_head ? hidden : vocab)));
        TRY_VOID(check_span(where, table.copy, packed_bytes(vocab)));
        TRY_VOID(check_span(where, table.token_rows, packed_bytes(int64_t(table.tokens.size()))));
        if (table.token_rows >= 0 && table.tokens.empty()) return wrong(where, "rows of no tokens", "tokens");
        for (size_t i = 0; i < table.tokens.size(); ++i)
            if (table.tokens[i] < 0 || table.tokens[i] >= vocab || (i > 0 && table.tokens[i] <= table.tokens[i - 1]))
                return wrong(where, "token " + std::to_string(table.tokens[i]),
                             "rising ids below " + std::to_string(vocab));
        return {};
    }

    int64_t packed_bytes(int64_t rows) const {
        return with_type(adapter_.dtype,
                         [&]<class T>(T) { return PackedMatrix<T>::bytes_of(rows, config_.hidden_size); });
    }

    Result<void> check_norm(const NormPart& norm) const {
        TRY_VOID(check_layer(norm.layer));
        const bool per_head = norm.role == NormRole::q || norm.role == NormRole::k;
        const int64_t dim = per_head ? config_.head_dim : config_.hidden_size;
        if (norm.dim != dim || norm.weight < 0)
            return wrong("a norm of layer " + std::to_string(norm.layer), std::to_string(norm.dim) + " values",
                         std::to_string(dim));
        return check_span("a norm", norm.weight, dim * int64_t(sizeof(float)));
    }

    const Adapter& adapter_;
    const ModelConfig& config_;
};

}  // namespace

Result<void> check_adapter(const Adapter& adapter, const Model& model) {
    const AdapterCheck check(adapter, model.config());
    if (adapter.dtype != model.dtype) return check.wrong("dtype", name_of(adapter.dtype), name_of(model.dtype));
    return check.run();
}

}  // namespace spartan
