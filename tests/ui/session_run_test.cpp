// labels: alone
// Runs through the window's session with a real engine on a tiny model: records, recording, hold, stop, playground,
// reopening.
#include "core/run/run_dir.h"
#include "ui/text.h"
#include "ui/views/playground_view.h"
#include "ui/views/workload_view.h"
#include "window_fixture.h"

#include <QPlainTextEdit>
#include <QPushButton>
#include <QSignalSpy>

using namespace spartan;

namespace {

Workload small(int64_t requests, int64_t output) { return smallWorkload("small", requests, output); }
void load(Window& w) { loadTiny(w.session, 1); }

}  // namespace

class SessionRunTest : public QObject {
    Q_OBJECT
public:
    explicit SessionRunTest(const OwnHome&) {}

private slots:
    void aRunIsShownRecordedAndOpensAgain() {
        Window w;
        load(w);
        QSignalSpy ended(&w.session, &Session::runFinished);
        QVERIFY(w.session.whyNotRun(small(24, 8)).isEmpty());
        w.session.run(small(24, 8));
        QTRY_COMPARE_WITH_TIMEOUT(ended.size(), 1, 60'000);
        QVERIFY(ended[0][1].toBool());
        const RunModel& model = w.session.runModel();
        QCOMPARE(model.counts().completed, int64_t(24));
        QCOMPARE(model.counts().output_tokens, int64_t(24 * 8));
        QCOMPARE(model.overall(Metric::ttft, 0, model.endUs()).n, int64_t(24));
        QCOMPARE(model.overall(Metric::itl, 0, model.endUs()).n, int64_t(24 * 7));
        QCOMPARE(model.adapterTotals().size(), size_t(5));
        QVERIFY(model.pagesKnown());

        const QString dir = ended[0][0].toString();
        QCOMPARE(QFileInfo(dir).permissions() & 0x77,
                 QFile::Permissions());  // for the owner only: recordings hold prompts
        const auto info = open_run(toStd(dir));
        QVERIFY(info);
        QVERIFY(info->complete);

        const QuantilePoint live = model.overall(Metric::e2e, 0, model.endUs());
        const size_t live_adapters = model.header().adapters.size();
        const int64_t steps = model.totalSteps();
        QSignalSpy shown(&w.session, &Session::runShown);
        w.session.openRecording(dir);
        QTRY_COMPARE_WITH_TIMEOUT(shown.size(), 1, 20'000);
        QCOMPARE(model.totalSteps(), steps);
        QCOMPARE(model.header().adapters.size(), live_adapters);
        QCOMPARE(model.header().model_name, w.session.model()->info.name);
        QVERIFY(!model.header().adapters[0].parts.empty());
        const QuantilePoint again = model.overall(Metric::e2e, 0, model.endUs());
        QCOMPARE(again.n, live.n);
        QCOMPARE(again.p99, live.p99);
    }

    void holdStandsStillAndStopKeeps() {
        Window w;
        load(w);
        QSignalSpy ended(&w.session, &Session::runFinished);
        w.session.run(small(2'000, 100));
        QTRY_VERIFY_WITH_TIMEOUT(w.session.runModel().totalSteps() > 5, 30'000);
        QCOMPARE(w.session.runState(), Session::RunState::running);
        w.session.hold();
        QCOMPARE(w.session.runState(), Session::RunState::held);
        QTest::qWait(300);
        const int64_t steps = w.session.runModel().totalSteps();
        QTest::qWait(300);
        QVERIFY(w.session.runModel().totalSteps() <= steps + 1);
        w.session.release();
        QTRY_VERIFY_WITH_TIMEOUT(w.session.runModel().totalSteps() > steps + 3, 30'000);
        QVERIFY(w.session.runModel().heldUs() > 300'000);
        w.session.stop();
        QTRY_COMPARE_WITH_TIMEOUT(ended.size(), 1, 10'000);
        QVERIFY(!ended[0][1].toBool());
        QCOMPARE(w.session.runState(), Session::RunState::idle);
        const auto info = open_run(toStd(ended[0][0].toString()));
        QVERIFY(info);
        QVERIFY(!info->complete);
        // And the next one starts.
        w.session.run(small(4, 4));
        QTRY_COMPARE_WITH_TIMEOUT(ended.size(), 2, 30'000);
        QVERIFY(ended[1][1].toBool());
    }

    void thePlaygroundStreamsEveryColumnFromOneBatch() {
        Window w;
        load(w);
        w.window.setPerspective(Perspective::playground);
        PlaygroundView& view = w.window.playgroundView();
        QTRY_COMPARE(view.columnCount(), 4);  // the base and the first three
        QSignalSpy done(&view, &PlaygroundView::finished);
        view.prompt().setPlainText(QStringLiteral("hello"));
        view.prompt().setFocus();
        QTest::keyClick(&view.prompt(), Qt::Key_Return, Qt::ControlModifier);
        QTRY_COMPARE_WITH_TIMEOUT(done.size(), 1, 60'000);
        QVERIFY(!view.generating());
        QVERIFY(w.session.runModel().counts().finished() == 4);
        // During a run the prompt joins its batch; a second prompt later does not push the run off the screen.
        w.session.run(small(100'000, 64));  // does not end by itself, however slow the playground
        QTRY_COMPARE_WITH_TIMEOUT(w.session.runState(), Session::RunState::running, 10'000);
        view.send();
        QTRY_COMPARE_WITH_TIMEOUT(done.size(), 2, 60'000);
        QSignalSpy ended(&w.session, &Session::runFinished);
        w.session.stop();
        QTRY_COMPARE_WITH_TIMEOUT(ended.size(), 1, 10'000);
        const int64_t steps = w.session.runModel().totalSteps();
        view.send();
        QTRY_COMPARE_WITH_TIMEOUT(done.size(), 3, 60'000);
        QCOMPARE(w.session.runModel().totalSteps(), steps);
    }

    void cancellingALoadIsQuick() {
        Session session;
        session.openModel(QStringLiteral("synthetic:smollm2-135m"));
        QTRY_VERIFY_WITH_TIMEOUT(
            session.modelState() == Session::ModelState::loading || session.modelState() == Session::ModelState::ready,
            20'000);
        QElapsedTimer clock;
        clock.start();
        session.cancelModelLoad();
        QVERIFY(clock.elapsed() < 200);
        QVERIFY(session.modelState() != Session::ModelState::loading);
    }

    void closingDuringARunLosesNothing() {
        QString dir;
        QElapsedTimer clock;
        {
            Window w;
            load(w);
            w.session.run(small(2'000, 100));
            QTRY_VERIFY_WITH_TIMEOUT(w.session.runModel().totalSteps() > 5, 30'000);
            dir = w.session.recordingDir();
            clock.start();
            w.window.close();
        }
        QVERIFY2(clock.elapsed() < 4'000, qPrintable(QString::number(clock.elapsed())));
        const auto info = open_run(toStd(dir));
        QVERIFY(info);
        Progress progress;
        int64_t steps = 0;
        QVERIFY(read_steps(*info, progress, [&](const StepRecordPtr&) { ++steps; }));
        QVERIFY(steps > 5);
    }
};

SPARTAN_UI_TEST_MAIN(SessionRunTest)
#include "session_run_test.moc"
