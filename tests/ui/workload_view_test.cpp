// The workload editor: form and workload agree, edits are undone, files round-trip, mistakes show at their field.
#include "ui/views/workload_view.h"

#include "window_fixture.h"

#include <QCheckBox>
#include <QComboBox>
#include <QLineEdit>
#include <QPushButton>
#include <QSignalSpy>
#include <QSpinBox>

using namespace spartan;

class WorkloadViewTest : public QObject {
    Q_OBJECT
public:
    explicit WorkloadViewTest(const OwnHome& home) : home_(home) {}

private slots:
    void editsReachTheWorkloadAndAreUndone() {
        Window w;
        WorkloadView& view = w.window.workloadView();
        auto* requests = qobject_cast<QSpinBox*>(view.editor(QStringLiteral("requests")));
        QVERIFY(requests);
        const int64_t before = view.workload().requests;
        requests->setValue(100);
        requests->setValue(101);
        QCOMPARE(view.workload().requests, int64_t(101));
        auto* kind = qobject_cast<QComboBox*>(view.editor(QStringLiteral("arrival.kind")));
        kind->setCurrentIndex(kind->findData(QStringLiteral("poisson")));
        QCOMPARE(view.workload().arrival.kind, std::string("poisson"));
        QVERIFY(view.editor(QStringLiteral("arrival.rate"))->isVisibleTo(&view));
        QVERIFY(!view.editor(QStringLiteral("arrival.concurrency"))->isVisibleTo(&view));
        w.session.undoStack().undo();
        QCOMPARE(view.workload().arrival.kind, demoWorkload().arrival.kind);
        w.session.undoStack().undo();  // both changes of one field are one step
        QCOMPARE(view.workload().requests, before);
        QCOMPARE(requests->value(), int(before));
        w.session.undoStack().redo();
        QCOMPARE(view.workload().requests, int64_t(101));
    }

    void presetsAndPreview() {
        Window w;
        WorkloadView& view = w.window.workloadView();
        view.setWorkload(paperWorkload(), QStringLiteral("paper"));
        QCOMPARE(view.workload().requests, int64_t(512));
        QCOMPARE(view.workload().assignment.kind, std::string("round_robin"));
        QCOMPARE(view.workload().output_tokens.value, int64_t(100));
        const WorkloadPreview p = previewOf(paperWorkload(), {"a", "b", "c"});
        QCOMPARE(p.requests, int64_t(512));
        QCOMPARE(p.share.size(), size_t(3));
        QCOMPARE(p.share[0].second + p.share[1].second + p.share[2].second, int64_t(512));
        double n = 0;
        for (const double c : p.prompt_tokens.counts) n += c;
        QCOMPARE(n, 512.0);
        QVERIFY(previewOf(demoWorkload(), {"a"}).share.back().first == "base");
    }

    void theDemoIsTheFileOfThatName() {
        auto file = read_workload(SOURCE_DIR "/resources/workloads/demo.json");
        QVERIFY2(bool(file), file ? "" : file.error().message().c_str());
        QCOMPARE(file->model, std::string("demo"));
        QCOMPARE(file->adapters.size(), size_t(8));
        Workload demo = demoWorkload();
        demo.model = file->model;
        demo.adapters = file->adapters;  // the window's come from its library
        QCOMPARE(workload_to_json(demo).dump(), workload_to_json(*file).dump());
    }

