// A step of the engine's loop, from its schedule to its record.
#include "core/engine/engine_loop.h"
#include "kernels/check.h"
#include "kernels/device_memory_error.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace spartan {
namespace {

constexpr int32_t kStepsBeforeMore = 64;  // that go well with fewer rows, before more are tried

}  // namespace

// Where the runner runs ahead, the next step is launched before the last one's results are awaited: what the host does
// for a step is done while the device computes another.
void EngineLoop::step() {
    if (flying_ && !runner_->runs_ahead()) land_flying();
    Flight& next = flights_[flying_ == &flights_[0] ? 1 : 0];
    const bool launched = !scheduler_.idle() && launch(next);
    if (flying_)
        land_flying();
    else if (!launched)
        await_adapters();
    if (!launched) return;
    flying_ = &next;
    if (!next.ahead) land_flying();
}

void EngineLoop::land_flying() {
    Flight& flight = *std::exchange(flying_, nullptr);
    land(flight);
}

// Decides what to compute, moves adapters and begins. False: all who could run wait for adapters on their way, or have
// all their tokens coming.
bool EngineLoop::launch(Flight& f) {
    f.start_us = turn_start_us_;
    const bool awaited = scheduler_.num_loading() > 0;
    f.plan = scheduler_.schedule(++schedule_number_, shared_.clock.now_us());
    CHECK(!f.plan.rows.empty() || awaited || scheduler_.num_loading() > 0 || scheduler_.idle());
    pending_.preempted.insert(pending_.preempted.end(), f.plan.preempted.begin(), f.plan.preempted.end());
    collect_page_changes();
    int64_t transfer_us = 0;
    move_adapters(f.plan.moves, transfer_us);
    place_batched(f.plan.batched);
    leave_out_homeless(f.plan);
    if (f.plan.rows.empty()) {
        pending_.waiting_for = f.plan.waiting_for;
        return false;
    }
    build_batch(f.plan.rows, f.batch);
    f.scheduled_us = shared_.clock.now_us();
    f.schedule_us = f.scheduled_us - f.start_us - transfer_us;
    take_off(f);
    update_status(EngineState::running);

    // What belongs to this step waits for its record; a cancellation meanwhile publishes its own, and with it the
    // pages, whose changes and counts always go together.
    f.preempted = std::exchange(pending_.preempted, {});
    f.adapter_events = std::exchange(pending_.adapter_events, {});
    f.transfer_bytes = std::exchange(pending_.bytes.transfer, 0);
    f.transfer_us = std::exchange(pending_.times.transfer, 0);

    awaits_copies_ = false;
    compute(f);
    for (const ScheduledRow& row : f.plan.rows) {
        Sequence& s = *row.sequence;
        s.in_batch = false;  // whoever gets its pages from now on writes to them after this step
        if (s.over) scheduler_.remove(s);
    }
    return true;
}

// What the sequences are once the step has run.
void EngineLoop::take_off(Flight& f) {
    f.rows.clear();
    for (size_t i = 0; i < f.plan.rows.size(); ++i) {
        const auto& [sequence, num_tokens] = f.plan.rows[i];
        Sequence& s = *sequence;
        f.rows.push_back(
            {s.id(), s.adapter(), num_tokens, s.num_computed_tokens, s.in_prefill(), -1, FinishReason::none});
        s.num_computed_tokens += num_tokens;
        if (f.picks(i)) {
            ++s.coming;
            s.coming_from = f.batch.picking_head[i];
        }
        ++s.steps;
        s.in_batch = true;
        if (s.record.first_scheduled_us >= 0) continue;
        s.record.first_scheduled_us = f.scheduled_us;
        --shared_.queued;
    }
}

// Begins the step, or does it where the runner does not run ahead.
void EngineLoop::compute(Flight& f) {
    const KeepGoing go_on = [this, &f] { return keep_going(f); };
    const HeadLogits logits = [this, &f](int32_t sequence, int64_t first, int64_t count, const float* values) {
        hand_out_logits(*f.plan.rows[size_t(sequence)].sequence, first, count, values);
    };
    f.shortage.clear();
    f.result.gap_us = -1;
    f.ahead = runner_->runs_ahead();
    try {
        if (f.ahead)
            runner_->launch(f.batch, go_on, logits, f.result);
        else
            runner_->forward(f.batch, go_on, logits, f.result);
    } catch (const OutOfDeviceMemory& e) {
        f.result = {};
        f.shortage = e.what();
    }
    if (f.result.completed) return;
    f.ahead = false;  // it has ended
    for (size_t i = 0; i < f.plan.rows.size(); ++i) {
        Sequence& s = *f.plan.rows[i].sequence;
        s.num_computed_tokens -= f.plan.rows[i].num_tokens;
        s.coming -= f.picks(i);
    }
}

