// Whether an engine's thread still comes round, seen from other threads. A kernel that hangs takes the thread that
// waits for it along and cannot be stopped from inside the program, so all that is left is to say so.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <utility>

namespace spartan {

class Watchdog {
public:
    // limit_s 0: never barks. `device`: "cpu" or "cuda:N", for the words.
    Watchdog(int limit_s, std::string device) : limit_s_(limit_s), device_(std::move(device)) {}

    // The engine's thread: it is at work on `step`, and the device has just answered.
    void beat(int64_t step) {
        step_.store(step, std::memory_order_relaxed);
        since_us_.store(now_us(), std::memory_order_release);
    }
    // It waits for commands, however long.
    void rest() { since_us_.store(kAtRest, std::memory_order_release); }

    // Any thread, also after the engine's end. "step 812 has been running on cuda:0 for 31 s without an answer"; empty
    // as long as the limit has not passed.
    std::string silence() const;

private:
    static int64_t now_us() {
        return std::chrono::duration_cast<std::chrono::microseconds>(
                   std::chrono::steady_clock::now().time_since_epoch())
            .count();
    }
    static constexpr int64_t kAtRest = -1;
    const int limit_s_;
    const std::string device_;
    std::atomic<int64_t> since_us_{kAtRest}, step_{0};
};

}  // namespace spartan
