// Lets go of what takes long to let go of, on a thread of its own: unpinning an adapter's memory waits for whatever
// its device is doing, and the engine has steps to launch meanwhile.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

namespace spartan {

class Disposal {
public:
    Disposal() = default;
    ~Disposal();  // when everything has gone
    Disposal(const Disposal&) = delete;
    Disposal& operator=(const Disposal&) = delete;

    // Any thread. Whoever holds the object's last reference lets go of it: hand over the last one.
    void take(std::shared_ptr<const void> object);

private:
    void work();

    std::mutex mutex_;
    std::condition_variable wake_;
    std::deque<std::shared_ptr<const void>> objects_;
    bool quit_ = false;
    std::thread thread_;  // from the first object on
};

}  // namespace spartan
