// A workload on an engine that has trouble: what its outcome and its recording say.
#include "core/run/runner.h"

#include "../engine/fixture.h"
#include "core/run/run_dir.h"
#include "fixture.h"

#include <QtTest>

using namespace spartan;

namespace {

struct Subject {
    TempDir folder;
    Recorder recorder;
    std::unique_ptr<Engine> engine;
    Workload workload;

    Subject() {
        test::TinyShape shape;
        engine = test::expect(
            Engine::create(test::make_model(DType::f32, shape), test::TestEngine::small_options(), recorder.sink()));
        workload.model = "hand-made";
        workload.requests = 40;
        workload.prompt_tokens = {"fixed", 12, 1, 1, 0, 0};
        workload.output_tokens = {"fixed", 20, 1, 1, 0, 0};
    }
    RunOutcome run() {
        Progress progress;
        const RunSetup setup{
            *engine, recorder, workload, {}, folder.path("run.wbrun"), make_run_header(*engine, {}, &workload)};
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
