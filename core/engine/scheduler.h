// Decides who runs in the next step: first come, first served by RequestId; continuous batching; chunked prefill with
// decodes first; preemption by recomputation of the youngest; adapters into the pool when needed and out by least
// recent use. Never sees a tensor.
//
// Rules
//   A step computes at most max_batch_tokens tokens of at most max_batch_rows sequences.
//   A sequence is admitted with the pages of all its known tokens, so only decodes can run out of pages. Then unused
//   adapters leave, then the youngest running sequence is preempted: its pages are freed, its tokens are kept, and it
//   waits at its old place to be computed again. The oldest therefore always goes on.
//   Behind the first in line that cannot be admitted, everybody waits.
//   With one_adapter (adapters are merged into the weights) all running sequences use one adapter. The first in line
//   chooses it when nobody runs; its turn takes along those with this adapter that wait at that moment, and lasts until
//   they are done. Later ones join it only where nobody before them waits for another adapter.
//   Besides what the first in line needs, one block per running sequence must be free, so that an admission is not
//   followed at once by a preemption.
#pragma once

#include "core/engine/page_pool.h"
#include "core/engine/sequence.h"

#include <cstdint>
#include <map>
#include <vector>

namespace spartan {

struct SchedulerLimits {
    int32_t max_batch_tokens = 512, max_batch_rows = 256, block_tokens = 16, num_layers = 1;
    bool one_adapter = false;
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
    std::vector<WaitCount> waiting_for;  // everybody who waits, under the reason of the first in line
};

class Scheduler {
public:
    Scheduler(SchedulerLimits limits, PagePool& pool);

    // Both keep the pointer until remove().
    void add(Sequence& sequence);
    // Takes a sequence out, waiting or running, and frees its pages.
    void remove(Sequence& sequence);
    // Gives up an adapter's pages if it has any. No running sequence may use it.
    std::optional<AdapterMove> drop_adapter(AdapterId id);

    // From now on at most so many run at once, never more than SchedulerLimits says; 0: as many as that. The youngest
    // above it are preempted and named.
    std::vector<RequestId> limit_rows(int32_t rows);

    // `step` numbers the calls and orders the uses of adapters.
    Schedule schedule(int64_t step);

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
    };

    bool grow(Sequence& sequence, int32_t tokens);
    bool make_pages_for_decode(Sequence& sequence, Schedule& out);
    void schedule_running(int32_t& budget, int64_t step, Schedule& out);
    void admit_waiting(int32_t& budget, int64_t step, Schedule& out);
    WaitReason try_admit(Sequence& sequence, int32_t& pages_short, Schedule& out);
    bool evict_least_recent(AdapterId keep, Schedule& out);
    int32_t pages_to_place(const Sequence& sequence) const;
    bool make_run(int32_t pages, AdapterId keep, Schedule& out);
    void place_adapter(const Sequence& sequence, Schedule& out);
    Sequence* next_waiting();
    void preempt(Sequence& sequence, std::vector<RequestId>& out);
    void release_pages(Sequence& sequence);
    void leave_running(Sequence& sequence);

    SchedulerLimits limits_;
    int32_t row_limit_ = 0;
    PagePool& pool_;
    std::map<RequestId, Sequence*> waiting_, running_;
    std::map<AdapterId, Resident> residents_;
    std::vector<int32_t> new_pages_;
    RequestId turn_end_{};  // the last that waited when the running adapter's turn began
};

}  // namespace spartan