    void filesRoundTrip() {
        Window w;
        WorkloadView& view = w.window.workloadView();
        Workload changed = paperWorkload();
        changed.name = "mine";
        changed.arrival.kind = "gamma";
        changed.arrival.rate = 3.5;
        changed.arrival.cv = 2;
        changed.slo.ttft_ms = 600;
        changed.prompt_tokens = {"lognormal", 0, 4, 300, 80, 0.7};
        changed.engine.max_batch_tokens = 256;
        view.setWorkload(changed, QStringLiteral("test"));
        w.session.openModel(QStringLiteral("synthetic:tiny"));
        QTRY_COMPARE_WITH_TIMEOUT(w.session.modelState(), Session::ModelState::ready, 20'000);
        const QString path = home_.path(QStringLiteral("mine.json"));
        QSignalSpy saved(&view, &WorkloadView::saved), opened(&view, &WorkloadView::opened);
        view.saveTo(path);
        QTRY_COMPARE(saved.size(), 1);
        QVERIFY(saved[0][1].toBool());
        view.setWorkload(demoWorkload(), QStringLiteral("other"));
        view.open(path);
        QTRY_COMPARE(opened.size(), 1);
        QVERIFY(opened[0][1].toBool());
        QCOMPARE(view.workload().name, std::string("mine"));
        QCOMPARE(view.workload().arrival.kind, std::string("gamma"));
        QCOMPARE(view.workload().arrival.cv, 2.0);
        QCOMPARE(*view.workload().slo.ttft_ms, 600.0);
        QCOMPARE(view.workload().prompt_tokens.kind, std::string("lognormal"));
        QCOMPARE(view.workload().engine.max_batch_tokens, 256);
    }

    // Every option of a workload file that can be chosen stands in the form, says what it does, survives a file and is
    // undone.
    void everyEngineOptionIsOffered() {
        Window w;
        WorkloadView& view = w.window.workloadView();
        Workload changed = demoWorkload();
        const EngineOptions before = changed.engine;
        EngineOptions& e = changed.engine;
        e.adapter_strategy = "common_block";
        e.residency = "stream";
        e.adapter_slots = 3;
        e.graphs = false;
        e.phase_times = true;
        e.watchdog_s = 5;
        e.batch_invariant = true;
        e.max_batch_tokens = 65'536;
        e.max_batch_rows = 8'192;
        e.block_tokens = 32;
        e.pool_bytes = 64'000'000;
        e.adapter_bytes = 32'000'000;
        view.setWorkload(changed, QStringLiteral("test"));
        QVERIFY2(view.valid(), qPrintable(view.error()));
        const Json options = engine_options_to_json(e);
        const Json others = engine_options_to_json(before);
        for (const auto& [key, value] : options.items()) {
            if (key == "memory" || key == "scheduler") continue;  // there is one of each
            QVERIFY2(!others.contains(key) || others[key] != value, key.c_str());
            QWidget* editor = view.editor(QStringLiteral("engine.") + QString::fromStdString(key));
            QVERIFY2(editor, key.c_str());
            QVERIFY(editor->isVisibleTo(&view));
            QVERIFY2(editor->toolTip().size() > 20, key.c_str());
        }
        const auto figure = [&](const char* field) {
            return qobject_cast<QSpinBox*>(view.editor(QLatin1String(field)))->value();
        };
        QCOMPARE(figure("engine.adapter_slots"), 3);
        QCOMPARE(figure("engine.max_batch_tokens"), 65'536);
        QCOMPARE(figure("engine.max_batch_rows"), 8'192);
        QVERIFY(!qobject_cast<QCheckBox*>(view.editor(QStringLiteral("engine.graphs")))->isChecked());

        w.session.openModel(QStringLiteral("synthetic:tiny"));
        QTRY_COMPARE_WITH_TIMEOUT(w.session.modelState(), Session::ModelState::ready, 20'000);
        const QString path = home_.path(QStringLiteral("engine.json"));
        QSignalSpy saved(&view, &WorkloadView::saved), opened(&view, &WorkloadView::opened);
        view.saveTo(path);
        QTRY_COMPARE(saved.size(), 1);
        w.session.undoStack().undo();
        QCOMPARE(engine_options_to_json(view.workload().engine).dump(), others.dump());
        view.open(path);
        QTRY_COMPARE(opened.size(), 1);
        QCOMPARE(engine_options_to_json(view.workload().engine).dump(), options.dump());
    }

    void engineOptionsAreChosenByHand() {
        Window w;
        WorkloadView& view = w.window.workloadView();
        const auto choose = [&](const char* field, const char* id) {
            auto* box = qobject_cast<QComboBox*>(view.editor(QLatin1String(field)));
            box->setCurrentIndex(box->findData(QLatin1String(id)));
        };
        for (const std::string& strategy : adapter_strategy_names()) {
            choose("engine.adapter_strategy", strategy.c_str());
            QCOMPARE(view.workload().engine.adapter_strategy, strategy);
        }
        w.session.undoStack().undo();  // one field is one step
        QCOMPARE(view.workload().engine.adapter_strategy, std::string("folded"));
        for (const char* on : {"true", "automatic"}) {
            choose("engine.batch_invariant", on);
            QCOMPARE(view.workload().engine.batch_invariant.has_value(), std::string(on) == "true");
        }
        QWidget* slots_editor = view.editor(QStringLiteral("engine.adapter_slots"));
        QVERIFY(!slots_editor->isVisibleTo(&view));
        choose("engine.residency", "stream");
        QVERIFY(slots_editor->isVisibleTo(&view));
        qobject_cast<QSpinBox*>(slots_editor)->setValue(2);
        QVERIFY(view.valid());
        choose("engine.residency", "resident");  // which has no use for slots: said there, and nothing runs
        QVERIFY(!view.valid());
        QVERIFY(slots_editor->isVisibleTo(&view));
        QVERIFY(slots_editor->property("invalid").toBool());
        QVERIFY2(view.error().contains(QStringLiteral("engine.adapter_slots")), qPrintable(view.error()));
        w.session.undoStack().undo();
        QVERIFY(view.valid());
        QVERIFY(!slots_editor->property("invalid").toBool());
        choose("engine.batch_invariant", "false");  // nothing on a CPU can be had that way
        QVERIFY(!view.valid());
        QVERIFY(view.editor(QStringLiteral("engine.batch_invariant"))->property("invalid").toBool());
    }

    void whatCannotBeReadStaysAMistakeUntilItIsCorrected() {
        Window w;
        WorkloadView& view = w.window.workloadView();
        qobject_cast<QLineEdit*>(view.editor(QStringLiteral("slo.ttft_ms")))->setText(QStringLiteral("soon"));
        qobject_cast<QSpinBox*>(view.editor(QStringLiteral("requests")))->setValue(7);
        QVERIFY(!view.valid());  // the other field is as it was
        QVERIFY2(view.error().contains(QStringLiteral("soon")), qPrintable(view.error()));
        qobject_cast<QLineEdit*>(view.editor(QStringLiteral("slo.ttft_ms")))->setText(QStringLiteral("600"));
        QVERIFY(view.valid());
        QCOMPARE(*view.workload().slo.ttft_ms, 600.0);
    }

    void mistakesShowAtTheirFieldAndStopRun() {
        Window w;
        WorkloadView& view = w.window.workloadView();
        auto* seed = qobject_cast<QLineEdit*>(view.editor(QStringLiteral("seed")));
        seed->setText(QStringLiteral("seven"));
        QVERIFY(!view.valid());
        QVERIFY(seed->property("invalid").toBool());
        seed->setText(QStringLiteral("7"));
        QVERIFY(view.valid());
        QVERIFY(!seed->property("invalid").toBool());
        Workload bad = demoWorkload();
        bad.prompt_tokens = {"uniform", 0, 90, 20, 0, 0};
        view.setWorkload(bad, QStringLiteral("bad"));
        QVERIFY(!view.valid());
        w.session.undoStack().undo();
        QVERIFY(view.valid());
        QSignalSpy opened(&view, &WorkloadView::opened);
        view.open(home_.path(QStringLiteral("absent.json")));
        QTRY_COMPARE(opened.size(), 1);
        QVERIFY(!opened[0][1].toBool());
        QCOMPARE(view.workload().seed, uint64_t(7));
    }

private:
    const OwnHome& home_;
};

SPARTAN_UI_TEST_MAIN(WorkloadViewTest)
#include "workload_view_test.moc"
