#include "core/engine/engine_loop.h"

#include "kernels/check.h"
#include "kernels/device_memory_error.h"

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

constexpr int32_t kStepsBeforeMore = 64;  // that go well with fewer rows, before more are tried
constexpr int64_t kAskDriverEvery_us = 1'000'000;
// How soon the end of a copy is seen while nothing is computed.
constexpr std::chrono::microseconds kArrivalPoll{50};

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
    update_status(EngineState::stopped);
}

void EngineLoop::turn() {
    turn_start_us_ = shared_.clock.now_us();
    take_arrivals();
    drain();
    if (quit_ || hold_ || !failure_.empty()) return stay_held();
    const bool asked_all = poll_source();
    if (!scheduler_.idle())
        step();
    else if (asked_all)
        rest();
    else
        publish_news();
}

// One step: decide, move adapters, compute, append, publish.
void EngineLoop::step() {
    const bool awaited = scheduler_.num_loading() > 0;
    Schedule plan = scheduler_.schedule(++schedule_number_, shared_.clock.now_us());
    CHECK(!plan.rows.empty() || awaited || scheduler_.num_loading() > 0);
    pending_.preempted = plan.preempted;
    collect_page_changes();
    int64_t transfer_us = 0;
    move_adapters(plan.moves, transfer_us);
    leave_out_homeless(plan);
    if (plan.rows.empty()) return await_adapters(plan);
    for (const BatchedPages& b : plan.batched) runner_->place_batched(b.id, b.pages);
    build_batch(plan.rows, batch_);
    batch_sequences_.clear();
    const int64_t scheduled_us = shared_.clock.now_us();
    for (const ScheduledRow& row : plan.rows) {
        batch_sequences_.push_back(row.sequence);
        row.sequence->in_batch = true;
        if (row.sequence->record.first_scheduled_us < 0) {
            row.sequence->record.first_scheduled_us = scheduled_us;
            --shared_.queued;
        }
    }
    update_status(EngineState::running);

    // What belongs to this step waits for its record; a cancellation meanwhile publishes its own, and with it the
    // pages, whose changes and counts always go together.
    StepRecord of_this_step;
    of_this_step.preempted = std::exchange(pending_.preempted, {});
    of_this_step.adapter_events = std::exchange(pending_.adapter_events, {});
    of_this_step.bytes.transfer = std::exchange(pending_.bytes.transfer, 0);
    of_this_step.times.transfer = std::exchange(pending_.times.transfer, 0);

    std::string shortage;
    try {
        runner_->forward(
            batch_, [this] { return keep_going(); },
            [this](int32_t s, int64_t first, int64_t count, const float* logits) {
                hand_out_logits(s, first, count, logits);
            },
            result_);
    } catch (const OutOfDeviceMemory& e) {
        result_ = {};
        shortage = e.what();
    }

    const int64_t end_us = shared_.clock.now_us();
    pending_.preempted = std::move(of_this_step.preempted);
    pending_.adapter_events = std::move(of_this_step.adapter_events);
    pending_.bytes.transfer = of_this_step.bytes.transfer;
    pending_.trouble = std::move(result_.trouble);
    if (result_.completed) take_results(plan, end_us);
    std::vector<RequestId> batch;
    for (Sequence* sequence : batch_sequences_) {
        if (!shortage.empty()) batch.push_back(sequence->id());
        sequence->in_batch = false;
        if (sequence->over) retire(*sequence);
    }
    if (!shortage.empty())
        do_with_less(batch, shortage);
    else
        try_more();
    collect_adapters();
    pending_.waiting_for = plan.waiting_for;
    pending_.times = result_.times;
    pending_.times.transfer += of_this_step.times.transfer;
    pending_.strategy = strategy_of(shared_.options);
    pending_.passes = result_.passes;
    pending_.common_block = result_.common_block;
    pending_.times.schedule = scheduled_us - turn_start_us_ - transfer_us;
    if (result_.completed) {  // how much of it an abandoned step read is not known
        pending_.bytes.weights = result_.bytes.weights;
        pending_.bytes.adapters = result_.bytes.adapters;
        pending_.bytes.kv = result_.bytes.kv;
        pending_.bytes.staging = result_.bytes.staging;
    }
    publish(turn_start_us_, end_us);
}

