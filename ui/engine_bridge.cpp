#include "ui/engine_bridge.h"

#include <utility>

namespace spartan {

EngineBridge::EngineBridge(QObject* parent) : QObject(parent), queue_(std::make_shared<Queue>()) {
    queue_->bridge = this;
}

EngineBridge::~EngineBridge() {
    const std::lock_guard lock(queue_->mutex);
    queue_->bridge = nullptr;
}

Recorder::Listener EngineBridge::listener() {
    return [queue = queue_](const std::vector<StepRecordPtr>& records) {
        const std::lock_guard lock(queue->mutex);
        if (!queue->bridge) return;
        queue->records.insert(queue->records.end(), records.begin(), records.end());
        if (std::exchange(queue->woken, true)) return;
        // Under the lock, so that the bridge cannot go away in between; a queued call returns at once.
        QMetaObject::invokeMethod(queue->bridge, &EngineBridge::recordsReady, Qt::QueuedConnection);
    };
}

std::vector<StepRecordPtr> EngineBridge::take() {
    const std::lock_guard lock(queue_->mutex);
    queue_->woken = false;
    return std::exchange(queue_->records, {});
}

}  // namespace spartan
