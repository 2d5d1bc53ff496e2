// The workload editor: form and workload agree, edits are undone, files round-trip, mistakes show at their field.
#include "ui/views/workload_view.h"

#include "window_fixture.h"

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
