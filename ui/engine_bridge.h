// The one class that knows both the engine's threads and Qt: takes step records on the recorder's thread and wakes the
// GUI thread once per drain, however many arrive in between.
#pragma once

#include "core/run/recorder.h"

#include <QObject>

#include <memory>
#include <mutex>
#include <vector>

namespace spartan {

class EngineBridge : public QObject {
    Q_OBJECT
public:
    explicit EngineBridge(QObject* parent = nullptr);
    ~EngineBridge() override;

    // For Recorder::add_listener. May be called on any thread, also after the bridge is gone (then it drops what it
    // gets).
    Recorder::Listener listener();

    // Everything that arrived since the last call, in order. The GUI thread.
    std::vector<StepRecordPtr> take();

signals:
    void recordsReady();  // on the GUI thread, once until take()

private:
    struct Queue {
        std::mutex mutex;
        std::vector<StepRecordPtr> records;
        bool woken = false;
        EngineBridge* bridge = nullptr;  // null once the bridge is gone
    };
    std::shared_ptr<Queue> queue_;
};

}  // namespace spartan
