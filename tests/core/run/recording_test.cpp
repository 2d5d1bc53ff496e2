#include "core/run/compare.h"
#include "core/run/export.h"
#include "core/run/output_file.h"
#include "core/run/recorder.h"
#include "core/run/run_dir.h"
#include "core/run/summary.h"

#include "fixture.h"

#include <QtTest>

#include <atomic>
#include <csignal>
#include <filesystem>
#include <thread>

#include <sys/resource.h>
#include <sys/stat.h>

using namespace spartan;

namespace {

Json header() {
    return {{"name", "made"},
            {"version", "0"},
            {"device", {{"id", "cpu"}}},
            {"pool", {{"page_bytes", 64}}},
            {"engine", {{"scheduler", "fcfs"}}},
            {"model", {{"name", "m"}, {"hash", "h"}}},
            {"adapters",
             Json::array({{{"id", 1}, {"name", "one"}, {"hash", "x"}}, {{"id", 2}, {"name", "=two"}, {"hash", "y"}}})},
            {"workload", {{"name", "made"}, {"seed", 42}, {"slo", {{"ttft_ms", 1.5}}}}},
            {"workload_hash", "abc"}};
}

void push_all(Recorder& recorder, const std::vector<StepRecordPtr>& steps) {
    const auto sink = recorder.sink();
    for (const auto& step : steps)
        while (!sink(step)) std::this_thread::yield();
}

std::string record(const TempDir& dir, const std::vector<StepRecordPtr>& steps, const Json& head = header()) {
    Recorder recorder;
    const std::string run = dir.path("r.wbrun");
    if (!recorder.begin(run, head)) return "";
    push_all(recorder, steps);
    if (!recorder.end(nullptr)) return "";
    return run;
}

std::vector<StepRecordPtr> read_all(const std::string& dir) {
    std::vector<StepRecordPtr> steps;
    const auto run = open_run(dir);
    Progress progress;
    if (run && read_steps(*run, progress, [&](StepRecordPtr s) { steps.push_back(s); })) return steps;
    return {};
}

Result<void> read_result(const std::string& dir) {
    TRY_ASSIGN(run, open_run(dir));
    Progress progress;
    return read_steps(run, progress, [](StepRecordPtr) {});
}

bool same(const RequestRecord& a, const RequestRecord& b) {
    return request_to_json(a).dump() == request_to_json(b).dump() && a.token_us == b.token_us && a.output == b.output;
}

bool same(const StepRecord& a, const StepRecord& b) {
    return step_to_json(a).dump() == step_to_json(b).dump() &&
           std::equal(a.finished.begin(), a.finished.end(), b.finished.begin(), b.finished.end(),
                      [](const auto& x, const auto& y) { return same(x, y); });
}

StepRecord random_step(std::mt19937_64& random) {
    const auto n = [&](int64_t top) { return int64_t(random() % uint64_t(top)); };
    StepRecord s;
    s.step = n(1 << 20);
    s.start_us = n(int64_t(1) << 40);
    s.end_us = s.start_us + n(1 << 20);
    s.held_us = n(1 << 30);
    for (int64_t i = n(4); i-- > 0;)
        s.rows.push_back({RequestId(random()), AdapterId(uint32_t(random())), int32_t(n(512)), int32_t(n(4096)),
                          n(2) == 0, Token(n(50'000)) - 1, FinishReason(n(6))});
    s.times = {n(9), n(9), n(9), n(9), n(9), n(9), n(9), n(9), n(9), n(9)};
    s.bytes = {n(1000), n(1000), n(1000), n(1000)};
    s.pool = {int32_t(n(99)), int32_t(n(99)), int32_t(n(99)), int32_t(n(99)), int32_t(n(99))};
    for (int64_t i = n(4); i-- > 0;)
        s.page_changes.push_back({int32_t(n(99)), int32_t(n(99)), PageOwner(n(4)), random()});
    s.running = int32_t(n(99));
    for (int64_t i = n(3); i-- > 0;) s.waiting_for.push_back({WaitReason(n(6)), int32_t(n(9)), int32_t(n(9))});
    for (int64_t i = n(3); i-- > 0;)
        s.arrivals.push_back({RequestId(random()), AdapterId(uint32_t(n(9))), n(99), int32_t(n(99)), int32_t(n(99))});
    for (int64_t i = n(3); i-- > 0;) s.preempted.push_back(RequestId(random()));
    for (int64_t i = n(3); i-- > 0;)
        s.adapter_events.push_back({AdapterId(uint32_t(n(9))), AdapterEvent::Kind(n(2)), n(99), n(99), n(99)});
    if (n(2) == 0) s.device = {1 + n(1000), n(1000)};
    if (n(2) == 0) s.gap_us = n(99);
    if (n(2) == 0) s.trouble = "out of \"memory\"\n" + std::to_string(n(9));
    return s;
}

}  // namespace

class RecordingTest : public QObject {
    Q_OBJECT
private slots:
    void steps_round_trip() {
        std::mt19937_64 random(7);
        for (int i = 0; i < 500; ++i) {
            const StepRecord s = random_step(random);
            const std::string line = step_to_json(s).dump();
            const auto json = parse_json(line, "line");
            QVERIFY(bool(json));
            const auto again = step_from_json(*json, "line");
            QVERIFY2(bool(again), again ? "" : again.error().message().c_str());
            QCOMPARE(step_to_json(*again).dump(), line);
        }
    }

    void requests_round_trip() {
        RequestRecord r;
        r.id = RequestId(12345678901234567890u >> 1);
        r.adapter = AdapterId(4);
        r.arrival_us = 17;
        r.finish = FinishReason::error;
        r.error = "a \"bad\"\nline \xe2\x80\xae";
        r.warmup = true;
        r.origin = {3, 250.125f, "=cmd|x"};
        r.token_us = {1, 2};
        r.output = {5, 6};
        r.visible_bytes = 9;
        const auto again = request_from_json(*parse_json(request_to_json(r).dump(), "x"), "x");
        QVERIFY2(bool(again), again ? "" : again.error().message().c_str());
        QVERIFY(same(*again, r));
        QCOMPARE(again->error, r.error);
        QCOMPARE(again->origin.slo_ttft_ms, 250.125f);
        QVERIFY(refused(
            request_from_json(*parse_json(R"({"request":1,"adapter":0,"arrival_us":0,"finish":"maybe"})", "x"), "x"),
            {"finish", "maybe"}));
        QVERIFY(refused(request_from_json(
                            *parse_json(R"({"request":1,"adapter":0,"arrival_us":0,"finish":"eos","x":1})", "x"), "x"),
                        {"unknown key"}));
    }

    void what_is_read_is_what_was_heard() {
        const TempDir dir;
        auto steps = made_run(7, 9, 0, 1000, 1, 0);
        // A request whose tokens differ from what its steps say keeps its own.
        auto odd = std::make_shared<StepRecord>(*steps.back());
        odd->finished[2].output.pop_back();
        odd->finished[3].token_us.clear();
        steps.back() = odd;
        const auto again = read_all(record(dir, steps));
        QCOMPARE(again.size(), steps.size());
        for (size_t i = 0; i < steps.size(); ++i) QVERIFY(same(*again[i], *steps[i]));
        struct stat s {};
        QVERIFY(::stat(dir.path("r.wbrun").c_str(), &s) == 0 && (s.st_mode & 0777) == 0700);
        const auto run = open_run(dir.path("r.wbrun"));
        QVERIFY(run->complete);
        QCOMPARE(run->adapter_names[2], std::string("=two"));
        QCOMPARE(read_requests(*run)->size(), size_t(7));
    }

    void listeners_hear_everything_in_order() {
        Recorder recorder;
        std::vector<int64_t> heard;
        const int handle = recorder.add_listener([&](const auto& records) {
            for (const auto& r : records) heard.push_back(r->step);
        });
        const auto steps = made_run(1, 20'000, 0, 0, 1, 0);
        push_all(recorder, steps);
        recorder.flush();
        QCOMPARE(heard.size(), steps.size());
        for (size_t i = 0; i < heard.size(); ++i) QCOMPARE(heard[i], int64_t(i));
        recorder.remove_listener(handle);
        push_all(recorder, made_run(1, 10, 0, 0, 1, 0));
        recorder.flush();
        QCOMPARE(heard.size(), steps.size());
    }

    void a_full_ring_says_so() {
        Recorder recorder;
        std::atomic<bool> go{false};
        recorder.add_listener([&](const auto&) {
            while (!go) std::this_thread::yield();
        });
        const auto sink = recorder.sink();
        const auto step = std::make_shared<StepRecord>();
        int taken = 0;
        while (taken < 100'000 && sink(step)) ++taken;
        QVERIFY(taken >= 4096 && taken < 100'000);
        go = true;
        recorder.flush();
        QVERIFY(sink(step));
    }

    void folders_in_use_are_refused() {
        const TempDir dir;
        Recorder recorder;
        dir.write("file", "x");
        QVERIFY(refused(recorder.begin(dir.path(), header()), {"not empty"}));
        QVERIFY(refused(recorder.begin(dir.path("file"), header()), {"a file"}));
        QVERIFY(refused(recorder.begin(dir.path("file") + "/below", header()), {"Not a directory"}));
        QVERIFY(!recorder.recording());
        QCOMPARE(QDir(dir.dir.path()).entryList(QDir::AllEntries | QDir::NoDotAndDotDot).size(), 1);
        QVERIFY(bool(recorder.begin(dir.path("a/b/c.wbrun"), header())));
        QVERIFY(refused(recorder.begin(dir.path("d"), header()), {"still open"}));
        QVERIFY(bool(recorder.amend({{"name", "renamed"}})));
        QCOMPARE(open_run(dir.path("a/b/c.wbrun"))->name, std::string("renamed"));
        QVERIFY(bool(recorder.end({{"requests", 0}}, false)));
        QVERIFY(!open_run(dir.path("a/b/c.wbrun"))->complete);
        QVERIFY(!recorder.end(nullptr));
    }

    void torn_ends_are_dropped_and_damage_is_named() {
        const TempDir dir;
        const auto steps = made_run(4, 6, 0, 0, 1, 0);
        const std::string run = record(dir, steps);
        const std::string file = run + "/steps.jsonl", whole = TempDir::read(file);
        for (size_t cut = whole.size() - 1; cut > 0; cut -= std::min<size_t>(cut, 97)) {
            std::filesystem::resize_file(file, cut);
            const auto again = read_all(run);
            QCOMPARE(again.size(), size_t(std::count(whole.begin(), whole.begin() + std::ptrdiff_t(cut), '\n')));
        }
        const auto put = [&](const std::string& name, const std::string& text) {
            std::ofstream(run + "/" + name, std::ios::binary) << text;
        };
        put("steps.jsonl", whole);
        QVERIFY(bool(read_result(run)));
        const std::string requests = TempDir::read(run + "/requests.jsonl"),
                          tokens = TempDir::read(run + "/tokens.jsonl");
        put("requests.jsonl", requests.substr(0, requests.size() / 2));  // cut off before the steps were
        QVERIFY(bool(read_result(run)));
        put("requests.jsonl", "{\"request\":9}\n" + requests);
        QVERIFY(refused(read_result(run), {"requests.jsonl, line 1"}));
        put("requests.jsonl", requests);
        put("tokens.jsonl", "[1,1,1]\n" + tokens);
        QVERIFY(refused(read_result(run), {"tokens.jsonl, line 1"}));
        put("tokens.jsonl", tokens);
        const auto with = [&](const std::string& key, const std::string& value) {  // in the first step
            const size_t at = whole.find("\"" + key + "\":") + key.size() + 3;
            return whole.substr(0, at) + value + whole.substr(whole.find_first_of(",}", at));
        };
        put("steps.jsonl", with("start_us", "20000000"));
        QVERIFY(refused(read_result(run), {"steps.jsonl, line 1", "end_us", "its start"}));
        put("steps.jsonl", with("end_us", "900000000000"));
        put("tokens.jsonl", "");
        QVERIFY(refused(read_result(run), {"steps.jsonl, line 2", "end_us", "the step before"}));
        put("steps.jsonl", with("end_us", "100000000000000000"));
        QVERIFY(refused(read_result(run), {"steps.jsonl, line 1", "end_us"}));
        put("tokens.jsonl", tokens);
        std::string damaged = whole;
        damaged[damaged.find('\n') + 5] = '\x01';
        put("steps.jsonl", damaged);
        QVERIFY(refused(read_result(run), {"steps.jsonl, line 2"}));
        std::filesystem::remove(file);
        QVERIFY(!read_result(run));
    }

    void newer_schemas_are_refused_by_number() {
        const TempDir dir;
        dir.write("run.json", R"({"schema":7,"complete":true})");
        QVERIFY(refused(open_run(dir.path()), {"schema", "7", "at most 1"}));
        dir.write("run.json", R"({"schema":1,"complete":true,"surprise":1})");
        QVERIFY(refused(open_run(dir.path()), {"surprise"}));
        dir.write("run.json", R"({"schema":1,"complete":true,"adapters":[{"id":-3,"name":"x"}]})");
        QVERIFY(refused(open_run(dir.path()), {"adapters.id"}));
        QVERIFY(!open_run(dir.path("nothing")));
    }

    void a_full_disk_stops_the_writing_only() {
        const TempDir dir;
        std::signal(SIGXFSZ, SIG_IGN);
        struct rlimit old {};
        QVERIFY(::getrlimit(RLIMIT_FSIZE, &old) == 0);
        Recorder recorder;
        std::atomic<int64_t> heard{0};
        recorder.add_listener([&](const auto& records) { heard += int64_t(records.size()); });
        const std::string run = dir.path("r.wbrun");
        QVERIFY(bool(recorder.begin(run, header())));
        push_all(recorder, made_run(8, 20, 0, 0, 1, 0));
        recorder.flush();
        const struct rlimit small { 50'000, old.rlim_max };
        QVERIFY(::setrlimit(RLIMIT_FSIZE, &small) == 0);
        push_all(recorder, made_run(8, 480, 0, 20'000, 9, 20));
        recorder.flush();
        const std::string error = recorder.write_error();
        const auto ended = recorder.end(nullptr);
        QVERIFY(::setrlimit(RLIMIT_FSIZE, &old) == 0);
        QVERIFY2(contains(error, "jsonl"), error.c_str());
        QVERIFY(!ended);
        QCOMPARE(heard.load(), 500);
        QVERIFY(!open_run(run)->complete);
        QVERIFY(read_all(run).size() >= 20);  // what fitted is there
    }

    void a_vanished_folder_stops_the_writing_only() {
        const TempDir dir;
        Recorder recorder;
        const std::string run = dir.path("r.wbrun");
        QVERIFY(bool(recorder.begin(run, header())));
        push_all(recorder, made_run(2, 5, 0, 0, 1, 0));
        recorder.flush();
        QVERIFY(recorder.write_error().empty());
        std::filesystem::remove_all(run);
        push_all(recorder, made_run(2, 5, 0, 0, 3, 5));
        recorder.flush();
        QVERIFY2(contains(recorder.write_error(), "removed"), recorder.write_error().c_str());
        QVERIFY(!recorder.end(nullptr));
        QVERIFY(!std::filesystem::exists(run));
        QVERIFY(bool(recorder.begin(dir.path("next"), header())));  // the next recording starts clean
        QVERIFY(recorder.write_error().empty());
        QVERIFY(bool(recorder.end(nullptr)));
    }

    void summary_adds_up() {
        const TempDir dir;
        auto steps = made_run(6, 11, 0, 1'000'000, 1, 0);
        auto broken = std::make_shared<StepRecord>(*steps.back());
        broken->finished[5].finish = FinishReason::error;
        broken->finished[5].error = "no";
        broken->finished[4].origin.slo_ttft_ms = 0.5f;  // its own limit, missed
        broken->finished[3].warmup = true;
        broken->gap_us = 40;  // the others do not know theirs
        steps.back() = broken;
        const auto run = open_run(record(dir, steps));
        const auto d = summarise_run(*run);
        QVERIFY2(bool(d), d ? "" : d.error().message().c_str());
        QCOMPARE((*d)["requests"].get<int>(), 5);
        QCOMPARE((*d)["completed"].get<int>(), 4);
        QCOMPARE((*d)["failed"].get<int>(), 1);
        QCOMPARE((*d)["duration_s"].get<double>(), 0.011);
        QCOMPARE((*d)["prompt_tokens"].get<int>(), 10 + 11 + 12 + 14);
        QCOMPARE((*d)["output_tokens"].get<int>(), 44);
        QCOMPARE((*d)["output_throughput"].get<double>(), 44 / 0.011);
        QCOMPARE((*d)["ttft_ms"]["p99"].get<double>(), 1.0);
        QCOMPARE((*d)["itl_ms"]["n"].get<int>(), 40);
        QCOMPARE((*d)["gap_ms"]["n"].get<int>(), 1);
        QCOMPARE((*d)["gap_ms"]["p50"].get<double>(), 0.04);
        QCOMPARE((*d)["itl_ms"]["mean"].get<double>(), 1.0);
        QCOMPARE((*d)["tpot_ms"]["mean"].get<double>(), 1.0);
        QCOMPARE((*d)["e2e_ms"]["p50"].get<double>(), 11.0);
        QCOMPARE((*d)["queue_ms"]["mean"].get<double>(), 0.005);
        QCOMPARE((*d)["attainment"].get<double>(), 3.0 / 5);
        QCOMPARE((*d)["goodput"].get<double>(), 3 / 0.011);
        QCOMPARE((*d)["adapters"]["registered"].get<int>(), 2);
        QCOMPARE((*d)["adapters"]["used"].get<int>(), 2);
        QCOMPARE((*d)["adapters"]["loads"].get<int>(), 1);
        QCOMPARE((*d)["adapters"]["load_bytes"].get<int>(), 4096);
        QCOMPARE((*d)["pool"]["peak_used"].get<int>(), 24);
        QCOMPARE((*d)["pool"]["page_bytes"].get<int>(), 64);
        QCOMPARE((*d)["workload"]["hash"].get<std::string>(), std::string("abc"));
        QCOMPARE((*d)["per_adapter"].size(), size_t(3));
        QVERIFY((*d)["per_adapter"][0]["adapter"].is_null());
        QCOMPARE((*d)["per_adapter"][2]["adapter"].get<std::string>(), std::string("=two"));
        QVERIFY(!d->contains("repeats"));
    }

    void repeats_are_kept_apart_and_together() {
        RunSummary summary;
        for (const auto& s : made_run(4, 10, 0, 0, 1, 0)) summary.add(*s);
        for (const auto& s : made_run(4, 20, 1, 50'000'000, 5, 10)) summary.add(*s);
        for (const auto& s : made_run(4, 20, -1, 90'000'000, 9, 30)) summary.add(*s);  // typed by a person
        const Json d = summary.document(header(), {"base", "one", "two"});
        QCOMPARE(d["requests"].get<int>(), 8);
        QCOMPARE(d["duration_s"].get<double>(), 0.030);
        QCOMPARE(d["repeats"].size(), size_t(2));
        QCOMPARE(d["repeats"][1]["duration_s"].get<double>(), 0.020);
        QCOMPARE(d["intervals"]["output_throughput"]["mean"].get<double>(), 4000.0);
        QCOMPARE(d["intervals"]["request_throughput"]["n"].get<int>(), 2);
        QCOMPARE(summary.finished(1), 4);
        int by_adapter = 0;
        for (const Json& a : d["per_adapter"]) by_adapter += a["requests"].get<int>();
        QCOMPARE(by_adapter, 8);
    }

    void exports_escape_what_came_from_outside() {
        const TempDir dir;
        auto steps = made_run(3, 4, 0, 2'000'000, 1, 0);
        auto last = std::make_shared<StepRecord>(*steps.back());
        last->finished[0].origin.label = "=cmd|' /C calc'!A0";
        last->finished[1].origin.label = "<script>alert(1)</script>";
        last->finished[1].finish = FinishReason::error;
        last->finished[1].error = "line\none, \"two\"";
        last->finished[2].first_token_us = -1;
        steps.back() = last;
        Json head = header();
        head["name"] = "<img src=x onerror=alert(1)>";
        head["adapters"][0]["name"] = "<b>one</b>";
        const auto run = open_run(record(dir, steps, head));
        QVERIFY(bool(export_csv(*run, dir.path("o.csv"))));
        const std::string csv = TempDir::read(dir.path("o.csv"));
        QVERIFY(csv.rfind("request_id,adapter,arrival_s,queue_ms,ttft_ms,tpot_ms,e2e_ms,prompt_tokens,output_tokens,"
                          "finish,error\n",
                          0) == 0);
        QVERIFY(!contains(csv, "\n=cmd"));
        QVERIFY(contains(csv, "'=two,0.000000,0.005,,,4.000,12,4,length,\n"));
        QVERIFY(contains(csv, ",error,\"line\none, \"\"two\"\"\"\n"));
        QVERIFY(bool(export_html(*run, dir.path("o.html"))));
        const std::string html = TempDir::read(dir.path("o.html"));
        QVERIFY(!contains(html, "<img") && !contains(html, "<b>one") && !contains(html, "<script"));
        QVERIFY(contains(html, "&lt;img"));
        QVERIFY(!contains(html, "http://") && !contains(html, "https://"));
        QVERIFY(bool(export_json(*run, dir.path("o.json"))));
        QCOMPARE(parse_json(TempDir::read(dir.path("o.json")), "o")->dump(), summarise_run(*run)->dump());
        QVERIFY(!export_csv(*run, dir.path("missing/o.csv")));
        QVERIFY(!std::filesystem::exists(dir.path("missing")));
        QVERIFY(!export_csv(*run, "/dev/full/x"));
    }

    void output_files_appear_whole_or_not_at_all() {
        const TempDir dir;
        dir.write("old", "before");
        std::filesystem::permissions(dir.path("old"),
                                     std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
        std::filesystem::create_symlink(dir.path("old"), dir.path("link"));
        {
            auto dropped = OutputFile::create(dir.path("old"));
            QVERIFY(bool(dropped));
            dropped->write("half");
        }
        QCOMPARE(TempDir::read(dir.path("old")), std::string("before"));
        auto file = OutputFile::create(dir.path("link"));  // the target is replaced, not the link
        QVERIFY(bool(file));
        file->write(std::string(1 << 20, 'x'));
        QVERIFY(bool(file->commit()));
        QCOMPARE(TempDir::read(dir.path("old")).size(), size_t(1) << 20);
        QVERIFY(std::filesystem::is_symlink(dir.path("link")));
        QCOMPARE(std::filesystem::status(dir.path("old")).permissions(),
                 std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
        QVERIFY(refused(OutputFile::create(dir.path()), {"a folder"}));
        QVERIFY(refused(OutputFile::check(dir.path("none/x")), {"No such file"}));
        QVERIFY(bool(OutputFile::check(dir.path("new"))));
        QCOMPARE(QDir(dir.dir.path()).entryList(QDir::AllEntries | QDir::Hidden | QDir::NoDotAndDotDot),
                 (QStringList{"link", "old"}));
        // A device is written to, never replaced by a file.
        auto null = OutputFile::create("/dev/null");
        QVERIFY(bool(null));
        null->write("x");
        QVERIFY(bool(null->commit()) && std::filesystem::is_character_file("/dev/null"));
        auto full = OutputFile::create("/dev/full");
        QVERIFY(bool(full));
        full->write("x");
        QVERIFY(refused(full->commit(), {"/dev/full", "No space left"}));
    }

    void comparisons_state_differences() {
        const TempDir a, b;
        Json other = header();
        other["engine"]["scheduler"] = "other";
        const std::string first = record(a, made_run(4, 10, 0, 0, 1, 0));
        const std::string second = record(b, made_run(8, 10, 0, 0, 1, 0), other);
        const auto c = compare_runs({first, second});
        QVERIFY2(bool(c), c ? "" : c.error().message().c_str());
        QCOMPARE((*c)["runs"].size(), size_t(2));
        bool found = false;
        for (const Json& m : (*c)["differences"]["metrics"]) {
            if (m["metric"] != "request_throughput") continue;
            found = true;
            QCOMPARE(m["values"][0].get<double>(), 400.0);
            QCOMPARE(m["absolute"][1].get<double>(), 400.0);
            QCOMPARE(m["relative"][1].get<double>(), 1.0);
            QCOMPARE(m["better"].get<std::string>(), std::string("higher"));
        }
        QVERIFY(found);
        QCOMPARE((*c)["differences"]["settings"].size(), size_t(1));
        QCOMPARE((*c)["differences"]["settings"][0]["setting"].get<std::string>(), std::string("engine.scheduler"));
        QVERIFY(contains(comparison_text(*c), "▲ +100.0 % better"));
        QVERIFY(contains(comparison_html(*c), "engine.scheduler"));
        QVERIFY(!compare_runs({first, a.path("nothing")}));
    }
};

QTEST_GUILESS_MAIN(RecordingTest)
#include "recording_test.moc"
