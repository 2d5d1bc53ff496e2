#include "core/engine/engine_loop.h"

#include "kernels/check.h"

#include <algorithm>
#include <chrono>
#include <thread>

namespace spartan {
namespace {

#if !defined(NDEBUG) || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kCheckWhenIdle = true;
#else
constexpr bool kCheckWhenIdle = false;
#endif

constexpr int64_t kAskDriverEvery_us = 1'000'000;

SchedulerLimits limits_of(const EngineShared& shared, bool background_loads) {
    const EngineOptions& o = shared.options;
    return {.max_batch_tokens = o.max_batch_tokens,
            .max_batch_rows = o.max_batch_rows,
            .block_tokens = o.block_tokens,
            .num_layers = int32_t(shared.pool_shape.num_layers),
            .one_adapter = strategy_of(o) == AdapterStrategy::merged,
            .adapter_slots = o.adapter_slots,
            .pass_over = o.residency == "stream",
            .background_loads = background_loads};
}

}  // namespace

EngineLoop::EngineLoop(EngineShared& shared, std::unique_ptr<ModelRunner> runner)
    : shared_(shared),
      runner_(std::move(runner)),
      pool_(shared.pool_shape.total_pages),
      scheduler_(limits_of(shared, runner_->loads_in_background()), pool_) {
    update_status(EngineState::idle);
}

void EngineLoop::run() {
    while (!quit_) {
        // The one place where a lost device ends up: the engine is lost with it, the process is not.
        try {
            turn();
        } catch (const std::exception& e) {
            fail(e.what());
        }
    }
    shared_.watchdog->rest();
    update_status(EngineState::stopped);
}

void EngineLoop::turn() {
    if (!awaits_copies_) shared_.watchdog->beat(next_step_);
    turn_start_us_ = shared_.clock.now_us();
    take_arrivals();
    drain();
    if (quit_ || hold_ || !failure_.empty()) {
        if (flying_) land_flying();
        return stay_held();
    }
    const bool asked_all = poll_source();
    if (!scheduler_.idle() || flying_)
        step();
    else if (asked_all)
        rest();
    else
        publish_news();
}

// Of what happened since the last record, at this moment.
void EngineLoop::publish_news() {
    if (!has_news()) return;
    const int64_t now_us = shared_.clock.now_us();
    publish(now_us, now_us);
}

// Nothing to compute: sleeps until a command or the source's next request.
void EngineLoop::rest() {
    if (has_news()) publish(turn_start_us_, shared_.clock.now_us());
    if (kCheckWhenIdle) {
        scheduler_.check_invariants();
        CHECK(live_.empty() && pool_.state().kv_pages == 0);
    }
    update_status(source_ ? EngineState::running : EngineState::idle);
    std::optional<EngineClock::Time> deadline;
    if (scheduler_.num_loading() > 0) {
        deadline = std::chrono::steady_clock::now() + kArrivalPoll;
    } else if (source_) {
        if (const auto due_us = source_->next_due_us()) {
            // A source that is due but gave nothing would otherwise keep this thread spinning.
            const auto soon = std::chrono::steady_clock::now() + std::chrono::microseconds(100);
            deadline = std::max(shared_.clock.when(source_start_us_ + *due_us), soon);
        }
    }
    wait_for_commands(deadline);
}

void EngineLoop::wait_for_commands(std::optional<EngineClock::Time> deadline) {
    awaits_copies_ = false;
    shared_.watchdog->rest();
    shared_.mailbox.wait(deadline);
}

// Held, failed or quitting: only commands are served, and the clock of a held run stands still.
void EngineLoop::stay_held() {
    if (hold_ && failure_.empty()) shared_.clock.hold();
    publish_news();
    if (quit_) return;
    update_status(failure_.empty() ? EngineState::held : EngineState::failed);
    wait_for_commands(std::nullopt);
}

void EngineLoop::drain() {
    for (Command& command : shared_.mailbox.take(taken_)) commands_.push_back(std::move(command));
    while (!commands_.empty()) {  // one that throws must not take those behind it along
        Command command = std::move(commands_.front());
        commands_.pop_front();
        std::visit([this](auto& c) { handle(c); }, command);
    }
    collect_adapters();
}

void EngineLoop::handle(SubmitCommand& c) {
    const AdapterPages pages = shared_.registry.pages_of(c.request.adapter);
    Sequence& s = admit(std::move(c.request), pages, 0);
    if (!failure_.empty()) finish(s, FinishReason::error, failure_);
}

void EngineLoop::handle(CancelCommand& c) {
    const auto it = live_.find(c.id);
    if (it != live_.end() && !it->second->over) finish(*it->second, FinishReason::cancelled);
}

void EngineLoop::handle(CancelAdapterCommand& c) {
    cancel_where([&](const Sequence& s) { return s.adapter() == c.id; });
}

void EngineLoop::handle(CancelAllCommand&) {
    drop_source();
    cancel_where([](const Sequence&) { return true; });
}

void EngineLoop::handle(StartCommand& c) {
    drop_source();
    if (!failure_.empty()) return;
    source_ = std::move(c.source);
    on_request_ = std::move(c.on_request);
    source_start_us_ = c.start_us;
    source_number_ = c.number;
    source_unfinished_ = 0;
}

void EngineLoop::handle(StopSourceCommand&) {
    drop_source();
    cancel_where([](const Sequence& s) { return s.source != 0; });
}

void EngineLoop::handle(HoldCommand& c) {
    hold_ = c.hold;
    if (!hold_) shared_.clock.release();
}

void EngineLoop::handle(PhaseTimesCommand& c) {
    if (failure_.empty()) runner_->set_phase_times(c.on);
}

void EngineLoop::handle(FaultCommand& c) {
    if (failure_.empty()) runner_->cause_fault(c.fault);
}

void EngineLoop::handle(CollectCommand&) {}  // drain() collects after every command

void EngineLoop::handle(QuitCommand&) {
    quit_ = true;
    drop_source();
    cancel_where([](const Sequence&) { return true; });
}

// Whether the source has no more to give for now; false: there was no time to ask further.
bool EngineLoop::poll_source() {
    // Making prompts takes time, which running requests should not wait for, nor a GPU beyond the step in flight.
    const int64_t longest_us = scheduler_.num_running() > 0 ? 2'000 : 10'000;
    const int64_t begin_us = shared_.clock.now_us();
    while (source_ && shared_.queued < shared_.options.max_waiting) {
        const int64_t now_us = shared_.clock.now_us();
        if (now_us - begin_us > longest_us) return false;
        auto request = source_->next(now_us - source_start_us_, source_unfinished_);
        if (!request) break;
        deliver(std::move(*request));
    }
    if (source_ && source_unfinished_ == 0 && source_->exhausted()) drop_source();
    return true;
}

void EngineLoop::deliver(Request request) {
    request.id = RequestId(shared_.next_request.fetch_add(1));
    request.arrival_us = request.arrival_us < 0 ? shared_.clock.now_us() : request.arrival_us + source_start_us_;
    if (on_request_) on_request_(request);
    const Result<AdapterPages> pages = shared_.registry.acquire(request.adapter);
    const Result<void> fits = pages ? check_request(request, *shared_.model, shared_.pool_shape,
                                                    pages->blob + pages->batched, bool(shared_.logits))
                                    : Result<void>(pages.error());
    if (fits) {
        ++shared_.queued;
        admit(std::move(request), *pages, source_number_);
        return;
    }
    if (pages) shared_.registry.release(request.adapter);
    pending_.arrivals.push_back({request.id, request.adapter, request.arrival_us, int32_t(request.prompt.size()),
                                 request.sampling.max_tokens, request.warmup});
    RequestRecord record;
    record.id = request.id;
    record.adapter = request.adapter;
    record.arrival_us = request.arrival_us;
    record.prompt_tokens = int32_t(request.prompt.size());
    record.finish = FinishReason::error;
    record.error = fits.error().message();
    record.warmup = request.warmup;
    record.origin = request.origin;
    pending_.finished.push_back(std::move(record));
}

void EngineLoop::drop_source() {
    // Unless the next one has been claimed already.
    uint64_t mine = source_number_;
    if (source_) shared_.source_number.compare_exchange_strong(mine, 0);
    source_.reset();
    on_request_ = nullptr;
}

Sequence& EngineLoop::admit(Request request, AdapterPages pages, uint64_t source) {
    auto owned = std::make_unique<Sequence>();
    Sequence& s = *owned;
    s.adapter_pages = pages.blob;
    s.batched_pages = pages.batched;
    s.source = source;
    if (!request.sampling.stop.empty())
        s.stop = std::make_unique<StopMatcher>(shared_.model->info.tokenizer, request.sampling.stop);
    s.record.id = request.id;
    s.record.adapter = request.adapter;
    s.record.arrival_us = request.arrival_us;
    s.record.prompt_tokens = int32_t(request.prompt.size());
    s.record.warmup = request.warmup;
    s.record.origin = request.origin;
    pending_.arrivals.push_back({request.id, request.adapter, request.arrival_us, s.record.prompt_tokens,
                                 request.sampling.max_tokens, request.warmup});
    s.tokens = std::move(request.prompt);  // a long queue should not hold every prompt twice
    s.request = std::move(request);
    CHECK(live_.emplace(s.id(), std::move(owned)).second);  // before anything points to it
    scheduler_.add(s);
    if (source != 0) ++source_unfinished_;
    return s;
}

// The record leaves with the next publication. What the sequence holds stays until no step in flight reads it.
void EngineLoop::finish(Sequence& s, FinishReason reason, std::string error) {
    CHECK(!s.over);
    s.over = true;
    RequestRecord& r = s.record;
    r.finish = reason;
    if (r.first_scheduled_us < 0) --shared_.queued;
    r.error = std::move(error);
    r.output_tokens = int32_t(r.output.size());
    if (reason == FinishReason::stop) r.visible_bytes = s.stop->visible_bytes();
    pending_.finished.push_back(r);
    if (s.source == source_number_ && s.source != 0) --source_unfinished_;
    if (!s.in_batch) retire(s);
}

// What it holds becomes free; it is gone once no step in flight is left that it is part of.
void EngineLoop::retire(Sequence& s) {
    scheduler_.remove(s);
    if (s.steps > 0) return;
    shared_.registry.release(s.adapter());
    live_.erase(s.id());
}

void EngineLoop::cancel_where(const std::function<bool(const Sequence&)>& which) {
    for (auto it = live_.begin(); it != live_.end();) {
        Sequence& s = *it++->second;
        if (!s.over && which(s)) finish(s, FinishReason::cancelled);
    }
}

void EngineLoop::collect_adapters() {
    for (const AdapterId id : shared_.registry.removable()) {
        if (scheduler_.loading(id)) continue;  // once it has arrived
        if (const auto move = scheduler_.drop_adapter(id)) {
            int64_t us = 0;
            move_adapters({*move}, us);
        }
        shared_.disposal.take(shared_.registry.forget(id));
    }
}

void EngineLoop::collect_page_changes() {
    for (const PageChange& change : pool_.take_changes()) {
        // A stale read of a freed page shows as NaN instead of as an answer that is a little wrong.
        if (kCheckWhenIdle && failure_.empty() && change.owner == PageOwner::free)
            runner_->fill_pages({change.first, change.count}, std::byte{0xff});
        pending_.page_changes.push_back(change);
    }
}

bool EngineLoop::has_news() const {
    return !pending_.arrivals.empty() || !pending_.finished.empty() || !pending_.preempted.empty() ||
           !pending_.adapter_events.empty() || pool_.has_changes();
}

void EngineLoop::publish(int64_t start_us, int64_t end_us) {
    collect_page_changes();
    auto record = std::make_shared<StepRecord>(std::exchange(pending_, {}));
    record->step = next_step_++;
    record->start_us = start_us;
    record->end_us = end_us;
    record->held_us = shared_.clock.held_us();
    record->times.publish_wait = std::exchange(publish_wait_us_, 0);
    record->pool = pool_.state();  // now: after the schedule of a step that was prepared beside this one
    if (failure_.empty() && end_us - device_memory_us_ >= kAskDriverEvery_us) {
        device_memory_us_ = end_us;
        record->device = runner_->device_memory();
    }
    record->running = int32_t(scheduler_.num_running());
    record->waiting = int32_t(scheduler_.num_waiting());
    const StepRecordPtr published = std::move(record);
    if (shared_.sink(published)) return;
    const auto begin = std::chrono::steady_clock::now();
    const auto waited = [&] { return std::chrono::steady_clock::now() - begin; };
    do {
        std::this_thread::sleep_for(std::chrono::microseconds(200));
        shared_.watchdog->beat(next_step_);  // it is not the device that is slow
        // Nobody reads any more, and whoever made the engine waits for its thread.
        if (shared_.mailbox.quitting() && waited() > std::chrono::seconds(1)) break;
    } while (!shared_.sink(published));
    publish_wait_us_ = std::chrono::duration_cast<std::chrono::microseconds>(waited()).count();
}

void EngineLoop::update_status(EngineState state) {
    StatusBoard& board = shared_.board;
    std::lock_guard lock(board.mutex);
    EngineStatus& s = board.status;
    s.state = state;
    s.failure = failure_;
    s.step = next_step_;
    s.running = scheduler_.num_running();
    s.waiting = scheduler_.num_waiting();
    s.pool = pool_.state();
    s.page_bytes = shared_.pool_shape.page_bytes;
    s.pool_bytes = s.page_bytes * shared_.pool_shape.total_pages;
    s.workspace_bytes = runner_->workspace_bytes();
    s.device_before = runner_->device_memory_before();
    s.weight_bytes = shared_.model->weight_bytes;
    s.source_active = source_ != nullptr;
    const bool idle = live_.empty() && !source_;
    board.idle_after = idle ? taken_ : ~uint64_t{0};
    board.changed.notify_all();
}

void EngineLoop::fail(const std::string& why) {
    if (failure_.empty()) failure_ = why.empty() ? "unknown failure" : why;
    drop_source();
    flying_ = nullptr;
    for (auto it = live_.begin(); it != live_.end();) {
        Sequence& s = *it++->second;
        s.in_batch = false;
        s.steps = 0;
        if (s.over)
            retire(s);
        else
            finish(s, FinishReason::error, failure_);
    }
    homeless_.clear();
    // Of a lost device every call may fail; of the sink too. What each of them can still do is done, and status()
    // tells.
    for (const auto last : {&EngineLoop::collect_adapters, &EngineLoop::publish_news}) {
        try {
            (this->*last)();
        } catch (const std::exception&) {
            continue;
        }
    }
    update_status(EngineState::failed);
}

}  // namespace spartan
