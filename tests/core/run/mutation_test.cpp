// Random damage to what a run reads and writes: workload files, traces and recordings are read or refused, never crash.
#include "core/run/compare.h"
#include "core/run/recorder.h"
#include "core/run/run_dir.h"
#include "core/run/workload.h"
#include "tests/core/run/fixture.h"

using namespace spartan;

namespace {

constexpr const char* kWorkload =
    R"({"schema":1,"name":"n","model":"synthetic:tiny","adapters":["synthetic:lora:1:r=4"],
    "requests":4,"seed":1,"ignore_eos":true,"arrival":{"kind":"gamma","rate":10,"cv":1,"concurrency":2},
    "assignment":{"kind":"zipf","alpha":1.1,"include_base":true},"prompt_tokens":{"kind":"uniform","min":2,"max":5},
    "output_tokens":{"kind":"lognormal","mean":4,"sigma":0.3,"min":1,"max":8},"slo":{"ttft_ms":5},
    "engine":{"max_batch_tokens":64,"block_tokens":8},"warmup":1,"repeats":1})";

std::string damaged(std::string text, std::mt19937& random) {
    static const std::vector<std::string> pieces{
        "-1", "1e308", "99999999999999999999", "null", "[]", "{}", "\"\"", "0", "\\ud800", "\xff", "\n", ",", "\"", ""};
    for (auto k = 1 + random() % 3; k > 0 && !text.empty(); --k) {
        const size_t at = random() % text.size();
        switch (random() % 4) {
            case 0:
                text[at] = char(random());
                break;
            case 1:
                text.replace(at, random() % 6, pieces[random() % pieces.size()]);
                break;
            case 2:
                text.insert(at, text.substr(random() % text.size(), random() % 40));
                break;
            default:
                text.resize(at);
        }
    }
    return text;
}

// One line that names the file; nothing else is an answer to damage.
template <class T>
bool read_or_refused(const Result<T>& result) {
    if (result) return true;
    const std::string message = result.error().message();
    return !message.empty() && !contains(message, "\n") && !contains(message, "unknown error") && message.size() < 2000;
}

}  // namespace

class MutationTest : public QObject {
    Q_OBJECT
private slots:
    void workloads() {
        const TempDir dir;
        std::mt19937 random(3);
        int refusals = 0;
        for (int round = 0; round < 1000; ++round) {
            const auto w = read_workload(dir.write("w.json", damaged(kWorkload, random)));
            QVERIFY(read_or_refused(w));
            refusals += !w;
            if (w && w->requests < 10'000 && w->warmup < 10'000) QVERIFY(make_plan(*w, {"a"}, 0));
        }
        QVERIFY(refusals > 500 && refusals < 1000);
    }

    void traces() {
        const TempDir dir;
        std::mt19937 random(4);
        std::string good =
            "request_id,arrival_s,adapter,prompt_tokens,output_tokens,session_id,prompt_seed,slo_ttft_ms\n";
        for (int i = 0; i < 12; ++i)
            good += "r" + std::to_string(i) + ",0." + std::to_string(10 + i) + (i % 2 ? ",a" : ",") + ",5,6,s,7,100\n";
        Workload w;
        int refusals = 0;
        for (int round = 0; round < 1000; ++round) {
            w.trace = dir.write("t.csv", damaged(good, random));
            const auto plan = make_plan(w, {"a"}, 0);
            QVERIFY(read_or_refused(plan));
            refusals += !plan;
        }
        QVERIFY(refusals > 300 && refusals < 1000);
    }

    void recordings() {
        const TempDir dir;
        const std::string run = dir.path("r.wbrun");
        {
            Recorder recorder;
            QVERIFY(recorder.begin(run, {{"name", "r"},
                                         {"adapters", {{{"id", 1}, {"name", "a"}, {"hash", "h"}}}},
                                         {"workload", {{"name", "w"}, {"slo", {{"ttft_ms", 5}}}}},
                                         {"pool", {{"page_bytes", 4096}}}}));
            for (const StepRecordPtr& step : made_run(3, 4, 0, 0, 1, 0)) recorder.sink()(step);
            QVERIFY(recorder.end(nullptr));
        }
        std::mt19937 random(5);
        for (const char* name : {"run.json", "steps.jsonl", "requests.jsonl", "tokens.jsonl"}) {
            const std::string file = run + "/" + name, good = TempDir::read(file);
            for (int round = 0; round < 200; ++round) {
                std::ofstream(file, std::ios::binary) << damaged(good, random);
                const auto opened = open_run(run);
                QVERIFY(read_or_refused(opened));
                if (opened) QVERIFY(read_or_refused(summarise_run(*opened)));
                if (round % 7 == 0) QVERIFY(read_or_refused(compare_runs({run, run})));
            }
            std::ofstream(file, std::ios::binary) << good;
            QVERIFY(compare_runs({run, run}));
        }
    }
};

QTEST_GUILESS_MAIN(MutationTest)
#include "mutation_test.moc"
