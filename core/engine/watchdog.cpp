#include "core/engine/watchdog.h"

namespace spartan {

std::string Watchdog::silence() const {
    const int64_t since_us = since_us_.load(std::memory_order_acquire);
    if (limit_s_ == 0 || since_us == kAtRest) return {};
    const int64_t seconds = (now_us() - since_us) / 1'000'000;
    if (seconds < limit_s_) return {};
    return "step " + std::to_string(step_.load(std::memory_order_relaxed)) + " has been running on " + device_ +
           " for " + std::to_string(seconds) + " s without an answer";
}

}  // namespace spartan
