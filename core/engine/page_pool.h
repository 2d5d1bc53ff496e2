// Who owns which page of the one pool that KV and adapters share. Counts pages only: the memory itself belongs to the
// model runner. KV grows from the low end, adapters from the high end, so that long runs stay free in between.
//
// Unified paging after S-LoRA (Sheng et al. 2023); there a page is one hidden-sized vector, here it is K and V of
// block_tokens tokens of one layer.
#pragma once

#include "core/base/ids.h"
#include "core/engine/step_record.h"

#include <map>
#include <optional>
#include <set>
#include <span>
#include <vector>

namespace spartan {

struct PageRun {
    int32_t first = 0, count = 0;
};

class PagePool {
public:
    explicit PagePool(int32_t total_pages);

    // Fills `pages`: the lowest free run that holds them all, else the lowest free pages. False: too few, nothing
    // changed.
    bool allocate_kv(RequestId owner, std::span<int32_t> pages);
    // One run: the high end of the smallest free run that holds it (of equals, the highest).
    std::optional<PageRun> allocate_adapter(AdapterId owner, int32_t count);
    // The same for pages that an adapter has only while it runs.
    std::optional<PageRun> allocate_transient(AdapterId owner, int32_t count);
    void free_kv(RequestId owner, std::span<const int32_t> pages);
    void free_adapter(AdapterId owner, PageRun run);
    void free_transient(AdapterId owner, PageRun run);

    // Whether a run of `count` would be free if `freed` (disjoint, now owned) were free as well.
    bool run_fits(int32_t count, std::span<const PageRun> freed) const;

    int32_t total_pages() const { return int32_t(owners_.size()); }
    int32_t free_pages() const { return free_pages_; }
    PoolState state() const;

    // What changed since the last call, in order; replaying all changes gives the present owners.
    std::vector<PageChange> take_changes();
    bool has_changes() const { return !changes_.empty(); }

    struct Owner {
        PageOwner kind = PageOwner::free;
        uint64_t id = 0;
        bool operator==(const Owner&) const = default;
    };
    std::span<const Owner> owners() const { return owners_; }

    // CHECKs that free runs are disjoint, maximal and exactly the free pages, and that the counts add up.
    void check_invariants() const;

private:
    void set_owner(PageRun run, Owner owner);
    void add_free_run(PageRun run);
    void remove_free_run(PageRun run);
    PageRun take_from_run(PageRun run, int32_t count, bool high_end);
    std::optional<PageRun> allocate_run(Owner owner, int32_t count);
    void free_run(Owner owner, PageRun run);

    std::vector<Owner> owners_;
    std::map<int32_t, int32_t> free_by_first_;             // first -> count
    std::set<std::pair<int32_t, int32_t>> free_by_count_;  // (count, first)
    int32_t free_pages_ = 0, kv_pages_ = 0, adapter_pages_ = 0, transient_pages_ = 0;
    std::vector<PageChange> changes_;
};

}  // namespace spartan
