#include "core/run/workload.h"

#include "fixture.h"

#include <QtTest>

using namespace spartan;

namespace {

Result<Workload> parse(const std::string& text) {
    const auto json = parse_json(text, "w.json");
    if (!json) return json.error();
    return parse_workload(*json, "w.json", "/data/work");
}

Result<Workload> with(const std::string& members) {
    return parse(R"({"schema":1,"model":"m")" + ("," + members) + "}");
}

}  // namespace

class WorkloadTest : public QObject {
    Q_OBJECT
private slots:
    void defaults_are_the_papers() {
        const auto w = parse(R"({"schema":1,"model":"m"})");
        QVERIFY2(bool(w), w ? "" : w.error().message().c_str());
        QCOMPARE(w->requests, 512);
        QCOMPARE(w->seed, 42u);
        QVERIFY(w->ignore_eos);
        QCOMPARE(w->arrival.kind, std::string("burst"));
        QCOMPARE(w->arrival.concurrency, 32);
        QCOMPARE(w->assignment.kind, std::string("round_robin"));
        QVERIFY(!w->assignment.include_base);
        QCOMPARE(w->prompt_tokens.kind, std::string("uniform"));
        QCOMPARE(w->prompt_tokens.min, 32);
        QCOMPARE(w->prompt_tokens.max, 256);
        QCOMPARE(w->output_tokens.kind, std::string("fixed"));
        QCOMPARE(w->output_tokens.value, 100);
        QCOMPARE(w->warmup, 0);
        QCOMPARE(w->repeats, 1);
        QCOMPARE(w->model, std::string("/data/work/m"));
    }

    void paths_are_relative_to_the_file() {
        const auto w = with(R"("adapters":["a=../x/y","b=/abs","synthetic:lora:2:r=4"],"trace":"t.csv")");
        QVERIFY(bool(w));
        QCOMPARE(w->adapters[0], std::string("a=/data/x/y"));
        QCOMPARE(w->adapters[1], std::string("b=/abs"));
        QCOMPARE(w->adapters[2], std::string("synthetic:lora:2:r=4"));
        QCOMPARE(w->trace, std::string("/data/work/t.csv"));
        QCOMPARE(parse(R"({"schema":1,"model":"synthetic:tiny"})")->model, std::string("synthetic:tiny"));
    }

    void demo_is_the_demo_model_unless_a_model_of_that_name_lies_there() {
        const TempDir temp;
        const auto model = [&] {
            return parse_workload({{"schema", 1}, {"model", "demo"}}, "w.json", temp.path())->model;
        };
        QCOMPARE(model(), std::string("demo"));
        QVERIFY(QDir(temp.dir.path()).mkdir("demo"));  // a folder of something else
        QCOMPARE(model(), std::string("demo"));
        temp.write("demo/config.json", "{}");
        QCOMPARE(model(), temp.path("demo"));
    }

    void round_trips_through_json() {
        const auto w = with(R"("name":"n","adapters":["a=d"],"requests":7,"seed":5,"ignore_eos":false,
            "arrival":{"kind":"gamma","rate":2.5,"cv":3},"assignment":{"kind":"zipf","alpha":1.5,"include_base":true},
            "prompt_tokens":{"kind":"lognormal","mean":50,"sigma":0.7,"min":3,"max":99},
            "output_tokens":{"kind":"uniform","min":1,"max":9},"slo":{"ttft_ms":6000,"e2e_ms":9.5},
            "engine":{"max_batch_tokens":64,"graphs":false},"warmup":2,"repeats":3)");
        QVERIFY2(bool(w), w ? "" : w.error().message().c_str());
        const Json json = workload_to_json(*w);
        const auto again = parse_workload(json, "again", "/elsewhere");
        QVERIFY2(bool(again), again ? "" : again.error().message().c_str());
        QCOMPARE(workload_to_json(*again).dump(), json.dump());
        QCOMPARE(workload_hash(*again), workload_hash(*w));
        QCOMPARE(again->slo.ttft_ms.value(), 6000.0);
        QVERIFY(!again->slo.itl_ms);
        QCOMPARE(again->engine.max_batch_tokens, 64);
        auto other = *w;
        other.seed = 6;
        QVERIFY(workload_hash(other) != workload_hash(*w));
    }