// Takes the step's results and publishes its record.
void EngineLoop::land(Flight& f) {
    if (f.ahead) runner_->collect(f.batch, f.result);
    const int64_t end_us = shared_.clock.now_us();
    const int64_t start_us = std::max(f.start_us, std::exchange(landed_us_, end_us));
    pending_.preempted.insert(pending_.preempted.begin(), f.preempted.begin(), f.preempted.end());
    pending_.adapter_events.insert(pending_.adapter_events.begin(), f.adapter_events.begin(), f.adapter_events.end());
    pending_.trouble = std::move(f.result.trouble);
    if (f.result.completed) take_results(f, end_us);
    pending_.waiting_for = f.plan.waiting_for;
    // What came in since the launch, and is no launch's, belongs to this record too.
    const int64_t arrived_us = pending_.times.transfer, arrived_bytes = pending_.bytes.transfer;
    pending_.times = f.result.times;
    pending_.times.transfer += f.transfer_us + arrived_us;
    pending_.times.schedule = std::clamp<int64_t>(f.scheduled_us - start_us, 0, f.schedule_us);
    pending_.gap_us = f.result.gap_us;
    pending_.strategy = strategy_of(shared_.options);
    pending_.passes = f.result.passes;
    pending_.common_block = f.result.common_block;
    if (f.result.completed) pending_.bytes = f.result.bytes;  // how much an abandoned step read is not known
    pending_.bytes.transfer = f.transfer_bytes + arrived_bytes;
    std::vector<RequestId> batch;
    for (const ScheduledRow& row : f.plan.rows) {
        Sequence& s = *row.sequence;
        if (!f.shortage.empty()) batch.push_back(s.id());
        --s.steps;
        if (s.over) retire(s);
    }
    if (!f.shortage.empty())
        do_with_less(batch, f.shortage);
    else
        try_more();
    collect_adapters();
    publish(start_us, end_us);
}

// All who could run wait for adapters that are on their way: there is nothing to compute beside them.
void EngineLoop::await_adapters() {
    update_status(EngineState::running);
    publish_news();
    awaits_copies_ = scheduler_.num_loading() > 0;
    if (awaits_copies_) shared_.mailbox.wait(std::chrono::steady_clock::now() + kArrivalPoll);
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
            find_homeless(move.id, e.what());
            continue;
        }
        const int64_t us = shared_.clock.now_us() - begin_us;
        transfer_us += us;
        shared_.registry.set_residency(move.id, move.load ? Residency::moving : Residency::host);
        if (move.load) continue;
        const int64_t bytes = host->adapter->bytes();
        pending_.adapter_events.push_back({move.id, AdapterEvent::Kind::evict, bytes, us, begin_us});
    }
    take_arrivals();
}

void EngineLoop::place_batched(const std::vector<BatchedPages>& batched) {
    for (const auto& [id, pages] : batched) {
        if (homeless_.contains(id)) continue;
        try {
            runner_->place_batched(id, pages);
        } catch (const OutOfDeviceMemory& e) {
            find_homeless(id, e.what());
        }
    }
}

void EngineLoop::find_homeless(AdapterId id, const char* why) {
    homeless_[id] = "adapter " + shared_.registry.name(id) + " finds no device memory: " + why;
}

void EngineLoop::take_arrivals() {
    if (!failure_.empty()) return;  // a lost device would say so again, each time before any command is served
    for (const AdapterArrival& arrival : runner_->take_arrivals()) {
        awaits_copies_ = false;
        scheduler_.adapter_arrived(arrival.id);
        shared_.registry.set_residency(arrival.id, Residency::pool);
        const int64_t bytes = shared_.registry.get(arrival.id)->adapter->host_bytes();
        pending_.bytes.transfer += bytes;
        pending_.times.transfer += arrival.us;
        pending_.adapter_events.push_back(
            {arrival.id, AdapterEvent::Kind::load, bytes, arrival.us, shared_.clock.us_at(arrival.begin)});
    }
}

// What a device needs for an adapter beside its pages was refused: the requests that were to run with it, or waited for
// it to arrive, end. Not those whose last token is in flight, which was computed with the adapter where it lay before.
void EngineLoop::leave_out_homeless(Schedule& plan) {
    for (const auto& [id, why] : std::exchange(homeless_, {})) {
        std::erase_if(plan.rows, [id = id](const ScheduledRow& row) { return row.sequence->adapter() == id; });
        for (auto it = live_.begin(); it != live_.end();) {
            Sequence& s = *it++->second;
            const bool was_to_run = s.num_blocks() > 0 || scheduler_.loading(id);
            if (was_to_run && s.adapter() == id && !s.over && !s.ends_in_flight()) finish(s, FinishReason::error, why);
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
bool EngineLoop::keep_going(const Flight& f) {
    shared_.watchdog->beat(next_step_);
    if (!shared_.mailbox.urgent()) return true;
    drain();
    publish_news();
    return std::any_of(f.plan.rows.begin(), f.plan.rows.end(), [](const ScheduledRow& r) { return !r.sequence->over; });
}

void EngineLoop::hand_out_logits(Sequence& s, int64_t first, int64_t count, const float* logits) {
    CHECK(first == s.logits_done);
    shared_.logits(s.id(), first, count, logits);
    s.logits_done = int32_t(first + count);
}

void EngineLoop::take_results(Flight& f, int64_t end_us) {
    for (size_t i = 0; i < f.rows.size(); ++i) {
        Sequence& s = *f.plan.rows[i].sequence;
        StepRow& row = f.rows[i];
        (row.prefill ? pending_.prefill_tokens : pending_.decode_tokens) += row.num_tokens;
        s.coming -= f.picks(i);
        const bool was_over = s.over;  // since the step before: this row was computed in vain
        if (!was_over) {
            if (f.result.not_finite[i])
                finish(s, FinishReason::error,
                       "adapter " + shared_.registry.name(s.adapter()) + ": logits are not finite in step " +
                           std::to_string(next_step_));
            else if (f.result.tokens[i] >= 0)
                append_token(s, row.token = f.result.tokens[i], end_us);
            else if (s.remaining_tokens() == 0)
                finish(s, FinishReason::length);  // max_tokens 0: the prompt was all that was asked for
        }
        if (!was_over) row.finish = s.record.finish;
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

}  // namespace spartan
