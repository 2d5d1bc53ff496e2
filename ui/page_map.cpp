#include "ui/page_map.h"

#include <algorithm>

namespace spartan {

void PageMap::resize(int32_t pages) {
    cells_.assign(size_t(std::clamp(pages, 0, kMaxPages)), {});
    std::fill(std::begin(counts_), std::end(counts_), 0);
    counts_[size_t(PageOwner::free)] = size();
}

void PageMap::apply(const PageChange& change) {
    const int64_t first = std::max<int64_t>(change.first, 0);
    const int64_t last = std::min<int64_t>(int64_t(change.first) + change.count, size());
    for (int64_t i = first; i < last; ++i) {
        PageCell& cell = cells_[size_t(i)];
        --counts_[size_t(cell.owner)];
        cell = {change.owner, change.owner == PageOwner::free ? 0 : change.id};
        ++counts_[size_t(cell.owner)];
    }
}

std::vector<PageChange> PageMap::runs() const {
    std::vector<PageChange> out;
    for (int32_t i = 0; i < size();) {
        int32_t end = i + 1;
        while (end < size() && cells_[size_t(end)] == cells_[size_t(i)]) ++end;
        const PageCell& cell = cells_[size_t(i)];
        if (cell.owner != PageOwner::free) out.push_back({i, end - i, cell.owner, cell.id});
        i = end;
    }
    return out;
}

}  // namespace spartan
