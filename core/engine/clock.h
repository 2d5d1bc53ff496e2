// The engine's clock: microseconds since it was made, less the time it was held.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>

namespace spartan {

class EngineClock {
public:
    using Time = std::chrono::steady_clock::time_point;

    int64_t now_us() const {
        std::lock_guard lock(mutex_);
        return microseconds((held_ ? held_at_ : std::chrono::steady_clock::now()) - start_) - held_us_;
    }
    // What it showed at a wall time since which it was not held.
    int64_t us_at(Time time) const {
        std::lock_guard lock(mutex_);
        return microseconds(time - start_) - held_us_;
    }
    // Held before now, with the time of a hold in progress.
    int64_t held_us() const {
        std::lock_guard lock(mutex_);
        return held_us_ + (held_ ? microseconds(std::chrono::steady_clock::now() - held_at_) : 0);
    }
    void hold() {
        std::lock_guard lock(mutex_);
        if (held_) return;
        held_ = true;
        held_at_ = std::chrono::steady_clock::now();
    }
    void release() {
        std::lock_guard lock(mutex_);
        if (!held_) return;
        held_ = false;
        held_us_ += microseconds(std::chrono::steady_clock::now() - held_at_);
    }
    // The wall time at which the clock, not held again, will show `us`.
    Time when(int64_t us) const {
        std::lock_guard lock(mutex_);
        return start_ + std::chrono::microseconds(us + held_us_);
    }

private:
    static int64_t microseconds(std::chrono::steady_clock::duration d) {
        return std::chrono::duration_cast<std::chrono::microseconds>(d).count();
    }
    mutable std::mutex mutex_;
    const Time start_ = std::chrono::steady_clock::now();
    Time held_at_{};
    bool held_ = false;
    int64_t held_us_ = 0;
};

}  // namespace spartan
