// The window as a whole: shortcuts, theme and scale, names for assistive tools, pictures, dialogs, playground helpers.
#include "ui/main_window.h"

#include "core/base/file.h"
#include "ui/dialogs.h"
#include "ui/plot_export.h"
#include "ui/text.h"
#include "ui/views/library_view.h"
#include "ui/views/playground_view.h"
#include "ui/views/workload_view.h"
#include "window_fixture.h"

#include <QAbstractItemModelTester>
#include <QAbstractSpinBox>
#include <QComboBox>
#include <QDir>
#include <QFile>
#include <QLineEdit>
#include <QMenu>
#include <QPlainTextEdit>
#include <QPushButton>
#include <QSignalSpy>

#include <qcustomplot.h>

#include "fake_records.h"
#include "tests/core/model/model_files.h"

using namespace spartan;

namespace {

void fill(Session& session, int steps = 400) {
    fake::Source source({.requests = 64});
    session.runModel().reset(source.header());
    for (const StepRecordPtr& r : fake::all(source, size_t(steps))) session.runModel().append(r);
    session.time().reset();
}

}  // namespace

class WindowTest : public QObject {
    Q_OBJECT
public:
    explicit WindowTest(const OwnHome& home) : home_(home) {}

private slots:
    void keysMoveTimeAndPerspectives() {
        Window w;
        fill(w.session);
        w.window.tick();
        QTest::keyClick(&w.window, Qt::Key_Space);
        QVERIFY(!w.session.time().live());
        const int64_t step = w.session.time().cursorStep();
        QTest::keyClick(&w.window, Qt::Key_Comma);
        QTest::keyClick(&w.window, Qt::Key_Comma);
        QTest::keyClick(&w.window, Qt::Key_Period);
        QCOMPARE(w.session.time().cursorStep(), step - 1);
        QTest::keyClick(&w.window, Qt::Key_Home);
        QVERIFY(w.session.time().live());
        QTest::keyClick(&w.window, Qt::Key_3, Qt::ControlModifier);
        QCOMPARE(w.window.perspective(), Perspective::playground);
        // Typing in a text field stays typing.
        w.window.playgroundView().prompt().setFocus();
        w.window.playgroundView().prompt().clear();
        QTest::keyClicks(&w.window.playgroundView().prompt(), QStringLiteral("a. b, f"));
        QCOMPARE(w.window.playgroundView().prompt().toPlainText(), QStringLiteral("a. b, f"));
        QVERIFY(w.session.time().live());
        QTest::keyClick(&w.window, Qt::Key_F, Qt::ControlModifier);
        QCOMPARE(w.window.perspective(), Perspective::explore);
        QVERIFY(w.window.libraryView().filterBox().hasFocus());
    }

    void themeAndScaleApplyLive() {
        Window w;
        fill(w.session);
        const QImage dark = w.window.picture(QStringLiteral("explore"), {1200, 800});
        w.theme.set(ThemeMode::light, 100);
        const QImage light = w.window.picture(QStringLiteral("explore"), {1200, 800});
        QVERIFY(qGray(dark.pixel(600, 10)) < 80);
        QVERIFY(qGray(light.pixel(600, 10)) > 200);
        const int before = w.window.libraryView().headerHeight();
        w.theme.set(ThemeMode::dark, 150);
        QCOMPARE(w.window.libraryView().headerHeight(), int(std::lround(before * interfaceScale())));
        QVERIFY(interfaceScale() > 1.4);
        w.theme.set(ThemeMode::dark, 1000);
        QCOMPARE(w.theme.scalePercent(), 200);
        w.theme.set(ThemeMode::dark, 100);
        w.theme.save();
        Theme other(*qApp);
        other.load();
        QCOMPARE(other.mode(), ThemeMode::dark);
    }

    void picturesHaveTheWantedSize() {
        Window w;
        fill(w.session);
        for (const QString& view : MainWindow::viewNames()) {
            const QImage image = w.window.picture(view, {1231, 777});
            QCOMPARE(image.size(), QSize(1231, 777));
        }
    }

