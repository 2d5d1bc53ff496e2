// What the views show of a GPU, from imagined records: its memory in the driver's words, adapters on their way, and
// phases that are told or not. SHOTS=DIR keeps pictures.
#include "fake_records.h"
#include "ui/text.h"
#include "ui/time_controller.h"
#include "ui/views/memory_view.h"
#include "ui/views/step_detail_view.h"
#include "ui/views/steps_view.h"
#include "window_fixture.h"

#include <QCheckBox>
#include <QDir>
#include <QtTest>

using namespace spartan;

namespace {

constexpr int64_t kGb = 1'000'000'000;

struct Gpu {
    RunModel model;
    TimeController time;
    Selection selection;
    bool timed = false;
    ViewContext context{model, time, selection, {}, [this](bool on) { timed = on; }, [this] { return timed; }};

    // A run of 96 adapters on an 85 GB GPU of which others hold 3 GB; the driver takes 0.4 GB more than we account for.
    explicit Gpu(bool phases = false) {
        fake::Options options;
        options.adapters = 96;
        options.requests = 300;
        options.max_rows = 96;
        options.pages = 120'000;
        options.pages_per_adapter = 256;
        fake::Source source(options);
        RunHeader h = source.header();
        h.device = "NVIDIA H100 80GB HBM3";
        h.gpu = true;
        h.page_bytes = 524'288;
        h.pool_bytes = h.page_bytes * options.pages;
        h.weight_bytes = 13'477 * int64_t(1'000'000);
        h.workspace_bytes = 310'000'000;
        h.device_bytes = 85 * kGb;
        h.device_used_before = 3 * kGb;
        model.reset(h);
        int64_t asked_us = -kGb;
        for (const StepRecordPtr& r : fake::all(source)) {
            auto record = std::make_shared<StepRecord>(*r);
            if (record->end_us - asked_us > 200'000) {
                asked_us = record->end_us;
                record->device = {85 * kGb, accounted() + 3 * kGb + 400'000'000};
            }
            StepTimes& t = record->times;
            if (!phases) {
                t.other += t.rotate + t.lora + t.products + t.attention + t.head + t.sample;
                t.rotate = t.lora = t.products = t.attention = t.head = t.sample = 0;
            }
            model.append(record);
        }
        time.follow(model);
    }
    int64_t accounted() const {
        const RunHeader& h = model.header();
        return h.weight_bytes + h.workspace_bytes + h.pool_bytes;
    }
};

template <class View>
void show(View& view, Gpu& gpu, QSize size) {
    view.resize(size);
    view.show();
    for (int i = 0; i < 3; ++i) {
        QCoreApplication::processEvents();
        view.refresh(gpu.model, gpu.time);
    }
    QCoreApplication::processEvents();
}

void keepPicture(QWidget& view, const QString& name) {
    const QString dir = qEnvironmentVariable("SHOTS");
    if (dir.isEmpty()) return;
    QDir().mkpath(dir);
    QVERIFY(view.grab().save(dir + QLatin1Char('/') + name + QStringLiteral(".png")));
}

}  // namespace

class GpuViewsTest : public QObject {
    Q_OBJECT
public:
    explicit GpuViewsTest(const OwnHome&) {}

private slots:
    void theStackIsWhatTheDriverSays() {
        Gpu gpu;
        MemoryView view(gpu.context);
        show(view, gpu, {480, 860});
        QVERIFY(view.device().isVisible());
        const RunHeader& h = gpu.model.header();
        const int64_t used = gpu.accounted() + 3 * kGb + 400'000'000;
        for (const QString& part : {bytesText(used), bytesText(h.device_bytes), bytesText(gpu.accounted())})
            QVERIFY2(view.device().text().contains(part), qPrintable(view.device().text()));
        std::map<QString, QString> legend;
        for (const MemoryLegend::Entry& e : view.legend().entries()) legend[e.name] = e.figure;
        QCOMPARE(legend["before"], bytesText(3 * kGb));
        QCOMPARE(legend["driver"], bytesText(400'000'000));
        QCOMPARE(legend["base"], bytesText(h.weight_bytes));
        // The top of the stack is the driver's figure, in every bin.
        double top = 0, least = 1e18;
        for (int g = 0; g < view.timeline().graphCount(); ++g)
            if (view.timeline().graph(g)->name() == QLatin1String("in_use_mb"))
                for (const QCPGraphData& d : *view.timeline().graph(g)->data()) {
                    top = std::max(top, d.value);
                    least = std::min(least, d.value);
                }
        QCOMPARE(top, double(used) / 1e6);
        QVERIFY(least >= double(gpu.accounted() + 3 * kGb) / 1e6 - 1e-6);
    }

