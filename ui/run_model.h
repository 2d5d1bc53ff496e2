// The window's own store of one run, live or re-opened, built from its StepRecords alone. Memory stays bounded however
// long the run is: recent steps in full, older ones as compact summaries, then as time bins. Plain C++: a worker fills
// one when a recording is opened; afterwards only the GUI thread touches it.
#pragma once

#include "core/adapter/adapter.h"
#include "core/engine/step_record.h"
#include "core/model/config.h"
#include "ui/distribution.h"
#include "ui/page_map.h"

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace spartan {

enum class Metric : uint8_t { ttft, itl, e2e };
constexpr int kNumMetrics = 3;

// One adapter of the run, as far as it is known (a re-opened run may know the name only).
struct RunAdapter {
    AdapterId id{};
    std::string name, geometry, targets;
    int64_t bytes = 0;               // folded
    double orthogonality_error = 0;  // |RᵀR - I|
    std::vector<AdapterPart> parts;  // block structure per layer and projection; empty when not known
};

struct RunHeader {
    std::string name;  // of the recording; empty: none
    std::string dir;
    std::string model_name, dtype, device, workload_name;
    std::optional<ModelConfig> config;
    int64_t page_bytes = 0, pool_bytes = 0, weight_bytes = 0, workspace_bytes = 0;
    bool gpu = false;
    // Of a GPU, in its driver's words: what it has, and what was taken before this run's engine took anything.
    int64_t device_bytes = 0, device_used_before = 0;
    int64_t block_tokens = 16;
    int64_t planned_requests = 0;  // warm-up and repeats included; 0: not known (playground)
    std::optional<double> slo_ttft_ms, slo_itl_ms, slo_e2e_ms;
    std::vector<RunAdapter> adapters;  // base excluded
    AdapterStrategy strategy = AdapterStrategy::folded;
    bool live = false;
};

// One step in 200 bytes.
struct StepSummary {
    int64_t step = 0, start_us = 0, end_us = 0, held_us = 0;
    int32_t rows = 0, adapters = 0;  // distinct adapters in the batch, base excluded
    int32_t prefill_tokens = 0, decode_tokens = 0, padding_tokens = 0;
    int32_t emitted_tokens = 0;
    int32_t running = 0, waiting = 0, preempted = 0;
    StepTimes times;
    StepBytes bytes;
    PoolState pool;
    DeviceMemoryUse device;  // as the driver last said
    double ms() const { return double(end_us - start_us) / 1000.0; }
};

// An adapter that was copied into the pool.
struct AdapterCopy {
    AdapterId adapter{};
    int64_t step = 0;                          // that told of its end
    int64_t bytes = 0, begin_us = -1, us = 0;  // begin_us -1: not known
    int64_t end_us() const { return begin_us + us; }
};

// Sums over the steps that ended in one time bin.
struct StepBin {
    int64_t t0_us = 0, t1_us = 0;  // t1 of the newest bin is where the run is now
    int64_t steps = 0, prefill_tokens = 0, decode_tokens = 0, padding_tokens = 0, emitted_tokens = 0;
    int64_t step_us = 0, longest_step_us = 0, transfer_bytes = 0;
    int32_t running_max = 0, waiting_max = 0, rows_max = 0, preempted = 0;
    PoolState pool;          // after the last step
    DeviceMemoryUse device;  // as the driver last said
    int32_t kv_pages_max = 0, adapter_pages_max = 0, transient_pages_max = 0;
    double seconds() const { return double(t1_us - t0_us) / 1e6; }
    double promptPerSecond() const { return seconds() > 0 ? double(prefill_tokens) / seconds() : 0; }
    double generatedPerSecond() const { return seconds() > 0 ? double(emitted_tokens) / seconds() : 0; }
};

// A request's life, for lanes and tables. Times -1 until known.
struct RequestSummary {
    RequestId id{};
    AdapterId adapter = AdapterId::base;
    int64_t arrival_us = 0, first_scheduled_us = -1, first_token_us = -1, last_token_us = -1;
    int32_t prompt_tokens = 0, max_tokens = 0, output_tokens = 0, preemptions = 0;
    FinishReason finish = FinishReason::none;
    bool warmup = false;
    std::string error;
};

// Warm-up requests are left out.
struct AdapterTotals {
    int64_t requests = 0, completed = 0, failed = 0, prompt_tokens = 0, output_tokens = 0;
    int64_t loads = 0, evictions = 0;
    std::array<Distribution, kNumMetrics> metrics;  // ms
    const Distribution& operator[](Metric m) const { return metrics[size_t(m)]; }
};

struct RunCounts {
    int64_t arrived = 0, completed = 0, failed = 0, cancelled = 0;  // warm-up included
    int64_t prompt_tokens = 0, output_tokens = 0;
    int64_t finished() const { return completed + failed + cancelled; }
};

struct HeldSpan {
    int64_t at_us = 0, held_us = 0;  // the clock stood still at `at_us` for so long
};

class RunModel {
public:
    struct Limits {
        size_t steps = 16'384;                 // summaries
        size_t detail_bytes = 64u << 20;       // full records
        size_t requests = 16'384;              // finished ones
        size_t copies = 65'536;                // of the steps that have a summary
        size_t bins = 1'024;                   // halved by pairing when reached
        size_t exact_values = 2'000'000;       // per metric over all bins, then the oldest bins become histograms
        size_t exact_values_adapter = 65'536;  // per metric and adapter
        int64_t first_bin_us = 100'000;
        int64_t keyframe_steps = 256;
        size_t keyframe_bytes = 32u << 20;
    };
    RunModel();
    explicit RunModel(Limits limits);

    void reset(RunHeader header);
    void append(const StepRecordPtr& record);
    void setHeader(RunHeader header);  // corrects what was not known at the start
    // A message that ends the series (the engine failed, a recording broke off); empty: none.
    void setFailure(std::string message);

    const RunHeader& header() const { return header_; }
    const std::string& failure() const { return failure_; }
    uint64_t version() const { return version_; }  // rises with every change
    bool empty() const { return steps_.empty(); }

    int64_t startUs() const { return origin_us_; }
    int64_t endUs() const { return end_us_; }
    int64_t lastStep() const { return steps_.empty() ? -1 : steps_.back().step; }
    int64_t totalSteps() const { return total_steps_; }
    int64_t heldUs() const { return steps_.empty() ? 0 : steps_.back().held_us; }
    const std::vector<HeldSpan>& heldSpans() const { return held_; }

    // The newest summaries, oldest first, consecutive steps.
    const std::deque<StepSummary>& steps() const { return steps_; }
    const StepSummary* summary(int64_t step) const;  // null: not kept
    // The newest copies of adapters, in the order in which they ended.
    const std::deque<AdapterCopy>& copies() const { return copies_; }
    int64_t stepAt(int64_t us) const;          // the kept step whose time holds `us` (the nearest); -1: none
    StepRecordPtr record(int64_t step) const;  // null: only its summary or bins are kept
    int64_t firstDetailedStep() const;         // -1: none

    // Time bins that overlap [t0, t1], neighbours paired until at most `points` remain.
    std::vector<StepBin> stepBins(int64_t t0_us, int64_t t1_us, size_t points) const;
    // The same for a metric's values (ms), each at the time its last token came. Empty bins are left out.
    std::vector<QuantilePoint> quantiles(Metric metric, int64_t t0_us, int64_t t1_us, size_t points) const;
    // All values of the bins that overlap [t0, t1] as one.
    QuantilePoint overall(Metric metric, int64_t t0_us, int64_t t1_us) const;
    int64_t binUs() const { return bin_us_; }

    const RunCounts& counts() const { return counts_; }
    const std::map<AdapterId, AdapterTotals>& adapterTotals() const { return adapters_; }  // base included
    const RunAdapter* adapter(AdapterId id) const;                                         // null: base or unknown
    std::string adapterName(AdapterId id) const;  // "base", its name, or "adapter 7"
    const std::unordered_map<RequestId, RequestSummary>& openRequests() const { return open_; }
    const std::deque<RequestSummary>& finishedRequests() const { return finished_; }

    const PageMap& pages() const { return pages_; }  // after the newest step
    bool pagesKnown() const { return pages_known_; }
    // After `step`; the oldest that can be rebuilt when it is older; null when there is none.
    const PageMap* pagesAt(int64_t step) const;
    int32_t pagesOf(AdapterId id) const;  // of the adapter in the pool now

    size_t approximateBytes() const;

private:
    struct Bin {
        StepBin totals;
        std::array<Distribution, kNumMetrics> metrics;
    };
    struct Keyframe {
        int64_t step;
        std::vector<PageChange> runs;
    };
    struct QuantileCache {
        std::vector<QuantilePoint> points;  // of whole groups; the last may still grow
        size_t closed = 0;                  // how many of them are final
    };

    void takeArrivals(const StepRecord& record);
    void takeRows(const StepRecord& record);
    void takeFinished(const StepRecord& record);
    void takePages(const StepRecord& record);
    void takeSummary(const StepRecord& record);
    void takeCopies(const StepRecord& record);
    void keepRecord(const StepRecordPtr& record);
    void addValue(Metric metric, AdapterId adapter, double ms);
    Bin& binAt(int64_t us);
    void pairBins();
    void limitExactValues(Metric metric);
    size_t groupFor(int64_t t0_us, int64_t t1_us, size_t points) const;
    void dropOldKeyframes();

    void indexAdapters();

    Limits limits_;
    RunHeader header_;
    std::unordered_map<AdapterId, size_t> adapter_index_;  // into header_.adapters
    std::string failure_;
    uint64_t version_ = 0;
    int64_t origin_us_ = 0, end_us_ = 0, total_steps_ = 0;
    std::deque<StepSummary> steps_;
    std::deque<AdapterCopy> copies_;
    std::deque<std::pair<StepRecordPtr, size_t>> records_;  // with their approximate bytes
    size_t record_bytes_ = 0;
    std::vector<HeldSpan> held_;

    int64_t bin_us_;
    std::vector<Bin> bins_;
    std::array<size_t, kNumMetrics> exact_values_{};
    mutable std::array<std::map<size_t, QuantileCache>, kNumMetrics> quantile_cache_;  // by bins per group

    RunCounts counts_;
    std::map<AdapterId, AdapterTotals> adapters_;
    std::unordered_map<RequestId, RequestSummary> open_;
    std::deque<RequestSummary> finished_;

    PageMap pages_;
    bool pages_known_ = false;
    std::unordered_map<AdapterId, int32_t> adapter_pages_;
    std::deque<Keyframe> keyframes_;
    size_t keyframe_bytes_ = 0;
    mutable PageMap rewound_;
    mutable int64_t rewound_step_ = -1;
};

}  // namespace spartan