void EngineLoop::move_adapters(const std::vector<AdapterMove>& moves, int64_t& transfer_us) {
    for (const AdapterMove& move : moves) {
        const auto host = shared_.registry.get(move.id);
        const int64_t begin_us = shared_.clock.now_us();
        try {
            if (move.load)
                runner_->load_adapter(move.id, move.pages, host);
            else if (failure_.empty())
                runner_->drop_adapter(move.id);
        } catch (const OutOfDeviceMemory& e) {
            homeless_[move.id] = "adapter " + host->adapter->name + " finds no device memory: " + e.what();
            continue;
        }
        const int64_t us = shared_.clock.now_us() - begin_us;
        transfer_us += us;
        shared_.registry.set_residency(move.id, move.load ? Residency::moving : Residency::host);
        if (move.load) continue;
        const auto bytes = int64_t(host->adapter->blob.size());
        pending_.adapter_events.push_back({move.id, AdapterEvent::Kind::evict, bytes, us, begin_us});
    }
    take_arrivals();
}

void EngineLoop::take_arrivals() {
    if (!failure_.empty()) return;  // a lost device would say so again, each time before any command is served
    for (const AdapterArrival& arrival : runner_->take_arrivals()) {
        scheduler_.adapter_arrived(arrival.id);
        shared_.registry.set_residency(arrival.id, Residency::pool);
        const auto bytes = int64_t(shared_.registry.get(arrival.id)->adapter->blob.size());
        pending_.bytes.transfer += bytes;
        pending_.times.transfer += arrival.us;
        pending_.adapter_events.push_back(
            {arrival.id, AdapterEvent::Kind::load, bytes, arrival.us, shared_.clock.us_at(arrival.begin)});
    }
}

// All who could run wait for adapters that are on their way: there is nothing to compute beside them.
void EngineLoop::await_adapters(const Schedule& plan) {
    pending_.waiting_for = plan.waiting_for;
    update_status(EngineState::running);
    publish_news();
    if (scheduler_.num_loading() > 0) shared_.mailbox.wait(std::chrono::steady_clock::now() + kArrivalPoll);
}

// What a device needs for an adapter beside its pages was refused: the requests that were to run with it, or waited for
// it to arrive, end.
void EngineLoop::leave_out_homeless(Schedule& plan) {
    for (const auto& [id, why] : std::exchange(homeless_, {})) {
        std::erase_if(plan.rows, [id = id](const ScheduledRow& row) { return row.sequence->adapter() == id; });
        std::erase_if(plan.batched, [id = id](const BatchedPages& b) { return b.id == id; });
        for (auto it = live_.begin(); it != live_.end();) {
            Sequence& s = *it++->second;
            const bool was_to_run = s.num_blocks() > 0 || scheduler_.loading(id);
            if (was_to_run && s.adapter() == id && !s.over) finish(s, FinishReason::error, why);
        }
        scheduler_.adapter_arrived(id);  // it is on its way no more
        scheduler_.drop_adapter(id);
        runner_->drop_adapter(id);  // of which a part may be there
        shared_.registry.set_residency(id, Residency::host);
    }
}

// The tables of fewer requests take less: the youngest of the batch wait. One that finds no memory alone cannot be
// served.
void EngineLoop::do_with_less(const std::vector<RequestId>& batch, const std::string& why) {
    steps_at_limit_ = 0;
    if (batch.size() > 1) {
        row_limit_ = int32_t(batch.size() / 2);
        const std::vector<RequestId> preempted = scheduler_.limit_rows(row_limit_);
        pending_.preempted.insert(pending_.preempted.end(), preempted.begin(), preempted.end());
        pending_.trouble = "out of device memory, so that at most " + std::to_string(row_limit_) +
                           " requests run at once for now: " + why;
        return;
    }
    const auto it = live_.find(batch.front());
    if (it != live_.end() && !it->second->over)
        finish(*it->second, FinishReason::error, "out of device memory: " + why);
}

void EngineLoop::try_more() {
    if (row_limit_ == 0 || ++steps_at_limit_ < kStepsBeforeMore) return;
    steps_at_limit_ = 0;
    row_limit_ = row_limit_ < shared_.options.max_batch_rows / 2 ? row_limit_ * 2 : 0;
    scheduler_.limit_rows(row_limit_);
}

// Asked between kernels. A cancelled request's record leaves at once; its rows go on to the step's end unless nobody in
// the batch is wanted any more.
bool EngineLoop::keep_going() {
    if (!shared_.mailbox.urgent()) return true;
    drain();
    publish_news();
    return std::any_of(batch_sequences_.begin(), batch_sequences_.end(), [](const Sequence* s) { return !s->over; });
}

