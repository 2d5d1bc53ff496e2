// The library's models, drops on the window, and what happens to what was dropped.
#include "ui/library_model.h"

#include "core/run/recorder.h"
#include "ui/chrome.h"
#include "ui/text.h"
#include "ui/views/adapter_details.h"
#include "ui/views/library_view.h"
#include "window_fixture.h"

#include <QAbstractItemModelTester>
#include <QDir>
#include <QDragEnterEvent>
#include <QDropEvent>
#include <QFile>
#include <QMimeData>
#include <QSignalSpy>
#include <QTableView>

using namespace spartan;

namespace {

LibraryEntry entry(LibraryModel& model, const char* name, const char* geometry, double p99) {
    LibraryEntry e;
    e.key = model.nextKey();
    e.name = name;
    e.geometry = geometry;
    e.state = LibraryEntry::State::ready;
    e.where = LibraryEntry::Where::host;
    e.p99_ms = p99;
    return e;
}

QMimeData* urls(const QStringList& paths) {
    auto* mime = new QMimeData;
    QList<QUrl> list;
    for (const QString& p : paths) list << QUrl::fromLocalFile(p);
    mime->setUrls(list);
    return mime;
}

void writeFile(const QString& path, const QByteArray& bytes = "{}") {
    QDir().mkpath(QFileInfo(path).absolutePath());
    QFile f(path);
    QVERIFY(f.open(QIODevice::WriteOnly));
    f.write(bytes);
}

}  // namespace

class LibraryTest : public QObject {
    Q_OBJECT
public:
    explicit LibraryTest(const OwnHome& home) : home_(home) {}

private slots:
    void modelKeepsItsPromises() {
        LibraryModel model;
        QAbstractItemModelTester tester(&model, QAbstractItemModelTester::FailureReportingMode::QtTest);
        LibraryFilter filter;
        filter.setSourceModel(&model);
        QAbstractItemModelTester filter_tester(&filter, QAbstractItemModelTester::FailureReportingMode::QtTest);
        std::vector<LibraryEntry> entries;
        for (int i = 0; i < 20; ++i)
            entries.push_back(
                entry(model, ("a" + std::to_string(i)).c_str(), i % 2 ? "LoRA r8" : "BOFT b16 m2", i * 10));
        model.append(entries);
        QCOMPARE(model.rowCount(), 20);
        const auto taken = model.take({entries[3].key, entries[4].key, entries[19].key, 999});
        QCOMPARE(taken.size(), size_t(3));
        QCOMPARE(model.rowCount(), 17);
        model.restore(taken);
        for (int i = 0; i < 20; ++i) QCOMPARE(model.entries()[size_t(i)].name, entries[size_t(i)].name);
        model.change(entries[5].key, [](LibraryEntry& e) { e.name = "renamed"; });
        QCOMPARE(model.index(5, 0).data().toString(), QStringLiteral("renamed"));
        QSignalSpy changed(&model, &QAbstractItemModel::dataChanged);
        model.changeFigures([](LibraryEntry& e) { return e.requests = 3, true; });
        QCOMPARE(changed.size(), 1);
        filter.setText(QStringLiteral("lora"));
        QCOMPARE(filter.rowCount(), 10);
        filter.setText(QStringLiteral("p99>100"));
        QCOMPARE(filter.rowCount(), 9);
        filter.setText(QStringLiteral("boft p99<50"));
        QCOMPARE(filter.rowCount(), 3);
        filter.setText({});
        filter.sort(LibraryModel::kP99, Qt::DescendingOrder);
        QCOMPARE(filter.index(0, LibraryModel::kName).data().toString(), QStringLiteral("a19"));
    }

    void foreignTextStaysPlain() {
        LibraryModel model;
        LibraryEntry e = entry(model, "<b>x</b>\x1b[31m", "LoRA r8", -1);
        e.error = "<img src=x> \u202e evil";
        model.append({e});
        const QString tip = model.index(0, 0).data(Qt::ToolTipRole).toString();
        QVERIFY(!tip.contains(QStringLiteral("<b>")) && !tip.contains(QStringLiteral("<img")));
        QVERIFY(tip.contains(QStringLiteral("&lt;b&gt;")));
        const QString name = model.index(0, 0).data().toString();
        QVERIFY(!name.contains(QChar(0x1b)));
    }

