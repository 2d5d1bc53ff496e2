#include "core/engine/admission.h"

#include "core/base/memory.h"
#include "core/base/text.h"
#include "core/engine/model_runner.h"

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

}  // namespace

Result<EngineOptions> check_options(EngineOptions o, const Model& model) {
    TRY_VOID(only("adapter_strategy", o.adapter_strategy, "folded"));
    TRY_VOID(only("residency", o.residency, "resident"));
    TRY_VOID(only("memory", o.memory, "unified"));
    TRY_VOID(only("scheduler", o.scheduler, "fcfs"));
    if (!o.batch_invariant)
        return refuse("batch_invariant", "false", "true: every kernel on the CPU is batch-invariant");
    TRY_VOID(in_range("threads", o.threads, 0, 1024));
    TRY_VOID(in_range("max_batch_tokens", o.max_batch_tokens, 1, 1 << 16));
    TRY_VOID(in_range("max_batch_rows", o.max_batch_rows, 1, 1 << 16));
    TRY_VOID(in_range("block_tokens", o.block_tokens, 1, 1024));
    TRY_VOID(in_range("max_waiting", o.max_waiting, 1, 1 << 30));
    TRY_VOID(in_range("pool_bytes", o.pool_bytes, 0, int64_t(1) << 50));
    TRY_VOID(in_range("adapter_bytes", o.adapter_bytes, 0, int64_t(1) << 50));
    if (page_bytes_of(model, o.block_tokens) % 64 != 0)
        return refuse("block_tokens", std::to_string(o.block_tokens), "a multiple of 16 for this model");

    const int64_t available = available_memory_bytes();
    if (o.pool_bytes > available)
        return refuse("pool_bytes", format_bytes(o.pool_bytes), "at most the available " + format_bytes(available));
    if (o.threads == 0) o.threads = usable_cpus();
    if (o.pool_bytes == 0) o.pool_bytes = std::min<int64_t>(int64_t(4) << 30, available / 4);
    if (o.adapter_bytes == 0) o.adapter_bytes = available / 2;

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
    const int64_t pages = (stored + pool.block_tokens - 1) / pool.block_tokens * pool.num_layers + adapter_pages;
    if (pages > pool.total_pages)
        return refuse("prompt", lengths + ", which take " + format_bytes(pages * pool.page_bytes) + " with the adapter",
                      "at most the whole pool of " + format_bytes(pool.total_pages * pool.page_bytes));
    return {};
}

Result<void> check_adapter(const Adapter& adapter, const Model& model) {
    const ModelConfig& c = model.config();
    const auto wrong = [&](const std::string& what, std::string found, std::string expected) {
        return Error{adapter.path, "adapter " + adapter.name + (what.empty() ? "" : ", " + what), std::move(found),
                     std::move(expected)};
    };
    if (adapter.dtype != model.dtype) return wrong("dtype", name_of(adapter.dtype), name_of(model.dtype));
    for (const AdapterPart& part : adapter.parts) {
        if (part.layer < 0 || part.layer >= c.num_layers)
            return wrong("layer", std::to_string(part.layer), "below " + std::to_string(c.num_layers));
        const std::string where = "layer " + std::to_string(part.layer) + " " + name_of(part.projection);
        const int64_t in = in_features(c, part.projection), out = out_features(c, part.projection);
        if (part.in != in || part.out != out)
            return wrong(where, std::to_string(part.in) + " -> " + std::to_string(part.out),
                         std::to_string(in) + " -> " + std::to_string(out));
        if (part.rotation >= 0 && (part.group <= 0 || in % part.group != 0))
            return wrong(where, "group " + std::to_string(part.group), "a divisor of " + std::to_string(in));
        if ((part.a >= 0) != (part.b_t >= 0) || (part.a >= 0 && part.rank <= 0))
            return wrong(where, "half a low-rank pair", "A and B of rank 1 or more");
        const int64_t t = size_of(adapter.dtype), f = int64_t(sizeof(float));
        const std::pair<int64_t, int64_t> spans[] = {{part.rotation, in * part.group * t},
                                                     {part.a, part.rank * in * t},
                                                     {part.b_t, part.rank * out * t},
                                                     {part.gain, out * f},
                                                     {part.bias, out * f}};
        for (const auto& [offset, bytes] : spans)
            if (offset >= 0 && (offset % 64 != 0 || offset + bytes > int64_t(adapter.blob.size())))
                return wrong(where, "bytes from " + std::to_string(offset),
                             "64-byte aligned within the blob's " + std::to_string(adapter.blob.size()));
    }
    return {};
}

}  // namespace spartan
