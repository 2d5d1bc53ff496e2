// A workload on an engine that has trouble: what its outcome and its recording say.
#include "core/run/runner.h"

#include "../engine/fixture.h"
#include "core/run/run_dir.h"
#include "fixture.h"

#include <QElapsedTimer>
#include <QtTest>
#include <atomic>
#include <regex>
#include <thread>

using namespace spartan;

namespace {

struct Subject {
    TempDir folder;
    Recorder recorder;
    std::unique_ptr<Engine> engine;
    Workload workload;

    explicit Subject(int watchdog_s = 0) {
        test::TinyShape shape;
        EngineOptions options = test::TestEngine::small_options();
        options.watchdog_s = watchdog_s;
        engine = test::expect(Engine::create(test::make_model(DType::f32, shape), options, recorder.sink()));
        workload.model = "hand-made";
        workload.requests = 40;
        workload.prompt_tokens = {"fixed", 12, 1, 1, 0, 0};
        workload.output_tokens = {"fixed", 20, 1, 1, 0, 0};
    }
    RunOutcome run(bool gives_up = false) {
        Progress progress;
        const RunSetup setup{
            *engine, recorder, workload, {}, folder.path("run.wbrun"), make_run_header(*engine, {}, &workload),
            gives_up};
        return test::expect(run_workload(setup, progress));
    }
};

}  // namespace

class RunnerTest : public QObject {
    Q_OBJECT
private slots:
    void a_shortage_of_memory_is_told_and_everything_completes() {
        Subject s;
        s.engine->cause_fault(Fault::out_of_memory);
        const RunOutcome outcome = s.run();
        QVERIFY(outcome.failure.empty());
        QCOMPARE(outcome.completed, int64_t(40));
        QVERIFY2(outcome.trouble.find("out of device memory") != std::string::npos, outcome.trouble.c_str());
        QVERIFY2(outcome.trouble.starts_with("step "), outcome.trouble.c_str());
        const auto info = test::expect(open_run(s.folder.path("run.wbrun")));
        QVERIFY(info.complete);
        std::string recorded;
        Progress progress;
        test::expect(read_steps(info, progress, [&](const StepRecordPtr& r) { recorded += r->trouble; }));
        QVERIFY(outcome.trouble.find(recorded) != std::string::npos && !recorded.empty());
    }

    // The run ends while the device still hangs, with what was recorded.
    void a_device_that_does_not_answer_is_given_up() {
        Subject s(1);
        s.workload.arrival.kind = "closed";
        s.workload.arrival.concurrency = 4;
        s.engine->wait_idle();
        s.engine->cause_fault(Fault::stall);
        QElapsedTimer took;
        took.start();
        const RunOutcome outcome = s.run(true);
        QVERIFY2(took.elapsed() < 1000 * kStallSeconds - 200, qPrintable(QString::number(took.elapsed())));
        QVERIFY(outcome.not_answering);
        const std::regex line("step \\d+ has been running on (cpu|cuda:\\d) for 1 s without an answer");
        QVERIFY2(std::regex_match(outcome.failure, line), outcome.failure.c_str());
        const auto info = test::expect(open_run(s.folder.path("run.wbrun")));
        QVERIFY(!info.complete);
        QVERIFY(!s.engine->watchdog()->silence().empty());
        QVERIFY(s.engine->wait_idle(20'000));  // it was a long step after all
        QVERIFY(s.engine->watchdog()->silence().empty());
    }

    void a_device_that_answers_late_is_waited_for() {
        Subject s(1);
        s.engine->cause_fault(Fault::stall);
        std::atomic<bool> over{false};
        std::string heard;
        std::thread listener([&] {
            while (!over) {
                if (heard.empty()) heard = s.engine->watchdog()->silence();
                std::this_thread::sleep_for(std::chrono::milliseconds(20));
            }
        });
        const RunOutcome outcome = s.run();
        over = true;
        listener.join();
        QVERIFY(!outcome.not_answering);
        QVERIFY(outcome.failure.empty());
        QCOMPARE(outcome.completed, int64_t(40));
        QVERIFY(heard.find("without an answer") != std::string::npos);
    }

    // Waiting for requests, being held and having ended are no silence; nor is anything where the limit is 0.
    void an_idle_engine_is_not_silent() {
        Subject s(1), never(0);
        const auto watchdog = s.engine->watchdog();
        QCOMPARE(s.run().completed, int64_t(40));
        never.engine->cause_fault(Fault::stall);
        QElapsedTimer clock;
        clock.start();
        std::thread other([&] { never.run(); });
        while (clock.elapsed() < 1500) {
            QCOMPARE(watchdog->silence(), std::string());
            QCOMPARE(never.engine->watchdog()->silence(), std::string());
            QTest::qSleep(50);
        }
        other.join();
        s.engine.reset();
        QCOMPARE(watchdog->silence(), std::string());
    }

    void a_lost_device_ends_every_request_with_the_reason() {
        Subject s;
        s.engine->cause_fault(Fault::device_lost);
        const RunOutcome outcome = s.run();
        QVERIFY(!outcome.failure.empty());
        QCOMPARE(outcome.completed, int64_t(0));
        QVERIFY(outcome.num_failed > 0);
        for (const std::string& failure : outcome.failures)
            QVERIFY2(failure.find(outcome.failure) != std::string::npos, failure.c_str());
        const auto info = test::expect(open_run(s.folder.path("run.wbrun")));
        QVERIFY(!info.complete);
    }
};

QTEST_GUILESS_MAIN(RunnerTest)
#include "runner_test.moc"