    void aCpuShowsNoDriver() {
        Gpu gpu;
        RunHeader h = gpu.model.header();
        h.gpu = false;
        h.device_bytes = h.device_used_before = 0;
        gpu.model.setHeader(h);
        MemoryView view(gpu.context);
        show(view, gpu, {480, 860});
        QVERIFY(!view.device().isVisible());
        QCOMPARE(view.legend().entries().size(), size_t(6));
        for (int g = 0; g < view.timeline().graphCount(); ++g)
            if (view.timeline().graph(g)->name() == QLatin1String("in_use_mb"))
                QCOMPARE(view.timeline().graph(g)->dataCount(), 0);
        StepDetailView detail(gpu.context);
        show(detail, gpu, {700, 560});
        QVERIFY(!detail.phaseSwitch().isVisible());
    }

    void phasesAreOffUntilSomebodyAsks() {
        Gpu gpu;
        StepDetailView view(gpu.context);
        show(view, gpu, {700, 560});
        QVERIFY(view.phaseSwitch().isVisible());
        QVERIFY(!view.phaseSwitch().isChecked());
        QVERIFY(view.phaseSwitch().toolTip().contains(QStringLiteral("takes longer")));
        QCOMPARE(view.phases().bars()[0].label, QStringLiteral("on the GPU"));
        const StepSummary* step = gpu.model.summary(gpu.time.cursorStep());
        QCOMPARE(view.phases().bars()[0].value, double(step->times.other));
        QVERIFY(stepTokens(*step).contains(QStringLiteral("on the GPU")));
        QTest::mouseClick(&view.phaseSwitch(), Qt::LeftButton, {}, QPoint(6, view.phaseSwitch().height() / 2));
        QVERIFY(gpu.timed);
        Gpu told(true);
        StepDetailView phases(told.context);
        show(phases, told, {700, 560});
        QCOMPARE(phases.phases().bars()[0].label, QStringLiteral("rotate"));
    }

    void adaptersOnTheirWayHaveALane() {
        Gpu gpu;
        int64_t with = -1, most = 0;
        for (const StepSummary& s : gpu.model.steps())
            if (s.bytes.transfer > most) with = s.step, most = s.bytes.transfer;
        QVERIFY(with >= 0);
        gpu.time.setCursorStep(with, gpu.model);
        StepsView view(gpu.context);
        show(view, gpu, {700, 320});
        const QImage image = view.ribbon().grab().toImage();
        const QColor transfer = colorsOf(&view).transfer;
        int pixels = 0;
        for (int x = 0; x < image.width(); ++x) pixels += image.pixelColor(x, image.height() - 4) == transfer;
        QVERIFY(pixels > 0);
        QVERIFY(view.ribbon().csv().contains(QString::number(most)));
    }