    void dropsAreJudgedByNames() {
        const QString root = home_.path(QStringLiteral("judge"));
        writeFile(root + "/pirate/adapter_config.json");
        writeFile(root + "/many/one/adapter_config.json");
        writeFile(root + "/many/two/adapter_config.json");
        writeFile(root + "/base/config.json");
        writeFile(root + "/model.gguf", "GGUF");
        writeFile(root + "/notes.txt", "x");
        writeFile(root + "/burst.json");
        writeFile(root + "/run-0001.wbrun/run.json");
        const DropSummary s =
            judgeDrop({root + "/pirate", root + "/many", root + "/base", root + "/model.gguf", root + "/notes.txt",
                       root + "/burst.json", root + "/run-0001.wbrun", root + "/gone"});
        QCOMPARE(s.adapters.size(), 3);
        QCOMPARE(s.models.size(), 2);
        QCOMPARE(s.workloads.size(), 1);
        QCOMPARE(s.recordings.size(), 1);
        QCOMPARE(s.refused.size(), 2);
        QVERIFY(s.words().contains(QStringLiteral("3 adapters")));
        QVERIFY(judgeDrop({root + "/pirate/adapter_config.json"}).adapters.first().endsWith(QStringLiteral("/pirate")));
    }

    void theWindowSaysWhatADropHolds() {
        Window w;
        const QString root = home_.path(QStringLiteral("judge"));
        const auto enter = [&](QMimeData* mime) {
            const std::unique_ptr<QMimeData> own(mime);
            QDragEnterEvent e(QPoint(50, 50), Qt::CopyAction, mime, Qt::LeftButton, Qt::NoModifier);
            QApplication::sendEvent(&w.window, &e);
            return e.isAccepted();
        };
        auto* overlay = w.window.findChild<DropOverlay*>();
        QVERIFY(enter(urls({root + "/pirate", root + "/model.gguf"})));
        QVERIFY(overlay->isVisible());
        QCOMPARE(overlay->words(), QStringLiteral("1 adapter, 1 model"));
        QDragLeaveEvent leave;
        QApplication::sendEvent(&w.window, &leave);
        QVERIFY(!overlay->isVisible());
        QVERIFY(!enter(urls({root + "/notes.txt"})));
        QVERIFY(!overlay->takes());
        QVERIFY(!enter([] {
            auto* m = new QMimeData;
            m->setText(QStringLiteral("hello"));
            return m;
        }()));
    }

