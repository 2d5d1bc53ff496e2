#include "core/engine/disposal.h"

#include <utility>

namespace spartan {

Disposal::~Disposal() {
    {
        const std::lock_guard lock(mutex_);
        quit_ = true;
    }
    wake_.notify_one();
    if (thread_.joinable()) thread_.join();
}

void Disposal::take(std::shared_ptr<const void> object) {
    const std::lock_guard lock(mutex_);
    objects_.push_back(std::move(object));
    if (!thread_.joinable()) thread_ = std::thread([this] { work(); });
    wake_.notify_one();
}

void Disposal::work() {
    std::unique_lock lock(mutex_);
    while (true) {
        wake_.wait(lock, [this] { return quit_ || !objects_.empty(); });
        if (objects_.empty()) return;
        std::shared_ptr<const void> object = std::move(objects_.front());
        objects_.pop_front();
        lock.unlock();
        object.reset();
        lock.lock();
    }
}

}  // namespace spartan