    // Steps of 10 ms with 2 ms between them; each copy lies where it ran, whichever step tells of it.
    void aCopyIsDrawnWhereItRan() {
        Gpu gpu;
        RunHeader header = gpu.model.header();
        gpu.model.reset(header);
        const AdapterId pirate = header.adapters[0].id, capitals = header.adapters[1].id;
        for (int64_t i = 0; i < 20; ++i) {
            auto r = std::make_shared<StepRecord>();
            r->step = i;
            r->start_us = i * 12'000;
            r->end_us = r->start_us + 10'000;
            r->decode_tokens = 8;
            // From the middle of step 3 to a quarter of step 5, told of in step 6.
            if (i == 6)
                r->adapter_events.push_back({pirate, AdapterEvent::Kind::load, 205'000'000, 41'000 / 2, 41'000});
            // Between two steps: nothing wide, but there.
            if (i == 9) r->adapter_events.push_back({capitals, AdapterEvent::Kind::load, 1'000, 500, 94'500});
            if (i == 12) r->adapter_events.push_back({capitals, AdapterEvent::Kind::evict, 1'000, 5, 140'000});
            if (i == 15) r->adapter_events.push_back({capitals, AdapterEvent::Kind::load, 1'000, 500, -1});
            gpu.model.append(r);
        }
        QCOMPARE(gpu.model.copies().size(), size_t(3));
        gpu.time.follow(gpu.model);
        StepsView view(gpu.context);
        show(view, gpu, {700, 320});
        const StepAxis axis = view.ribbon().axis();
        QCOMPARE(axis.first, int64_t(0));
        const auto boxes = CopyLane::boxes(gpu.model, axis, view.ribbon().lane());
        QCOMPARE(boxes.size(), size_t(3));
        QCOMPARE(boxes[0].rect.left(), 3.5 * axis.bar);
        QVERIFY(std::abs(boxes[0].rect.right() - 5.15 * axis.bar) < 1e-6);
        QCOMPARE(boxes[1].rect.left(), 8 * axis.bar);
        QCOMPARE(boxes[1].rect.width(), 2.0);
        QCOMPARE(boxes[2].rect.left(), 15 * axis.bar);  // when it ran is not known

        const QPointF in_copy(4.2 * axis.bar, view.ribbon().lane().center().y());
        const QString words = view.ribbon().copiesAt(in_copy);
        for (const char* part : {"pirate", "205.0 MB", "20.5 ms", "10.0 GB/s", "0.041 s", "to 0.06", "step 6"})
            QVERIFY2(words.contains(QLatin1String(part)), qPrintable(words));
        QVERIFY(view.ribbon().copiesAt({4.2 * axis.bar, 40}).isEmpty());
        QVERIFY(view.ribbon().copiesAt({15.5 * axis.bar, in_copy.y()}).contains(QStringLiteral("not recorded")));
        const QString none = view.ribbon().copiesAt({12.5 * axis.bar, in_copy.y()});
        QVERIFY2(none.contains(QStringLiteral("no adapter")), qPrintable(none));
        const QImage image = view.ribbon().grab().toImage();
        const QColor transfer = colorsOf(&view).transfer;
        const auto drawn = [&](double bars) {
            return image.pixelColor(int(bars * axis.bar), int(in_copy.y())) == transfer;
        };
        QVERIFY(!drawn(3.2) && drawn(3.8) && drawn(4.5) && drawn(4.9) && !drawn(5.6) && !drawn(6.5));
    }

    void aRunWithoutCopiesSaysSo() {
        Gpu gpu;
        RunHeader header = gpu.model.header();
        for (const bool on_gpu : {true, false}) {
            header.gpu = on_gpu;
            gpu.model.reset(header);
            auto r = std::make_shared<StepRecord>();
            r->end_us = 1'000;
            gpu.model.append(r);
            gpu.time.follow(gpu.model);
            StepsView view(gpu.context);
            show(view, gpu, {700, 320});
            QVERIFY(CopyLane::boxes(gpu.model, view.ribbon().axis(), view.ribbon().lane()).empty());
            const QString words = view.ribbon().copiesAt(view.ribbon().lane().center());
            QVERIFY2(words.contains(on_gpu ? QStringLiteral("to the device") : QStringLiteral("into the pool")),
                     qPrintable(words));
        }
    }

    void pictures() {
        Theme theme(*qApp);
        for (const auto& [mode, name] : {std::pair{ThemeMode::dark, "dark"}, std::pair{ThemeMode::light, "light"}})
            for (const int percent : {100, 200}) {
                theme.set(mode, percent);
                const QString end = QStringLiteral("-%1-%2").arg(QLatin1String(name)).arg(percent);
                const int k = percent / 100;
                Gpu gpu(percent == 200);
                MemoryView memory(gpu.context);
                show(memory, gpu, {480 * k, 860 * k});
                keepPicture(memory, QStringLiteral("memory") + end);
                StepDetailView detail(gpu.context);
                show(detail, gpu, {700 * k, 560 * k});
                keepPicture(detail, QStringLiteral("step") + end);
                gpu.time.setCursorStep(20, gpu.model);
                StepsView steps(gpu.context);
                show(steps, gpu, {700 * k, 320 * k});
                keepPicture(steps, QStringLiteral("steps") + end);
            }
        theme.set(ThemeMode::dark, 100);
    }
};

SPARTAN_UI_TEST_MAIN(GpuViewsTest)
#include "gpu_views_test.moc"
