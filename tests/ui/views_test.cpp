// What the views display is what the engine recorded: one real run on a tiny model, held once, looked at from all
// sides.
#include "core/run/metrics.h"
#include "core/run/run_dir.h"
#include "ui/text.h"
#include "ui/time_controller.h"
#include "ui/views/adapter_strip.h"
#include "ui/views/latency_view.h"
#include "ui/views/layout_view.h"
#include "ui/views/memory_view.h"
#include "ui/views/page_grid.h"
#include "ui/views/step_detail_view.h"
#include "ui/views/steps_view.h"
#include "ui/views/tiles.h"
#include "ui/views/time_bar.h"
#include "ui/views/workload_view.h"
#include "window_fixture.h"

#include <QFile>
#include <QPushButton>
#include <QSignalSpy>
#include <QWheelEvent>

#include <map>
#include <set>

using namespace spartan;

namespace {

constexpr int64_t kRequests = 400, kWarmup = 4, kOutput = 16;

Workload workload(int64_t requests) {
    Workload w = demoWorkload();
    w.name = "views";
    w.requests = requests;
    w.warmup = kWarmup;
    w.ignore_eos = true;
    w.arrival.kind = "closed";
    w.arrival.concurrency = 8;
    w.prompt_tokens = {"uniform", 0, 8, 40, 0, 0};
    w.output_tokens = {"fixed", kOutput, 1, 1, 0, 0};
    w.engine.pool_bytes = 4 << 20;
    w.engine.threads = 1;
    return w;
}

double figure(QString text) { return text.remove(QLatin1Char(',')).toDouble(); }

// Whether `text`, in units of `unit`, is `exact` rounded to its last digit, whichever that is for times of this size.
bool shows(const QString& text, double unit, double exact) {
    const auto point = text.indexOf(QLatin1Char('.'));
    const auto decimals = point < 0 ? 0 : text.size() - point - 1;
    return std::abs(figure(text) - exact / unit) <= 0.501 * std::pow(10., -double(decimals));
}

QByteArray contentOf(const QString& path) {
    QFile f(path);
    return f.open(QIODevice::ReadOnly) ? f.readAll() : QByteArray();
}

}  // namespace

