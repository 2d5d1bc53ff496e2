// Decides who runs in the next step: first come, first served by RequestId; continuous batching; chunked prefill with
// decodes first; preemption by recomputation of the youngest; adapters into the pool when needed and out by least
// recent use. Never sees a tensor.
//
// Rules
//   A step computes at most max_batch_tokens tokens of at most max_batch_rows sequences.
//   A sequence is admitted with the pages of all its known tokens, so only decodes can run out of pages. Then unused
//   adapters leave, then the youngest running sequence is preempted: its pages are freed, its tokens are kept, and it
//   waits at its old place to be computed again. The oldest therefore always goes on.
//   Behind the first in line that cannot be admitted, everybody waits, with two exceptions:
//   - An adapter on its way into the pool (background_loads) holds up only those who use it.
//   - With pass_over, so does an adapter that finds no room, for pass_over_us. Then its turn comes: of the adapters in
//     the pool the one that has been there longest (one for each that is overdue) takes no more than its own turn, the
//     requests that waited for it when it came, so that its place becomes free. Nobody can be passed over for ever,
//     because a turn is finite. Where pages are missing rather than a place, nobody but those in their turn passes.
//   An adapter that nobody runs but somebody waits for makes room only for one whose turn has come.
//   With pass_over, those who wait for an adapter in the pool come in adapter by adapter, the one that has been there
//   longest first: an adapter's requests then end together, and its place becomes free. Who was overtaken so, for
//   pass_over_us, comes before all others.
//   With one_adapter (adapters are merged into the weights) all running sequences use one adapter. The first in line
//   chooses it when nobody runs; its turn takes along those with this adapter that wait at that moment, and lasts until
//   they are done. Later ones join it only where nobody before them waits for another adapter.
//   A step may be scheduled while the one before is in flight: every sequence of that one is taken to go on with the
//   token that it picks, and those for whom it is the last in any case leave.
//   Besides what a sequence needs, one block per running sequence must be free, so that an admission is not followed at
//   once by a preemption.
#pragma once

#include "core/engine/page_pool.h"
#include "core/engine/sequence.h"

#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <vector>

namespace spartan {

struct SchedulerLimits {
    int32_t max_batch_tokens = 512, max_batch_rows = 256, block_tokens = 16, num_layers = 1;
    bool one_adapter = false;
    int32_t adapter_slots = 0;      // adapters in the pool at once, at most; 0: as many as find room
    bool pass_over = false;         // residency `stream`
    bool background_loads = false;  // an adapter may be used only after adapter_arrived()
    int64_t max_loading = 32;       // on their way at once: whoever begins many more waits for the device to take them
    int64_t pass_over_us = 2'000'000;
};

struct ScheduledRow {
    Sequence* sequence = nullptr;
    int32_t num_tokens = 0;
};

// An adapter's pages were taken (load) or given up (evict).
struct AdapterMove {
    AdapterId id{};
    bool load = false;
    PageRun pages;
};

// Pages that an adapter's factors are batched into, from this step until its last sequence leaves.
struct BatchedPages {
    AdapterId id{};
    PageRun pages;
};

struct Schedule {
    std::vector<ScheduledRow> rows;  // by adapter (base first), then by request
    std::vector<AdapterMove> moves;  // in this order
    std::vector<BatchedPages> batched;
    std::vector<RequestId> preempted;
    std::vector<WaitCount> waiting_for;  // everybody who waits; those behind whom nobody passes, with all behind them
};

class Scheduler {
public:
    Scheduler(SchedulerLimits limits, PagePool& pool);

    // Both keep the pointer until remove().
    void add(Sequence& sequence);
    // Takes a sequence out, waiting or running, and frees its pages; one that has left already is none.
    void remove(Sequence& sequence);
    // Gives up an adapter's pages if it has any. No running sequence may use it, and it may not be on its way.
    std::optional<AdapterMove> drop_adapter(AdapterId id);
    // With background_loads: a load that a schedule asked for has ended.
    void adapter_arrived(AdapterId id);
    bool loading(AdapterId id) const;
    int64_t num_loading() const { return num_loading_; }