void EngineLoop::hand_out_logits(int32_t sequence, int64_t first, int64_t count, const float* logits) {
    Sequence& s = *batch_sequences_[size_t(sequence)];
    CHECK(first == s.logits_done);
    shared_.logits(s.id(), first, count, logits);
    s.logits_done = int32_t(first + count);
}

void EngineLoop::take_results(const Schedule& plan, int64_t end_us) {
    for (size_t i = 0; i < plan.rows.size(); ++i) {
        Sequence& s = *plan.rows[i].sequence;
        const int32_t n = plan.rows[i].num_tokens;
        StepRow row{s.id(), s.adapter(), n, s.num_computed_tokens, s.in_prefill(), -1, FinishReason::none};
        (row.prefill ? pending_.prefill_tokens : pending_.decode_tokens) += n;
        s.num_computed_tokens += n;
        if (!s.over) {
            if (result_.not_finite[i])
                finish(s, FinishReason::error,
                       "adapter " + shared_.registry.name(s.adapter()) + ": logits are not finite in step " +
                           std::to_string(next_step_));
            else if (result_.tokens[i] >= 0)
                append_token(s, row.token = result_.tokens[i], end_us);
            else if (s.remaining_tokens() == 0)
                finish(s, FinishReason::length);  // max_tokens 0: the prompt was all that was asked for
        }
        row.finish = s.record.finish;
        pending_.rows.push_back(row);
    }
}

void EngineLoop::append_token(Sequence& s, Token token, int64_t now_us) {
    s.tokens.push_back(token);
    RequestRecord& r = s.record;
    r.output.push_back(token);
    r.token_us.push_back(now_us);
    if (r.first_token_us < 0) r.first_token_us = now_us;
    r.last_token_us = now_us;
    const SamplingParams& p = s.request.sampling;
    const auto& eos = shared_.model->config().eos;
    if (!p.ignore_eos && std::find(eos.begin(), eos.end(), token) != eos.end())
        finish(s, FinishReason::eos);
    else if (s.stop && s.stop->push(token))
        finish(s, FinishReason::stop);
    else if (int32_t(r.output.size()) >= p.max_tokens)
        finish(s, FinishReason::length);
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
    shared_.mailbox.wait(deadline);
}

// Held, failed or quitting: only commands are served, and the clock of a held run stands still.
void EngineLoop::stay_held() {
    if (hold_ && failure_.empty()) shared_.clock.hold();
    publish_news();
    if (quit_) return;
    update_status(failure_.empty() ? EngineState::held : EngineState::failed);
    shared_.mailbox.wait(std::nullopt);
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
    // Making prompts takes time, which running requests should not wait for.
    constexpr int64_t kLongest_us = 10'000;
    const int64_t begin_us = shared_.clock.now_us();
    while (source_ && shared_.queued < shared_.options.max_waiting) {
        const int64_t now_us = shared_.clock.now_us();
        if (now_us - begin_us > kLongest_us) return false;
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
    if (!s.in_batch) retire(s);
}

void EngineLoop::retire(Sequence& s) {
    scheduler_.remove(s);
    shared_.registry.release(s.adapter());
    if (s.source == source_number_ && s.source != 0) --source_unfinished_;
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
    record->pool = pool_.state();
    if (failure_.empty() && end_us - device_memory_us_ >= kAskDriverEvery_us) {
        device_memory_us_ = end_us;
        record->device = runner_->device_memory();
    }
    record->running = int32_t(scheduler_.num_running());
    record->waiting = int32_t(scheduler_.num_waiting());
    const StepRecordPtr published = std::move(record);
    const auto begin = std::chrono::steady_clock::now();
    while (!shared_.sink(published)) {
        std::this_thread::sleep_for(std::chrono::microseconds(200));
        const auto waited = std::chrono::steady_clock::now() - begin;
        publish_wait_us_ = std::chrono::duration_cast<std::chrono::microseconds>(waited).count();
        // Nobody reads any more, and whoever made the engine waits for its thread.
        if (shared_.mailbox.quitting() && waited > std::chrono::seconds(1)) break;
    }
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
    for (auto it = live_.begin(); it != live_.end();) {
        Sequence& s = *it++->second;
        s.in_batch = false;
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
