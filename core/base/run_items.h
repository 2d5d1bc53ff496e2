// Work shared out to threads.
#pragma once

#include "core/base/result.h"

#include <cstdint>
#include <functional>

namespace spartan {

// Runs work(item, thread) for items [0, count) on up to `threads` threads, thread < threads, in rising order of start.
// After an error no further item starts. Returns the error of the lowest item, a cancellation before any other; memory
// that cannot be had is the error {path, "memory", …}.
Result<void> run_items(int64_t count, int threads, const std::string& path,
                       const std::function<Result<void>(int64_t item, int thread)>& work);

}  // namespace spartan
