// The engine's thread: takes commands, asks the source, steps, publishes.
#pragma once

#include "core/engine/adapter_registry.h"
#include "core/engine/admission.h"
#include "core/engine/batch.h"
#include "core/engine/clock.h"
#include "core/engine/disposal.h"
#include "core/engine/engine.h"
#include "core/engine/mailbox.h"
#include "core/engine/model_runner.h"
#include "core/engine/page_pool.h"
#include "core/engine/scheduler.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <limits>
#include <map>
#include <memory>
#include <mutex>

namespace spartan {

// The newest snapshot, and who waits for idleness.
struct StatusBoard {
    mutable std::mutex mutex;
    std::condition_variable changed;
    EngineStatus status;
    uint64_t idle_after = ~uint64_t{0};  // idle, having taken this many commands; all ones: not idle
};

// Shared by the public functions (any thread) and the loop; each part guards itself.
struct EngineShared {
    // `checked`: by check_options().
    EngineShared(std::shared_ptr<const Model> of, EngineOptions checked, Engine::RecordSink records,
                 Engine::LogitsSink of_logits)
        : model(std::move(of)),
          options(std::move(checked)),
          sink(std::move(records)),
          logits(std::move(of_logits)),
          pool_shape(spartan::pool_shape(options, *model)),
          watchdog(std::make_shared<Watchdog>(
              options.watchdog_s, options.cuda_device < 0 ? "cpu" : "cuda:" + std::to_string(options.cuda_device))),
          registry(options.adapter_bytes, pool_shape.page_bytes, pool_shape.total_pages) {}

    std::shared_ptr<const Model> model;
    EngineOptions options;
    Engine::RecordSink sink;
    Engine::LogitsSink logits;
    PoolShape pool_shape;
    std::atomic<uint64_t> next_request{1};
    std::atomic<int64_t> queued{0};          // requests that were never scheduled yet
    std::atomic<uint64_t> next_source{1};    // numbers sources
    std::atomic<uint64_t> source_number{0};  // the one that is active or about to be; 0: none
    EngineClock clock;
    std::shared_ptr<Watchdog> watchdog;
    Mailbox mailbox;
    AdapterRegistry registry;
    Disposal disposal;  // of adapters that have left; each tells the registry when it is gone
    StatusBoard board;
};

class EngineLoop {
public:
    EngineLoop(EngineShared& shared, std::unique_ptr<ModelRunner> runner);
    void run();  // until QuitCommand
    const ModelRunner& runner() const { return *runner_; }

private:
    // How soon the end of a copy is seen while nothing is computed.
    static constexpr std::chrono::microseconds kArrivalPoll{50};

    void turn();
    void step();
    void await_adapters();
    void rest();
    void publish_news();
    void stay_held();
    void wait_for_commands(std::optional<EngineClock::Time> deadline);

    // Commands.
    void drain();
    void handle(SubmitCommand& c);
    void handle(CancelCommand& c);
    void handle(CancelAdapterCommand& c);
    void handle(CancelAllCommand&);
    void handle(StartCommand& c);
    void handle(StopSourceCommand&);
    void handle(HoldCommand& c);
    void handle(PhaseTimesCommand& c);
    void handle(FaultCommand& c);
    void handle(CollectCommand&);
    void handle(QuitCommand&);

    // The source.
    bool poll_source();
    void deliver(Request request);
    void drop_source();

    // Requests.
    Sequence& admit(Request request, AdapterPages pages, uint64_t source);
    void finish(Sequence& sequence, FinishReason reason, std::string error = "");
    void retire(Sequence& sequence);
    void cancel_where(const std::function<bool(const Sequence&)>& which);
    void collect_adapters();

    // A step from its schedule to its record.
    struct Flight {
        Schedule plan;
        Batch batch;
        std::vector<StepRow> rows;  // of the record, as far as they are known before
        ForwardResult result;
        bool ahead = false;    // launched, and not collected yet
        std::string shortage;  // of device memory, for which the step did not take place
        int64_t start_us = 0, scheduled_us = 0, schedule_us = 0;
        // Of the record.
        std::vector<RequestId> preempted;
        std::vector<AdapterEvent> adapter_events;
        int64_t transfer_bytes = 0, transfer_us = 0;

        bool picks(size_t sequence) const { return batch.picking_head[sequence] >= 0; }
    };
    bool launch(Flight& f);
    void take_off(Flight& f);
    void compute(Flight& f);
    void land(Flight& f);
    void land_flying();

    // Parts of a step.
    void move_adapters(const std::vector<AdapterMove>& moves, int64_t& transfer_us);
    void place_batched(const std::vector<BatchedPages>& batched);
    void find_homeless(AdapterId id, const char* why);
    void take_arrivals();
    void leave_out_homeless(Schedule& plan);
    void do_with_less(const std::vector<RequestId>& batch, const std::string& why);
    void try_more();
    bool keep_going(const Flight& f);
    void hand_out_logits(Sequence& sequence, int64_t first, int64_t count, const float* logits);
    void take_results(Flight& f, int64_t end_us);
    void append_token(Sequence& sequence, Token token, int64_t now_us);
    void collect_page_changes();

    bool has_news() const;
    void publish(int64_t start_us, int64_t end_us);
    void update_status(EngineState state);
    void fail(const std::string& why);

    EngineShared& shared_;
    std::unique_ptr<ModelRunner> runner_;
    PagePool pool_;
    Scheduler scheduler_;
    std::map<RequestId, std::unique_ptr<Sequence>> live_;

    std::shared_ptr<RequestSource> source_;
    std::function<void(const Request&)> on_request_;
    int64_t source_start_us_ = 0, source_unfinished_ = 0;
    uint64_t source_number_ = 0;

    StepRecord pending_;  // what the next record will tell
    int64_t next_step_ = 0, schedule_number_ = 0, publish_wait_us_ = 0;
    int64_t turn_start_us_ = 0, landed_us_ = 0;  // the end of the last step that has ended
    Flight flights_[2];
    Flight* flying_ = nullptr;      // the one in flight
    std::deque<Command> commands_;  // taken from the mailbox, not handled yet
    uint64_t taken_ = 0;            // commands ever taken
    bool hold_ = false, quit_ = false;
    bool awaits_copies_ = false;                  // and has nothing else to do
    std::map<AdapterId, std::string> homeless_;   // found no device memory in this step, and why
    int32_t row_limit_ = 0, steps_at_limit_ = 0;  // after a shortage of device memory; 0: none
    int64_t device_memory_us_ = std::numeric_limits<int64_t>::min() / 2;  // when the driver was asked
    std::string failure_;
};

}  // namespace spartan
