// RunModel against brute force, its rewind, and its bounds.
#include "ui/run_model.h"

#include "fake_records.h"
#include "ui/time_controller.h"

#include <QTest>

#include <cmath>

using namespace spartan;

namespace {

double percentileOf(std::vector<double> values, double q) {
    std::sort(values.begin(), values.end());
    const double at = q * double(values.size() - 1);
    const auto low = size_t(at);
    const size_t high = std::min(low + 1, values.size() - 1);
    return values[low] + (values[high] - values[low]) * (at - double(low));
}

bool near(double a, double b) { return std::abs(a - b) <= 1e-3 * std::max(1.0, std::abs(b)); }

}  // namespace

class RunModelTest : public QObject {
    Q_OBJECT
private slots:
    void aggregatesMatchBruteForce() {
        fake::Source source({.adapters = 8, .requests = 64, .arrival_every_us = 20'000, .warmup = 4});
        RunModel model;
        model.reset(source.header());
        std::vector<double> ttft, itl, e2e;
        std::map<AdapterId, std::vector<double>> ttft_of;
        int64_t prefill = 0, tokens = 0, steps = 0;
        for (const StepRecordPtr& r : fake::all(source)) {
            model.append(r);
            ++steps;
            prefill += r->prefill_tokens;
            for (const StepRow& row : r->rows) tokens += row.token >= 0;
            for (const RequestRecord& f : r->finished) {
                if (f.warmup) continue;
                ttft.push_back(double(f.ttft_us()) / 1000);
                ttft_of[f.adapter].push_back(ttft.back());
                e2e.push_back(double(f.e2e_us()) / 1000);
                for (size_t i = 1; i < f.token_us.size(); ++i)
                    itl.push_back(double(f.token_us[i] - f.token_us[i - 1]) / 1000);
            }
        }
        QCOMPARE(model.totalSteps(), steps);
        QCOMPARE(model.counts().completed, 64);
        QCOMPARE(model.counts().output_tokens, tokens);
        QCOMPARE(model.counts().prompt_tokens, prefill);
        const std::vector<double>* all[] = {&ttft, &itl, &e2e};
        for (int m = 0; m < kNumMetrics; ++m) {
            const QuantilePoint p = model.overall(Metric(m), 0, model.endUs());
            QCOMPARE(p.n, int64_t(all[m]->size()));
            QVERIFY(p.exact);
            QVERIFY(near(p.p50, percentileOf(*all[m], 0.5)));
            QVERIFY(near(p.p95, percentileOf(*all[m], 0.95)));
            QVERIFY(near(p.p99, percentileOf(*all[m], 0.99)));
            QVERIFY(near(p.max, percentileOf(*all[m], 1)));
            QVERIFY(near(p.min, percentileOf(*all[m], 0)));
            for (const size_t points : {1000, 50, 3}) {
                int64_t n = 0;
                for (const QuantilePoint& q : model.quantiles(Metric(m), 0, model.endUs(), points)) {
                    n += q.n;
                    QVERIFY(q.min <= q.p50 && q.p50 <= q.p95 && q.p95 <= q.p99 && q.p99 <= q.max);
                }
                QCOMPARE(n, int64_t(all[m]->size()));
            }
        }
        for (const auto& [adapter, values] : ttft_of) {
            const AdapterTotals& t = model.adapterTotals().at(adapter);
            QCOMPARE(t.completed, int64_t(values.size()));
            QVERIFY(near(t[Metric::ttft].quantile(0.99), percentileOf(values, 0.99)));
        }
        int64_t binned = 0, binned_steps = 0;
        for (const StepBin& b : model.stepBins(0, model.endUs(), 40)) {
            binned += b.emitted_tokens;
            binned_steps += b.steps;
        }
        QCOMPARE(binned, tokens);
        QCOMPARE(binned_steps, steps);
    }

    void binQuantilesMatchTheirValues() {
        fake::Source source({.requests = 40, .arrival_every_us = 50'000});
        RunModel model;
        model.reset(source.header());
        std::vector<std::pair<int64_t, double>> itl;
        for (const StepRecordPtr& r : fake::all(source)) {
            model.append(r);
            for (const RequestRecord& f : r->finished)
                for (size_t i = 1; i < f.token_us.size(); ++i)
                    itl.emplace_back(f.token_us[i], double(f.token_us[i] - f.token_us[i - 1]) / 1000);
            if (r->step % 7 == 0) (void)model.quantiles(Metric::itl, 0, model.endUs(), 30);  // caches must not go stale
        }
        for (const QuantilePoint& q : model.quantiles(Metric::itl, 0, model.endUs(), 30)) {
            std::vector<double> in;
            for (const auto& [us, ms] : itl)
                if (us >= q.t0_us && us < q.t1_us) in.push_back(ms);
            QCOMPARE(q.n, int64_t(in.size()));
            QVERIFY(near(q.p99, percentileOf(in, 0.99)));
            QVERIFY(near(q.p50, percentileOf(in, 0.5)));
        }
    }

    void rewindsThePageMap() {
        fake::Source source({.requests = 60, .arrival_every_us = 30'000});
        RunModel::Limits limits;
        limits.keyframe_steps = 16;
        RunModel model(limits);
        model.reset(source.header());
        std::vector<std::vector<PageCell>> truth;
        PageMap map;
        for (const StepRecordPtr& r : fake::all(source)) {
            if (map.size() == 0) map.resize(r->pool.total_pages);
            for (const PageChange& c : r->page_changes) map.apply(c);
            truth.push_back(map.cells());
            QCOMPARE(map.count(PageOwner::kv), r->pool.kv_pages);
            model.append(r);
        }
        QVERIFY(truth.size() > 100);
        std::mt19937 random(3);
        for (int i = 0; i < 200; ++i) {
            const size_t step = random() % truth.size();
            const PageMap* rewound = model.pagesAt(int64_t(step));
            QVERIFY(rewound);
            QVERIFY(rewound->cells() == truth[step]);
        }
        for (size_t step = 0; step < truth.size(); ++step)
            QVERIFY(model.pagesAt(int64_t(step))->cells() == truth[step]);
        QCOMPARE(model.pagesOf(AdapterId(1)), 40);
    }

    void memoryStaysBounded() {
        RunModel::Limits limits;
        limits.steps = 500;
        limits.detail_bytes = 1 << 20;
        limits.requests = 200;
        limits.bins = 64;
        limits.exact_values = 20'000;
        limits.exact_values_adapter = 1'000;
        limits.keyframe_steps = 32;
        RunModel model(limits);
        fake::Source source({.requests = 40, .output_tokens = 20, .cycle_requests = true});
        model.reset(source.header());
        size_t early = 0, peak = 0;
        for (int i = 0; i < 20'000; ++i) {
            model.append(source.next());
            if (i == 4'000) early = model.approximateBytes();
            if (i > 4'000) peak = std::max(peak, model.approximateBytes());
        }
        QVERIFY2(peak < early * 2, qPrintable(QStringLiteral("%1 bytes early, %2 at the peak").arg(early).arg(peak)));
        QVERIFY(model.steps().size() <= limits.steps);
        QVERIFY(model.finishedRequests().size() <= limits.requests);
        QVERIFY(model.firstDetailedStep() > 0);
        QVERIFY(model.pagesAt(model.firstDetailedStep()));
        // Counts stay exact, quantiles stay within the histogram's half percent.
        const QuantilePoint p = model.overall(Metric::itl, 0, model.endUs());
        int64_t n = 0;
        for (const QuantilePoint& q : model.quantiles(Metric::itl, 0, model.endUs(), 1000)) n += q.n;
        QCOMPARE(p.n, n);
        QVERIFY(!p.exact);
        QVERIFY(p.min <= p.p50 && p.p50 <= p.p99 && p.p99 <= p.max);
    }

    void histogramQuantilesAreClose() {
        Distribution exact, rough;
        std::mt19937 random(5);
        std::lognormal_distribution<double> values(3, 1);
        for (int i = 0; i < 50'000; ++i) {
            const auto v = float(values(random));
            exact.add(v);
            rough.add(v);
            if (i == 1000) rough.compact();
        }
        QVERIFY(exact.exact() && !rough.exact());
        for (const double q : {0.01, 0.5, 0.9, 0.95, 0.99})
            QVERIFY(std::abs(rough.quantile(q) / exact.quantile(q) - 1) < 0.012);
        QCOMPARE(rough.min(), exact.min());
        QCOMPARE(rough.max(), exact.max());
    }

    void holdsAreMarkedAndLeaveTheClockAlone() {
        fake::Source source({.requests = 8, .hold_at_step = 20});
        RunModel model;
        model.reset(source.header());
        for (const StepRecordPtr& r : fake::all(source)) model.append(r);
        QCOMPARE(model.heldSpans().size(), size_t(1));
        QCOMPARE(model.heldSpans()[0].held_us, int64_t(2'000'000));
        QCOMPARE(model.heldUs(), int64_t(2'000'000));
    }

    void damagedRecordsDoNoHarm() {
        RunModel model;
        auto r = std::make_shared<StepRecord>();
        r->end_us = int64_t(1) << 50;  // 35 years
        r->pool.total_pages = 1 << 30;
        r->page_changes.push_back({-5, 1 << 30, PageOwner::kv, 1});
        model.append(r);
        auto s = std::make_shared<StepRecord>(*r);
        s->step = 1;
        s->end_us = 5;
        s->pool.total_pages = 64;
        model.append(s);
        QCOMPARE(model.pages().count(PageOwner::kv), 64);
        QVERIFY(model.stepBins(0, model.endUs(), 100).size() <= 1024);
        model.append(s);  // the same step again is dropped
        QCOMPARE(model.totalSteps(), 2);
    }

    void timeControllerFollowsPausesAndSteps() {
        fake::Source source({.requests = 16});
        RunModel model;
        model.reset(source.header());
        TimeController time;
        const auto records = fake::all(source);
        for (size_t i = 0; i < 50; ++i) model.append(records[i]);
        time.follow(model);
        QCOMPARE(time.cursorStep(), 49);
        QCOMPARE(time.rangeEndUs(), std::max<int64_t>(model.endUs(), 1'000'000));
        time.pause();
        for (size_t i = 50; i < 60; ++i) model.append(records[i]);
        time.follow(model);
        QCOMPARE(time.cursorStep(), 49);
        QCOMPARE(time.stepsSincePause(model), 10);
        time.stepBy(-3, model);
        QCOMPARE(time.cursorStep(), 46);
        time.stepBy(1000, model);
        QCOMPARE(time.cursorStep(), 59);
        time.setCursor(records[10]->start_us + 1, model);
        QCOMPARE(time.cursorStep(), 10);
        time.setRange(200'000, 100'000);
        QCOMPARE(time.rangeStartUs(), int64_t(100'000));
        time.zoom(0.5, 150'000);
        QCOMPARE(time.rangeEndUs() - time.rangeStartUs(), int64_t(50'000));
        time.pan(-1'000'000);
        QCOMPARE(time.rangeStartUs(), int64_t(0));
        time.goLive();
        time.follow(model);
        QCOMPARE(time.cursorStep(), 59);
    }
};

QTEST_GUILESS_MAIN(RunModelTest)
#include "run_model_test.moc"
