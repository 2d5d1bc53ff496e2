#include "core/run/random.h"
#include "core/run/workload.h"

#include "fixture.h"

#include <QtTest>

#include <cmath>
#include <map>

using namespace spartan;

namespace {

std::vector<std::string> names(int n) {
    std::vector<std::string> all;
    for (int i = 0; i < n; ++i) all.push_back("a" + std::to_string(i));
    return all;
}

std::vector<PlannedRequest> plan_of(const Workload& w, int adapters, int64_t repeat = 0) {
    auto plan = plan_requests(w, names(adapters), repeat);
    return plan ? *plan : std::vector<PlannedRequest>{};
}

std::map<int, double> shares(const std::vector<PlannedRequest>& plan) {
    std::map<int, double> share;
    for (const auto& r : plan) share[r.adapter] += 1.0 / double(plan.size());
    return share;
}

struct Moments {
    double mean = 0, std = 0;
};
template <class Get>
Moments moments(const std::vector<PlannedRequest>& plan, Get get) {
    Moments m;
    for (const auto& r : plan) m.mean += get(r) / double(plan.size());
    for (const auto& r : plan) m.std += std::pow(get(r) - m.mean, 2) / double(plan.size());
    m.std = std::sqrt(m.std);
    return m;
}

Moments gaps(const std::vector<PlannedRequest>& plan) {
    std::vector<PlannedRequest> g = plan;
    for (size_t i = g.size() - 1; i > 0; --i) g[i].arrival_us -= g[i - 1].arrival_us;
    return moments(g, [](const auto& r) { return double(r.arrival_us) / 1e6; });
}

const char* kHeader = "request_id,arrival_s,adapter,prompt_tokens,output_tokens\n";

Result<Plan> read(const std::string& csv, int adapters = 2) {
    const TempDir dir;
    Workload w;
    w.trace = dir.write("t.csv", csv);
    return make_plan(w, names(adapters), 0);
}

}  // namespace

