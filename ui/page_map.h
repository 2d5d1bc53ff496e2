// Who owns each page of the pool, rebuilt from the records' page changes.
#pragma once

#include "core/engine/step_record.h"

#include <cstdint>
#include <vector>

namespace spartan {

struct PageCell {
    PageOwner owner = PageOwner::free;
    uint64_t id = 0;  // RequestId (kv) or AdapterId (adapter, transient)
    bool operator==(const PageCell&) const = default;
};

class PageMap {
public:
    // More pages than this are not mapped: a damaged file must not take the memory.
    static constexpr int32_t kMaxPages = 1 << 22;

    void resize(int32_t pages);
    void apply(const PageChange& change);  // parts outside the pool are ignored
    const std::vector<PageCell>& cells() const { return cells_; }
    int32_t size() const { return int32_t(cells_.size()); }
    int32_t count(PageOwner owner) const { return counts_[size_t(owner)]; }

    // Run-length form, for keyframes: runs of equal cells that are not free.
    std::vector<PageChange> runs() const;

private:
    std::vector<PageCell> cells_;
    int32_t counts_[4] = {};
};

}  // namespace spartan
