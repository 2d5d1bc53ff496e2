// What the window's tests share: settings and folders of their own, a window, and a watch over the event loop.
#pragma once

#include "ui/main_window.h"
#include "ui/session.h"
#include "ui/theme.h"
#include "ui/views/workload_view.h"

#include <QApplication>
#include <QElapsedTimer>
#include <QSettings>
#include <QStandardPaths>
#include <QTemporaryDir>
#include <QTest>
#include <QThread>
#include <QTimer>

#include <algorithm>
#include <cstdlib>
#include <ctime>

namespace spartan {

// Before the QApplication: nothing of the person who runs the tests is read or written.
class OwnHome {
public:
    OwnHome() {
        qputenv("XDG_CONFIG_HOME", folder_.path().toUtf8() + "/config");
        qputenv("XDG_DATA_HOME", folder_.path().toUtf8() + "/data");
        qputenv("XDG_CACHE_HOME", folder_.path().toUtf8() + "/cache");
        qputenv("XDG_RUNTIME_DIR", folder_.path().toUtf8());
        qputenv("QT_QPA_PLATFORM", "offscreen");
        QStandardPaths::setTestModeEnabled(true);
        QSettings::setPath(QSettings::NativeFormat, QSettings::UserScope, folder_.path() + QStringLiteral("/config"));
    }
    QString path(const QString& name) const { return folder_.path() + QLatin1Char('/') + name; }

private:
    QTemporaryDir folder_;
};

// Processor time of the calling thread.
inline double cpuMs() {
    timespec t{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return double(t.tv_sec) * 1e3 + double(t.tv_nsec) / 1e6;
}

inline bool machineIsBusy() {
    double load = 0;
    return getloadavg(&load, 1) == 1 && load > QThread::idealThreadCount();
}

// Times a piece of work: by the clock, or on a machine that has more to do than processors by the thread's own time.
class Stopwatch {
public:
    Stopwatch() { clock_.start(); }
    double ms() const { return busy_ ? cpuMs() - cpu_ : double(clock_.nsecsElapsed()) / 1e6; }

private:
    const bool busy_ = machineIsBusy();
    const double cpu_ = cpuMs();
    QElapsedTimer clock_;
};

// The longest time that the event loop did not come round: by the clock, and in processor time of this thread, which
// other programs on a busy machine do not lengthen.
class Heartbeat {
public:
    Heartbeat() {
        timer_.setInterval(2);
        timer_.setTimerType(Qt::PreciseTimer);
        QObject::connect(&timer_, &QTimer::timeout, &timer_, [this] {
            worst_ = std::max(worst_, clock_.restart());
            const double now = cpuMs();
            worst_cpu_ = std::max(worst_cpu_, now - cpu_);
            cpu_ = now;
        });
        clock_.start();
        timer_.start();
    }
    qint64 worstMs() const { return std::max(worst_, clock_.elapsed()); }
    // What a budget is held against: the clock's, or where the machine has more to do than processors, this thread's.
    double budgetMs() const { return machineIsBusy() ? worst_cpu_ : double(worstMs()); }

private:
    QTimer timer_;
    QElapsedTimer clock_;
    qint64 worst_ = 0;
    double worst_cpu_ = 0, cpu_ = cpuMs();
};

struct Window {
    explicit Window(QSize size = {1600, 1000}) : theme(*qApp), window(theme, session) {
        theme.set(ThemeMode::dark, 100);
        window.setAsksBeforeClosing(false);
        window.resize(size);
        window.show();
        window.activateWindow();
        (void)QTest::qWaitForWindowActive(&window);
    }
    Theme theme;
    Session session;
    MainWindow window;
};

// A short run of the tiny model, of requests that all have the same lengths.
inline Workload smallWorkload(const char* name, int64_t requests, int64_t output) {
    Workload w = demoWorkload();
    w.name = name;
    w.model = "synthetic:tiny";
    w.requests = requests;
    w.ignore_eos = true;
    w.prompt_tokens = {"fixed", 12, 1, 1, 0, 0};
    w.output_tokens = {"fixed", output, 1, 1, 0, 0};
    w.engine.pool_bytes = 32 << 20;
    w.engine.threads = 1;
    return w;
}

// The tiny model with three BOFT adapters and so many LoRA adapters, ready.
inline void loadTiny(Session& session, int lora, const QString& dtype = QStringLiteral("auto")) {
    session.openModel(QStringLiteral("synthetic:tiny"), dtype);
    session.addAdapterArguments(
        {QStringLiteral("synthetic:boft:3:b=16,m=1"), QStringLiteral("synthetic:lora:%1:r=4").arg(lora)},
        QStringLiteral("."));
    QTRY_COMPARE_WITH_TIMEOUT(session.modelState(), Session::ModelState::ready, 30'000);
    QTRY_COMPARE_WITH_TIMEOUT(session.library().readyAdapters(), int64_t(3 + lora), 30'000);
}

}  // namespace spartan

// Like QTEST_MAIN, with a home of its own from the first moment.
#define SPARTAN_UI_TEST_MAIN(Test)              \
    int main(int argc, char** argv) {           \
        const spartan::OwnHome home;            \
        QApplication app(argc, argv);           \
        Test test(home);                        \
        return QTest::qExec(&test, argc, argv); \
    }
