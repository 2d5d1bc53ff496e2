#include "core/engine/bench_batch.h"

#include "core/base/memory.h"
#include "core/base/text.h"
#include "core/engine/admission.h"
#include "kernels/check.h"
#include "kernels/rounding.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <thread>

namespace spartan {
namespace {

constexpr int64_t kBlockTokens = 16;

struct KindName {
    BatchKind kind;
    const char* name;
};
constexpr KindName kKinds[] = {{BatchKind::base, "base"},
                               {BatchKind::boft, "boft"},
                               {BatchKind::lora, "lora"},
                               {BatchKind::boft_lora, "boft+lora"},
                               {BatchKind::half, "half"}};

std::string spec_of(const char* kind, int64_t count, const std::string& sizes) {
    return "synthetic:" + std::string(kind) + ":" + std::to_string(count) + ":" + sizes;
}

}  // namespace

Error cancelled_error() {
    Error e = make_error("cancelled");
    e.cancelled = true;
    return e;
}

double milliseconds(std::chrono::steady_clock::duration d) {
    return std::chrono::duration<double, std::milli>(d).count();
}

double median(std::vector<double> values) {
    if (values.empty()) return 0;
    std::sort(values.begin(), values.end());
    const size_t n = values.size();
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

const char* name_of(BatchKind kind) {
    for (const KindName& k : kKinds)
        if (k.kind == kind) return k.name;
    return "";
}

const std::vector<std::string>& batch_kind_names() {
    static const std::vector<std::string> names = [] {
        std::vector<std::string> all;
        for (const KindName& k : kKinds) all.emplace_back(k.name);
        return all;
    }();
    return names;
}

Result<BatchKind> parse_batch_kind(const std::string& name) {
    for (const KindName& k : kKinds)
        if (k.name == name) return k.kind;
    return Error{"", "kind", '"' + shorten(name, 80) + '"', "one of " + join(batch_kind_names(), ", ")};
}

Deal deal_adapters(BatchKind kind, int64_t members, int64_t wanted) {
    Deal deal;
    deal.member.assign(size_t(members), -1);
    if (kind == BatchKind::base) return deal;
    const auto on_base = [&](int64_t i) { return kind == BatchKind::half && i % 3 == 2; };
    int64_t users = 0;
    for (int64_t i = 0; i < members; ++i) users += !on_base(i);
    const int64_t distinct = std::min(wanted, users);
    deal.boft = kind == BatchKind::boft ? distinct : kind == BatchKind::lora ? 0 : distinct / 2;
    deal.lora = distinct - deal.boft;
    int64_t next = 0;
    for (int64_t i = 0; i < members; ++i)
        if (!on_base(i)) deal.member[size_t(i)] = next++ % distinct;
    return deal;
}

std::vector<AdapterId> BenchAdapters::ids(const Deal& deal) const {
    std::vector<AdapterId> out;
    for (const int64_t number : deal.member) {
        if (number < 0) {
            out.push_back(AdapterId::base);
            continue;
        }
        const int64_t at = number < deal.boft ? number : boft + number - deal.boft;
        CHECK(at < int64_t(all.size()));
        out.push_back(AdapterId(uint32_t(1 + at)));
    }
    return out;
}

Result<BenchAdapters> make_bench_adapters(const Model& model, const BenchSizes& sizes, int64_t boft, int64_t lora,
                                          uint64_t seed, Progress& progress, AdapterForm form) {
    BenchAdapters made;
    made.boft = boft;
    std::vector<std::string> specs;
    if (boft > 0) specs.push_back(spec_of("boft", boft, sizes.boft));
    if (lora > 0) specs.push_back(spec_of("lora", lora, sizes.lora));
    TRY_ASSIGN(requests, parse_adapter_arguments(specs, ""));
    for (const AdapterRequest& request : requests) {
        TRY_ASSIGN(adapter, load_adapter(request, model, seed, progress, form));
        made.all.push_back(std::move(adapter));
    }
    return made;
}

BenchRunner::BenchRunner(std::shared_ptr<const Model> model, std::unique_ptr<ModelRunner> runner, int32_t pages)
    : model_(std::move(model)), runner_(std::move(runner)), pool_(pages) {
    // Real values everywhere (0.0115): untouched pages would all be one page of zeros in the cache.
    runner_->fill_pages({0, pages}, std::byte{0x3c});
}

Result<std::unique_ptr<BenchRunner>> BenchRunner::make(std::shared_ptr<const Model> model, int cuda_device,
                                                       RunnerLimits limits, const Room& room,
                                                       std::span<const std::shared_ptr<const Adapter>> adapters) {
    const int64_t page_bytes = page_bytes_of(*model, kBlockTokens);
    const int64_t blocks = divide_up(room.tokens, kBlockTokens);
    int64_t pages = room.sequences * blocks * model->config().num_layers;
    const int64_t guest_pages = divide_up(room.guest_bytes, page_bytes);
    pages += room.guests * guest_pages;
    for (const auto& a : adapters) pages += adapter_pages_of(*a, page_bytes) + batched_pages_of(*a, page_bytes);
    if (pages > std::numeric_limits<int32_t>::max())
        return Error{"", "context", std::to_string(room.tokens), "fewer tokens"};
    if (const int64_t bytes = pages * page_bytes, available = available_memory_bytes();
        cuda_device < 0 && bytes > available)
        return Error{"", "memory", format_bytes(bytes) + " for keys, values and adapters",
                     "at most the " + format_bytes(available) + " available"};
    if (limits.threads <= 0) limits.threads = usable_cpus();
    limits.max_tokens = room.max_rows;
    limits.block_tokens = kBlockTokens;
    limits.total_pages = int32_t(pages);
    TRY_ASSIGN(runner, make_runner(model, limits, cuda_device));
    auto bench = std::make_unique<BenchRunner>(std::move(model), std::move(runner), int32_t(pages));
    bench->add_sequences(room.sequences, blocks);
    for (const auto& a : adapters) TRY_VOID(bench->add_adapter(a, page_bytes));
    bench->add_guests(room.guests, int32_t(guest_pages));
    return bench;
}

Batch BenchRunner::batch(std::vector<Span> spans) const {
    // The base's rows come first, then each adapter's together.
    std::stable_sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) { return a.adapter < b.adapter; });
    Batch b;
    for (const Span& s : spans) {
        const auto row = int32_t(b.ids.size()), sequence = int32_t(b.sequences.size());
        for (int32_t i = 0; i < s.count; ++i) {
            b.ids.push_back(Token((s.first + i + 7 * s.sequence) % model_->config().vocab_size));
            b.positions.push_back(s.first + i);
        }
        b.sequences.push_back({row, row + s.count, s.first, &tables_[size_t(s.sequence)], &wanted_});
        b.sampling.push_back({});
        b.sample_position.push_back(s.first + s.count);
        b.context_tokens += s.first + s.count;
        if (b.segments.empty() || b.segments.back().adapter != s.adapter)
            b.segments.push_back({s.adapter, row, row + s.count});
        else
            b.segments.back().row_end = row + s.count;
        if (s.sample) b.heads.push_back({row + s.count - 1, sequence, false, true});
    }
    return b;
}

