#include "core/run/metrics.h"

#include <QtTest>

#include <cmath>
#include <random>

using namespace spartan;

namespace {
bool near(double a, double b) { return std::abs(a - b) <= 1e-9 * std::max(1.0, std::abs(b)); }
}  // namespace

class MetricsTest : public QObject {
    Q_OBJECT
private slots:
    void percentiles_are_numpys() {  // numpy.percentile([3, 1, 4, 1, 5, 9, 2, 6], …)
        const Stats s = stats_of({3, 1, 4, 1, 5, 9, 2, 6});
        QVERIFY(near(s.mean, 3.875));
        QVERIFY(near(s.std, 2.5708704751503917));
        QVERIFY(near(s.p50, 3.5));
        QVERIFY(near(s.p90, 6.9));
        QVERIFY(near(s.p95, 7.95));
        QVERIFY(near(s.p99, 8.79));
        QCOMPARE(s.min, 1.0);
        QCOMPARE(s.max, 9.0);
        QCOMPARE(s.n, 8);
        QCOMPARE(stats_of({7}).p99, 7.0);
        QCOMPARE(stats_of({7}).std, 0.0);
        QCOMPARE(stats_of({}).n, 0);
    }

    void counting_gives_the_same_as_sorting() {
        std::mt19937_64 random(1);
        MicrosCounts counts, half;
        std::vector<double> ms;
        for (int i = 0; i < 20'001; ++i) {
            const auto us = int64_t(random() % 5000) * int64_t(random() % 50);
            (i % 2 ? counts : half).add(us);
            ms.push_back(double(us) / 1e3);
        }
        counts.merge(half);
        const Stats a = counts.stats_ms(), b = stats_of(ms);
        QCOMPARE(a.n, b.n);
        for (const auto& [x, y] : {std::pair(a.mean, b.mean),
                                   {a.std, b.std},
                                   {a.p50, b.p50},
                                   {a.p90, b.p90},
                                   {a.p95, b.p95},
                                   {a.p99, b.p99},
                                   {a.min, b.min},
                                   {a.max, b.max}})
            QVERIFY(near(x, y));
    }

    void nothing_measured_is_null() {
        const Json j = stats_json({});
        QVERIFY(j["mean"].is_null());
        QCOMPARE(j["n"].get<int>(), 0);
    }

    void intervals_are_students() {  // t(0.975, 2) = 4.303, standard deviation 1
        QVERIFY(std::abs(confidence_half_width({1, 2, 3}) - 4.303 / std::sqrt(3)) < 1e-6);
        QCOMPARE(confidence_half_width({1}), 0.0);
        std::vector<double> many;  // t(0.975, 99) = 1.98422
        for (int i = 0; i < 100; ++i) many.push_back(i % 2);
        QVERIFY(std::abs(confidence_half_width(many) - 1.98422 * std::sqrt(0.25 * 100 / 99) / 10) < 1e-5);
    }

    void every_metric_has_a_sentence() {
        for (const char* metric : {"ttft", "itl", "tpot", "e2e", "queue", "attainment", "goodput"})
            QVERIFY(!metric_definition(metric).empty());
        QVERIFY(metric_definition("nonsense").empty());
    }
};

QTEST_GUILESS_MAIN(MetricsTest)
#include "metrics_test.moc"
