#include "core/engine/scheduler.h"

#include "kernels/check.h"
#include "kernels/rounding.h"

#include <algorithm>
#include <tuple>

namespace spartan {

Scheduler::Scheduler(SchedulerLimits limits, PagePool& pool) : limits_(limits), pool_(pool) {
    CHECK(limits_.max_batch_tokens > 0 && limits_.max_batch_rows > 0 && limits_.block_tokens > 0);
    CHECK(limits_.num_layers > 0);
    new_pages_.resize(size_t(limits_.num_layers));
    limit_rows(0);
}

std::vector<RequestId> Scheduler::limit_rows(int32_t rows) {
    const int32_t most = std::min(limits_.max_batch_rows, limits_.max_batch_tokens);
    row_limit_ = rows > 0 ? std::min(rows, most) : most;
    std::vector<RequestId> preempted;
    while (num_running() > row_limit_) preempt(*running_.rbegin()->second, preempted);
    return preempted;
}

int64_t Scheduler::kv_pages_for(int64_t tokens) const {
    return divide_up(tokens, limits_.block_tokens) * limits_.num_layers;
}

void Scheduler::add(Sequence& sequence) {
    sequence.block_tables.resize(size_t(limits_.num_layers));
    CHECK(waiting_.emplace(sequence.id(), &sequence).second);
}

void Scheduler::remove(Sequence& sequence) {
    if (waiting_.erase(sequence.id()) == 1) return;
    if (running_.contains(sequence.id())) leave_running(sequence);
}

std::optional<AdapterMove> Scheduler::drop_adapter(AdapterId id) {
    const auto it = residents_.find(id);
    if (it == residents_.end()) return std::nullopt;
    CHECK(it->second.users == 0 && !it->second.loading);
    const AdapterMove move{id, false, it->second.pages};
    pool_.free_adapter(id, move.pages);
    residents_.erase(it);
    return move;
}

Schedule Scheduler::schedule(int64_t step, int64_t now_us) {
    Schedule out;
    int32_t budget = limits_.max_batch_tokens;
    let_ending_go();
    schedule_running(budget, step, out);
    // A page that was just taken from somebody is not handed to a newcomer.
    if (out.preempted.empty())
        admit_waiting({.budget = budget, .step = step, .now_us = now_us}, out);
    else
        out.waiting_for.push_back({WaitReason::no_pages, int32_t(waiting_.size()), limits_.num_layers});
    std::sort(out.rows.begin(), out.rows.end(), [](const ScheduledRow& a, const ScheduledRow& b) {
        return std::make_tuple(a.sequence->adapter(), a.sequence->id()) <
               std::make_tuple(b.sequence->adapter(), b.sequence->id());
    });
    return out;
}

// What this step computes comes after the steps in flight, so it may have their pages.
void Scheduler::let_ending_go() {
    for (auto it = running_.begin(); it != running_.end();) {
        Sequence& sequence = *it++->second;
        if (sequence.ends_in_flight()) leave_running(sequence);
    }
}

void Scheduler::schedule_running(int32_t& budget, int64_t step, Schedule& out) {
    const auto take = [&](Sequence& sequence) {
        const int32_t n = std::min(sequence.remaining_tokens(), budget);
        budget -= n;
        out.rows.push_back({&sequence, n});
        if (sequence.adapter() != AdapterId::base) residents_.at(sequence.adapter()).last_used = step;
    };
    // Preemption takes from the end, never from those already scheduled here: they are older.
    for (auto it = running_.begin(); it != running_.end() && budget > 0;) {
        Sequence& sequence = *it->second;
        if (sequence.remaining_tokens() == 1 && make_pages_for_decode(sequence, out)) take(sequence);
        it = running_.upper_bound(sequence.id());
    }
    for (auto& [id, sequence] : running_)
        if (budget > 0 && sequence->remaining_tokens() > 1) take(*sequence);
}

bool Scheduler::evict_least_recent(AdapterId keep, Schedule& out) {
    const AdapterId none = AdapterId::base;
    AdapterId victim = none;
    for (const auto& [id, r] : residents_)
        if (r.users == 0 && !r.loading && id != keep &&
            (victim == none || r.last_used < residents_.at(victim).last_used))
            victim = id;
    if (victim == none) return false;
    out.moves.push_back(*drop_adapter(victim));
    return true;
}

bool Scheduler::grow(Sequence& sequence, int32_t tokens) {
    const int64_t blocks = kv_pages_for(tokens) / limits_.num_layers;
    for (int64_t b = sequence.num_blocks(); b < blocks; ++b) {
        if (!pool_.allocate_kv(sequence.id(), new_pages_)) return false;
        for (size_t layer = 0; layer < new_pages_.size(); ++layer)
            sequence.block_tables[layer].push_back(new_pages_[layer]);
    }
    return true;
}

bool Scheduler::make_pages_for_decode(Sequence& sequence, Schedule& out) {
    while (!grow(sequence, sequence.num_tokens())) {
        if (evict_least_recent(AdapterId::base, out)) continue;
        Sequence& youngest = *running_.rbegin()->second;
        preempt(youngest, out.preempted);
        if (&youngest == &sequence) return false;
    }
    return true;
}

void Scheduler::preempt(Sequence& sequence, std::vector<RequestId>& out) {
    leave_running(sequence);
    sequence.recompute_until = std::max(sequence.recompute_until, sequence.num_computed_tokens);
    sequence.num_computed_tokens = 0;
    ++sequence.record.preemptions;
    waiting_.emplace(sequence.id(), &sequence);
    out.push_back(sequence.id());
}

void Scheduler::leave_running(Sequence& sequence) {
    CHECK(running_.erase(sequence.id()) == 1);
    release_pages(sequence);
    if (sequence.adapter() == AdapterId::base) return;
    Resident& resident = residents_.at(sequence.adapter());
    if (--resident.users > 0 || resident.batched.count == 0) return;
    pool_.free_transient(sequence.adapter(), resident.batched);
    resident.batched = {};
}

void Scheduler::release_pages(Sequence& sequence) {
    std::vector<int32_t> pages;
    for (auto& table : sequence.block_tables) {
        pages.insert(pages.end(), table.begin(), table.end());
        table.clear();
    }
    pool_.free_kv(sequence.id(), pages);
}

void Scheduler::check_invariants() const {
    int64_t kv = 0, adapters = 0, transient = 0;
    const auto owned = [&](int32_t page, PageOwner kind, uint64_t id) {
        CHECK((pool_.owners()[size_t(page)] == PagePool::Owner{kind, id}));
    };
    std::map<AdapterId, int32_t> users;
    int64_t on_their_way = 0;
    for (const auto& [id, sequence] : running_) {
        for (const auto& table : sequence->block_tables) {
            for (const int32_t page : table) owned(page, PageOwner::kv, uint64_t(id));
            kv += int64_t(table.size());
        }
        if (sequence->adapter() != AdapterId::base) ++users[sequence->adapter()];
    }
    for (const auto& [id, sequence] : waiting_)
        for (const auto& table : sequence->block_tables) CHECK(table.empty());
    for (const auto& [id, resident] : residents_) {
        for (int32_t i = 0; i < resident.pages.count; ++i)
            owned(resident.pages.first + i, PageOwner::adapter, uint64_t(id));
        adapters += resident.pages.count;
        for (int32_t i = 0; i < resident.batched.count; ++i)
            owned(resident.batched.first + i, PageOwner::transient, uint64_t(id));
        transient += resident.batched.count;
        CHECK(resident.batched.count == 0 || resident.users > 0);
        CHECK(users[id] == resident.users);
        CHECK(!resident.loading || resident.users == 0);
        on_their_way += resident.loading;
    }
    CHECK(on_their_way == num_loading_);
    CHECK(limits_.adapter_slots == 0 || int64_t(residents_.size()) <= limits_.adapter_slots);
    for (const auto& [id, count] : users) CHECK(residents_.contains(id));
    CHECK(pool_.state().kv_pages == kv && pool_.state().adapter_pages == adapters);
    CHECK(pool_.state().transient_pages == transient);
    for (const auto& [id, sequence] : running_)
        CHECK(!limits_.one_adapter || sequence->adapter() == running_.begin()->second->adapter());
    pool_.check_invariants();
}

}  // namespace spartan
