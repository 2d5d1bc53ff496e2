// What a person does with the window, by mouse and keys: asking before a run is lost, recordings that break, recents,
// the workload file, the playground, keyboard focus, foreign text.
#include "ui/main_window.h"

#include "core/run/run_dir.h"
#include "ui/chrome.h"
#include "ui/dialogs.h"
#include "ui/settings.h"
#include "ui/text.h"
#include "ui/time_controller.h"
#include "ui/views/library_view.h"
#include "ui/views/playground_view.h"
#include "ui/views/workload_view.h"
#include "window_fixture.h"

#include <QAbstractButton>
#include <QAccessible>
#include <QDir>
#include <QDragEnterEvent>
#include <QDropEvent>
#include <QFile>
#include <QLabel>
#include <QLineEdit>
#include <QMenu>
#include <QMessageBox>
#include <QMimeData>
#include <QPlainTextEdit>
#include <QProcess>
#include <QPushButton>
#include <QSignalSpy>
#include <QSpinBox>
#include <QTableView>
#include <QTextEdit>
#include <QToolButton>

#include <sys/resource.h>
#include <csignal>

using namespace spartan;

namespace {

Workload small(int64_t requests, int64_t output) { return smallWorkload("flows", requests, output); }
void load(Session& session) { loadTiny(session, 4); }

QAbstractButton* buttonIn(const QWidget& parent, const QString& text) {
    for (QAbstractButton* b : parent.findChildren<QAbstractButton*>())
        if (b->text() == text && b->isVisible()) return b;
    return nullptr;
}

// Presses `button` in the next question that opens; `asked` says what it asked.
void answerNext(const QString& button, QString* asked) {
    auto* timer = new QTimer(qApp);
    timer->setInterval(10);
    QObject::connect(timer, &QTimer::timeout, timer, [timer, button, asked] {
        auto* box = qobject_cast<QMessageBox*>(QApplication::activeModalWidget());
        if (!box) return;
        timer->stop();
        timer->deleteLater();
        *asked = box->text() + QLatin1Char('\n') + box->informativeText();
        if (QAbstractButton* b = buttonIn(*box, button))
            b->click();
        else
            box->reject();
    });
    timer->start();
}

}  // namespace

