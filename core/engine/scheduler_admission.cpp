// Who leaves the waiting line: Scheduler's rules of admission.
#include "core/engine/scheduler.h"
#include "kernels/check.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <utility>

namespace spartan {
namespace {

// So many of those who wait are looked at in one step, so that a line of a million costs a step no more.
constexpr int64_t kLookAhead = 4096;

void count_waiting(WaitReason reason, int64_t requests, int32_t pages_short, std::vector<WaitCount>& waits) {
    const auto same = std::find_if(waits.begin(), waits.end(), [&](const WaitCount& w) { return w.reason == reason; });
    if (same != waits.end())
        same->requests += int32_t(requests);
    else
        waits.push_back({reason, int32_t(requests), pages_short});
}

}  // namespace

void Scheduler::admit_waiting(Line line, Schedule& out) {
    if (!limits_.pass_over) {
        for (auto it = waiting_.begin(); it != waiting_.end();) {
            Sequence& sequence = *it++->second;  // who comes in leaves the line
            if (!admit_or_pass(sequence, line, out)) return;
        }
        return;
    }
    const bool full = num_running() >= row_limit_;
    if (full || line.budget == 0) {  // a long line is not put in order for nothing
        if (!waiting_.empty())
            count_waiting(full ? WaitReason::row_budget : WaitReason::token_budget, num_waiting(), 0, out.waiting_for);
        return;
    }
    const std::vector<Sequence*> in_turn = line_up(line);
    for (auto it = in_turn.begin(); it != in_turn.end(); ++it) {
        if (admit_or_pass(**it, line, out)) continue;
        for (; it != in_turn.end(); ++it)
            if ((*it)->id() < line.youngest && (*it)->passed_us < 0) (*it)->passed_us = line.now_us;
        return;
    }
    // Those too far behind to be looked at wait like the last of those who were.
    const WaitReason last = out.waiting_for.empty() ? WaitReason::row_budget : out.waiting_for.back().reason;
    if (const int64_t rest = num_waiting() - line.passed; rest > 0) count_waiting(last, rest, 0, out.waiting_for);
}

// Those whose turn has come; the base's; adapter by adapter; last, who lack a place. Each in their order. With
// one_adapter all in their order: turns are by age alone.
std::vector<Sequence*> Scheduler::line_up(const Line& line) const {
    std::vector<std::pair<int64_t, Sequence*>> places;
    for (auto it = waiting_.begin(); it != waiting_.end() && std::ssize(places) < kLookAhead; ++it) {
        Sequence& sequence = *it->second;
        const auto found = residents_.find(sequence.adapter());
        int64_t place = std::numeric_limits<int64_t>::max();
        if (overdue(sequence, line))
            place = -1;
        else if (sequence.adapter() == AdapterId::base)
            place = 0;
        else if (found != residents_.end())
            place = found->second.placed;
        places.emplace_back(place, &sequence);
    }
    if (!limits_.one_adapter)
        std::stable_sort(places.begin(), places.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    std::vector<Sequence*> in_turn;
    for (const auto& place : places) in_turn.push_back(place.second);
    return in_turn;
}

// False: nobody behind this one comes in.
bool Scheduler::admit_or_pass(Sequence& sequence, Line& line, Schedule& out) {
    const WaitReason reason = admit(sequence, line, out);
    if (reason == WaitReason::none) {
        waiting_.erase(sequence.id());
        line.youngest = std::max(line.youngest, sequence.id());
        start(sequence, line, out);
        return true;
    }
    const bool others_pass = reason == WaitReason::adapter_loading || reason == WaitReason::other_adapter ||
                             (limits_.pass_over && reason == WaitReason::adapter_no_room);
    if (!others_pass || line.passed + 1 == kLookAhead) {
        count_waiting(reason, num_waiting() - line.passed, line.pages_short, out.waiting_for);
        return false;
    }
    count_waiting(reason, 1, 0, out.waiting_for);
    ++line.passed;
    return true;
}

WaitReason Scheduler::admit(Sequence& sequence, Line& line, Schedule& out) {
    if (of_another_adapter(sequence, line)) return WaitReason::other_adapter;
    if (num_running() >= row_limit_) return WaitReason::row_budget;
    if (line.budget == 0) return WaitReason::token_budget;
    if (loading(sequence.adapter())) return WaitReason::adapter_loading;
    if (num_loading_ >= limits_.max_loading && pages_to_place(sequence) > 0) return WaitReason::adapter_loading;
    if (held_back(sequence, line)) {
        if (sequence.passed_us < 0) sequence.passed_us = line.now_us;
        return WaitReason::adapter_no_room;
    }
    return find_room(sequence, line, out);
}

void Scheduler::start(Sequence& sequence, Line& line, Schedule& out) {
    if (running_.empty()) {
        const RequestId last = waiting_.empty() ? sequence.id() : waiting_.rbegin()->first;
        turn_end_ = std::max(sequence.id(), last);
    }
    running_.emplace(sequence.id(), &sequence);
    if (sequence.adapter() != AdapterId::base) {
        Resident& resident = residents_.at(sequence.adapter());
        ++resident.users;
        resident.last_used = line.step;
    }
    const int32_t n = std::min(sequence.remaining_tokens(), line.budget);
    line.budget -= n;
    out.rows.push_back({&sequence, n});
}

// With one_adapter: others run now, and this one has to wait for their turn to end.
bool Scheduler::of_another_adapter(const Sequence& sequence, Line& line) const {
    if (!limits_.one_adapter || running_.empty()) return false;
    const bool another = sequence.adapter() != running_.begin()->second->adapter();
    line.others_wait |= another;
    return another || (line.others_wait && sequence.id() > turn_end_);
}

// Whether somebody further ahead, whose turn has come, is to have the place or the pages that this one would take.
bool Scheduler::held_back(const Sequence& sequence, const Line& line) const {
    if (line.overdue.empty()) return false;
    const auto found = residents_.find(sequence.adapter());
    if (found == residents_.end()) return line.nobody_passes;
    const Resident& resident = found->second;
    if (sequence.id() <= resident.turn_end) return false;
    const size_t closed = std::min(line.overdue.size(), line.placed.size());
    return line.nobody_passes || resident.placed <= line.placed[closed - 1];
}

WaitReason Scheduler::find_room(Sequence& sequence, Line& line, Schedule& out) {
    const AdapterId id = sequence.adapter();
    const int64_t reserve = num_running() * limits_.num_layers;
    const int64_t kv = kv_pages_for(sequence.num_tokens());
    const int32_t adapter = pages_to_place(sequence);
    int64_t could_be_free = pool_.free_pages();
    for (const auto& [other, r] : residents_)
        if (r.users == 0 && !r.loading && other != id) could_be_free += r.pages.count;
    const int64_t stops_all = kv + reserve + (limits_.pass_over ? 0 : adapter);
    if (could_be_free < stops_all) {
        line.pages_short = int32_t(stops_all - could_be_free);
        return WaitReason::no_pages;
    }
    if (adapter > 0 && !make_room_for_adapter(sequence, kv + reserve, line, out)) return WaitReason::adapter_no_room;
    if (loading(id)) return WaitReason::adapter_loading;
    while (pool_.free_pages() < kv + reserve) CHECK(evict_least_recent(id, out));
    CHECK(grow(sequence, sequence.num_tokens()));
    return WaitReason::none;
}

// What the sequence's adapter still lacks: its blob's pages, and those that its factors are batched into.
int32_t Scheduler::pages_to_place(const Sequence& sequence) const {
    if (sequence.adapter() == AdapterId::base) return 0;
    const auto it = residents_.find(sequence.adapter());
    if (it == residents_.end()) return sequence.adapter_pages + sequence.batched_pages;
    return it->second.batched.count > 0 ? 0 : sequence.batched_pages;
}

bool Scheduler::has_place(AdapterId id) const {
    return limits_.adapter_slots == 0 || residents_.contains(id) || int64_t(residents_.size()) < limits_.adapter_slots;
}

// Places what the adapter lacks, so that `pages` could be free beside it.
bool Scheduler::make_room_for_adapter(Sequence& sequence, int64_t pages, Line& line, Schedule& out) {
    const AdapterId id = sequence.adapter();
    if (!line.no_room.contains(id)) {
        const std::vector<AdapterId> leaving = evictable(sequence, line);
        const int32_t lacking = pages_to_place(sequence);
        std::vector<PageRun> freed;
        int64_t free = pool_.free_pages();
        for (const AdapterId other : leaving) {
            freed.push_back(residents_.at(other).pages);
            free += freed.back().count;
        }
        const bool place = has_place(id) || !leaving.empty();
        if (place && free >= lacking + pages && pool_.run_fits(lacking, freed)) {
            place_adapter(sequence, leaving, out);
            return true;
        }
        line.no_room.insert(id);
        line.nobody_passes |= place && overdue(sequence, line);
    }
    if (!limits_.pass_over) return false;
    if (sequence.passed_us < 0) sequence.passed_us = line.now_us;
    if (overdue(sequence, line)) {
        if (line.overdue.empty()) {
            for (const auto& [other, r] : residents_) line.placed.push_back(r.placed);
            std::sort(line.placed.begin(), line.placed.end());
        }
        line.overdue.insert(id);
    }
    return false;
}

bool Scheduler::overdue(const Sequence& sequence, const Line& line) const {
    return limits_.pass_over && sequence.passed_us >= 0 && line.now_us - sequence.passed_us >= limits_.pass_over_us;
}

// Adapters that could leave for this sequence's, by last use.
std::vector<AdapterId> Scheduler::evictable(const Sequence& sequence, const Line& line) const {
    std::vector<AdapterId> ids;
    for (const auto& [id, r] : residents_)
        if (r.users == 0 && !r.loading && id != sequence.adapter()) ids.push_back(id);
    if (ids.empty()) return ids;
    if (limits_.pass_over && !overdue(sequence, line)) {
        std::set<AdapterId> wanted;
        int64_t seen = 0;
        for (auto it = waiting_.begin(); it != waiting_.end() && seen < kLookAhead; ++it, ++seen)
            wanted.insert(it->second->adapter());
        std::erase_if(ids, [&](AdapterId id) { return wanted.contains(id); });
    }
    std::stable_sort(ids.begin(), ids.end(),
                     [&](AdapterId a, AdapterId b) { return residents_.at(a).last_used < residents_.at(b).last_used; });
    return ids;
}

// Whatever it lacks fits into one free run once enough of `leaving` have left.
void Scheduler::place_adapter(const Sequence& sequence, std::span<const AdapterId> leaving, Schedule& out) {
    const AdapterId id = sequence.adapter();
    for (const int32_t lacking = pages_to_place(sequence); !has_place(id) || !pool_.run_fits(lacking, {});) {
        CHECK(!leaving.empty());
        out.moves.push_back(*drop_adapter(leaving.front()));
        leaving = leaving.subspan(1);
    }
    if (!residents_.contains(id)) {
        const auto run = pool_.allocate_adapter(id, sequence.adapter_pages);
        CHECK(run);
        residents_[id] = {.pages = *run,
                          .batched = {},
                          .last_used = 0,
                          .users = 0,
                          .loading = limits_.background_loads,
                          .placed = ++placements_,
                          .turn_end = end_of_turn(id)};
        num_loading_ += limits_.background_loads;
        out.moves.push_back({id, true, *run});
    }
    Resident& resident = residents_.at(id);
    if (resident.loading || sequence.batched_pages == 0 || resident.batched.count > 0) return;
    const auto run = pool_.allocate_transient(id, sequence.batched_pages);
    CHECK(run);
    resident.batched = *run;
    out.batched.push_back({id, *run});
}

// Of those who wait for the adapter as many as one batch can take.
RequestId Scheduler::end_of_turn(AdapterId id) const {
    RequestId last{};
    int64_t seen = 0;
    int32_t members = 0;
    for (auto it = waiting_.begin(); it != waiting_.end() && seen < kLookAhead && members < limits_.max_batch_rows;
         ++it, ++seen)
        if (it->second->adapter() == id) {
            last = it->first;
            ++members;
        }
    return last;
}

void Scheduler::adapter_arrived(AdapterId id) {
    Resident& resident = residents_.at(id);
    if (!resident.loading) return;
    resident.loading = false;
    --num_loading_;
}

bool Scheduler::loading(AdapterId id) const {
    const auto found = residents_.find(id);
    return found != residents_.end() && found->second.loading;
}

}  // namespace spartan