    // From now on at most so many run at once, never more than SchedulerLimits says; 0: as many as that. The youngest
    // above it are preempted and named.
    std::vector<RequestId> limit_rows(int32_t rows);

    // `step` numbers the calls and orders the uses of adapters. Without rows: everybody waits for adapters on their
    // way.
    Schedule schedule(int64_t step, int64_t now_us = 0);

    int64_t num_running() const { return int64_t(running_.size()); }
    int64_t num_waiting() const { return int64_t(waiting_.size()); }
    bool idle() const { return running_.empty() && waiting_.empty(); }

    // Pages that hold `tokens` tokens of K and V.
    int64_t kv_pages_for(int64_t tokens) const;

    // CHECKs that sequences hold exactly the pages that the pool says are theirs, and likewise adapters.
    void check_invariants() const;

private:
    struct Resident {
        PageRun pages, batched;
        int64_t last_used = 0;
        int32_t users = 0;  // running sequences
        bool loading = false;
        int64_t placed = 0;    // numbers the loads
        RequestId turn_end{};  // the last request of its turn
    };
    // What one walk along the waiting line remembers.
    struct Line {
        int32_t budget = 0;
        int64_t step = 0, now_us = 0;
        std::set<AdapterId> no_room = {};  // adapters that looked for it in vain
        std::set<AdapterId> overdue = {};  // of these, whose turn has come
        std::vector<int64_t> placed = {};  // of the adapters in the pool, rising; if anything is overdue
        bool nobody_passes = false;        // but those in their turn
        bool others_wait = false;          // with one_adapter: somebody further ahead waits for another
        int32_t pages_short = 0;
        int64_t passed = 0;
        RequestId youngest{};  // that came in
    };

    void let_ending_go();
    bool grow(Sequence& sequence, int32_t tokens);
    bool make_pages_for_decode(Sequence& sequence, Schedule& out);
    void schedule_running(int32_t& budget, int64_t step, Schedule& out);
    void admit_waiting(Line line, Schedule& out);
    // With pass_over: who is asked, in this order.
    std::vector<Sequence*> line_up(const Line& line) const;
    bool admit_or_pass(Sequence& sequence, Line& line, Schedule& out);
    WaitReason admit(Sequence& sequence, Line& line, Schedule& out);
    void start(Sequence& sequence, Line& line, Schedule& out);
    bool held_back(const Sequence& sequence, const Line& line) const;
    WaitReason find_room(Sequence& sequence, Line& line, Schedule& out);
    bool of_another_adapter(const Sequence& sequence, Line& line) const;
    int32_t pages_to_place(const Sequence& sequence) const;
    bool make_room_for_adapter(Sequence& sequence, int64_t pages, Line& line, Schedule& out);
    bool has_place(AdapterId id) const;
    bool overdue(const Sequence& sequence, const Line& line) const;
    std::vector<AdapterId> evictable(const Sequence& sequence, const Line& line) const;
    void place_adapter(const Sequence& sequence, std::span<const AdapterId> leaving, Schedule& out);
    RequestId end_of_turn(AdapterId id) const;
    bool evict_least_recent(AdapterId keep, Schedule& out);
    void preempt(Sequence& sequence, std::vector<RequestId>& out);
    void release_pages(Sequence& sequence);
    void leave_running(Sequence& sequence);

    SchedulerLimits limits_;
    int32_t row_limit_ = 0;
    PagePool& pool_;
    std::map<RequestId, Sequence*> waiting_, running_;
    std::map<AdapterId, Resident> residents_;
    int64_t num_loading_ = 0, placements_ = 0;
    std::vector<int32_t> new_pages_;
    RequestId turn_end_{};  // the last that waited when the running adapter's turn began
};

}  // namespace spartan