class PlanTest : public QObject {
    Q_OBJECT
private slots:
    void philox_matches_the_published_vectors() {  // Random123, kat_vectors, philox4x32 10 rounds
        QVERIFY(
            (philox4x32({0, 0, 0, 0}, 0) == std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
        QVERIFY(
            (philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, uint64_t(0x299f31d0) << 32 | 0xa4093822) ==
             std::array<uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
    }

    void same_seed_same_plan() {
        Workload w;
        w.arrival.kind = "poisson";
        w.assignment.kind = "uniform";
        const auto equal = [](const auto& a, const auto& b) {
            return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) {
                return x.arrival_us == y.arrival_us && x.adapter == y.adapter && x.prompt_tokens == y.prompt_tokens &&
                       x.output_tokens == y.output_tokens && x.prompt_seed == y.prompt_seed;
            });
        };
        QVERIFY(equal(plan_of(w, 8), plan_of(w, 8)));
        QVERIFY(!equal(plan_of(w, 8), plan_of(w, 8, 1)));
        auto other = w;
        other.seed = 43;
        QVERIFY(!equal(plan_of(w, 8), plan_of(other, 8)));
        // More requests leave the first ones as they were.
        auto more = w;
        more.requests = 1000;
        auto longer = plan_of(more, 8);
        longer.resize(512);
        QVERIFY(equal(plan_of(w, 8), longer));
    }

    void round_robin_deals_in_turn() {
        Workload w;
        w.requests = 10;
        const auto plan = plan_of(w, 3);
        for (size_t i = 0; i < plan.size(); ++i) QCOMPARE(plan[i].adapter, int(i % 3));
        w.assignment.include_base = true;
        const auto with_base = plan_of(w, 3);
        for (size_t i = 0; i < with_base.size(); ++i) QCOMPARE(with_base[i].adapter, i % 4 == 3 ? -1 : int(i % 4));
        for (const auto& r : plan_of(w, 0)) QCOMPARE(r.adapter, -1);
    }

    void shares_follow_their_laws() {
        Workload w;
        w.requests = 200'000;
        w.assignment.kind = "zipf";
        w.assignment.alpha = 1;
        auto share = shares(plan_of(w, 4));
        const double harmonic = 1 + 1.0 / 2 + 1.0 / 3 + 1.0 / 4;
        for (int k = 0; k < 4; ++k) QVERIFY(std::abs(share[k] - 1.0 / (k + 1) / harmonic) < 0.005);
        w.assignment.kind = "power";
        for (const double alpha : {0.1, 0.3, 0.6}) {  // S-LoRA: the top one of 200 takes 59 %, 20 %, 4 %
            w.assignment.alpha = alpha;
            QVERIFY(std::abs(shares(plan_of(w, 200))[0] - std::pow(1.0 / 200, alpha)) < 0.005);
        }
        w.assignment.alpha = 1;
        share = shares(plan_of(w, 5));
        for (int k = 0; k < 5; ++k) QVERIFY(std::abs(share[k] - 0.2) < 0.005);
        w.assignment.kind = "single";
        QCOMPARE(shares(plan_of(w, 5)).size(), size_t(1));
    }

    void arrivals_follow_their_laws() {
        Workload w;
        w.requests = 200'000;
        w.arrival.rate = 4;
        w.arrival.kind = "constant";
        QCOMPARE(plan_of(w, 0)[8].arrival_us, 2'000'000);
        w.arrival.kind = "poisson";
        auto g = gaps(plan_of(w, 0));
        QVERIFY(std::abs(g.mean - 0.25) < 0.003 && std::abs(g.std - 0.25) < 0.005);
        w.arrival.kind = "gamma";
        for (const double cv : {0.5, 1.0, 4.0}) {
            w.arrival.cv = cv;
            g = gaps(plan_of(w, 0));
            QVERIFY2(std::abs(g.mean - 0.25) < 0.01 && std::abs(g.std / g.mean / cv - 1) < 0.05,
                     qPrintable(QString("cv %1: mean %2, cv %3").arg(cv).arg(g.mean).arg(g.std / g.mean)));
        }
        w.arrival.kind = "burst";
        QCOMPARE(plan_of(w, 0).back().arrival_us, 0);
    }

    void lengths_follow_their_laws() {
        Workload w;
        w.requests = 200'000;
        w.prompt_tokens = {"lognormal", 0, 1, 1 << 20, 120, 0.8};
        w.output_tokens = {"uniform", 0, 5, 8, 0, 0};
        const auto plan = plan_of(w, 0);
        QVERIFY(std::abs(moments(plan, [](const auto& r) { return double(r.prompt_tokens); }).mean / 120 - 1) < 0.01);
        QVERIFY(std::abs(moments(plan, [](const auto& r) { return std::log(double(r.prompt_tokens)); }).std - 0.8) <
                0.01);
        std::map<int, int> seen;
        for (const auto& r : plan) ++seen[r.output_tokens];
        QCOMPARE(seen.size(), size_t(4));
        for (int n = 5; n <= 8; ++n) QVERIFY(std::abs(seen[n] - 50'000) < 1000);
        w.prompt_tokens.max = 130;
        for (const auto& r : plan_of(w, 0)) QVERIFY(r.prompt_tokens >= 1 && r.prompt_tokens <= 130);
    }

    void warmup_comes_first() {
        Workload w;
        w.requests = 5;
        w.warmup = 3;
        w.arrival.kind = "constant";
        w.arrival.rate = 1;
        const auto plan = make_plan(w, names(2), 0);
        QCOMPARE(plan->requests.size(), size_t(8));
        QCOMPARE(plan->warmup, 3);
        QCOMPARE(plan->requests[3].arrival_us, 0);
        QCOMPARE(plan->requests[7].arrival_us, 4'000'000);
    }

    void ten_million_rows_fit() { QCOMPARE(sizeof(PlannedRequest), size_t(40)); }

    void traces_are_read() {
        const auto plan = read(
            "\xef\xbb\xbfslo_ttft_ms,adapter,\"request_id\",arrival_s,output_tokens,prompt_tokens,prompt_seed,session_"
            "id\r\n"
            ",a1,\"r,\"\"1\"\"\",0,5,7,,s\r\n250.5,,r2,1.5,6,8,18446744073709551615,\r\n,a0,r3,1.5,1,1,,s");
        QVERIFY2(bool(plan), plan ? "" : plan.error().message().c_str());
        QCOMPARE(plan->requests.size(), size_t(3));
        QCOMPARE(plan->requests[0].adapter, 1);
        QCOMPARE(plan->requests[1].adapter, -1);
        QCOMPARE(plan->requests[1].arrival_us, 1'500'000);
        QCOMPARE(plan->requests[0].prompt_tokens, 7);
        QCOMPARE(plan->requests[0].output_tokens, 5);
        QCOMPARE(plan->requests[1].prompt_seed, UINT64_MAX);
        QCOMPARE(plan->requests[1].slo_ttft_ms, 250.5f);
        QVERIFY(plan->requests[0].slo_ttft_ms < 0);
        QCOMPARE(plan->requests[0].prompt_seed, plan->requests[2].prompt_seed);  // one session
        QCOMPARE(std::string(plan->labels->of(0)), std::string("r,\"1\""));
        QCOMPARE(std::string(plan->labels->of(2)), std::string("r3"));
    }

    void damaged_traces_are_refused_with_line_and_column_data() {
        QTest::addColumn<QByteArray>("csv");
        QTest::addColumn<QString>("says");
        const auto row = [](const char* name, const std::string& csv, const char* says) {
            QTest::newRow(name) << QByteArray::fromStdString(csv) << says;
        };
        const std::string h = kHeader;
        row("empty", "", "empty file");
        row("header only", h, "no rows");
        row("missing column", "request_id,arrival_s,adapter,prompt_tokens\n", "output_tokens");
        row("duplicate column", "request_id,arrival_s,adapter,prompt_tokens,output_tokens,adapter\n",
            "line 1, column 58");
        row("unknown column", "request_id,when\n", "line 1, column 12");
        row("open quote", h + "r1,0,\"a0,5,5\nr2,0,a0,5,5\n", "line 2, column 6");
        row("quote inside", h + "r1,0,a\"0,5,5\n", "line 2, column 7");
        row("text after quote", h + "r1,0,\"a0\"x,5,5\n", "line 2, column 10");
        row("NUL", h + std::string("r1,0,a\0,5,5\n", 12), "NUL");
        row("UTF-16", std::string("\xff\xfer\0e\0", 6), "UTF-16");
        row("not UTF-8", h + "r\xff,0,a0,5,5\n", "UTF-8");
        row("bare return", h + "r1,0\r,a0,5,5\n", "line 2");
        row("too few cells", h + "r1,0,a0,5\n", "4 cells");
        row("too many cells", h + "r1,0,a0,5,5,5\n", "6 cells");
        row("blank line", h + "r1,0,a0,5,5\n\nr2,0,a0,5,5\n", "line 3");
        row("negative arrival", h + "r1,-1,a0,5,5\n", "line 2, column 4");
        row("NaN arrival", h + "r1,nan,a0,5,5\n", "arrival_s");
        row("infinite arrival", h + "r1,inf,a0,5,5\n", "arrival_s");
        row("unsorted", h + "r1,2,a0,5,5\nr2,1.999,a0,5,5\n", "line 3, column 4");
        row("1e18 tokens", h + "r1,0,a0,1000000000000000000,5\n", "prompt_tokens");
        row("zero tokens", h + "r1,0,a0,5,0\n", "output_tokens");
        row("fraction", h + "r1,0,a0,5.5,5\n", "prompt_tokens");
        row("unknown adapter", h + "r1,0,a9,5,5\n", "line 2, column 6");
        row("same id", h + "r1,0,a0,5,5\nr2,0,a0,5,5\nr1,0,a0,5,5\n", "line 4");
        row("empty id", h + ",0,a0,5,5\n", "request_id");
        row("bad seed", "request_id,arrival_s,adapter,prompt_tokens,output_tokens,prompt_seed\nr1,0,a0,5,5,-1\n",
            "prompt_seed");
        row("bad limit", "request_id,arrival_s,adapter,prompt_tokens,output_tokens,slo_ttft_ms\nr1,0,a0,5,5,0\n",
            "slo_ttft_ms");
        row("long row", h + std::string(2 << 20, 'x'), "row longer");
    }
    void damaged_traces_are_refused_with_line_and_column() {
        QFETCH(QByteArray, csv);
        QFETCH(QString, says);
        QVERIFY(refused(read(csv.toStdString()), {"t.csv", says.toStdString()}));
    }

    void a_bad_line_far_down_is_named() {
        std::string csv = kHeader;
        for (int i = 0; i < 499'999; ++i) csv += std::to_string(i) + ",0,a0,5,5\n";
        csv += "bad,0,a0,x,5\n";
        QVERIFY(refused(read(csv), {"line 500001, column 10"}));
    }
};

QTEST_GUILESS_MAIN(PlanTest)
#include "plan_test.moc"