    void controlsHaveNames() {
        Window w;
        QStringList unnamed;
        for (QWidget* widget : w.window.findChildren<QWidget*>()) {
            const bool control = qobject_cast<QPushButton*>(widget) || qobject_cast<QLineEdit*>(widget) ||
                                 qobject_cast<QComboBox*>(widget) || qobject_cast<QAbstractSpinBox*>(widget) ||
                                 qobject_cast<QCustomPlot*>(widget);
            if (!control || widget->objectName().startsWith(QLatin1String("qt_"))) continue;
            const auto* button = qobject_cast<QPushButton*>(widget);
            if (widget->accessibleName().isEmpty() && !(button && !button->text().isEmpty()))
                unnamed << QString::fromLatin1(widget->metaObject()->className()) + QLatin1Char(' ') +
                               widget->objectName() + QLatin1Char(' ') +
                               QString::fromLatin1(widget->parentWidget()->metaObject()->className());
        }
        QVERIFY2(unnamed.isEmpty(), qPrintable(unnamed.join(QStringLiteral("; "))));
    }

    // The choice in the base model's menu holds for the next model, shows in its row, and lasts until the next start.
    void quantisedWeightsStayAsStoredOnRequest() {
        const QString path = home_.path(QStringLiteral("quantised.gguf"));
        test::GgufBuilder g = test::tiny_gguf();
        auto& down = g.tensor("blk.0.ffn_down.weight");
        down.type = test::kQ8_0;
        down.data.assign(64 * 32 / 32 * 34, char(1));
        QFile file(path);
        QVERIFY(file.open(QFile::WriteOnly) && file.write(QByteArray::fromStdString(g.bytes())) > 0);
        file.close();
        const auto choose = [](MainWindow& window) {
            for (QMenu* menu : window.findChildren<QMenu*>()) {
                emit menu->aboutToShow();
                for (QAction* action : menu->actions())
                    if (action->text() == QLatin1String("Keep quantised weights as stored")) return action;
            }
            return static_cast<QAction*>(nullptr);
        };
        {
            Window w;
            QAction* keep = choose(w.window);
            QVERIFY(keep && !keep->isChecked() && !keep->toolTip().isEmpty());
            keep->trigger();
            w.session.openModel(path);
            QTRY_VERIFY_WITH_TIMEOUT(w.session.model(), 10'000);
            QVERIFY(w.session.model()->kept_bytes > 0);
            const auto& rows = w.session.library().entries();
            QCOMPARE(QString::fromStdString(rows.front().geometry).section(QStringLiteral(" · "), -1),
                     QStringLiteral("weights as stored"));
        }
        Window again;
        again.window.restoreLayout();
        QVERIFY(again.session.keepsQuantised());
        choose(again.window)->trigger();
        again.session.openModel(path);
        QTRY_VERIFY_WITH_TIMEOUT(again.session.model(), 10'000);
        QCOMPARE(again.session.model()->kept_bytes, int64_t(0));
    }

    void disabledRunSaysWhy() {
        Window w;
        QPushButton* run = nullptr;
        for (QPushButton* b : w.window.findChildren<QPushButton*>())
            if (b->text() == QStringLiteral("▶  Run")) run = b;
        QVERIFY(run);
        QVERIFY(!run->isEnabled());
        QVERIFY(run->toolTip().contains(QStringLiteral("base model")));
    }

    void plotsExport() {
        QCustomPlot plot;
        plot.resize(300, 200);
        plot.addGraph()->setData({1, 2, 3}, {4, 5, 6});
        plot.graph()->setName(QStringLiteral("=p99, \"ms\""));
        const ExportTarget target{QStringLiteral("test"), &plot, {}, [] { return QStringLiteral("run-0042"); }};
        QString error;
        const QString dir = home_.path(QStringLiteral("export"));
        QVERIFY(QDir().mkpath(dir));
        QVERIFY(exportPng(target, dir + "/a.png", 2, &error));
        QImage image(dir + "/a.png");
        QCOMPARE(image.size(), QSize(600, 400));
        QCOMPARE(image.text(QStringLiteral("Run")), QStringLiteral("run-0042"));
        QVERIFY(exportSvg(target, dir + "/a.svg", &error));
        QFile svg(dir + "/a.svg");
        QVERIFY(svg.open(QIODevice::ReadOnly) && svg.readAll().contains("<svg"));
        QVERIFY(exportCsv(target, dir + "/a.csv", &error));
        QFile csv(dir + "/a.csv");
        QVERIFY(csv.open(QIODevice::ReadOnly));
        const QByteArray text = csv.readAll();
        QCOMPARE(text.count('\n'), 4);
        QVERIFY(!text.contains("\n="));  // a spreadsheet must not take a name for a formula
        QVERIFY(!exportPng(target, home_.path(QStringLiteral("absent/a.png")), 1, &error));
        QVERIFY(!error.isEmpty());
    }

    void wordsThatDifferAreFound() {
        const QString a = QStringLiteral("the big cat sat"), b = QStringLiteral("the cat sat down");
        const auto changed = changedWords(a, b);
        QCOMPARE(changed.size(), size_t(1));
        QCOMPARE(a.mid(changed[0].first, changed[0].second), QStringLiteral("big"));
        QVERIFY(changedWords(a, a).empty());
        QCOMPARE(changedWords(QStringLiteral("x y z"), QString()).size(), size_t(1));
    }

    void recordingsAreListedRenamedAndDeleted() {
        const QString runs = toQ(runs_dir());
        QVERIFY(runs.startsWith(home_.path({})));
        QVERIFY(QDir().mkpath(runs + "/run-0007.wbrun"));
        QFile f(runs + "/run-0007.wbrun/run.json");
        QVERIFY(f.open(QIODevice::WriteOnly));
        f.write("{ \"schema\": 99 }");
        f.close();
        RecordingsDialog dialog({});
        QAbstractItemModelTester tester(&dialog.model(), QAbstractItemModelTester::FailureReportingMode::QtTest);
        QSignalSpy loaded(&dialog, &RecordingsDialog::loaded);
        QTRY_COMPARE(loaded.size(), 1);
        QCOMPARE(dialog.model().rowCount(), 1);
        QVERIFY(!dialog.model().row(0)->problem.isEmpty());  // a newer schema is refused by its number
        QString moved;
        QVERIFY(!RecordingsDialog::renameRecording(runs + "/run-0007.wbrun", QStringLiteral("../evil")).isEmpty());
        QVERIFY(
            RecordingsDialog::renameRecording(runs + "/run-0007.wbrun", QStringLiteral("first try"), &moved).isEmpty());
        QVERIFY(QFileInfo(moved).isDir());
        QFile other(moved + "/notes.txt");
        QVERIFY(other.open(QIODevice::WriteOnly));
        other.close();
        QVERIFY(!RecordingsDialog::deleteRecording(moved).isEmpty());  // something of the person's lies in it
        QVERIFY(QFile::exists(moved + "/run.json"));
        QVERIFY(other.remove());
        QVERIFY(RecordingsDialog::deleteRecording(moved).isEmpty());
        QVERIFY(!QFileInfo::exists(moved));
    }

    void openingDamagedRecordingsSaysSo() {
        Window w;
        QSignalSpy said(&w.session, &Session::message);
        w.session.openRecording(home_.path(QStringLiteral("no-such.wbrun")));
        QTRY_VERIFY(said.size() > 0);
        QVERIFY(said[0][1].toBool());
        QVERIFY(w.session.runModel().empty());
    }

private:
    const OwnHome& home_;
};

SPARTAN_UI_TEST_MAIN(WindowTest)
#include "window_test.moc"
