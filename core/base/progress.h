// Determinate progress and cancellation of long work, shared between a worker and whoever watches it.
#pragma once

#include <atomic>
#include <cstdint>

namespace spartan {

// Written by the worker, read from any thread. Work polls cancelled() at least every 50 ms and then returns an Error
// with `cancelled` set, having changed nothing.
struct Progress {
    std::atomic<int64_t> done{0}, total{0};  // bytes, unless the work says otherwise
    std::atomic<bool> cancel{false};

    void add(int64_t n) { done.fetch_add(n, std::memory_order_relaxed); }
    bool cancelled() const { return cancel.load(std::memory_order_relaxed); }
};

}  // namespace spartan
