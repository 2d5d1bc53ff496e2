// Work off the GUI thread: reading, hashing, parsing, loading. The result comes back as a queued call, or is dropped
// when the object that asked for it is gone.
#pragma once

#include <QCoreApplication>
#include <QPointer>
#include <QThreadPool>

#include <memory>
#include <utility>

namespace spartan {

// Runs work() on a pool thread, then done(result) on the GUI thread if `context` still lives.
template <class Work, class Done>
void runInWorker(QThreadPool& pool, QObject* context, Work work, Done done) {
    pool.start([context = QPointer<QObject>(context), work = std::move(work), done = std::move(done)]() mutable {
        auto result = std::make_shared<decltype(work())>(work());
        // The application object outlives every pool thread, so it carries the call; only the GUI thread looks at
        // context.
        QMetaObject::invokeMethod(
            QCoreApplication::instance(),
            [context = std::move(context), result, done = std::move(done)]() mutable {
                if (context) done(std::move(*result));
            },
            Qt::QueuedConnection);
    });
}

}  // namespace spartan