class FlowsTest : public QObject {
    Q_OBJECT
public:
    explicit FlowsTest(const OwnHome& home) : home_(home) {}

private slots:
    void closingDuringARunAsks() {
        Window w;
        load(w.session);
        w.window.setAsksBeforeClosing(true);
        QSignalSpy ended(&w.session, &Session::runFinished);
        w.session.run(small(20'000, 64));
        QTRY_COMPARE_WITH_TIMEOUT(w.session.runState(), Session::RunState::running, 10'000);
        QString asked;
        answerNext(QStringLiteral("Keep it running"), &asked);
        w.window.close();
        QVERIFY2(asked.contains(QStringLiteral("in progress")), qPrintable(asked));
        QVERIFY(asked.contains(QStringLiteral("kept")));
        QVERIFY(w.window.isVisible());
        QCOMPARE(w.session.runState(), Session::RunState::running);

        // A model dropped on the window asks as well, after the drop has ended.
        const QString root = home_.path(QStringLiteral("base"));
        QVERIFY(QDir().mkpath(root));
        QFile config(root + QStringLiteral("/config.json"));
        QVERIFY(config.open(QIODevice::WriteOnly));
        config.write("{}");
        config.close();
        asked.clear();
        answerNext(QStringLiteral("Keep it running"), &asked);
        QMimeData mime;
        mime.setUrls({QUrl::fromLocalFile(root)});
        QDragEnterEvent enter(QPoint(50, 50), Qt::CopyAction, &mime, Qt::LeftButton, Qt::NoModifier);
        QApplication::sendEvent(&w.window, &enter);
        QCOMPARE(w.window.findChild<DropOverlay*>()->words(), QStringLiteral("1 model"));
        QDropEvent drop(QPointF(50, 50), Qt::CopyAction, &mime, Qt::LeftButton, Qt::NoModifier);
        QApplication::sendEvent(&w.window, &drop);
        QTRY_VERIFY(asked.contains(QStringLiteral("Replacing the base")));
        QCOMPARE(w.session.runState(), Session::RunState::running);

        asked.clear();
        answerNext(QStringLiteral("Stop the run"), &asked);
        w.window.close();
        QVERIFY(!asked.isEmpty());
        QVERIFY(!w.window.isVisible());
        QTRY_COMPARE_WITH_TIMEOUT(ended.size(), 1, 10'000);
        QVERIFY(open_run(toStd(ended[0][0].toString())));
    }

    void runPauseStopByMouse() {
        Window w;
        load(w.session);
        w.window.workloadView().setWorkload(small(20'000, 64), QStringLiteral("test"));
        QCoreApplication::processEvents();
        QAbstractButton* run = buttonIn(w.window, QStringLiteral("▶  Run"));
        QVERIFY(run && run->isEnabled());
        QTest::mouseClick(run, Qt::LeftButton);
        QTRY_COMPARE_WITH_TIMEOUT(w.session.runState(), Session::RunState::running, 10'000);
        QTRY_VERIFY(!run->isEnabled());
        QVERIFY(run->toolTip().contains(QStringLiteral("in progress")));
        QTRY_VERIFY_WITH_TIMEOUT(w.session.etaSeconds().has_value(), 10'000);
        QAbstractButton* pause = buttonIn(w.window, QStringLiteral("Pause"));
        QVERIFY(pause && pause->isEnabled());
        QTest::mouseClick(pause, Qt::LeftButton);
        QCOMPARE(w.session.runState(), Session::RunState::held);
        QVERIFY(!w.session.etaSeconds());
        QTRY_COMPARE(pause->text(), QStringLiteral("Resume"));
        QTest::mouseClick(pause, Qt::LeftButton);
        QCOMPARE(w.session.runState(), Session::RunState::running);
        // Space pauses what is shown, not what runs.
        w.window.setFocus();
        QTest::keyClick(&w.window, Qt::Key_Space);
        QVERIFY(!w.session.time().live());
        QCOMPARE(w.session.runState(), Session::RunState::running);
        QSignalSpy ended(&w.session, &Session::runFinished);
        QTest::mouseClick(buttonIn(w.window, QStringLiteral("Stop")), Qt::LeftButton);
        QTRY_COMPARE_WITH_TIMEOUT(ended.size(), 1, 10'000);
        QVERIFY(openSettings().value(QStringLiteral("recentRuns")).toStringList().contains(ended[0][0].toString()));
    }

    void aFullDiskStopsTheRecordingNotTheRun() {
        Window w;
        load(w.session);
        QSignalSpy said(&w.session, &Session::message), ended(&w.session, &Session::runFinished);
        std::signal(SIGXFSZ, SIG_IGN);
        rlimit before{};
        QCOMPARE(getrlimit(RLIMIT_FSIZE, &before), 0);
        const rlimit little{200'000, before.rlim_max};
        QCOMPARE(setrlimit(RLIMIT_FSIZE, &little), 0);
        w.session.run(small(500, 64));
        QTRY_VERIFY_WITH_TIMEOUT(!ended.isEmpty() || !said.isEmpty(), 60'000);
        const bool told_during = ended.isEmpty();
        QTRY_COMPARE_WITH_TIMEOUT(ended.size(), 1, 60'000);
        QCOMPARE(setrlimit(RLIMIT_FSIZE, &before), 0);
        QVERIFY(told_during);
        QVERIFY2(said[0][0].toString().contains(QStringLiteral("the run goes on")), qPrintable(said[0][0].toString()));
        QVERIFY(said[0][1].toBool());
        QCOMPARE(w.session.runModel().counts().completed, int64_t(500));
        // What came before is there, and says that it is not everything.
        const auto info = open_run(toStd(ended[0][0].toString()));
        QVERIFY(info);
        QVERIFY(!info->complete);
        Progress progress;
        int64_t steps = 0;
        (void)read_steps(*info, progress, [&](const StepRecordPtr&) { ++steps; });
        QVERIFY(steps > 0);
    }

    void aVanishedFolderStopsTheRecordingNotTheRun() {
        Window w;
        load(w.session);
        QSignalSpy said(&w.session, &Session::message), ended(&w.session, &Session::runFinished);
        w.session.run(small(500, 64));
        QTRY_VERIFY_WITH_TIMEOUT(w.session.runModel().totalSteps() > 5, 30'000);
        QVERIFY(QDir(w.session.writingDir()).removeRecursively());
        QTRY_COMPARE_WITH_TIMEOUT(ended.size(), 1, 60'000);
        QCOMPARE(w.session.runModel().counts().completed, int64_t(500));
        bool told = false;
        for (const auto& message : said) told |= message[1].toBool() && message[0].toString().contains(".wbrun");
        QVERIFY(told);
    }

    void aKilledRunIsOfferedAgain() {
        QProcess child;
        child.start(QCoreApplication::applicationFilePath(), {QStringLiteral("--run-until-killed")});
        QVERIFY(child.waitForStarted());
        QString dir;
        QTRY_VERIFY_WITH_TIMEOUT(
            [&] {
                for (const RecordingRow& r : listRecordings())
                    if (r.workload == QLatin1String("killed") && QFileInfo(r.dir + "/steps.jsonl").size() > 2'000)
                        dir = r.dir;
                return !dir.isEmpty();
            }(),
            40'000);
        child.kill();
        QVERIFY(child.waitForFinished());
        QFile steps(dir + QStringLiteral("/steps.jsonl"));
        QVERIFY(steps.open(QIODevice::ReadWrite));
        QVERIFY(steps.setFileTime(QDateTime::currentDateTime().addSecs(-60), QFileDevice::FileModificationTime));
        steps.close();

        Window w;
        w.window.offerRecovery();
        auto* banner = w.window.findChild<Banner*>();
        QTRY_VERIFY(banner->text().contains(QFileInfo(dir).completeBaseName()));
        QSignalSpy shown(&w.session, &Session::runShown);
        QTest::mouseClick(buttonIn(*banner, QStringLiteral("Open it")), Qt::LeftButton);
        QTRY_COMPARE_WITH_TIMEOUT(shown.size(), 1, 20'000);
        QVERIFY(w.session.runModel().totalSteps() > 5);
        QCOMPARE(w.session.runModel().header().workload_name, std::string("killed"));
        // Once is enough.
        Window again;
        again.window.offerRecovery();
        QTest::qWait(400);
        QVERIFY(again.window.findChild<Banner*>()->text().isEmpty());
    }

    void theWorkloadSaysWhenItDiffersFromItsFile() {
        Window w;
        load(w.session);
        WorkloadView& view = w.window.workloadView();
        QVERIFY(!view.modified());
        auto* requests = qobject_cast<QSpinBox*>(view.editor(QStringLiteral("requests")));
        requests->setValue(77);
        QVERIFY(view.modified());
        QVERIFY(view.accessibleDescription().contains(QStringLiteral("changed")));
        w.session.undoStack().undo();
        QVERIFY(!view.modified());
        requests->setValue(78);
        const QString path = home_.path(QStringLiteral("mine.json"));
        QSignalSpy saved(&view, &WorkloadView::saved);
        view.saveTo(path);
        QTRY_COMPARE(saved.size(), 1);
        QVERIFY(!view.modified());
        QVERIFY(view.accessibleDescription().contains(QStringLiteral("mine.json")));
        requests->setValue(79);
        QVERIFY(view.modified());
        // Closing asks; Save writes the file.
        w.window.setAsksBeforeClosing(true);
        QString asked;
        answerNext(QStringLiteral("Keep the window open"), &asked);
        w.window.close();
        QVERIFY(asked.contains(QStringLiteral("mine.json")));
        QVERIFY(w.window.isVisible());
        answerNext(QStringLiteral("Save"), &asked);
        w.window.close();
        QVERIFY(!w.window.isVisible());
        const auto read = read_workload(toStd(path));
        QVERIFY(read);
        QCOMPARE(read->requests, int64_t(79));
    }

    void thePlaygroundTakesSixAdaptersMarksWordsAndStops() {
        Window w;
        load(w.session);
        w.window.setPerspective(Perspective::playground);
        PlaygroundView& view = w.window.playgroundView();
        std::vector<int> keys;
        for (const LibraryEntry& e : w.session.library().entries())
            if (e.kind == LibraryEntry::Kind::adapter) keys.push_back(e.key);
        QCOMPARE(keys.size(), size_t(7));
        view.setColumns(keys);
        QCOMPARE(view.columnCount(), 7);  // the base and six: the seventh adapter is one too many
        QAbstractButton* add = buttonIn(view, QStringLiteral("+ Column"));
        QVERIFY(add && !add->isEnabled());
        QVERIFY(add->toolTip().contains(QStringLiteral("Six")));

        std::map<RequestId, RequestRecord> finished;
        int most_rows = 0;
        connect(&w.session, &Session::recordsArrived, &view, [&](const std::vector<StepRecordPtr>& records) {
            for (const StepRecordPtr& r : records) {
                most_rows = std::max(most_rows, int(r->rows.size()));
                for (const RequestRecord& f : r->finished) finished[f.id] = f;
            }
        });
        QSignalSpy done(&view, &PlaygroundView::finished);
        view.prompt().setPlainText(QStringLiteral("<b>hello</b> & bye"));
        QTest::mouseClick(buttonIn(view, QStringLiteral("Send ⏎")), Qt::LeftButton);
        QTRY_COMPARE_WITH_TIMEOUT(done.size(), 1, 60'000);
        QCOMPARE(most_rows, 7);  // one batch
        QCOMPARE(finished.size(), size_t(7));
        // What stands in the columns is what the engine's records say, as plain text.
        QStringList expected, got;
        for (const auto& [id, f] : finished)
            expected << toQ(w.session.model()->info.tokenizer->decode(f.output, true)).remove(QChar(0));
        for (int i = 0; i < 7; ++i) got << view.answer(i);
        const auto plain = [](QStringList list) {
            for (QString& s : list) s.replace(QLatin1String("\r\n"), QLatin1String("\n")).remove(QChar(0xfffd));
            list.sort();
            return list;
        };
        for (int i = 0; i < 7; ++i) QCOMPARE(plain(got)[i].size() > 0, plain(expected)[i].size() > 0);
        bool marked = false;
        for (QTextEdit* text : view.findChildren<QTextEdit*>()) {
            QVERIFY(!text->acceptRichText());
            marked |= !text->extraSelections().isEmpty();
        }
        QTRY_VERIFY_WITH_TIMEOUT(
            [&] {
                for (QTextEdit* text : view.findChildren<QTextEdit*>()) marked |= !text->extraSelections().isEmpty();
                return marked;
            }(),
            3'000);

        // The same seed gives the same answers, another one others; Stop ends all of them.
        const QStringList first = got;
        view.send();
        QTRY_COMPARE_WITH_TIMEOUT(done.size(), 2, 60'000);
        for (int i = 0; i < 7; ++i) QCOMPARE(view.answer(i), first[i]);
        for (QSpinBox* box : view.findChildren<QSpinBox*>())
            if (box->accessibleName() == QLatin1String("max tokens")) box->setValue(400);
        finished.clear();
        view.send();
        QTRY_VERIFY(view.generating());
        QTest::mouseClick(buttonIn(view, QStringLiteral("Stop")), Qt::LeftButton);
        QTRY_COMPARE_WITH_TIMEOUT(done.size(), 3, 10'000);
        QVERIFY(!view.generating());
        QCOMPARE(finished.size(), size_t(7));
    }

    void sheetScaleThemeAndRecents() {
        Window w;
        QTest::keyClick(&w.window, Qt::Key_Question);
        QWidget* sheet = QApplication::activeModalWidget();
        QVERIFY(sheet);
        QStringList words;
        for (const QLabel* label : sheet->findChildren<QLabel*>()) words << label->text();
        for (const ShortcutLine& line : shortcutLines()) QVERIFY2(words.contains(line.keys), qPrintable(line.keys));
        QTest::keyClick(sheet, Qt::Key_Escape);
        QTRY_VERIFY(!QApplication::activeModalWidget());
        w.window.activateWindow();
        QVERIFY(QTest::qWaitForWindowActive(&w.window));
        const int before = w.theme.scalePercent();
        QTest::keyClick(&w.window, Qt::Key_Equal, Qt::ControlModifier);
        QCOMPARE(w.theme.scalePercent(), before + 10);
        QTest::keyClick(&w.window, Qt::Key_0, Qt::ControlModifier);
        QCOMPARE(w.theme.scalePercent(), 100);
        const ThemeMode mode = w.theme.mode();
        QTest::keyClick(&w.window, Qt::Key_T, Qt::ControlModifier);
        QVERIFY(w.theme.mode() != mode);
        QCOMPARE(openSettings().value(QStringLiteral("scale")).toInt(), 100);
        w.theme.set(ThemeMode::dark, 100);
    }

    void foreignTextStaysPlainEverywhere() {
        Window w;
        load(w.session);
        const QString evil = QStringLiteral("<b>evil</b><img src='x'>");
        w.window.showMessage(evil, true);
        w.session.addPaths({home_.path(evil)});
        w.session.openModel(home_.path(evil));
        QTRY_VERIFY(w.session.library().entries().size() >= 10);
        w.window.tick();
        for (const QLabel* label : w.window.findChildren<QLabel*>())
            if (label->text().contains(QLatin1Char('<')))
                QVERIFY2(label->textFormat() == Qt::PlainText, qPrintable(label->text()));
        for (const QWidget* widget : w.window.findChildren<QWidget*>())
            QVERIFY2(!widget->toolTip().contains(QStringLiteral("<b>evil")) &&
                         !widget->toolTip().contains(QStringLiteral("<img")),
                     qPrintable(widget->toolTip()));
        const LibraryModel& library = w.session.library();
        for (int row = 0; row < library.rowCount(); ++row)
            for (int column = 0; column < library.columnCount(); ++column)
                QVERIFY(!library.index(row, column).data(Qt::ToolTipRole).toString().contains(QStringLiteral("<img")));
        QCOMPARE(menuText(QStringLiteral("a & b")), QStringLiteral("a && b"));
    }

    void theKeyboardReachesEverything() {
        Window w;
        load(w.session);
        QSignalSpy ended(&w.session, &Session::runFinished);
        w.session.run(small(8, 4));
        QTRY_COMPARE_WITH_TIMEOUT(ended.size(), 1, 30'000);
        for (const Perspective p :
             {Perspective::explore, Perspective::inspect, Perspective::playground, Perspective::workload}) {
            w.window.setPerspective(p);
            w.window.tick();
            w.window.setFocus();
            std::vector<QWidget*> reached;
            for (int i = 0; i < 120; ++i) {
                QTest::keyClick(QApplication::focusWidget() ? QApplication::focusWidget() : &w.window, Qt::Key_Tab);
                QWidget* now = QApplication::focusWidget();
                if (!now || (!reached.empty() && now == reached.front())) break;
                reached.push_back(now);
                QAccessibleInterface* a = QAccessible::queryAccessibleInterface(now);
                QVERIFY2(a && !a->text(QAccessible::Name).isEmpty(), now->metaObject()->className());
            }
            for (QWidget* widget : w.window.findChildren<QWidget*>()) {
                if (w.window.findChild<Banner*>()->isAncestorOf(widget)) continue;  // it comes and goes by itself
                if (!(widget->focusPolicy() & Qt::TabFocus) || !widget->isVisible() || !widget->isEnabled()) continue;
                if (widget->focusProxy() || qobject_cast<QAbstractScrollArea*>(widget->parentWidget())) continue;
                if (qobject_cast<QLineEdit*>(widget) && qobject_cast<QAbstractSpinBox*>(widget->parentWidget()))
                    continue;
                if (std::string(widget->metaObject()->className()) == "QScrollArea") continue;
                const auto* table = qobject_cast<QTableView*>(widget);
                if (table && table->model()->rowCount() == 0) continue;
                QVERIFY2(std::find(reached.begin(), reached.end(), widget) != reached.end(),
                         qPrintable(QStringLiteral("%1 “%2” in perspective %3")
                                        .arg(QLatin1String(widget->metaObject()->className()), widget->accessibleName())
                                        .arg(int(p))));
            }
        }
    }

    void removingIsUndoneWithKeys() {
        Window w;
        load(w.session);
        QTableView& table = w.window.libraryView().table();
        table.setFocus();
        table.selectRow(1);
        QTest::keyClick(&table, Qt::Key_Delete);
        QCOMPARE(w.session.library().readyAdapters(), int64_t(6));
        QTest::keyClick(&w.window, Qt::Key_Z, Qt::ControlModifier);
        QCOMPARE(w.session.library().readyAdapters(), int64_t(7));
    }

private:
    const OwnHome& home_;
};

// As the child of aKilledRunIsOfferedAgain: a run that goes on until it is killed.
static int runUntilKilled(int argc, char** argv) {
    qputenv("QT_QPA_PLATFORM", "offscreen");
    QStandardPaths::setTestModeEnabled(true);
    QApplication app(argc, argv);
    Session session;
    session.openModel(QStringLiteral("synthetic:tiny"));
    QObject::connect(&session, &Session::modelChanged, &session, [&] {
        if (session.modelState() != Session::ModelState::ready || session.recordingRun()) return;
        Workload w = small(10'000'000, 64);
        w.name = "killed";
        session.run(w);
    });
    QTimer pump;
    QObject::connect(&pump, &QTimer::timeout, &session, &Session::pump);
    pump.start(33);
    QTimer::singleShot(60'000, &app, [] { QCoreApplication::exit(3); });  // should its parent be gone
    return QApplication::exec();
}

int main(int argc, char** argv) {
    if (argc > 1 && std::string(argv[1]) == "--run-until-killed") return runUntilKilled(argc, argv);
    const OwnHome home;
    QApplication app(argc, argv);
    FlowsTest test(home);
    return QTest::qExec(&test, argc, argv);
}
#include "flows_test.moc"
