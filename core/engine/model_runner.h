// Where a model's arithmetic runs: owns the device, the pool's memory and the workspace. Only the engine's thread may
// call it.
#pragma once

#include "core/adapter/adapter.h"
#include "core/base/result.h"
#include "core/engine/adapter_strategy.h"
#include "core/engine/batch.h"
#include "core/engine/fault.h"
#include "core/engine/page_pool.h"
#include "core/engine/step_record.h"
#include "core/model/model.h"
#include "kernels/check.h"

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace spartan {

// Asked between kernels; false abandons the step. Whatever was written is written again, the same, when the step is
// repeated, so abandoning needs no cleaning up.
using KeepGoing = std::function<bool()>;
// Logits of batch.sequences[sequence] at positions [first, first + count), f32 [count, vocab].
using HeadLogits = std::function<void(int32_t sequence, int64_t first, int64_t count, const float* logits)>;

struct ForwardResult {
    bool completed = false;
    std::vector<Token> tokens;        // [sequences]; -1: nothing was sampled
    std::vector<uint8_t> not_finite;  // [sequences]: sampling was asked for and a logit was NaN or +infinity
    StepTimes times;                  // of the phases that are the runner's
    int64_t gap_us = -1;              // StepRecord::gap_us
    StepBytes bytes;
    std::string trouble;       // got over: StepRecord::trouble
    int32_t passes = 1;        // that the batch was computed in
    int64_t common_block = 0;  // with `common_block`: what its factors were cut to; 0: there were none
    double device_ms = 0;      // of a GPU, from its first work of the step to its last; only with RunnerSwitches::timed
};

// How a GPU is driven. The answers do not depend on it; a CPU launches nothing and takes no notice.
struct RunnerSwitches {
    bool graphs = true;  // steps of a known shape are replayed
    // A kernel starts while the one before it drains (programmatic dependent launch): 8 % of a 7B model's step of one
    // row on an H100, 1 % of one of 96 (`spartan bench decode --ablation`).
    bool overlap = true;
    // On a GPU, of the weights that a product reads: so many the kernel before it asks for, which leaves memory idle.
    int64_t ahead_bytes = 4 << 20;
    bool timed = false;  // fill in ForwardResult::device_ms

    // But for being timed.
    bool same_as(const RunnerSwitches& other) const {
        return graphs == other.graphs && overlap == other.overlap && ahead_bytes == other.ahead_bytes;
    }
};

// An adapter as a runner copies it into the pool from; a GPU's lies in pinned memory.
class HostAdapter {
public:
    explicit HostAdapter(std::shared_ptr<const Adapter> of) : adapter(std::move(of)) {}
    virtual ~HostAdapter() = default;
    HostAdapter(const HostAdapter&) = delete;
    HostAdapter& operator=(const HostAdapter&) = delete;
    const std::shared_ptr<const Adapter> adapter;
};

// A load that has ended: when its copy began and what it took, by the device's own clock where it has one.
struct AdapterArrival {
    AdapterId id{};
    std::chrono::steady_clock::time_point begin;
    int64_t us = 0;
};

class ModelRunner {
public:
    virtual ~ModelRunner() = default;

    // load_adapter() must have been called for every adapter of batch.segments, and every id is known. A step with one
    // that is still on its way waits for it. Throws DeviceError when the device is lost; OutOfDeviceMemory
    // (kernels/device_memory_error.h) when a smaller batch may still go.
    virtual void forward(const Batch& batch, const KeepGoing& keep_going, const HeadLogits& logits,
                         ForwardResult& result) = 0;

    // Whether launch() and collect() may be called from now on. As forward() in two halves: launch() returns once the
    // device has all it needs, with `completed` false where the step was abandoned before, and collect() waits for its
    // end. One more step may be launched before the last is collected, which then runs after it; its ids may name
    // tokens of that one. What is asked of the runner between the two (loads, fill_pages) comes after both.
    virtual bool runs_ahead() const { return false; }
    virtual void launch(const Batch&, const KeepGoing&, const HeadLogits&, ForwardResult&) { CHECK(false); }
    virtual void collect(const Batch&, ForwardResult&) { CHECK(false); }

    // Any thread. An error: the system does not grant the memory.
    virtual Result<std::shared_ptr<const HostAdapter>> host_adapter(std::shared_ptr<const Adapter> adapter) const {
        return std::make_shared<const HostAdapter>(std::move(adapter));
    }
    // Whether load_adapter() returns before the copy has ended.
    virtual bool loads_in_background() const { return false; }
    // Copies the adapter, one of this runner's host_adapter(), into the pages of `run`: after all work that was begun
    // before, beside what is begun later. OutOfDeviceMemory: the adapter is not there, and
    // drop_adapter() is called for it before anything else is asked of it.
    virtual void load_adapter(AdapterId id, PageRun run, std::shared_ptr<const HostAdapter> adapter) = 0;
    // The loads that have ended since the last call, in order.
    virtual std::vector<AdapterArrival> take_arrivals() = 0;
    // Takes no notice of one that is not there.
    virtual void drop_adapter(AdapterId id) = 0;
    // `common_block`: where the factors of a loaded adapter are batched from the next step on, factor_bytes of it.
    virtual void place_batched(AdapterId, PageRun) { CHECK(false); }
    // `merged`: from now on the adapter's segments (with the base: nobody's) meet weights that it is multiplied into,
    // and the base those of the model, bit for bit. Tables, norms and biases stay beside. Returns the bytes of weights
    // that were written; negative when abandoned.
    virtual int64_t merge(AdapterId, const KeepGoing&) { CHECK(false); }
    // Every byte of the pages; all ones is NaN in both storage types.
    virtual void fill_pages(PageRun run, std::byte value) = 0;

    virtual int64_t workspace_bytes() const = 0;

    // From the next step on; at first {.graphs = RunnerLimits::graphs}.
    virtual void set_switches(const RunnerSwitches&) {}
    // As RunnerLimits::phase_times, from the next step on.
    virtual void set_phase_times(bool) {}

    // What the driver says now; none where there is no driver, or where it no longer answers.
    virtual DeviceMemoryUse device_memory() const { return {}; }
    // The same before this runner took anything: of other programs and the driver itself.
    virtual DeviceMemoryUse device_memory_before() const { return {}; }

    virtual void cause_fault(Fault fault) = 0;  // for tests
};

struct RunnerLimits {
    int threads = 1;
    int64_t max_tokens = 512;  // rows of a batch
    int64_t block_tokens = 16;
    int32_t total_pages = 0;
    AdapterStrategy strategy = AdapterStrategy::folded;
    bool graphs = true;            // on a GPU: steps of a known shape are replayed
    bool phase_times = false;      // on a GPU: times of a step's phases, which slows it and excludes graphs
    bool batch_invariant = false;  // on a GPU, at some cost; a CPU always is
    std::string plan_file = {};    // on a GPU: keeps which algorithms were found fastest; empty: nothing is kept
};

// Tokens whose K and V the step reads, summed over all layers: a sliding window hides those behind it.
int64_t kv_tokens_read(const Batch& batch, const ModelConfig& config);

// Bytes of one page: K and V of block_tokens tokens of one layer.
int64_t page_bytes_of(const Model& model, int64_t block_tokens);
int32_t adapter_pages_of(const Adapter& adapter, int64_t page_bytes);
int32_t batched_pages_of(const Adapter& adapter, int64_t page_bytes);  // of its factors, while it runs

// Takes the pool's and the workspace's memory; an error when the system refuses it.
Result<std::unique_ptr<ModelRunner>> make_cpu_runner(std::shared_ptr<const Model> model, const RunnerLimits& limits);
// On the CPU (-1), or on the GPU of this ordinal through its backend (cuda_backend.h).
Result<std::unique_ptr<ModelRunner>> make_runner(std::shared_ptr<const Model> model, const RunnerLimits& limits,
                                                 int cuda_device);

}  // namespace spartan