    void droppedBeforeABaseTheyWaitAndBadOnesStay() {
        Window w;
        const QString root = home_.path(QStringLiteral("wait"));
        writeFile(root + "/broken/adapter_config.json", "{ \"peft_type\": 7");
        std::unique_ptr<QMimeData> mime(urls({root + "/broken", home_.path(QStringLiteral("judge/notes.txt"))}));
        QDragEnterEvent enter(QPoint(50, 50), Qt::CopyAction, mime.get(), Qt::LeftButton, Qt::NoModifier);
        QApplication::sendEvent(&w.window, &enter);
        QDropEvent e(QPointF(50, 50), Qt::CopyAction, mime.get(), Qt::LeftButton, Qt::NoModifier);
        QApplication::sendEvent(&w.window, &e);
        QTRY_COMPARE(w.session.library().rowCount(), 2);
        QTRY_VERIFY(!w.session.readingAdapters());
        for (const LibraryEntry& row : w.session.library().entries()) {
            QCOMPARE(row.state, LibraryEntry::State::failed);
            QVERIFY(!row.error.empty());
        }
        // Generated ones need the base to know their shapes: they wait, then are made.
        w.session.addAdapterArguments({QStringLiteral("synthetic:boft:4:b=16,m=1")}, QStringLiteral("."));
        QCOMPARE(w.session.library().rowCount(), 6);
        QCOMPARE(w.session.library().entries().back().state, LibraryEntry::State::waiting);
        w.session.openModel(QStringLiteral("synthetic:tiny"));
        QTRY_COMPARE_WITH_TIMEOUT(w.session.modelState(), Session::ModelState::ready, 20'000);
        QTRY_COMPARE_WITH_TIMEOUT(w.session.library().readyAdapters(), int64_t(4), 20'000);
        QCOMPARE(w.session.library().entries().front().kind, LibraryEntry::Kind::model);

        // Removing is undone, and redone.
        std::vector<int> keys;
        for (const LibraryEntry& row : w.session.library().entries())
            if (row.kind == LibraryEntry::Kind::adapter && row.state == LibraryEntry::State::ready)
                keys.push_back(row.key);
        w.session.removeAdapters(keys);
        QCOMPARE(w.session.library().readyAdapters(), int64_t(0));
        w.session.undoStack().undo();
        QCOMPARE(w.session.library().readyAdapters(), int64_t(4));
        w.session.undoStack().redo();
        QCOMPARE(w.session.library().readyAdapters(), int64_t(0));
        w.session.undoStack().undo();

        // Without the base they wait again; with another one they are checked again.
        w.session.unloadModel();
        QTRY_VERIFY(!w.session.readingAdapters());
        QCOMPARE(w.session.library().readyAdapters(), int64_t(0));
        w.session.openModel(QStringLiteral("synthetic:tiny"));
        QTRY_COMPARE_WITH_TIMEOUT(w.session.library().readyAdapters(), int64_t(4), 20'000);
        // A base that is refused leaves everything as it was.
        w.session.openModel(root + QStringLiteral("/nothing.gguf"));
        QTRY_COMPARE(w.session.modelState(), Session::ModelState::ready);
        QCOMPARE(w.session.library().readyAdapters(), int64_t(4));
        QVERIFY(!w.session.library().entries().back().error.empty());
    }

    // Enter opens an adapter's row: what it is made of, how much it changes where, every warning. Escape closes it.
    void anAdaptersRowOpens() {
        Window w;
        w.session.openModel(QStringLiteral("synthetic:tiny"));
        w.session.addAdapterArguments(
            {QStringLiteral("synthetic:boft:1:b=16,m=2"), QStringLiteral("synthetic:lora:1:r=8")}, QStringLiteral("."));
        QTRY_COMPARE_WITH_TIMEOUT(w.session.library().readyAdapters(), int64_t(2), 20'000);
        auto* view = w.window.findChild<LibraryView*>();
        view->table().selectRow(1);
        view->table().setFocus();
        QTest::keyClick(&view->table(), Qt::Key_Return);
        AdapterDetails& details = view->details();
        const int key = view->selectedKeys().at(0);
        QCOMPARE(details.key(), std::optional(key));
        QTRY_VERIFY_WITH_TIMEOUT(!details.map().changes().empty(), 20'000);
        const LibraryEntry* row = w.session.library().find(key);
        QCOMPARE(details.map().changes().size(), row->adapter->parts.size());
        QVERIFY2(details.words().contains(QLatin1String("b 16, m 2 folded to groups of 32")),
                 qPrintable(details.words()));
        QVERIFY2(details.words().contains(QLatin1String("Moves weights by")), qPrintable(details.words()));
        const PartChange& cell = details.map().changes().front();
        QVERIFY(cell.relative > 0);
        const QString words = details.map().describe(details.map().cellRect(cell.layer, cell.part).center().toPoint());
        QVERIFY2(words.startsWith(QStringLiteral("Layer 0, %1:").arg(QLatin1String(name_of(cell.part)))),
                 qPrintable(words));
        QVERIFY(details.map().describe({0, 0}).isEmpty());
        QTest::keyClick(&view->table(), Qt::Key_Escape);
        QVERIFY(!details.isVisible() && !details.key());

        // A warning is shown as plain text; when the adapter goes, so does what is shown of it.
        w.session.library().change(key, [](LibraryEntry& e) { e.warnings = {"<b>careful</b>"}; });
        view->openDetails(key);
        QVERIFY(details.words().contains(QLatin1String("<b>careful</b>")));
        w.session.removeAdapters({key});
        QVERIFY(!details.isVisible());
    }

    // Layers lie side by side; what is of no layer is one cell as wide as all of them.
    void aMapOfTablesAndNorms() {
        ChangeMap map;
        map.resize(400, 100);
        map.set({{2, ChangedPart::v, 0.1},
                 {4, ChangedPart::q, 0.2},
                 {3, ChangedPart::attention_norm, 0.4},
                 {-1, ChangedPart::embedding, 0.3}});
        const QRectF q = map.cellRect(4, ChangedPart::q), v = map.cellRect(2, ChangedPart::v);
        const QRectF embedding = map.cellRect(-1, ChangedPart::embedding);
        QVERIFY(q.top() < v.top() && v.left() < q.left());  // rows in the order of the forward pass
        QVERIFY(map.cellRect(3, ChangedPart::attention_norm).top() > v.top());
        QVERIFY(embedding.left() == v.left() && qFuzzyCompare(embedding.width(), 3 * v.width()));
        QCOMPARE(map.describe(embedding.center().toPoint()), QStringLiteral("Embed: changed by 30 % of its norm"));
        QCOMPARE(map.describe(q.center().toPoint()), QStringLiteral("Layer 4, q: changed by 20 % of its norm"));
        map.set({{-1, ChangedPart::head, 0.5}});  // no layer at all
        QCOMPARE(map.describe(map.cellRect(-1, ChangedPart::head).center().toPoint()),
                 QStringLiteral("Head: changed by 50 % of its norm"));
        map.grab();
    }

    void aThousandAdaptersDoNotStallTheWindow() {
        const QString root = home_.path(QStringLiteral("thousand"));
        QStringList paths;
        for (int i = 0; i < 1000; ++i) {
            const QString dir = root + QStringLiteral("/a%1").arg(i, 4, 10, QLatin1Char('0'));
            writeFile(dir + "/adapter_config.json", i % 100 == 0 ? "{" : R"({"peft_type":"LORA"})");
            paths << dir;
        }
        Window w;
        QTest::qWait(200);
        Heartbeat beat;
        w.session.addPaths(paths);
        QTRY_COMPARE_WITH_TIMEOUT(w.session.library().rowCount(), 1000, 30'000);
        QTRY_VERIFY_WITH_TIMEOUT(!w.session.readingAdapters(), 30'000);
        QTest::qWait(100);
        QVERIFY2(beat.budgetMs() < 100, qPrintable(QStringLiteral("%1 ms").arg(beat.budgetMs())));
        QCOMPARE(w.session.library().rowCount(), 1000);
    }

    void fitIsSaidBeforeLoading() {
        QCOMPARE(judgeFit(500, 1000).verdict, ModelFit::Verdict::fits);
        QCOMPARE(judgeFit(900, 1000).verdict, ModelFit::Verdict::tight);
        QCOMPARE(judgeFit(1000, 1000).verdict, ModelFit::Verdict::wont_fit);
        QCOMPARE(judgeFit(1, 0).verdict, ModelFit::Verdict::wont_fit);
        // Thirteen thousand million parameters do not fit into a test machine; nothing is loaded without a yes.
        Session session;
        QSignalSpy question(&session, &Session::fitQuestion);
        session.openModel(QStringLiteral("synthetic:llama-2-13b"));
        QTRY_VERIFY_WITH_TIMEOUT(question.size() == 1 || session.modelState() == Session::ModelState::loading, 20'000);
        if (question.isEmpty()) session.cancelModelLoad();  // a machine with a hundred gigabytes
        QCOMPARE(session.modelState(), Session::ModelState::none);
        QVERIFY(session.fit().has_value());
    }

private:
    const OwnHome& home_;
};

SPARTAN_UI_TEST_MAIN(LibraryTest)
#include "library_test.moc"