    void bad_values_are_refused_by_key_data() {
        QTest::addColumn<QString>("members");
        QTest::addColumn<QString>("says");
        const auto row = [](const char* members, const char* says) { QTest::newRow(members) << members << says; };
        row(R"("reqests":1)", "reqests");
        row(R"("requests":0)", "from 1 to 10000000");
        row(R"("requests":10000001)", "from 1 to 10000000");
        row(R"("requests":"8")", "\"8\" (string)");
        row(R"("requests":1.5)", "1.5");
        row(R"("requests":null)", "null");
        row(R"("seed":-1)", "seed");
        row(R"("seed":1,"seed":2)", "twice");
        row(R"("arrival":{"kind":"bursty"})", "arrival.kind");
        row(R"("arrival":{"kind":"poisson","rate":0})", "arrival.rate");
        row(R"("arrival":{"kind":"poisson","rate":1e999})", "number");
        row(R"("arrival":{"kind":"gamma","rate":1,"cv":0})", "arrival.cv");
        row(R"("arrival":{"speed":1})", "arrival.speed");
        row(R"("arrival":[])", "arrival");
        row(R"("assignment":{"kind":"single","include_base":true})", "assignment.include_base");
        row(R"("assignment":{"kind":"power","alpha":0})", "assignment.alpha");
        row(R"("prompt_tokens":{"kind":"fixed","value":1048577})", "1048576");
        row(R"("prompt_tokens":{"kind":"fixed"})", "prompt_tokens.value");
        row(R"("prompt_tokens":{"kind":"fixed","value":1,"min":1})", "prompt_tokens.min");
        row(R"("prompt_tokens":{"kind":"uniform","min":9,"max":8})", "at most max");
        row(R"("output_tokens":{"kind":"lognormal","mean":10,"min":1,"max":8})", "output_tokens.sigma");
        row(R"("slo":{"ttft_ms":0})", "slo.ttft_ms");
        row(R"("slo":{"tpot_ms":5})", "slo.tpot_ms");
        row(R"("engine":{"scheduler":"vtc"})", "fcfs");
        row(R"("engine":{"adapter_strategy":"paper"})", "folded");
        row(R"("engine":{"threads":2})", "engine.threads");
        row(R"("engine":{"max_batch_tokens":0})", "engine.max_batch_tokens");
        row(R"("engine":{"adapter_slots":4})", "engine.adapter_slots");  // but with residency stream
        row(R"("trace":"t.csv","requests":4)", "requests");
        row(R"("adapters":"a=b")", "adapters");
        row(R"("adapters":[3])", "adapters[0]");
        row(R"("repeats":0)", "repeats");
        row(R"("name":"")", "name");
    }
    void bad_values_are_refused_by_key() {
        QFETCH(QString, members);
        QFETCH(QString, says);
        QVERIFY(refused(with(members.toStdString()), {"w.json", says.toStdString()}));
    }

    void schema_and_model_are_required() {
        QVERIFY(refused(parse(R"({"model":"m"})"), {"schema"}));
        QVERIFY(refused(parse(R"({"schema":1})"), {"model"}));
        QVERIFY(refused(parse(R"({"schema":2,"model":"m"})"), {"schema", "2"}));
        QVERIFY(refused(parse("[]"), {"object"}));
    }

    void set_overrides_before_checking() {
        const TempDir dir;
        const std::string file = dir.write("w.json", R"({"schema":1,"model":"m","arrival":{"kind":"burst"}})");
        const auto w = read_workload(file, {"requests=64", "arrival.kind=poisson", "arrival.rate=2.5", "name=a b",
                                            "prompt_tokens={\"kind\":\"fixed\",\"value\":9}", "engine.graphs=false"});
        QVERIFY2(bool(w), w ? "" : w.error().message().c_str());
        QCOMPARE(w->requests, 64);
        QCOMPARE(w->arrival.kind, std::string("poisson"));
        QCOMPARE(w->arrival.rate, 2.5);
        QCOMPARE(w->name, std::string("a b"));
        QCOMPARE(w->prompt_tokens.value, 9);
        QVERIFY(!w->engine.graphs);
        QCOMPARE(w->model, dir.path("m"));
        QVERIFY(refused(read_workload(file, {"requests"}), {"--set"}));
        QVERIFY(refused(read_workload(file, {"=3"}), {"--set"}));
        QVERIFY(refused(read_workload(file, {"a..b=3"}), {"empty key"}));
        QVERIFY(refused(read_workload(file, {"model.x=3"}), {"object"}));
        QVERIFY(refused(read_workload(file, {"requests=1", "requests=2"}), {"twice"}));
        QVERIFY(refused(read_workload(file, {"arrival.rate=NaN"}), {"arrival.rate", "NaN"}));
        QVERIFY(refused(read_workload(file, {"arrival.rate=1e999"}), {"arrival.rate"}));
        QVERIFY(refused(read_workload(file, {"slo={\"ttft_ms\":1,\"ttft_ms\":2}"}), {"twice"}));
        QVERIFY(refused(read_workload(file, {"nonsense=1"}), {"--set: nonsense"}));
        QVERIFY(refused(read_workload(file, {"requests=2.0"}), {"--set: requests: found 2.0, expected an integer"}));
        QVERIFY(refused(read_workload(file, {"slo.x=1"}), {"--set: slo.x: found an unknown key"}));
        QVERIFY(refused(read_workload(file, {"slo.ttft_ms=1", "slo={\"itl_ms\":2}"}), {"slo", "beside slo.ttft_ms"}));
        QVERIFY(refused(read_workload(file, {"slo={\"itl_ms\":2}", "slo.ttft_ms=1"}), {"slo.ttft_ms", "beside slo"}));
        const std::string bad = dir.write("bad.json", R"({"schema":1,"model":"m","requests":0})");
        QVERIFY(refused(read_workload(bad, {"seed=3"}), {"bad.json: requests"}));  // the file's own fault
    }

