#include "core/engine/page_pool.h"

#include "kernels/check.h"

#include <algorithm>
#include <utility>

namespace spartan {

PagePool::PagePool(int32_t total_pages) : owners_(size_t(total_pages)), free_pages_(total_pages) {
    if (total_pages > 0) add_free_run({0, total_pages});
}

void PagePool::add_free_run(PageRun run) {
    auto next = free_by_first_.lower_bound(run.first);
    if (next != free_by_first_.end() && next->first == run.first + run.count) {
        const PageRun above{next->first, next->second};
        run.count += above.count;
        remove_free_run(above);
    }
    auto previous = free_by_first_.lower_bound(run.first);
    if (previous != free_by_first_.begin()) {
        --previous;
        const PageRun below{previous->first, previous->second};
        if (below.first + below.count == run.first) {
            remove_free_run(below);
            run = {below.first, below.count + run.count};
        }
    }
    free_by_first_[run.first] = run.count;
    free_by_count_.insert({run.count, run.first});
}

void PagePool::remove_free_run(PageRun run) {
    CHECK(free_by_first_.erase(run.first) == 1);
    CHECK(free_by_count_.erase({run.count, run.first}) == 1);
}

PageRun PagePool::take_from_run(PageRun run, int32_t count, bool high_end) {
    remove_free_run(run);
    const int32_t rest = run.count - count;
    const PageRun taken{high_end ? run.first + rest : run.first, count};
    if (rest > 0) add_free_run({high_end ? run.first : run.first + count, rest});
    return taken;
}

void PagePool::set_owner(PageRun run, Owner owner) {
    for (int32_t p = run.first; p < run.first + run.count; ++p) owners_[size_t(p)] = owner;
    if (!changes_.empty()) {
        PageChange& last = changes_.back();
        if (last.owner == owner.kind && last.id == owner.id && last.first + last.count == run.first) {
            last.count += run.count;
            return;
        }
    }
    changes_.push_back({run.first, run.count, owner.kind, owner.id});
}

bool PagePool::allocate_kv(RequestId owner, std::span<int32_t> pages) {
    const auto count = int32_t(pages.size());
    if (count > free_pages_) return false;
    const Owner kv{PageOwner::kv, uint64_t(owner)};
    auto fits =
        std::find_if(free_by_first_.begin(), free_by_first_.end(), [&](auto& run) { return run.second >= count; });
    size_t filled = 0;
    while (filled < pages.size()) {
        const auto& [first, length] = fits != free_by_first_.end() ? *fits : *free_by_first_.begin();
        const int32_t wanted = std::min(length, count - int32_t(filled));
        const PageRun taken = take_from_run({first, length}, wanted, false);
        set_owner(taken, kv);
        for (int32_t i = 0; i < taken.count; ++i) pages[filled++] = taken.first + i;
        fits = free_by_first_.end();
    }
    free_pages_ -= count;
    kv_pages_ += count;
    return true;
}

std::optional<PageRun> PagePool::allocate_run(Owner owner, int32_t count) {
    auto best = free_by_count_.lower_bound({count, 0});
    if (best == free_by_count_.end()) return std::nullopt;
    auto after = free_by_count_.lower_bound({best->first + 1, 0});
    best = std::prev(after);
    const PageRun taken = take_from_run({best->second, best->first}, count, true);
    set_owner(taken, owner);
    free_pages_ -= count;
    return taken;
}

std::optional<PageRun> PagePool::allocate_adapter(AdapterId owner, int32_t count) {
    const auto run = allocate_run({PageOwner::adapter, uint64_t(owner)}, count);
    if (run) adapter_pages_ += count;
    return run;
}

std::optional<PageRun> PagePool::allocate_transient(AdapterId owner, int32_t count) {
    const auto run = allocate_run({PageOwner::transient, uint64_t(owner)}, count);
    if (run) transient_pages_ += count;
    return run;
}

void PagePool::free_kv(RequestId owner, std::span<const int32_t> pages) {
    std::vector<int32_t> sorted(pages.begin(), pages.end());
    std::sort(sorted.begin(), sorted.end());
    for (size_t i = 0; i < sorted.size();) {
        PageRun run{sorted[i], 0};
        for (; i < sorted.size() && sorted[i] == run.first + run.count; ++i, ++run.count)
            CHECK((owners_[size_t(sorted[i])] == Owner{PageOwner::kv, uint64_t(owner)}));
        set_owner(run, {});
        add_free_run(run);
    }
    free_pages_ += int32_t(sorted.size());
    kv_pages_ -= int32_t(sorted.size());
}

void PagePool::free_run(Owner owner, PageRun run) {
    for (int32_t p = run.first; p < run.first + run.count; ++p) CHECK(owners_[size_t(p)] == owner);
    set_owner(run, {});
    add_free_run(run);
    free_pages_ += run.count;
}

void PagePool::free_adapter(AdapterId owner, PageRun run) {
    free_run({PageOwner::adapter, uint64_t(owner)}, run);
    adapter_pages_ -= run.count;
}

void PagePool::free_transient(AdapterId owner, PageRun run) {
    free_run({PageOwner::transient, uint64_t(owner)}, run);
    transient_pages_ -= run.count;
}

bool PagePool::run_fits(int32_t count, std::span<const PageRun> freed) const {
    if (!free_by_count_.empty() && free_by_count_.rbegin()->first >= count) return true;
    std::vector<std::pair<int32_t, int32_t>> runs(free_by_first_.begin(), free_by_first_.end());
    for (const PageRun& run : freed) runs.emplace_back(run.first, run.count);
    std::sort(runs.begin(), runs.end());
    int32_t end = -1, length = 0;
    for (const auto& [first, n] : runs) {
        length = first == end ? length + n : n;
        end = first + n;
        if (length >= count) return true;
    }
    return false;
}

PoolState PagePool::state() const {
    PoolState s;
    s.total_pages = total_pages();
    s.kv_pages = kv_pages_;
    s.adapter_pages = adapter_pages_;
    s.transient_pages = transient_pages_;
    s.largest_free_run = free_by_count_.empty() ? 0 : free_by_count_.rbegin()->first;
    return s;
}

std::vector<PageChange> PagePool::take_changes() { return std::exchange(changes_, {}); }

void PagePool::check_invariants() const {
    int32_t free = 0, kv = 0, adapter = 0, transient = 0;
    for (const Owner& o : owners_) {
        free += o.kind == PageOwner::free;
        kv += o.kind == PageOwner::kv;
        adapter += o.kind == PageOwner::adapter;
        transient += o.kind == PageOwner::transient;
    }
    CHECK(free == free_pages_ && kv == kv_pages_ && adapter == adapter_pages_ && transient == transient_pages_);
    CHECK(free + kv + adapter + transient == total_pages());
    CHECK(free_by_first_.size() == free_by_count_.size());
    int32_t end = -1, in_runs = 0;
    for (const auto& [first, count] : free_by_first_) {
        CHECK(count > 0 && first > end);  // first == end would be two runs that should be one
        CHECK(free_by_count_.contains({count, first}));
        for (int32_t p = first; p < first + count; ++p) CHECK(owners_[size_t(p)].kind == PageOwner::free);
        end = first + count;
        in_runs += count;
    }
    CHECK(in_runs == free_pages_);
}

}  // namespace spartan
