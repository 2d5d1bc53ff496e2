#include "core/base/run_items.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <new>
#include <optional>
#include <system_error>
#include <thread>
#include <vector>

namespace spartan {

Result<void> run_items(int64_t count, int threads, const std::string& path,
                       const std::function<Result<void>(int64_t item, int thread)>& work) {
    std::atomic<int64_t> next{0};
    std::atomic<bool> stop{false};
    std::mutex mutex;
    std::optional<Error> first_error;
    int64_t first_item = 0;
    const auto keep = [&](Error error, int64_t item) {
        const std::lock_guard lock(mutex);
        if (error.cancelled) item = -1;
        if (!first_error || item < first_item) {
            first_error = std::move(error);
            first_item = item;
        }
        stop = true;
    };
    const auto run = [&](int thread) {
        while (!stop) {
            // An item that was drawn is run even after a failure, so that the lowest failure is always found.
            const int64_t item = next++;
            if (item >= count) return;
            try {
                if (const Result<void> done = work(item, thread); !done) keep(done.error(), item);
            } catch (const std::bad_alloc&) {
                keep(Error{path, "memory", "none left", "more memory for what is loaded"}, item);
            }
        }
    };
    {
        std::vector<std::jthread> helpers;
        try {
            for (int t = 1; t < threads && t < count; ++t) helpers.emplace_back(run, t);
        } catch (const std::system_error&) {
            // As many threads as there are will do.
        }
        run(0);
    }
    if (first_error) return *first_error;
    return {};
}

}  // namespace spartan