    // Another kind of lengths, or a trace, stands instead of what the file said.
    void set_replaces_what_has_no_meaning_beside_it() {
        const TempDir dir;
        const std::string file = dir.write("w.json", R"({"schema":1,"model":"m","requests":9,
            "prompt_tokens":{"kind":"fixed","value":7},"output_tokens":{"kind":"uniform","min":2,"max":3}})");
        const auto w = read_workload(
            file, {"prompt_tokens.min=4", "prompt_tokens.max=5", "prompt_tokens.kind=uniform", "output_tokens.max=8"});
        QVERIFY2(bool(w), w ? "" : w.error().message().c_str());
        QCOMPARE(w->prompt_tokens.min, 4);
        QCOMPARE(w->output_tokens.min, 2);
        QCOMPARE(w->output_tokens.max, 8);
        QCOMPARE(read_workload(file, {"prompt_tokens.kind=fixed"})->prompt_tokens.value, 7);
        QVERIFY(refused(read_workload(file, {"prompt_tokens.kind=lognormal"}), {"prompt_tokens.min", "nothing"}));
        const auto trace = read_workload(file, {"trace=t.csv"});
        QVERIFY(bool(trace));
        QVERIFY(QString::fromStdString(trace->trace).endsWith("/t.csv"));
        QVERIFY(refused(read_workload(file, {"trace=t.csv", "requests=3"}), {"requests", "beside a trace"}));
    }

    void set_paths_start_at_the_working_directory() {
        const TempDir dir;
        const std::string file = dir.write("w.json", R"({"schema":1,"model":"m"})");
        const std::string here = QDir::currentPath().toStdString();
        const auto w = read_workload(file, {"model=x/y", "adapters=[\"a=z\"]"});
        QVERIFY(bool(w));
        QCOMPARE(w->model, here + "/x/y");
        QCOMPARE(w->adapters[0], "a=" + here + "/z");
    }

    void ready_workloads_parse() {
        const QDir folder(SOURCE_DIR "/resources/workloads");
        const auto files = folder.entryList({"*.json"}, QDir::Files);
        QVERIFY(files.size() >= 4);
        for (const QString& name : files) {
            const auto w = read_workload(folder.filePath(name).toStdString());
            QVERIFY2(bool(w), w ? "" : w.error().message().c_str());
        }
    }

    void settings_without_effect_are_named() {
        const auto idle = [](const std::string& more) {
            const auto w = parse(R"({"schema":1,"model":"m")" + more + "}");
            if (!w) throw std::runtime_error(w.error().message());
            return idle_settings(*w);
        };
        QVERIFY(idle("").empty());
        QVERIFY(idle(R"(,"arrival":{"kind":"gamma","rate":3,"cv":2},"assignment":{"kind":"zipf","alpha":2})").empty());
        const auto named = idle(R"(,"arrival":{"rate":3,"cv":2,"concurrency":4},"assignment":{"alpha":2})");
        QCOMPARE(named.size(), size_t(4));
        QCOMPARE(named[0], std::string("arrival.rate has no effect with arrival.kind burst"));
        QCOMPARE(named[3], std::string("assignment.alpha has no effect with assignment.kind round_robin"));
    }
};

QTEST_GUILESS_MAIN(WorkloadTest)
#include "workload_test.moc"