Batch BenchRunner::decode(int64_t context, std::span<const AdapterId> adapters) const {
    std::vector<Span> spans;
    for (size_t i = 0; i < adapters.size(); ++i) spans.push_back({int32_t(i), int32_t(context), 1, adapters[i], true});
    return batch(std::move(spans));
}

double BenchRunner::forward_ms(const Batch& batch) {
    const auto begin = std::chrono::steady_clock::now();
    runner_->forward(
        batch, [] { return true; }, [](int32_t, int64_t, int64_t, const float*) {}, result);
    return milliseconds(std::chrono::steady_clock::now() - begin);
}

void BenchRunner::add_sequences(int64_t sequences, int64_t blocks) {
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

void BenchRunner::add_guests(int64_t count, int32_t pages) {
    for (int64_t i = 0; i < count; ++i) {
        const auto id = AdapterId(++num_adapters_);
        const auto run = pool_.allocate_adapter(id, pages);
        CHECK(run);
        guests_.push_back({id, *run, false});
    }
}

void BenchRunner::load_guest(int64_t i, std::shared_ptr<const HostAdapter> adapter) {
    Guest& guest = guests_[size_t(i)];
    if (guest.loaded) runner_->drop_adapter(guest.id);
    runner_->load_adapter(guest.id, guest.run, std::move(adapter));
    guest.loaded = true;
}

Result<void> BenchRunner::add_adapter(const std::shared_ptr<const Adapter>& adapter, int64_t page_bytes) {
    const auto id = AdapterId(++num_adapters_);
    const auto run = pool_.allocate_adapter(id, adapter_pages_of(*adapter, page_bytes));
    CHECK(run);
    TRY_ASSIGN(host, runner_->host_adapter(adapter));
    runner_->load_adapter(id, *run, std::move(host));
    while (runner_->loads_in_background() && runner_->take_arrivals().empty())
        std::this_thread::sleep_for(std::chrono::microseconds(100));
    if (adapter->factor_bytes == 0) return {};
    const auto batched = pool_.allocate_transient(id, batched_pages_of(*adapter, page_bytes));
    CHECK(batched);
    runner_->place_batched(id, *batched);
    return {};
}

}  // namespace spartan
