// An engine that fails under the window: what lives on, and the one button that starts again. By faults that a test
// causes on the CPU; on a GPU the same path follows a lost device.
#include "core/run/run_dir.h"
#include "ui/chrome.h"
#include "ui/text.h"
#include "ui/views/playground_view.h"
#include "ui/views/workload_view.h"
#include "window_fixture.h"

#include <QAbstractButton>
#include <QLabel>
#include <QPlainTextEdit>
#include <QSignalSpy>
#include <QtTest>

using namespace spartan;

namespace {

Workload small(int64_t requests, int64_t output) { return smallWorkload("faults", requests, output); }
void load(Window& w) { loadTiny(w.session, 2, QStringLiteral("f32")); }

QAbstractButton* startAgainOf(const Window& w) {
    for (QAbstractButton* b : w.window.findChild<Banner*>()->findChildren<QAbstractButton*>())
        if (b->text() == QStringLiteral("Start again") && b->isVisible()) return b;
    return nullptr;
}

QStringList namesOf(Session& session) {
    QStringList names;
    for (const LibraryEntry& e : session.library().entries())
        if (e.kind == LibraryEntry::Kind::adapter) names << toQ(e.name) + QLatin1Char(' ') + toQ(e.geometry);
    return names;
}

}  // namespace

class FaultTest : public QObject {
    Q_OBJECT
public:
    explicit FaultTest(const OwnHome&) {}

private slots:
    void aLostDeviceEndsTheRunAndOneButtonStartsAgain() {
        Window w;
        load(w);
        w.window.workloadView().setWorkload(small(2'000, 64), QStringLiteral("test"));
        QSignalSpy ended(&w.session, &Session::runFinished), failed(&w.session, &Session::engineFailed);
        const auto model = w.session.model();
        const QStringList adapters = namesOf(w.session);
        w.window.startRun();
        QTRY_VERIFY_WITH_TIMEOUT(w.session.runModel().counts().completed > 0, 20'000);
        w.session.engine()->cause_fault(Fault::device_lost);
        QTRY_COMPARE_WITH_TIMEOUT(failed.size(), 1, 10'000);
        const QString why = failed[0][0].toString();
        QVERIFY2(why.contains(QStringLiteral("the device is lost")), qPrintable(why));
        QCOMPARE(ended.size(), 1);
        QCOMPARE(w.session.runState(), Session::RunState::idle);

        // The window lives: it shows what was recorded and why it ended.
        QVERIFY(w.window.tick() >= 0);
        QCOMPARE(toQ(w.session.runModel().failure()), why);
        QVERIFY(w.window.findChild<Banner*>()->text().contains(why));
        const RunCounts counts = w.session.runModel().counts();
        QCOMPARE(counts.finished(), counts.arrived);  // every request has ended,
        QVERIFY(counts.failed > 0);
        for (const RequestSummary& r : w.session.runModel().finishedRequests())
            if (r.finish == FinishReason::error) QCOMPARE(toQ(r.error), why);  // with the reason
        // The recording is whole and says that the run is not.
        const auto info = open_run(toStd(ended[0][0].toString()));
        QVERIFY(info);
        QVERIFY(!info->complete);
        int64_t recorded = 0;
        Progress progress;
        QVERIFY(read_steps(*info, progress, [&](const StepRecordPtr& r) { recorded += int64_t(r->finished.size()); }));
        QCOMPARE(recorded, counts.finished());

        QTRY_VERIFY(startAgainOf(w));
        QTest::mouseClick(startAgainOf(w), Qt::LeftButton);
        QTRY_COMPARE_WITH_TIMEOUT(w.session.runState(), Session::RunState::running, 10'000);
        QTRY_VERIFY_WITH_TIMEOUT(w.session.runModel().counts().completed > 0, 20'000);
        QVERIFY(w.session.runModel().failure().empty());
        QCOMPARE(w.session.model(), model);
        QCOMPARE(namesOf(w.session), adapters);
        QCOMPARE(w.session.runModel().header().workload_name, std::string("faults"));
        w.session.stop();
        QTRY_COMPARE_WITH_TIMEOUT(ended.size(), 2, 10'000);
        QVERIFY(ended[1][0].toString() != ended[0][0].toString());
        QCOMPARE(failed.size(), 1);
    }

    void thePlaygroundGoesOnToo() {
        Window w;
        load(w);
        QSignalSpy failed(&w.session, &Session::engineFailed);
        PlaygroundView& playground = w.window.playgroundView();
        QString error = QStringLiteral("not called");
        w.session.ensureEngine([&](const QString& e) { error = e; });
        QTRY_COMPARE_WITH_TIMEOUT(error, QString(), 10'000);
        w.session.engine()->cause_fault(Fault::device_lost);
        playground.findChild<QPlainTextEdit*>()->setPlainText(QStringLiteral("Hello"));
        playground.send();
        QTRY_COMPARE_WITH_TIMEOUT(failed.size(), 1, 10'000);
        QVERIFY(!playground.generating());
        QVERIFY(!w.session.engine());
        const QString dir = w.session.recordingDir();
        QTRY_VERIFY_WITH_TIMEOUT(open_run(toStd(dir)) && !open_run(toStd(dir))->complete, 10'000);
        QTRY_VERIFY(startAgainOf(w));
        QTest::mouseClick(startAgainOf(w), Qt::LeftButton);
        QTRY_VERIFY_WITH_TIMEOUT(w.session.engine() != nullptr, 10'000);
        const int64_t steps = w.session.runModel().totalSteps();
        playground.send();
        QTRY_VERIFY_WITH_TIMEOUT(!playground.generating() && w.session.runModel().totalSteps() > steps, 20'000);
        QCOMPARE(failed.size(), 1);
    }

    // Where this process cannot have the device back, the button starts the program anew with the session.
    void aDeviceThatStaysLostIsLeftToAnotherProcess() {
        QStringList arguments;
        QStringList adapters;
        Json workload;
        {
            Window w;
            load(w);
            w.session.removeAdapters({w.session.library().entries().back().key});
            w.session.setRecovery([](int) { return Result<void>(make_error("the context is gone")); });
            w.window.setRestarter([&](const QStringList& a) {
                arguments = a;
                return true;
            });
            w.window.workloadView().setWorkload(small(300, 32), QStringLiteral("test"));
            QSignalSpy failed(&w.session, &Session::engineFailed);
            w.window.startRun();
            QTRY_VERIFY_WITH_TIMEOUT(w.session.engine() != nullptr, 10'000);
            w.session.engine()->cause_fault(Fault::device_lost);
            QTRY_COMPARE_WITH_TIMEOUT(failed.size(), 1, 10'000);
            adapters = namesOf(w.session);
            workload = workload_to_json(w.window.workloadView().workload());
            QTRY_VERIFY(startAgainOf(w));
            QTest::mouseClick(startAgainOf(w), Qt::LeftButton);
            QTRY_COMPARE_WITH_TIMEOUT(arguments.size(), 2, 10'000);
            QVERIFY(!w.window.isVisible());
        }
        QCOMPARE(arguments[0], QStringLiteral("--restore"));
        QCOMPARE(int(QFile::permissions(arguments[1]) & (QFile::ReadGroup | QFile::ReadOther)), 0);
        Window next;
        QSignalSpy ended(&next.session, &Session::runFinished);
        next.window.restore(arguments[1]);
        QVERIFY(!QFile::exists(arguments[1]));
        QTRY_COMPARE_WITH_TIMEOUT(ended.size(), 1, 30'000);  // the workload that was running runs again
        QCOMPARE(next.session.runModel().counts().completed, int64_t(300));
        QCOMPARE(next.session.modelPath(), QStringLiteral("synthetic:tiny"));
        QCOMPARE(next.session.model()->dtype, DType::f32);
        QCOMPARE(namesOf(next.session), adapters);
        Json restored = workload_to_json(next.window.workloadView().workload());
        for (const char* key : {"model", "adapters"}) {  // the library holds them
            restored.erase(key);
            workload.erase(key);
        }
        QCOMPARE(restored.dump(), workload.dump());
    }

    // A step that hangs: the window says so, lives on, and goes on by itself when the device does.
    void aDeviceThatDoesNotAnswerIsSaid() {
        Window w;
        load(w);
        bool quit = false;
        int64_t kept = 0;
        w.window.setQuitter([&] {
            quit = true;
            const auto info = open_run(toStd(w.session.writingDir()));
            QVERIFY(info);
            Progress progress;
            QVERIFY(read_steps(*info, progress, [&](const StepRecordPtr&) { ++kept; }));
        });
        QSignalSpy ended(&w.session, &Session::runFinished);
        Workload workload = small(2'000, 64);
        workload.engine.watchdog_s = 1;
        w.session.run(workload);
        QTRY_VERIFY_WITH_TIMEOUT(w.session.runModel().counts().completed > 0, 20'000);
        w.session.engine()->cause_fault(Fault::stall);
        QTRY_VERIFY_WITH_TIMEOUT(!w.session.silence().isEmpty(), 10'000);
        Banner& banner = *w.window.findChild<Banner*>();
        QVERIFY2(banner.text().contains(QStringLiteral("without an answer")), qPrintable(banner.text()));
        QVERIFY(w.window.tick() >= 0);
        bool said = false;
        for (const QLabel* label : w.window.findChildren<QLabel*>())
            said |= label->text().contains(QStringLiteral("not answering"));
        QVERIFY(said);
        QAbstractButton* end = nullptr;
        for (QAbstractButton* b : banner.findChildren<QAbstractButton*>())
            if (b->text() == QStringLiteral("End the program") && b->isVisible()) end = b;
        QVERIFY(end);
        QTest::mouseClick(end, Qt::LeftButton);
        QVERIFY(quit);                                      // where the process would have ended, with
        QCOMPARE(kept, w.session.runModel().totalSteps());  // everything on disk
        QTRY_VERIFY_WITH_TIMEOUT(w.session.silence().isEmpty(), 10'000);
        QVERIFY2(banner.text().contains(QStringLiteral("answers again")), qPrintable(banner.text()));
        const int64_t before = w.session.runModel().counts().completed;
        QTRY_VERIFY_WITH_TIMEOUT(w.session.runModel().counts().completed > before, 20'000);
        w.session.stop();
        QTRY_COMPARE_WITH_TIMEOUT(ended.size(), 1, 10'000);
    }

    void aDamagedSessionIsRefused() {
        Window w;
        const auto path = leave(R"({"workload": {"schema": 1}})");
        w.window.restore(path);
        QVERIFY(w.window.findChild<Banner*>()->text().contains(QStringLiteral("model")));
        w.window.restore(path);  // it is gone
        QVERIFY(!w.window.findChild<Banner*>()->text().isEmpty());
    }

    void aShortageOfMemoryIsSaidAndTheRunGoesOn() {
        Window w;
        load(w);
        QSignalSpy said(&w.session, &Session::message), ended(&w.session, &Session::runFinished);
        w.session.run(small(200, 32));
        QTRY_VERIFY_WITH_TIMEOUT(w.session.runModel().counts().completed > 0, 20'000);
        w.session.engine()->cause_fault(Fault::out_of_memory);
        QTRY_COMPARE_WITH_TIMEOUT(ended.size(), 1, 30'000);
        QCOMPARE(w.session.runModel().counts().completed, int64_t(200));
        QStringList texts;
        for (const auto& s : said) texts << s[0].toString();
        QCOMPARE(texts.filter(QStringLiteral("out of device memory")).size(), 1);
        QVERIFY(texts.filter(QStringLiteral("The run goes on")).size() == 1);
    }

    // Two engines would not find room on one device: a new one waits until the one before it is down.
    void oneEngineAtATime() {
        Window w;
        load(w);
        for (int i = 0; i < 3; ++i) {
            int answers = 0;
            for (int k = 0; k < 2; ++k) w.session.ensureEngine([&](const QString& e) { answers += e.isEmpty(); });
            w.session.run(small(20, 4));
            QSignalSpy ended(&w.session, &Session::runFinished);
            QTRY_COMPARE_WITH_TIMEOUT(answers, 2, 10'000);
            QTRY_COMPARE_WITH_TIMEOUT(ended.size(), 1, 20'000);
            QCOMPARE(w.session.runModel().counts().completed, int64_t(20));
        }
    }

private:
    static QString leave(const char* text) {
        static QTemporaryDir folder;
        QFile file(folder.path() + QStringLiteral("/session.json"));
        if (!file.open(QIODevice::WriteOnly)) return {};
        file.write(text);
        return file.fileName();
    }
};

SPARTAN_UI_TEST_MAIN(FaultTest)
#include "fault_test.moc"
