// The adapters an engine knows, and how many unfinished requests use each. Any thread.
#pragma once

#include "core/adapter/adapter.h"
#include "core/engine/engine.h"
#include "core/engine/model_runner.h"

#include <map>
#include <memory>
#include <mutex>
#include <vector>

namespace spartan {

// What an adapter takes in the pool: the run of its blob, and the one that its factors are batched into while it runs.
struct AdapterPages {
    int32_t blob = 0, batched = 0;
};

class AdapterRegistry {
public:
    AdapterRegistry(int64_t budget_bytes, int64_t page_bytes, int32_t total_pages);

    Result<AdapterId> add(std::shared_ptr<const HostAdapter> host);
    // No new requests from now on. Unknown or already leaving: an error.
    Result<void> begin_removal(AdapterId id);

    // Counts one more unfinished request and tells how many pages the adapter takes; refuses unknown and leaving ones.
    Result<AdapterPages> acquire(AdapterId id);
    void release(AdapterId id);
    // None for the base.
    AdapterPages pages_of(AdapterId id) const;

    // Engine's thread: adapters that are leaving and have no request left; forget() ends them, and gives back what may
    // be the last reference to what it takes long to let go of. Until that has gone its memory counts as used. The
    // registry must outlive it.
    std::vector<AdapterId> removable() const;
    std::shared_ptr<const void> forget(AdapterId id);
    void set_residency(AdapterId id, Residency residency);
    std::shared_ptr<const HostAdapter> get(AdapterId id) const;  // null: gone
    std::string name(AdapterId id) const;                        // "base", or the adapter's
    std::vector<AdapterStatus> status() const;

private:
    struct Leaving;
    struct Entry {
        std::shared_ptr<const HostAdapter> host;
        AdapterPages pages;
        int64_t unfinished = 0;
        bool leaving = false;
        Residency residency = Residency::host;
    };
    const int64_t budget_bytes_, page_bytes_;
    const int32_t total_pages_;
    mutable std::mutex mutex_;
    std::map<AdapterId, Entry> entries_;
    uint32_t next_id_ = 1;
    int64_t used_bytes_ = 0, leaving_bytes_ = 0;  // those that leave are used still
};

}  // namespace spartan
