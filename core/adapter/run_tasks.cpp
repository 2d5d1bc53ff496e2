#include "core/adapter/fold.h"
#include "kernels/device.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <optional>
#include <thread>

namespace spartan {

Result<void> run_tasks(int64_t count, const std::function<Result<void>(int64_t)>& task) {
    std::atomic<int64_t> next{0};
    std::atomic<bool> failed{false};
    std::mutex mutex;
    std::optional<std::pair<int64_t, Error>> first;
    const auto work = [&] {
        while (!failed) {
            // A task that was drawn is run even after a failure, so that the lowest failure is always found.
            const int64_t i = next.fetch_add(1);
            if (i >= count) return;
            const auto done = task(i);
            if (done) continue;
            const std::lock_guard lock(mutex);
            if (!first || i < first->first) first.emplace(i, done.error());
            failed = true;
        }
    };
    std::vector<std::thread> threads;
    const int64_t others = std::min(count, int64_t(usable_cpus())) - 1;
    for (int64_t t = 0; t < others; ++t) threads.emplace_back(work);
    work();
    for (std::thread& thread : threads) thread.join();
    if (first) return first->second;
    return {};
}

}  // namespace spartan