class ViewsTest : public QObject {
    Q_OBJECT
public:
    explicit ViewsTest(const OwnHome& home) : home_(home) {}

private:
    template <class View>
    View& shown() {
        for (View* v : w_->window.findChildren<View*>())
            if (v->isVisible()) return *v;
        qFatal("no such view is visible");
    }
    RunModel& model() { return w_->session.runModel(); }
    TimeController& time() { return w_->session.time(); }
    void goTo(int64_t step) {
        time().setCursorStep(step, model());
        w_->window.tick();
    }
    // A step in the middle that worked on at least `adapters` adapters.
    const StepRecord& busyStep(size_t adapters) {
        for (size_t i = records_.size() / 2; i < records_.size(); ++i) {
            std::set<AdapterId> distinct;
            for (const StepRow& row : records_[i]->rows)
                if (row.adapter != AdapterId::base) distinct.insert(row.adapter);
            if (distinct.size() >= adapters) return *records_[i];
        }
        qFatal("no such step");
    }

private slots:
    void initTestCase() {
        w_ = std::make_unique<Window>();
        w_->session.openModel(QStringLiteral("synthetic:tiny"));
        w_->session.addAdapterArguments(
            {QStringLiteral("synthetic:boft:2:b=8,m=2,b=16,m=1"), QStringLiteral("synthetic:lora:2:r=4")},
            QStringLiteral("."));
        QTRY_COMPARE_WITH_TIMEOUT(w_->session.library().readyAdapters(), int64_t(4), 30'000);
        connect(&w_->session, &Session::recordsArrived, this, [this](const std::vector<StepRecordPtr>& more) {
            records_.insert(records_.end(), more.begin(), more.end());
        });
        QSignalSpy ended(&w_->session, &Session::runFinished);
        // Held as soon as the first records are there: the tiny model is quick.
        const auto holder = connect(&w_->session, &Session::recordsArrived, this, [this] { w_->session.hold(); });
        QElapsedTimer wall;
        wall.start();
        w_->session.run(workload(kRequests));
        QTRY_COMPARE_WITH_TIMEOUT(w_->session.runState(), Session::RunState::held, 30'000);
        disconnect(holder);
        QTest::qWait(400);
        QVERIFY(model().counts().finished() < kRequests);
        w_->session.release();
        QTRY_COMPARE_WITH_TIMEOUT(ended.size(), 1, 60'000);
        wall_us_ = wall.nsecsElapsed() / 1000;
        QVERIFY(ended[0][1].toBool());
        dir_ = ended[0][0].toString();
        const auto info = open_run(toStd(dir_));
        QVERIFY(info);
        const auto summary = summarise_run(*info);
        QVERIFY(summary);
        summary_ = *summary;
        const auto requests = read_requests(*info);
        QVERIFY(requests);
        requests_ = *requests;
        QCOMPARE(int64_t(requests_.size()), kRequests + kWarmup);
        w_->window.tick();
    }

    void cleanupTestCase() { w_.reset(); }

    void latencyShowsCoresPercentiles() {
        LatencyView& view = shown<LatencyView>();
        const auto& tiles = view.tiles().tiles();
        QCOMPARE(tiles.size(), size_t(6));
        const char* keys[] = {"ttft_ms", "itl_ms", "e2e_ms"};
        for (size_t m = 0; m < 3; ++m) {
            const Json& core = summary_[keys[m]];
            const QuantilePoint all = model().overall(Metric(m), 0, model().endUs());
            QCOMPARE(all.n, core["n"].get<int64_t>());  // the warm-up is in neither
            for (const auto& [p, value] : {std::pair{"p50", all.p50}, {"p95", all.p95}, {"p99", all.p99}})
                QVERIFY2(std::abs(value - core[p].get<double>()) < 1e-3 + 1e-5 * value, p);
            const double unit = tiles[m].unit == QLatin1String("s") ? 1000 : 1;
            const QStringList shown_values = tiles[m].value.split(QStringLiteral(" / "));
            QVERIFY(shows(shown_values.last(), unit, core["p99"].get<double>()));
            if (m < 2) QVERIFY(shows(shown_values.first(), unit, core["p50"].get<double>()));
            QVERIFY(tiles[m].tooltip.contains(QStringLiteral("interpolated linearly")));
            QVERIFY2(view.plots()[m]->note().contains(QStringLiteral("n = ") + count(all.n)),
                     qPrintable(view.plots()[m]->note()));
        }
        QCOMPARE(model().overall(Metric::ttft, 0, model().endUs()).n, kRequests);
        QCOMPARE(model().overall(Metric::itl, 0, model().endUs()).n, kRequests * (kOutput - 1));
        // No binning hides the largest value.
        double longest = 0;
        for (const RequestRecord& r : requests_)
            if (!r.warmup) longest = std::max(longest, double(r.ttft_us()) / 1000);
        double drawn = 0;
        for (const QCPGraphData& d : *view.plots()[0]->graph(0)->data()) drawn = std::max(drawn, d.value);
        QCOMPARE(view.plots()[0]->graph(0)->name(), QStringLiteral("max_ms"));
        QVERIFY(std::abs(drawn - longest) < 1e-3 + longest * 1e-6);
    }

    void theStripHasEachAdaptersPercentiles() {
        LatencyView& view = shown<LatencyView>();
        view.strip().setMetric(Metric::itl);
        std::map<AdapterId, std::vector<double>> gaps;
        for (const RequestRecord& r : requests_)
            for (size_t i = 1; i < r.token_us.size() && !r.warmup; ++i)
                gaps[r.adapter].push_back(double(r.token_us[i] - r.token_us[i - 1]) / 1000);
        QCOMPARE(view.strip().bars().size(), gaps.size());
        double before = 1e300;
        for (const AdapterStrip::Bar& bar : view.strip().bars()) {
            std::vector<double>& values = gaps[bar.id];
            std::sort(values.begin(), values.end());
            QCOMPARE(bar.n, int64_t(values.size()));
            QVERIFY(std::abs(bar.p50 - percentile(values, 50)) < 1e-3);
            QVERIFY(std::abs(bar.p99 - percentile(values, 99)) < 1e-3);
            QVERIFY(bar.p99 <= before);  // worst first
            before = bar.p99;
        }
    }

    void throughputConservesTokens() {
        time().fit(model());
        w_->window.tick();
        ThroughputPlot& plot = shown<LatencyView>().throughput();
        const auto area = [&](int graph) {
            double sum = 0;
            const auto& data = *plot.graph(graph)->data();
            for (auto d = data.constBegin(); d + 1 < data.constEnd(); ++d) sum += d->value * ((d + 1)->key - d->key);
            return sum;
        };
        int64_t prompt = 0, generated = 0;
        for (const StepRecordPtr& r : records_) {
            prompt += r->prefill_tokens;
            for (const StepRow& row : r->rows) generated += row.token >= 0;
        }
        QCOMPARE(generated, (kRequests + kWarmup) * kOutput);
        QVERIFY2(std::abs(area(0) - double(prompt)) < 0.01 * double(prompt), qPrintable(QString::number(area(0))));
        QVERIFY2(std::abs(area(1) - double(generated)) < 0.01 * double(generated),
                 qPrintable(QString::number(area(1))));
        // Close up each step has its own rate.
        const StepRecord& step = busyStep(1);
        time().setRange(step.start_us, step.end_us + 1'000);
        w_->window.tick();
        QVERIFY(plot.note().contains(QStringLiteral("each step")));
        int emitted = 0;
        for (const StepRow& row : step.rows) emitted += row.token >= 0;
        const double rate = emitted / (double(step.duration_us()) / 1e6);
        bool found = false;
        for (const QCPGraphData& d : *plot.graph(1)->data()) found |= std::abs(d.value - rate) < 1e-6 * rate + 1e-9;
        QVERIFY(found);
        time().goLive();
    }

    void memoryCountsTheRecordsPages() {
        MemoryView& view = shown<MemoryView>();
        std::map<int64_t, std::vector<PageOwner>> at;
        const int64_t wanted[] = {records_.front()->step, records_[records_.size() / 3]->step,
                                  records_[records_.size() / 2]->step, records_.back()->step};
        std::vector<PageOwner> pages(size_t(records_.front()->pool.total_pages), PageOwner::free);
        std::map<int64_t, PoolState> pool;
        for (const StepRecordPtr& r : records_) {
            for (const PageChange& c : r->page_changes)
                for (int32_t i = c.first; i < c.first + c.count; ++i) pages[size_t(i)] = c.owner;
            at[r->step] = pages;
            pool[r->step] = r->pool;
        }
        for (const int64_t step : {wanted[2], wanted[0], wanted[1], wanted[3]}) {  // back and forth
            goTo(step);
            const auto& truth = at[step];
            std::array<int64_t, 4> by_owner{};
            for (const PageOwner owner : truth) ++by_owner[size_t(owner)];
            const PoolState& state = pool[step];
            QCOMPARE(by_owner[size_t(PageOwner::kv)], int64_t(state.kv_pages));
            QCOMPARE(by_owner[size_t(PageOwner::adapter)], int64_t(state.adapter_pages));
            int64_t all = 0, used = 0;
            for (const PageGrid::Cell& cell : view.grid().cells()) {
                int64_t truly_used = 0;
                for (int32_t i = cell.first; i < cell.first + cell.pages; ++i)
                    truly_used += truth[size_t(i)] != PageOwner::free;
                QCOMPARE(int64_t(cell.used), truly_used);
                if (cell.pages == 1) QCOMPARE(cell.owner, truth[size_t(cell.first)]);
                QCOMPARE(int64_t(cell.first), all);  // in address order, none left out
                all += cell.pages;
                used += cell.used;
            }
            QCOMPARE(all, int64_t(state.total_pages));
            QCOMPARE(used, int64_t(state.total_pages - state.free_pages()));
            const auto legend = [&](const char* name) {
                for (const MemoryLegend::Entry& e : view.legend().entries())
                    if (e.name == QLatin1String(name)) return e.figure;
                return QString();
            };
            const int64_t bytes = model().header().page_bytes;
            QCOMPARE(legend("KV"), bytesText(state.kv_pages * bytes));
            QCOMPARE(legend("adapters"), bytesText(state.adapter_pages * bytes));
            QCOMPARE(legend("free"), bytesText(state.free_pages() * bytes));
            std::map<QString, int64_t> exported;
            for (const QString& line : view.csv().split(QLatin1Char('\n')).mid(1))
                if (const QStringList cells = line.split(QLatin1Char(',')); cells.size() >= 4)
                    exported[cells[2]] += cells[1].toLongLong();
            QCOMPARE(exported[QStringLiteral("kv")], int64_t(state.kv_pages));
            QCOMPARE(exported[QStringLiteral("adapter")], int64_t(state.adapter_pages));
        }
        // The stack over time: never above what there is, never without the weights.
        const RunHeader& h = model().header();
        const double top = double(h.weight_bytes + h.workspace_bytes + h.pool_bytes) / 1e6;
        for (int g = 0; g < view.timeline().graphCount(); ++g)
            for (const QCPGraphData& d : *view.timeline().graph(g)->data()) {
                QVERIFY(d.value <= top + 1e-9);
                QVERIFY(d.value >= double(h.weight_bytes) / 1e6 - 1e-9);
            }
        time().goLive();
    }

    void layoutDrawsTheBatchWithItsFoldedGroups() {
        w_->window.setPerspective(Perspective::inspect);
        const StepRecord& step = busyStep(4);
        goTo(step.step);
        LayoutView& view = shown<LayoutView>();
        QVERIFY(!view.showsExample());
        std::vector<AdapterId> batch;
        for (const StepRow& row : step.rows)
            if (row.adapter != AdapterId::base && std::find(batch.begin(), batch.end(), row.adapter) == batch.end())
                batch.push_back(row.adapter);
        const auto& rows = view.canvas().rows();
        QCOMPARE(rows.size(), batch.size());
        int rotated = 0, low_rank = 0;
        std::vector<std::vector<BlockLayout>> factors;
        int64_t tiles_expected = 0;
        for (size_t i = 0; i < rows.size(); ++i) {
            const LayoutRow& row = rows[i];
            QCOMPARE(row.id, batch[i]);
            const RunAdapter* adapter = model().adapter(row.id);
            QCOMPARE(row.name, toQ(adapter->name));
            QVERIFY(row.problem.isEmpty());
            if (row.rank > 0) ++low_rank;
            if (row.block_size == 0) continue;
            ++rotated;
            QCOMPARE(row.group, row.block_size << (row.num_factors - 1));
            // The folded column: dense groups on the diagonal and nothing else.
            const int64_t cell = 8;
            const BlockLayout& folded = view.canvas().foldedOf(row);
            QCOMPARE(folded.cell, cell);
            QCOMPARE(folded.nonzero_tiles(), row.in / row.group * (row.group / cell) * (row.group / cell));
            QCOMPARE(folded.useful_share(), 1.0);
            factors.resize(std::max(factors.size(), size_t(row.num_factors)));
            for (int64_t f = 0; f < row.num_factors; ++f)
                factors[size_t(f)].push_back(factor_layout(row.in, row.block_size, f, cell));
        }
        QCOMPARE(rotated, 2);
        QCOMPARE(low_rank, 2);
        QCOMPARE(view.canvas().columnsDrawn(), int64_t(factors.size()));
        for (size_t f = 0; f < factors.size(); ++f) {
            QCOMPARE(view.canvas().unionOf(int64_t(f)).useful, union_layout(factors[f]).useful);
            tiles_expected += union_layout(factors[f]).nonzero_tiles();
        }
        QVERIFY(tiles_expected > 0);
        const QString csv = view.canvas().csv();
        QCOMPARE(csv.count(QLatin1Char('\n')), 1 + qsizetype(factors.size()) + 3);  // head, unions, 2 + 1 factors
        // At the end of the run, followed live, all that ran is shown.
        time().goLive();
        w_->window.tick();
        QCOMPARE(view.canvas().rows().size(), model().header().adapters.size());
    }

    // Under the strategy common_block the factors ran, in their own order and cut to what the record says.
    void layoutDrawsWhatTheStrategyRan() {
        Window other;
        other.session.openModel(QStringLiteral("synthetic:tiny"));
        other.session.addAdapterArguments(
            {QStringLiteral("synthetic:boft:2:b=8,m=2,b=16,m=1"), QStringLiteral("synthetic:lora:1:r=4")},
            QStringLiteral("."));
        QTRY_COMPARE_WITH_TIMEOUT(other.session.library().readyAdapters(), int64_t(3), 30'000);
        std::vector<StepRecordPtr> records;
        connect(&other.session, &Session::recordsArrived, this, [&](const std::vector<StepRecordPtr>& more) {
            records.insert(records.end(), more.begin(), more.end());
        });
        QSignalSpy ended(&other.session, &Session::runFinished);
        Workload w = workload(24);
        w.engine.adapter_strategy = "common_block";
        other.session.run(w);
        QTRY_COMPARE_WITH_TIMEOUT(ended.size(), 1, 60'000);
        QVERIFY(ended[0][1].toBool());
        const auto step = std::find_if(records.begin(), records.end(), [](const StepRecordPtr& r) {
            std::set<AdapterId> distinct;
            for (const StepRow& row : r->rows) distinct.insert(row.adapter);
            return distinct.size() >= 3;
        });
        QVERIFY(step != records.end());
        QVERIFY((*step)->strategy == AdapterStrategy::common_block);
        QCOMPARE((*step)->common_block, int64_t(8));
        other.window.setPerspective(Perspective::inspect);
        other.session.time().setCursorStep((*step)->step, other.session.runModel());
        other.window.tick();
        for (LayoutView* view : other.window.findChildren<LayoutView*>()) {
            if (!view->isVisible()) continue;
            LayoutCanvas& canvas = view->canvas();
            std::vector<BlockLayout> first;
            for (const LayoutRow& row : canvas.rows())
                if (row.block_size > 0) first.push_back(factor_layout(row.in, row.block_size, 0, 8));
            QCOMPARE(first.size(), size_t(2));
            QCOMPARE(canvas.unionOf(0).useful, union_layout(first).useful);
            const int64_t dim = first[0].dim;
            // Factor 1 of blocks of 8 as well, once the features are mapped.
            QCOMPARE(canvas.unionOf(1).useful, factor_layout(dim, 8, 1, 8, BlockConvention::mapped).useful);
            QCOMPARE(canvas.unionOf(1).nonzero_tiles(), dim / 8);
            QVERIFY(canvas.columnTitle(0).contains(QStringLiteral("factor 0")));
            QVERIFY(!canvas.columnTitle(canvas.columnsDrawn()).contains(QStringLiteral("as it runs")));
        }
    }

    void anEmptyLayoutTeachesWithAnExample() {
        Window fresh;
        fresh.window.setPerspective(Perspective::inspect);
        fresh.window.tick();
        for (LayoutView* v : fresh.window.findChildren<LayoutView*>()) {
            if (!v->isVisible()) continue;
            QVERIFY(v->showsExample());
            QCOMPARE(v->canvas().rows().size(), size_t(2));
        }
    }

    void aClickedStepShowsItsRowsAdaptersAndPadding() {
        w_->window.setPerspective(Perspective::inspect);
        const StepRecord& wanted = busyStep(3);
        goTo(wanted.step + 3);
        StepsView& steps = shown<StepsView>();
        QPoint at(-1, -1);
        for (int x = 0; x < steps.ribbon().width() && at.x() < 0; ++x)
            if (steps.ribbon().stepAt(QPointF(x, 40)) == wanted.step) at = QPoint(x + 2, steps.ribbon().height() - 10);
        QVERIFY(at.x() >= 0);
        QTest::mouseClick(&steps.ribbon(), Qt::LeftButton, Qt::NoModifier, at);
        w_->window.tick();
        QCOMPARE(time().cursorStep(), wanted.step);
        QVERIFY(!time().live());

        StepDetailView& detail = shown<StepDetailView>();
        QCOMPARE(detail.rows().rowCount(), int(wanted.rows.size()));
        for (size_t i = 0; i < wanted.rows.size(); ++i) {
            const StepRow& row = wanted.rows[i];
            const auto cell = [&](StepRowsModel::Column column) {
                return detail.rows().index(int(i), column).data(Qt::DisplayRole).toString();
            };
            QCOMPARE(cell(StepRowsModel::request), count(int64_t(row.request)));
            QCOMPARE(cell(StepRowsModel::adapter), toQ(model().adapterName(row.adapter)));
            QCOMPARE(cell(StepRowsModel::phase), row.prefill ? QStringLiteral("prefill") : QStringLiteral("decode"));
            QCOMPARE(cell(StepRowsModel::tokens), count(row.num_tokens));
            QCOMPARE(cell(StepRowsModel::context), count(row.context));
        }
        const StepSummary& summary = *model().summary(wanted.step);
        std::set<AdapterId> distinct;
        for (const StepRow& row : wanted.rows)
            if (row.adapter != AdapterId::base) distinct.insert(row.adapter);
        QCOMPARE(summary.adapters, int32_t(distinct.size()));
        QVERIFY(steps.readout().text().contains(QStringLiteral("%1 rows").arg(wanted.rows.size())));
        QVERIFY(steps.readout().text().contains(QStringLiteral("%1 adapters").arg(distinct.size())));
        QVERIFY(steps.readout().text().endsWith(QStringLiteral("0 % padding")));
        QVERIFY(steps.tokens().text().startsWith(QStringLiteral("%1 prefill, %2 decode, %3 padding tokens")
                                                     .arg(wanted.prefill_tokens)
                                                     .arg(wanted.decode_tokens)
                                                     .arg(wanted.padding_tokens)));
        for (const BarList::Bar& bar : detail.phases().bars()) {
            if (bar.label == QLatin1String("products")) QCOMPARE(bar.value, double(wanted.times.products));
            if (bar.label == QLatin1String("rotate")) QCOMPARE(bar.value, double(wanted.times.rotate));
            QVERIFY(!bar.tooltip.isEmpty());
        }
        // Left and Right walk on from there.
        QTest::keyClick(&steps.ribbon(), Qt::Key_Right);
        QCOMPARE(time().cursorStep(), wanted.step + 1);
        time().goLive();
    }

    void heldTimeIsMarkedAndLeftOut() {
        w_->window.setPerspective(Perspective::explore);
        time().fit(model());
        w_->window.tick();
        QCOMPARE(model().heldSpans().size(), size_t(1));
        QVERIFY(model().heldUs() > 350'000);
        const QString words = QStringLiteral("held ") + msText(double(model().heldSpans()[0].held_us) / 1000);
        LatencyView& latency = shown<LatencyView>();
        for (MetricPlot* plot : latency.plots()) QCOMPARE(plot->heldMarks(), QStringList{words});
        QCOMPARE(shown<MemoryView>().timeline().heldMarks(), QStringList{words});
        QVERIFY(latency.accessibleDescription().contains(QStringLiteral("left out")));
        // The run's clock stood still meanwhile: its end and the hold together fit into the time that passed.
        QVERIFY2(model().endUs() + model().heldUs() <= wall_us_, qPrintable(QString::number(model().endUs())));
        time().goLive();
    }

    void scrubbingAndRangesMoveEveryPlot() {
        w_->window.setPerspective(Perspective::explore);
        w_->window.tick();
        LatencyView& latency = shown<LatencyView>();
        MetricPlot& plot = *latency.plots()[0];
        const QRect area = plot.axisRect()->rect();
        const QPoint from(area.left() + area.width() / 4, area.center().y()),
            to(area.left() + area.width() / 2, area.center().y());
        QTest::mousePress(&plot, Qt::LeftButton, Qt::NoModifier, from);
        QMouseEvent move(QEvent::MouseMove, to, plot.mapToGlobal(to), Qt::NoButton, Qt::LeftButton, Qt::NoModifier);
        QApplication::sendEvent(&plot, &move);
        QTest::mouseRelease(&plot, Qt::LeftButton, Qt::NoModifier, to);
        QVERIFY(time().selection().has_value());
        const auto [first, last] = *time().selection();
        const double range = double(time().rangeEndUs() - time().rangeStartUs());
        QVERIFY2(std::abs(double(last - first) / range - 0.25) < 0.03,
                 qPrintable(QString::number(double(last - first))));
        // A click sets the cursor to the time under the pointer and pauses the view.
        QTest::mouseClick(&plot, Qt::LeftButton, Qt::NoModifier, from);
        QVERIFY(!time().live());
        QVERIFY(!time().selection().has_value());
        const int64_t pointed = std::min(plot.usAt(from.x()), model().endUs());  // a fast machine's run ends before
        QVERIFY2(std::abs(time().cursorUs() - pointed) < 2'000, qPrintable(QString::number(time().cursorUs())));
        // The wheel zooms at the pointer; every plot has the new range.
        const int64_t before = time().rangeEndUs() - time().rangeStartUs();
        QWheelEvent wheel(QPointF(from), plot.mapToGlobal(QPointF(from)), {}, {0, 240}, Qt::NoButton, Qt::NoModifier,
                          Qt::NoScrollPhase, false);
        QApplication::sendEvent(&plot, &wheel);
        w_->window.tick();
        QVERIFY(time().rangeEndUs() - time().rangeStartUs() < before * 7 / 10);
        for (TimePlot* p : w_->window.findChildren<TimePlot*>()) {
            if (!p->isVisible()) continue;
            QCOMPARE(p->xAxis->range().lower, double(time().rangeStartUs()) / 1e6);
            QCOMPARE(p->xAxis->range().upper, double(time().rangeEndUs()) / 1e6);
        }
        // The time bar scrubs over the whole run and goes live again.
        TimeBar& bar = w_->window.timeBar();
        QVERIFY(bar.isVisible());
        QTest::mouseClick(&bar.track(), Qt::LeftButton, Qt::NoModifier,
                          QPoint(bar.track().width() / 2, bar.track().height() / 2));
        w_->window.tick();
        QVERIFY(std::abs(double(time().cursorUs()) - double(model().endUs()) / 2) < double(model().endUs()) / 100);
        QVERIFY(bar.words().startsWith(QStringLiteral("Paused at")));
        QTest::mouseClick(&bar.pauseButton(), Qt::LeftButton);
        QVERIFY(time().live());
    }

    void exportsHoldWhatIsDrawn() {
        w_->window.setPerspective(Perspective::explore);
        time().fit(model());
        w_->window.tick();
        QCoreApplication::processEvents();
        const QString run = QFileInfo(dir_).completeBaseName();
        const QString base = home_.path(QStringLiteral("export"));
        int plots = 0;
        for (Panel* panel : w_->window.findChildren<Panel*>()) {
            if (!panel->isVisible()) continue;
            for (const ExportTarget& target : panel->exports()) {
                const QString path = base + QLatin1Char('-') + panel->id() + target.name;
                QString error;
                QVERIFY2(exportPng(target, path + ".png", 2, &error), qPrintable(error));
                const QImage image(path + ".png");
                QCOMPARE(image.size(), target.widget->size() * 2);
                QCOMPARE(image.text(QStringLiteral("Run")), run);
                QVERIFY(exportSvg(target, path + ".svg", &error));
                const QByteArray svg = contentOf(path + ".svg");
                QVERIFY(svg.contains("<svg") && svg.contains("</svg>") && svg.contains(run.toUtf8()));
                QVERIFY(exportCsv(target, path + ".csv", &error));
                const QByteArray csv = contentOf(path + ".csv");
                QVERIFY2(csv.count('\n') > 1, qPrintable(path));
                ++plots;
                const auto* plot = qobject_cast<QCustomPlot*>(target.widget);
                if (!plot) continue;
                qsizetype points = 0;
                for (int g = 0; g < plot->graphCount(); ++g) points += plot->graph(g)->dataCount();
                QCOMPARE(csv.count('\n'), points + 1);
                const QCPGraph* drawn = plot->graph(0);
                for (int g = 1; drawn->dataCount() == 0 && g < plot->graphCount(); ++g) drawn = plot->graph(g);
                const QCPGraphData& d = *drawn->data()->constBegin();
                QVERIFY(csv.contains(QStringLiteral("%1,%2,%3\n")
                                         .arg(drawn->name())
                                         .arg(d.key, 0, 'g', 12)
                                         .arg(d.value, 0, 'g', 12)
                                         .toUtf8()));
            }
        }
        QVERIFY2(plots >= 9, qPrintable(QString::number(plots)));  // 4 plots, strip, page map, memory, layout, steps
        const QStringList lines = shown<StepsView>().ribbon().csv().split(QLatin1Char('\n'), Qt::SkipEmptyParts);
        QCOMPARE(size_t(lines.size()), records_.size() + 1);
        int64_t prefill = 0, expected = 0;
        for (const QString& line : lines.mid(1)) prefill += line.split(QLatin1Char(','))[5].toLongLong();
        for (const StepRecordPtr& r : records_) expected += r->prefill_tokens;
        QCOMPARE(prefill, expected);
        time().goLive();
    }

    // Last: another run takes the first one's place.
    void pausingTheViewKeepsRecording() {
        w_->window.setPerspective(Perspective::explore);
        w_->window.activateWindow();
        QVERIFY(QTest::qWaitForWindowActive(&w_->window));
        QSignalSpy ended(&w_->session, &Session::runFinished);
        w_->session.run(workload(20'000));
        QTRY_COMPARE_WITH_TIMEOUT(w_->session.runState(), Session::RunState::running, 30'000);
        QTRY_VERIFY_WITH_TIMEOUT(model().totalSteps() > 20 && time().cursorStep() > 5, 30'000);
        QTest::mouseClick(&w_->window.timeBar().pauseButton(), Qt::LeftButton);
        QVERIFY(!time().live());
        w_->window.tick();
        const QString step = shown<StepsView>().readout().text();
        const int64_t paused_at = time().cursorStep();
        const int64_t range = time().rangeEndUs();
        QTRY_VERIFY_WITH_TIMEOUT(model().lastStep() > paused_at + 30, 30'000);
        w_->window.tick();
        QCOMPARE(time().cursorStep(), paused_at);
        QCOMPARE(time().rangeEndUs(), range);
        QCOMPARE(shown<StepsView>().readout().text(), step);
        QTest::keyClick(&w_->window, Qt::Key_Home);
        w_->window.tick();
        QVERIFY(time().cursorStep() > paused_at + 30);
        QVERIFY(shown<StepsView>().readout().text() != step);
        // Space does it too, and says that the recording goes on.
        QTest::keyClick(&w_->window, Qt::Key_Space);
        w_->window.tick();
        QVERIFY(w_->window.timeBar().words().contains(QStringLiteral("recording continues")));
        QCOMPARE(w_->session.runState(), Session::RunState::running);
        w_->session.stop();
        QTRY_COMPARE_WITH_TIMEOUT(ended.size(), 1, 10'000);
        const auto info = open_run(toStd(ended[0][0].toString()));
        QVERIFY(info);
        Progress progress;
        int64_t steps = 0;
        QVERIFY(read_steps(*info, progress, [&](const StepRecordPtr&) { ++steps; }));
        QCOMPARE(steps, model().totalSteps());
    }

private:
    const OwnHome& home_;
    std::unique_ptr<Window> w_;
    std::vector<StepRecordPtr> records_;
    std::vector<RequestRecord> requests_;
    Json summary_;
    QString dir_;
    int64_t wall_us_ = 0;
};

SPARTAN_UI_TEST_MAIN(ViewsTest)
#include "views_test.moc"
