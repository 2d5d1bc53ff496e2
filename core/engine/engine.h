// The serving engine: one thread that admits requests, batches them, runs the model, samples and publishes one
// StepRecord a step. Qt-free. All public functions may be called from any thread and return at once, unless they say
// otherwise.
#pragma once

#include "core/adapter/adapter.h"
#include "core/base/result.h"
#include "core/engine/fault.h"
#include "core/engine/request.h"
#include "core/engine/step_record.h"
#include "core/engine/watchdog.h"
#include "core/model/model.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace spartan {

// Keys and defaults as in a workload file's "engine" (cli.md).
struct EngineOptions {
    int cuda_device = -1;  // ordinal of the GPU that computes; -1: the CPU
    int threads = 0;       // 0: usable_cpus()
    // 0: on the CPU the smaller of 4 GiB and a quarter of the available memory; on a GPU 90 % of what weights and
    // workspace leave of its free memory
    int64_t pool_bytes = 0;
    int64_t adapter_bytes = 0;  // host budget for adapters as they are kept; 0: half of the memory
    int32_t max_batch_tokens = 512;
    int32_t max_batch_rows = 256;
    int32_t block_tokens = 16;
    int32_t max_waiting = 1 << 20;  // requests queued before submit() refuses
    // residency: `resident` serves requests in their order, and one whose adapter finds no room holds up those behind
    // it; `stream` lets others pass for at most 2 s, which keeps the batch full where few of many adapters find room.
    std::string adapter_strategy = "folded", residency = "resident", memory = "unified", scheduler = "fcfs";
    // Replayed launches on a GPU; a CPU launches nothing, so both values are taken and EngineStatus says that it does
    // not apply.
    bool graphs = true;
    // With residency `stream`: adapters in the pool at once, at most; 0: as many as find room beside the KV.
    int32_t adapter_slots = 0;
    // On a GPU: times of each step's phases, which slows it and excludes graphs; else all of its time is "other". A CPU
    // always tells them apart.
    bool phase_times = false;
    // A request's answer has the same bits alone and in any batch. Unset: true on a CPU, where every kernel is so and
    // false is refused as something that cannot be had; false on a GPU.
    std::optional<bool> batch_invariant;
    // Seconds without an answer of the device after which Engine::watchdog() says so; 0: never.
    int32_t watchdog_s = 30;
};

// Requests that become due by themselves (a workload). Called on the engine's thread only.
class RequestSource {
public:
    virtual ~RequestSource() = default;
    // The next request due at `now_us` of the run's clock (which starts at 0 with the run), given how many of the
    // source's requests are unfinished; nothing when none is due. Its arrival_us is on the run's clock.
    virtual std::optional<Request> next(int64_t now_us, int64_t unfinished) = 0;
    // When to ask again if next() gave nothing: a time, or nothing when only a finishing request can make one due.
    virtual std::optional<int64_t> next_due_us() const = 0;
    virtual bool exhausted() const = 0;
};

enum class EngineState : uint8_t { idle, running, held, failed, stopped };
const char* name_of(EngineState);

// A snapshot for status lines; newest wins.
struct EngineStatus {
    EngineState state = EngineState::idle;
    std::string failure;  // why, when failed
    int64_t step = 0, now_us = 0;
    int64_t running = 0, waiting = 0;
    PoolState pool;
    int64_t page_bytes = 0, pool_bytes = 0, workspace_bytes = 0, weight_bytes = 0;
    DeviceMemoryUse device_before;  // a GPU's memory before this engine took anything
    bool source_active = false;     // a workload is still delivering or has unfinished requests
    std::string device = "cpu", graphs = "not applicable on the CPU";
};

struct AdapterStatus {
    AdapterId id{};
    std::shared_ptr<const Adapter> adapter;
    Residency residency = Residency::host;
    int64_t pool_bytes = 0;  // pages it takes when resident
    int64_t unfinished = 0;  // requests that use it
    bool leaving = false;    // removed: stays until its last request has left
};

class Engine {
public:
    // Receives each record in order on the engine's thread and must be quick; returning false means "full": the engine
    // waits, asks again, and records the wait. core/run/recorder.h provides one.
    using RecordSink = std::function<bool(const StepRecordPtr&)>;
    // Logits of prompt positions [first, first + count) of a request with want_logits, f32 [count, vocab]; engine's
    // thread.
    using LogitsSink = std::function<void(RequestId, int64_t first, int64_t count, const float* logits)>;

    // Takes the pool's memory and starts the thread. Refuses options that are not built yet by name, and a pool that
    // cannot hold one sequence of block_tokens.
    static Result<std::unique_ptr<Engine>> create(std::shared_ptr<const Model> model, EngineOptions options,
                                                  RecordSink sink, LogitsSink logits = {});
    ~Engine();  // cancels everything, joins

    const Model& model() const;
    const EngineOptions& options() const;  // with defaults filled in

    // Adapters must be folded for this model and dtype. remove_adapter: new requests are refused at once; it leaves
    // when its last request has; cancel_requests ends them first. Blocks only for a lock.
    Result<AdapterId> add_adapter(std::shared_ptr<const Adapter> adapter);
    Result<void> remove_adapter(AdapterId id, bool cancel_requests);
    std::vector<AdapterStatus> adapters() const;

    // Refuses: unknown adapter, empty prompt, ids outside the vocabulary, prompt + max_tokens over the context or over
    // what the whole pool could hold, a full queue (backpressure), a failed engine. Request::id is assigned.
    Result<RequestId> submit(Request request);
    void cancel(RequestId id);  // its record comes within 100 ms with FinishReason::cancelled
    void cancel_all();          // and drops the source

    // Starts delivering from `source`; the run's clock starts now. One source at a time. Ids are assigned by the
    // engine; on_request (engine's thread) tells which id each delivered request got.
    Result<void> start(std::shared_ptr<RequestSource> source, std::function<void(const Request&)> on_request = {});
    void stop_source();  // no further arrivals; what was delivered is cancelled

    // Holds arrivals and steps; the clock stands still.
    void hold();
    void release();

    // Times of a GPU's phases from the next step on: EngineOptions::phase_times, while it runs.
    void time_phases(bool on);

    // For tests.
    void cause_fault(Fault fault);

    // Whether the device still answers. May outlive the engine.
    std::shared_ptr<const Watchdog> watchdog() const;

    EngineStatus status() const;
    int64_t now_us() const;  // the engine's clock
    // Blocks until nothing is running, waiting or due (or failed). False on timeout.
    bool wait_idle(int64_t timeout_ms = -1);

private:
    struct Impl;
    explicit Engine(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

}  // namespace spartan
