// A device that hangs takes the engine's thread along: the program ends nevertheless, with what was recorded. Here that
// thread is stopped from outside, as a debugger does, in the middle of its work.
#include "program.h"

#include <QDir>
#include <QElapsedTimer>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <memory>

#include <sys/ptrace.h>
#include <sys/wait.h>

using namespace program;

namespace {

// Long enough for any machine; two threads of work at most: the engine's and the recorder's.
const QByteArray kWorkload = R"({"schema":1,"model":"synthetic:tiny","requests":100000,"ignore_eos":true,
    "arrival":{"kind":"closed","concurrency":8},"prompt_tokens":{"kind":"fixed","value":8},
    "output_tokens":{"kind":"fixed","value":64},"engine":{"pool_bytes":33554432,"watchdog_s":1}})";

// In clock ticks.
int64_t processor_time(const QString& task) {
    const QByteArray stat = read(task + "/stat");
    const auto fields = stat.mid(stat.lastIndexOf(')') + 2).split(' ');
    return fields.size() > 12 ? fields[11].toLongLong() + fields[12].toLongLong() : 0;
}

// The thread that computes: of those that are not the first the one that has worked most, once it has for a while.
pid_t engine_thread(pid_t process) {
    const QString tasks = QString("/proc/%1/task").arg(process);
    for (int i = 0; i < 1000; ++i) {
        QTest::qSleep(20);
        pid_t busiest = 0;
        int64_t most = 30;
        for (const QString& tid : QDir(tasks).entryList(QDir::Dirs | QDir::NoDotAndDotDot)) {
            const int64_t time = processor_time(tasks + '/' + tid);
            if (pid_t(tid.toInt()) == process || time < most) continue;
            most = time;
            busiest = pid_t(tid.toInt());
        }
        if (busiest > 0) return busiest;
    }
    return 0;
}

// One thread of a child, standing still until the process ends or this does.
class StoppedThread {
public:
    explicit StoppedThread(pid_t tid) : tid_(tid) {
        if (::ptrace(PTRACE_SEIZE, tid_, nullptr, nullptr) != 0) {
            why_ = std::strerror(errno);
            return;
        }
        if (::ptrace(PTRACE_INTERRUPT, tid_, nullptr, nullptr) != 0) why_ = std::strerror(errno);
        int status = 0;
        if (::waitpid(tid_, &status, __WALL) != tid_ || !WIFSTOPPED(status)) why_ = "it did not stop";
    }
    const std::string& why_not() const { return why_; }
    // A process is gone only when who stopped its thread has seen that end.
    void let_end() const { ::waitpid(tid_, nullptr, __WALL | WNOHANG); }

private:
    pid_t tid_;
    std::string why_;
};

struct Hung {
    QTemporaryDir dir;
    QProcess process;
    QString out = dir.filePath("out");
    std::string why_not;  // no thread could be stopped
    int64_t ended_after_ms = -1;

    Hung(const QStringList& more, bool interrupt) {
        const QString w = write(dir, "w.json", kWorkload);
        process.setProcessEnvironment(quiet_environment());
        process.start(BUILD_DIR "/app/spartan",
                      QStringList{"run", w, "--device", "cpu", "--threads", "1", "--json", "--out", out} + more);
        if (!process.waitForStarted()) return;
        const pid_t thread = engine_thread(pid_t(process.processId()));
        const StoppedThread stopped(thread);
        why_not = thread == 0 ? "no thread works" : stopped.why_not();
        QElapsedTimer clock;
        clock.start();
        if (interrupt) ::kill(pid_t(process.processId()), SIGINT);
        while (why_not.empty() && clock.elapsed() < 30'000 && !process.waitForFinished(50)) stopped.let_end();
        ended_after_ms = process.state() == QProcess::NotRunning ? clock.elapsed() : -1;
        if (ended_after_ms >= 0) return;
        process.kill();
        for (int i = 0; i < 100 && !process.waitForFinished(50); ++i) stopped.let_end();
    }

    // All that had finished is in the document and on the disk.
    void check_record() {
        const auto document = spartan::parse_json(process.readAllStandardOutput().toStdString(), "stdout");
        QVERIFY(document);
        const int64_t completed = (*document)["completed"].get<int64_t>();
        QVERIFY(completed > 0);
        const QString csv = dir.filePath("requests.csv");
        QCOMPARE(spartan_with({"export", out, "--csv", csv}).code, 0);
        QVERIFY2(read(csv).count('\n') > completed, qPrintable(QString::number(completed)));
    }
};

// A thread that was stopped while it held a lock that all need, such as the allocator's, stops the whole process, which
// says nothing of how it ends: then another run is stopped.
std::unique_ptr<Hung> hung(const QStringList& more, bool interrupt) {
    std::unique_ptr<Hung> run;
    for (int tries = 0; tries < 3 && (!run || (run->why_not.empty() && run->ended_after_ms < 0)); ++tries)
        run = std::make_unique<Hung>(more, interrupt);
    return run;
}

}  // namespace

class HangTest : public QObject {
    Q_OBJECT
private slots:
    void a_run_whose_engine_hangs_ends_by_its_watchdog() {
        const auto run = hung({}, false);
        if (!run->why_not.empty()) QSKIP(("the engine's thread cannot be stopped: " + run->why_not).c_str());
        QVERIFY(run->ended_after_ms >= 0);
        QCOMPARE(run->process.exitStatus(), QProcess::NormalExit);
        QCOMPARE(run->process.exitCode(), 1);
        const QByteArray err = run->process.readAllStandardError();
        QVERIFY2(err.contains("s without an answer, which is longer than engine.watchdog_s allows"), err);
        run->check_record();
    }

    // Ended by hand before the watchdog has noticed: with one signal, not two.
    void an_interrupted_run_whose_engine_hangs_ends() {
        const auto run = hung({"--set", "engine.watchdog_s=0"}, true);
        if (!run->why_not.empty()) QSKIP(("the engine's thread cannot be stopped: " + run->why_not).c_str());
        QVERIFY(run->ended_after_ms >= 0);
        QCOMPARE(run->process.exitStatus(), QProcess::NormalExit);
        QCOMPARE(run->process.exitCode(), 130);
        const QByteArray err = run->process.readAllStandardError();
        QVERIFY2(err.contains("left behind"), err);
        run->check_record();
    }
};

QTEST_GUILESS_MAIN(HangTest)
#include "hang_test.moc"
