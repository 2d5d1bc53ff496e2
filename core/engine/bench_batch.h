// Forward passes without an engine around them: a runner, its pages, and the batches that the measurements of bench.h
// time.
#pragma once

#include "core/adapter/adapter.h"
#include "core/base/progress.h"
#include "core/base/result.h"
#include "core/engine/model_runner.h"

#include <chrono>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace spartan {

double milliseconds(std::chrono::steady_clock::duration);
double median(std::vector<double> values);  // of nothing: 0

// Which adapters the rows of a batch use.
enum class BatchKind : uint8_t {
    base,
    boft,
    lora,
    boft_lora,  // the first half of the adapters BOFT, the others LoRA, no row on the base
    half,       // the same with every third row on the base
};
const char* name_of(BatchKind);  // "base", "boft", "lora", "boft+lora", "half"
Result<BatchKind> parse_batch_kind(const std::string& name);
const std::vector<std::string>& batch_kind_names();

// How many adapters of each sort a batch of `members` (rows or sequences) uses when `wanted` distinct ones are asked
// for, and who uses which: number in [0, boft) a BOFT, [boft, boft + lora) a LoRA, -1 the base. Dealt round robin.
struct Deal {
    int64_t boft = 0, lora = 0;
    std::vector<int64_t> member;
    int64_t distinct() const { return boft + lora; }
};
Deal deal_adapters(BatchKind kind, int64_t members, int64_t wanted);

// `boft` BOFT adapters and then `lora` LoRA ones, each of the SIZES of a synthetic spec, dealt out in turn.
struct BenchAdapters {
    std::vector<std::shared_ptr<const Adapter>> all;
    int64_t boft = 0;  // the first of `all`

    // The ids that BenchRunner gives them, by member.
    std::vector<AdapterId> ids(const Deal& deal) const;
};
struct BenchSizes {
    std::string boft, lora;  // "b=32,m=2", "r=64"
};
Result<BenchAdapters> make_bench_adapters(const Model& model, const BenchSizes& sizes, int64_t boft, int64_t lora,
                                          uint64_t seed, Progress& progress, AdapterForm form = AdapterForm::folded);

class BenchRunner {
public:
    // Room for `sequences` of `tokens` each and for the adapters, which get the ids 1, 2, … in their order; and for
    // `guests` that come and go, of at most `guest_bytes` in the pool.
    struct Room {
        int64_t max_rows = 0, sequences = 0, tokens = 0, guests = 0, guest_bytes = 0;
    };
    // Sizes of `limits` are filled in; threads 0: usable_cpus().
    static Result<std::unique_ptr<BenchRunner>> make(std::shared_ptr<const Model> model, int cuda_device,
                                                     RunnerLimits limits, const Room& room,
                                                     std::span<const std::shared_ptr<const Adapter>> adapters);
    BenchRunner(std::shared_ptr<const Model> model, std::unique_ptr<ModelRunner> runner, int32_t pages);

    // Tokens [first, first + count) of a sequence; the last of them may get a token sampled.
    struct Span {
        int32_t sequence = 0, first = 0, count = 0;
        AdapterId adapter = AdapterId::base;
        bool sample = false;
    };
    Batch batch(std::vector<Span> spans) const;
    // One token each of the first adapters.size() sequences at position `context`.
    Batch decode(int64_t context, std::span<const AdapterId> adapters) const;

    void set_switches(const RunnerSwitches& switches) { runner_->set_switches(switches); }

    Result<std::shared_ptr<const HostAdapter>> host_adapter(const std::shared_ptr<const Adapter>& adapter) const {
        return runner_->host_adapter(adapter);
    }
    // Begins to load it in place of whoever was guest `i`. The guest must have arrived.
    void load_guest(int64_t i, std::shared_ptr<const HostAdapter> adapter);
    int64_t guest_of(AdapterId id) const { return int64_t(id) - int64_t(guests_.front().id); }
    std::vector<AdapterArrival> take_arrivals() { return runner_->take_arrivals(); }

    // Wall time; `result` is the step's.
    double forward_ms(const Batch& batch);
    ForwardResult result;

private:
    struct Guest {
        AdapterId id{};
        PageRun run;
        bool loaded = false;
    };
    void add_sequences(int64_t sequences, int64_t blocks);
    void add_guests(int64_t count, int32_t pages);
    Result<void> add_adapter(const std::shared_ptr<const Adapter>& adapter, int64_t page_bytes);

    std::shared_ptr<const Model> model_;
    std::unique_ptr<ModelRunner> runner_;
    PagePool pool_;
    std::vector<std::vector<std::vector<int32_t>>> tables_;  // [sequence][layer][block]
    uint32_t num_adapters_ = 0;
    std::vector<Guest> guests_;
    static constexpr bool wanted_ = false;  // BatchSequence::over
};

Error cancelled_error();

}  // namespace spartan
