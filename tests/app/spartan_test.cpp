// The program itself, as a person or a script meets it: every command, its refusals, exit codes and files.
#include "core/model/safetensors.h"
#include "tests/app/program.h"

#include <cmath>

#include <sys/stat.h>

using namespace program;

namespace {

const char* kWorkload = R"({"schema":1,"name":"small","model":"synthetic:tiny",
    "adapters":["synthetic:boft:2:b=8,m=2","synthetic:lora:1:r=4"],"requests":12,"assignment":{"kind":"round_robin","include_base":true},
    "prompt_tokens":{"kind":"uniform","min":5,"max":40},"output_tokens":{"kind":"fixed","value":6},
    "slo":{"ttft_ms":100000},"engine":{"pool_bytes":33554432}})";

}  // namespace

class SpartanTest : public QObject {
    Q_OBJECT
private slots:
    void version_and_help() {
        const Output v = spartan_with({"--version"});
        QCOMPARE(v.code, 0);
        QVERIFY(QRegularExpression("^spartan \\d+\\.\\d+\\.\\d+ \\(\\w+\\)\n$").match(v.out).hasMatch());
        const Output help = spartan_with({"--help"});
        QCOMPARE(help.code, 0);
        for (const char* command : {"inspect", "tokenize", "logits", "generate", "run", "bench", "compare", "export",
                                    "make-adapters", "merge", "verify", "devices", "completion"}) {
            QVERIFY2(help.out.contains(command), command);
            const Output one = spartan_with({command, "--help"});
            QCOMPARE(one.code, 0);
            QVERIFY2(one.out.contains("Examples:"), command);
            QVERIFY(one.err.isEmpty());
        }
    }

    void bad_arguments_exit_with_2_data() {
        QTest::addColumn<QStringList>("arguments");
        const auto row = [](const QStringList& a) { QTest::newRow(qPrintable(a.join(' '))) << a; };
        row({});
        row({"nonsense"});
        row({"serve"});
        row({"verify", "--anything", "x"});
        row({"merge"});
        row({"simulate"});
        row({"bench"});
        row({"bench", "serve"});
        row({"inspect"});
        row({"inspect", "a", "b"});
        row({"inspect", "a", "--nonsense"});
        row({"tokenize", "--model", "synthetic:tiny"});
        row({"tokenize", "--model", "synthetic:tiny", "--text", "a", "--file", "b"});
        row({"logits", "--model", "synthetic:tiny"});
        row({"logits", "--model", "m", "--prompts", "p", "--out", "o", "--greedy", "-1"});
        row({"generate", "--model", "synthetic:tiny"});
        row({"generate", "--model", "synthetic:tiny", "--prompt", "a", "--temperature", "nan"});
        row({"generate", "--model", "synthetic:tiny", "--prompt", "a", "--temperature", "-1"});
        row({"generate", "--model", "synthetic:tiny", "--prompt", "a", "--top-p", "0"});
        row({"generate", "--model", "synthetic:tiny", "--prompt", "a", "--max-tokens", "many"});
        row({"generate", "--model", "synthetic:tiny", "--prompt", "a", "--system", "s"});
        row({"generate", "--model", "synthetic:tiny", "--prompt", "a", "--adapter", "nonsense"});
        row({"generate", "--model", "synthetic:tiny", "--prompt", "a", "--adapter", "a b=x"});
        row({"generate", "--model", "synthetic:tiny", "--prompt", "a", "--adapter", "a=x", "--adapter", "a=y"});
        row({"generate", "--model", "synthetic:tiny", "--prompt", "a", "--adapter", "a=x", "--use", "b"});
        row({"generate", "--model", "synthetic:tiny", "--prompt", "a", "--adapter", "synthetic:ia3:1:r=4"});
        row({"make-adapters", "--model", "synthetic:tiny", "--spec", "nonsense", "--out", "/nonexistent/out"});
        row({"run", "w.json", "--set", "requests"});
        row({"run", "w.json", "--set", "=1"});
        row({"run"});
        row({"run", "w.json", "--threads", "0"});
        row({"devices", "--device", "gpu"});
        row({"devices", "--dtype", "int8"});
        row({"devices", "--seed", "-1"});
        row({"compare", "one"});
        row({"export", "one"});
        row({"completion", "tcsh"});
        row({"--seed", "5"});
        row({"bench", "nonsense"});
        row({"inspect", ""});
        row({"generate", "--model", "", "--prompt", "a"});
        row({"generate", "--model", "synthetic:tiny", "--prompt", "a", "--temperature", ""});
        row({"generate", "--model", "synthetic:tiny", "--prompt", "a", "--temperature", "1x"});
        row({"generate", "--model", "synthetic:tiny", "--prompt", "a", "--top-p", "nan"});
        row({"generate", "--model", "synthetic:tiny", "--prompt", "a", "--top-p", "1.5"});
        row({"generate", "--model", "synthetic:tiny", "--prompt", "a", "--top-k", "-1"});
        row({"generate", "--model", "synthetic:tiny", "--prompt", "a", "--stop", ""});
        row({"generate", "--model", "synthetic:tiny", "--prompt", "a", "--max-tokens", "99999999999999999999"});
        row({"generate", "--model", "synthetic:tiny", "--prompt", "a", "--use", ""});
        row({"generate", "--model", "synthetic:tiny", "--prompt", "a", "--prompts", "b"});
        row({"tokenize", "--model", "synthetic:tiny", "--text", "a", "--text", "b"});
        row({"run", "w.json", "--out", ""});
        row({"run", "w.json", "--seed", "1e3"});
        row({"devices", "--device", "cuda:"});
        row({"devices", "--device", "cpu:0"});
        row({"export", "one", "--csv", ""});
        row({"export", "one", "--csv", "-", "--json", "-"});
        row({"compare", "one", "two", "--json", "--html", "x"});
        row({"make-adapters", "--model", "synthetic:tiny", "--spec", "synthetic:lora:1:r=4", "--out", ""});
    }
    void bad_arguments_exit_with_2() {
        QFETCH(QStringList, arguments);
        const Output o = spartan_with(arguments);
        QCOMPARE(o.code, 2);
        QVERIFY(o.out.isEmpty());
        QVERIFY2(o.err.count('\n') >= 1 && o.err.count('\n') <= 2, o.err);
    }
    void bad_arguments_say_what_was_found() {
        const auto says = [](const QStringList& arguments) { return spartan_with(arguments).err; };
        QVERIFY(says({"nonsense"}).contains("found nonsense, expected a command: inspect, "));
        QVERIFY(says({"--seed", "5", "nonsense"}).contains("found nonsense, "));
        QVERIFY(says({"bench", "nonsense"}).contains("found nonsense, expected a command: kernels, "));
        QVERIFY(says({"bench"}).contains("Usage: spartan bench --help"));
        QVERIFY(says({"devices", "--threads", "0"}).contains("--threads: found 0, expected an integer from 1 to 1024"));
        QVERIFY(says({"devices", "--dtype", "int8"}).contains("--dtype: found int8, expected one of f32, "));
        QVERIFY(says({"devices", "--device", "gpu"}).contains("--device: found gpu, expected cpu, "));
        QVERIFY(says({"bench", "decode", "--batch", "1,x", "--model", "m"}).contains("found x, expected an integer"));
        QVERIFY(says({"generate", "--promt", "x"}).contains("spartan: found --promt, expected --prompt\n"));
        QVERIFY(says({"bench", "decode", "--model", "m", "--btach=3"}).contains("found --btach, expected --batch\n"));
        QVERIFY(says({"run", "w.json", "--sed", "1"}).contains("found --sed, expected --set\n"));
        QVERIFY(says({"run", "w.json", "--thread", "1"}).contains("found --thread, expected --threads\n"));
        QVERIFY(says({"inspect", "a", "--nonsense"}).contains("found --nonsense, expected one of --help, "));
        QVERIFY(says({"inspect", "a", "b"}).contains("found b, expected no further argument"));
        QVERIFY(says({"--devic", "cpu"}).contains("found --devic, expected --device\n"));
    }
    void options_of_the_engine_are_named_as_they_are_written() {
        const QTemporaryDir dir;
        const QString w = write(dir, "w.json", kWorkload);
        const QString invariant = write(dir, "v.json", QByteArray(kWorkload).replace("33554432", "4096"));
        const auto says = [&](const QString& file, const QStringList& set) {
            QStringList arguments{"run", file, "--device", "cpu"};
            for (const QString& s : set) arguments << "--set" << s;
            return spartan_with(arguments).err;
        };
        const QByteArray by_file = says(invariant, {}), by_set = says(w, {"engine.pool_bytes=4096"});
        QVERIFY2(by_file.contains("v.json: engine.pool_bytes: found 4.1 kB, expected at least"), by_file);
        QVERIFY2(by_set.startsWith("spartan: --set: engine.pool_bytes: found 4.1 kB, expected at least"), by_set);
        const QByteArray both = says(invariant, {"engine.batch_invariant=false"});
        QVERIFY2(both.startsWith("spartan: --set: engine.batch_invariant: found false, expected true"), both);
        const QByteArray whole = says(w, {"engine={\"pool_bytes\":4096}"});
        QVERIFY2(whole.startsWith("spartan: --set: engine.pool_bytes: found 4.1 kB"), whole);
        const QByteArray adapters = says(w, {"adapters=[\"synthetic:boft:2:b=8,m=1\"]", "engine.adapter_bytes=1000"});
        QVERIFY2(adapters.contains("at most 1.0 kB in all (engine.adapter_bytes)"), adapters);
    }
    void a_step_from_the_caches_is_explained() {
        const Output o = spartan_with({"bench", "decode", "--device", "cpu", "--model", "synthetic:tiny", "--batch",
                                       "1", "--kinds", "base", "--steps", "20"});
        QCOMPARE(o.code, 0);
        bool over = false;
        for (const QString& word : QString::fromUtf8(o.out).replace(" %", "%").split(QRegularExpression("\\s+")))
            over |= word.endsWith('%') && QString(word).remove('%').remove(',').toDouble() > 110;
        QCOMPARE(o.out.contains("Far more than 100 %"), over);
    }

    void devices_are_listed() {
        const Output o = spartan_with({"devices", "--json"});
        QCOMPARE(o.code, 0);
        const Json d = o.json();
        QCOMPARE(d["devices"][0]["id"].get<std::string>(), std::string("cpu"));
        QVERIFY(d["devices"][0]["usable"].get<bool>());
        QVERIFY(d["devices"][0]["threads"].get<int>() >= 1);
        QVERIFY(d["devices"][0]["memory_bytes"].get<int64_t>() > 0);
        QVERIFY(d["devices"][1]["id"].get<std::string>().rfind("cuda", 0) == 0);
        QCOMPARE(d["devices"][1]["usable"].get<bool>(), d["devices"][1]["reason"].is_null());
        QVERIFY(spartan_with({"devices"}).out.contains("threads"));
    }

    void unusable_devices_are_refused_with_the_reason() {
        const Json gpu = spartan_with({"devices", "--json"}).json()["devices"][1];
        const auto with = [](const char* device) {
            return spartan_with({"generate", "--model", "synthetic:tiny", "--prompt", "a", "--device", device});
        };
        const Output absent = with("cuda:99");
        QVERIFY2(absent.code == 1 && absent.err.contains("--device: cuda:99: "), absent.err);
        if (!gpu["usable"].get<bool>()) {
            const Output o = with("cuda");
            QVERIFY2(o.code == 1 && o.err.contains(gpu["reason"].get<std::string>().c_str()), o.err);
        }
        const Output f16 = spartan_with(
            {"--dtype", "f16", "--device", "cpu", "generate", "--model", "synthetic:tiny", "--prompt", "a"});
        QVERIFY2(f16.code == 1 && f16.err.contains("--dtype: found f16, expected f32, bf16 or auto on a CPU"), f16.err);
    }

    void inspect_tells_what_is_there() {
        const Output model = spartan_with({"inspect", kGolden + "/llama-mha/model", "--json"});
        QCOMPARE(model.code, 0);
        QCOMPARE(model.json()["type"].get<std::string>(), std::string("model"));
        QVERIFY(model.json()["problems"].empty());
        const Output adapter = spartan_with({"inspect", kGolden + "/llama-mha/adapters/boft-b4-m3", "--json"});
        QCOMPARE(adapter.code, 0);
        const Json a = adapter.json();
        QCOMPARE(a["kind"].get<std::string>(), std::string("boft"));
        QCOMPARE(a["modules"][0]["b"].get<int>(), 4);
        QCOMPARE(a["modules"][0]["m"].get<int>(), 3);
        QVERIFY(spartan_with({"inspect", kGolden + "/llama-mha/adapters/boft-b4-m3"}).out.contains("boft"));
        const Output missing = spartan_with({"inspect", "/nonexistent/model"});
        QCOMPARE(missing.code, 1);
        QCOMPARE(missing.err.count('\n'), 1);

        // Problems are listed on standard output, exit with 1, and the first stands on standard error.
        const QTemporaryDir dir;
        QVERIFY(QFile::copy(kGolden + "/llama-mha/model/model.safetensors", dir.filePath("model.safetensors")));
        write(dir, "config.json",
              read(kGolden + "/llama-mha/model/config.json").replace("\"vocab_size\": 256", "\"vocab_size\": 255"));
        const Output wrong = spartan_with({"inspect", dir.path(), "--json"});
        QCOMPARE(wrong.code, 1);
        QCOMPARE(wrong.json()["problems"].size(), size_t(2));  // the embedding and the head
        QVERIFY2(wrong.err.count('\n') == 1 && wrong.err.contains("[255, 64]") && wrong.err.contains("(and 1 more)"),
                 wrong.err);
        QVERIFY(spartan_with({"inspect", dir.path()}).out.contains("problem: "));
    }

    void tokenize_goes_both_ways() {
        const QTemporaryDir dir;
        QCOMPARE(spartan_with({"tokenize", "--model", "synthetic:tiny", "--text", "Hi!", "--json"}).out,
                 QByteArray("{\"ids\":[72,105,33]}\n"));
        QCOMPARE(spartan_with({"tokenize", "--model", "synthetic:tiny", "--decode", "--text", "[72, 105]", "--json"})
                     .json()["text"]
                     .get<std::string>(),
                 std::string("Hi"));
        const QString bytes = write(dir, "f", QByteArray(" a\n\n"));
        QCOMPARE(spartan_with({"tokenize", "--model", "synthetic:tiny", "--file", bytes, "--json"}).out,
                 QByteArray("{\"ids\":[32,97,10,10]}\n"));
        const QString empty = write(dir, "e", {});
        QCOMPARE(spartan_with({"tokenize", "--model", "synthetic:tiny", "--file", empty, "--json"}).out,
                 QByteArray("{\"ids\":[]}\n"));
        QCOMPARE(spartan_with({"tokenize", "--model", "synthetic:tiny", "--text", "", "--json"}).out,
                 QByteArray("{\"ids\":[]}\n"));
        for (const char* bad : {"[1.5]", "[-1]", "{}", "[1", "[99999999999]"}) {
            const Output o = spartan_with({"tokenize", "--model", "synthetic:tiny", "--decode", "--text", bad});
            QCOMPARE(o.code, 1);
            QVERIFY(o.out.isEmpty());
        }
        QVERIFY(spartan_with({"tokenize", "--model", "synthetic:tiny", "--decode", "--text", "[72, 9999]"})
                    .err.contains("[1]: found 9999, expected an id from 0 to 256"));
        const QString binary = write(dir, "binary",
                                     QByteArray("ab\xff"
                                                "c"));
        QVERIFY(spartan_with({"tokenize", "--model", "synthetic:tiny", "--file", binary})
                    .err.contains("byte 2: found \\xff, expected UTF-8 text"));
        QCOMPARE(spartan_with({"generate", "--model", "synthetic:tiny", "--prompt", "-"}, "\xc3").code, 1);
        // A folder with nothing but tokenizer.json will do.
        const QString family = QDir(kGolden + "/tokenizers").entryList(QDir::Dirs | QDir::NoDotAndDotDot).value(0);
        QVERIFY(!family.isEmpty());
        QCOMPARE(spartan_with({"tokenize", "--model", kGolden + "/tokenizers/" + family, "--text", "word"}).code, 0);
    }

    void logits_match_the_oracle_data() {
        QTest::addColumn<QString>("name");
        QTest::addColumn<QString>("dtype");
        for (const char* name : {"llama-mha", "llama-gqa-tied", "qwen2"})
            for (const char* dtype : {"f32", "bf16"}) QTest::addRow("%s %s", name, dtype) << name << dtype;
    }
    // At the bar of golden/README.md.
    void logits_match_the_oracle() {
        QFETCH(QString, name);
        QFETCH(QString, dtype);
        const QTemporaryDir dir;
        const QString base = kGolden + "/" + name, out = dir.filePath("o.safetensors");
        QStringList arguments{
            "logits", "--model", base + "/model", "--dtype", dtype, "--prompts", base + "/prompts.json",
            "--out",  out,       "--greedy",      "16"};
        for (const QString& a : QDir(base + "/adapters").entryList(QDir::Dirs | QDir::NoDotAndDotDot))
            arguments << "--adapter" << a + "=" + base + "/adapters/" + a;
        const Output o = spartan_with(arguments);
        QCOMPARE(o.code, 0);
        QVERIFY(o.out.isEmpty());
        const auto ours = spartan::SafetensorsFile::open(out.toStdString());
        const auto oracle = spartan::SafetensorsFile::open((base + "/expected.safetensors").toStdString());
        QVERIFY(ours && oracle);
        double squares = 0, allowed_squares = 0;
        int compared = 0;
        for (const auto& expected : (*oracle)->entries()) {
            const QString entry = QString::fromStdString(expected.name);
            if (entry.startsWith("bf16_error.")) continue;
            const auto* mine = (*ours)->find(expected.name);
            QVERIFY2(mine && mine->shape == expected.shape && std::string(mine->dtype) == expected.dtype,
                     expected.name.c_str());
            ++compared;
            if (entry.startsWith("greedy.")) {
                std::vector<int64_t> a(16), b(16);
                QVERIFY(bool((*ours)->file()->read(mine->begin, a.data(), mine->bytes)));
                QVERIFY(bool((*oracle)->file()->read(expected.begin, b.data(), expected.bytes)));
                QVERIFY2(a == b || dtype == "bf16", expected.name.c_str());
                continue;
            }
            const std::vector<float> a = *(*ours)->read_finite(*mine), b = *(*oracle)->read_finite(expected);
            double largest = 0, error = 0, error_squares = 0, norm_squares = 0;
            for (size_t i = 0; i < a.size(); ++i) {
                const double difference = double(a[i]) - double(b[i]);
                largest = std::max(largest, std::abs(double(b[i])));
                error = std::max(error, std::abs(difference));
                error_squares += difference * difference;
                norm_squares += double(b[i]) * double(b[i]);
            }
            if (dtype == "f32") {
                QVERIFY2(error <= 1e-4 * largest, expected.name.c_str());
                continue;
            }
            const QString reference = "bf16_error." + entry.section('.', 1);
            const double allowed = double((*(*oracle)->read_finite(*(*oracle)->find(reference.toStdString())))[0]);
            const double relative = std::sqrt(error_squares / norm_squares);
            QVERIFY2(relative <= std::max(2e-2, 2 * allowed), expected.name.c_str());
            squares += relative * relative;
            allowed_squares += allowed * allowed;
        }
        QVERIFY(compared > 10);
        QVERIFY(squares <= 1.25 * 1.25 * allowed_squares);
    }

    void bad_prompts_leave_no_file_data() {
        QTest::addColumn<QByteArray>("prompts");
        QTest::addColumn<QString>("says");
        const auto row = [](const char* text, const char* says) { QTest::newRow(text) << QByteArray(text) << says; };
        row(R"({"prompts":[]})", "at least one");
        row(R"({})", "prompts");
        row(R"({"prompts":[{"ids":[1]}],"x":1})", "unknown key");
        row(R"({"prompts":[{"ids":[1],"text":"a"}]})", "exactly one");
        row(R"({"prompts":[{"adapter":null}]})", "exactly one");
        row(R"({"prompts":[{"ids":[]}]})", "at least one");
        row(R"({"prompts":[{"ids":[1,99999]}]})", "prompts[0].ids[1]");
        row(R"({"prompts":[{"ids":[-1]}]})", "prompts[0].ids[0]");
        row(R"({"prompts":[{"ids":[1.5]}]})", "prompts[0].ids[0]");
        row(R"({"prompts":[{"ids":[1]},{"ids":[1],"adapter":"ghost"}]})", "prompts[1].adapter");
        row(R"({"prompts":[{"ids":[1],"adapter":7}]})", "prompts[0].adapter");
        row(R"({"prompts":[{"ids":[1],"ids":[2]}]})", "twice");
        row(R"({"prompts":[{"ids":[1]})", "line 1");
    }
    void bad_prompts_leave_no_file() {
        QFETCH(QByteArray, prompts);
        QFETCH(QString, says);
        const QTemporaryDir dir;
        const QString file = write(dir, "p.json", prompts);
        const Output o =
            spartan_with({"logits", "--model", "synthetic:tiny", "--prompts", file, "--out", dir.filePath("o")});
        QCOMPARE(o.code, 1);
        QCOMPARE(o.err.count('\n'), 1);
        QVERIFY2(o.err.contains("p.json") && o.err.contains(says.toUtf8()), o.err);
        QCOMPARE(entries(dir), QStringList{"p.json"});
    }

    void generate_answers() {
        const QTemporaryDir dir;
        const QStringList base{"generate", "--model", "synthetic:tiny", "--ignore-eos", "--max-tokens", "8"};
        const Output o = spartan_with(base + QStringList{"--prompt", "Hello", "--json"});
        QCOMPARE(o.code, 0);
        const Json r = o.json()["results"][0];
        QCOMPARE(r["ids"].size(), size_t(8));
        QCOMPARE(r["output_tokens"].get<int>(), 8);
        QCOMPARE(r["prompt_tokens"].get<int>(), 5);
        QCOMPARE(r["finish"].get<std::string>(), std::string("length"));
        QVERIFY(r["adapter"].is_null());
        QCOMPARE(
            spartan_with(base + QStringList{"--prompt", "-", "--json"}, "Hello").json()["results"][0]["ids"].dump(),
            r["ids"].dump());
        const Output text = spartan_with(base + QStringList{"--prompt", "Hello"});
        QCOMPARE(text.out, QByteArray::fromStdString(r["text"].get<std::string>() + "\n"));
        const QStringList warm{"--temperature", "1.5", "--prompt", "Hello", "--json"};
        const auto ids = [&](const QStringList& more) {
            return spartan_with(base + warm + more).json()["results"][0]["ids"].dump();
        };
        QCOMPARE(ids({"--seed", "5"}), ids({"--seed", "5"}));
        QVERIFY(ids({"--seed", "5"}) != ids({"--seed", "6"}));

        const QStringList adapters{"--adapter", "synthetic:boft:1:b=8,m=2", "--adapter", "synthetic:lora:1:r=4"};
        const QString prompts = write(dir, "p.json", R"({"prompts":[{"text":"Hello"},
            {"text":"Hello","adapter":"boft-b8-m2-0000"},{"ids":[72],"adapter":"lora-r4-0001"}]})");
        const Output many = spartan_with(base + adapters + QStringList{"--prompts", prompts, "--json"});
        QCOMPARE(many.code, 0);
        QCOMPARE(many.json()["results"].size(), size_t(3));
        QCOMPARE(many.json()["results"][0]["ids"].dump(), r["ids"].dump());
        const Output one =
            spartan_with(base + adapters + QStringList{"--use", "boft-b8-m2-0000", "--prompt", "Hello", "--json"});
        QCOMPARE(one.json()["results"][0]["ids"].dump(), many.json()["results"][1]["ids"].dump());
        const Output shown = spartan_with(base + adapters + QStringList{"--prompts", prompts});
        QVERIFY(shown.out.contains("[1] boft-b8-m2-0000\n"));
    }

    void generate_stops_where_it_is_told() {
        const QStringList base{"generate",     "--model", "synthetic:tiny", "--ignore-eos",
                               "--max-tokens", "24",      "--prompt",       "Hello"};
        const std::string all =
            spartan_with(base + QStringList{"--json"}).json()["results"][0]["text"].get<std::string>();
        QString text = QString::fromStdString(all), stop;
        for (const QChar c : text)
            if (c.isLetterOrNumber() && text.indexOf(c) > 0) {
                stop = c;
                break;
            }
        if (stop.isEmpty()) QSKIP("the random model wrote nothing to stop at");
        const Output o = spartan_with(base + QStringList{"--stop", stop, "--json"});
        const Json r = o.json()["results"][0];
        QCOMPARE(r["finish"].get<std::string>(), std::string("stop"));
        QCOMPARE(QString::fromStdString(r["text"].get<std::string>()), text.left(text.indexOf(stop)));
        QCOMPARE(spartan_with(base + QStringList{"--stop", stop}).out, text.left(text.indexOf(stop)).toUtf8() + "\n");
    }

    void a_workload_runs_records_exports_and_compares() {
        const QTemporaryDir dir;
        const QString w = write(dir, "w.json", kWorkload), run = dir.filePath("a.wbrun"),
                      again = dir.filePath("b.wbrun");
        const Output o = spartan_with({"run", w, "--out", run, "--json", "--set", "warmup=3", "--set", "repeats=2"});
        QCOMPARE(o.code, 0);
        const Json d = o.json();
        for (const char* key : {"requests",
                                "completed",
                                "failed",
                                "duration_s",
                                "prompt_tokens",
                                "output_tokens",
                                "request_throughput",
                                "output_throughput",
                                "total_throughput",
                                "ttft_ms",
                                "itl_ms",
                                "tpot_ms",
                                "e2e_ms",
                                "queue_ms",
                                "goodput",
                                "attainment",
                                "adapters",
                                "pool",
                                "device",
                                "engine",
                                "workload",
                                "per_adapter",
                                "repeats",
                                "intervals"})
            QVERIFY2(d.contains(key), key);
        QCOMPARE(d["requests"].get<int>(), 24);
        QCOMPARE(d["completed"].get<int>(), 24);
        QCOMPARE(d["output_tokens"].get<int>(), 24 * 6);
        QCOMPARE(d["itl_ms"]["n"].get<int>(), 24 * 5);
        QCOMPARE(d["attainment"].get<double>(), 1.0);
        QCOMPARE(d["adapters"]["registered"].get<int>(), 3);
        QCOMPARE(d["adapters"]["used"].get<int>(), 3);
        QCOMPARE(d["per_adapter"].size(), size_t(4));
        QCOMPARE(d["repeats"].size(), size_t(2));
        QCOMPARE(d["workload"]["name"].get<std::string>(), std::string("small"));
        QVERIFY(d["ttft_ms"]["p50"].get<double>() > 0);

        for (const char* file : {"run.json", "steps.jsonl", "requests.jsonl", "tokens.jsonl"})
            QVERIFY(QFile::exists(run + "/" + file));
        const Json header = *spartan::parse_json(read(run + "/run.json").toStdString(), "run.json");
        QVERIFY(header["complete"].get<bool>());
        QCOMPARE(header["totals"].dump(), d.dump());
        QCOMPARE(header["command"][1].get<std::string>(), std::string("run"));

        const Output exported = spartan_with(
            {"export", run, "--json", "-", "--csv", dir.filePath("o.csv"), "--html", dir.filePath("o.html")});
        QCOMPARE(exported.code, 0);
        QCOMPARE(exported.json().dump(), d.dump());
        QCOMPARE(read(dir.filePath("o.csv")).count('\n'), 25);
        QVERIFY(read(dir.filePath("o.html")).startsWith("<!doctype html>"));

        QCOMPARE(spartan_with({"run", w, "--out", again, "--seed", "7"}).code, 0);
        const Output compared = spartan_with({"compare", run, again, "--json"});
        QCOMPARE(compared.code, 0);
        QCOMPARE(compared.json()["runs"].size(), size_t(2));
        QVERIFY(compared.json().contains("differences"));
        const QByteArray table = spartan_with({"compare", run, again}).out;
        QVERIFY(table.contains("request_throughput"));
        // Both have the workload's name: their folders tell them apart.
        QVERIFY2(table.startsWith("metric") && table.left(table.indexOf('\n')).contains("a.wbrun"), table);
        QCOMPARE(spartan_with({"compare", run, again, "--html", dir.filePath("c.html")}).code, 0);
        QVERIFY(read(dir.filePath("c.html")).contains("workload.seed"));

        const QByteArray before = read(run + "/run.json");
        const Output refused = spartan_with({"run", w, "--out", run});
        QVERIFY(refused.code == 1 && refused.err.contains("not empty"));
        QCOMPARE(read(run + "/run.json"), before);
    }

    void failed_requests_are_counted_and_named() {
        const QTemporaryDir dir;
        const QString w = write(dir, "w.json", kWorkload);
        const QString trace = write(dir, "t.csv",
                                    "request_id,arrival_s,adapter,prompt_tokens,output_tokens\nfine,0,,8,4\n"
                                    "toolong,0,,900000,4\nalso,0.01,boft-b8-m2-0000,8,4\n");
        const QString t =
            write(dir, "t.json",
                  R"({"schema":1,"model":"synthetic:tiny","adapters":["synthetic:boft:1:b=8,m=2"],"trace":"t.csv"})");
        const Output o = spartan_with({"run", t, "--json"});
        QCOMPARE(o.code, 0);
        QCOMPARE(o.json()["failed"].get<int>(), 1);
        QCOMPARE(o.json()["completed"].get<int>(), 2);
        QVERIFY2(o.err.contains("toolong"), o.err);
        write(dir, "t.csv", "request_id,arrival_s,adapter,prompt_tokens,output_tokens\ntoolong,0,,900000,4\n");
        const Output none = spartan_with({"run", t, "--json"});
        QCOMPARE(none.code, 1);
        QVERIFY2(none.err.contains("no request completed"), none.err);
    }

    void refusals_create_nothing() {
        const QTemporaryDir dir;
        const QString w = write(dir, "w.json", kWorkload), out = dir.filePath("out");
        const QString bad = write(dir, "bad.json", R"({"schema":1,"model":"synthetic:tiny","trace":"t.csv"})");
        write(dir, "t.csv", "request_id,arrival_s,adapter,prompt_tokens,output_tokens\nr,0,,8,4\nr2,-1,,8,4\n");
        const QStringList before = entries(dir);
        const QList<QStringList> refused{
            {"run", w, "--out", out, "--set", "requests=0"},
            {"run", w, "--out", out, "--set", "model=/nonexistent"},
            {"run", w, "--out", out, "--set", "adapters=[\"synthetic:boft:1:b=7,m=2\"]"},
            {"run", w, "--out", out, "--set", "engine.scheduler=vtc"},
            {"run", w, "--out", out, "--set", "engine.pool_bytes=4096"},
            {"run", w, "--out", out, "--device", "cuda:99"},
            {"run", bad, "--out", out},
            {"run", dir.filePath("none.json"), "--out", out},
            {"run", w, "--out", w},
            {"make-adapters", "--model", "synthetic:tiny", "--spec", "synthetic:boft:1:b=7,m=2", "--out", out},
            {"make-adapters", "--model", "/nonexistent", "--spec", "synthetic:lora:1:r=4", "--out", out},
            {"export", dir.filePath("none"), "--csv", out},
            {"compare", dir.filePath("none"), dir.filePath("none"), "--html", out},
            {"logits", "--model", "synthetic:tiny", "--prompts", dir.filePath("none"), "--out", out},
        };
        for (const QStringList& arguments : refused) {
            const Output o = spartan_with(arguments);
            QVERIFY2(o.code == 1, qPrintable(arguments.join(' ') + QString::number(o.code)));
            QVERIFY2(o.err.count('\n') == 1, o.err);
            QVERIFY(o.out.isEmpty());
            QVERIFY2(entries(dir) == before, qPrintable(arguments.join(' ')));
        }
    }

    void adapters_are_made_and_used() {
        const QTemporaryDir dir;
        const QString out = dir.filePath("adapters");
        const Output o =
            spartan_with({"make-adapters", "--model", "synthetic:tiny", "--spec", "synthetic:boft:2:b=8,m=2,b=16,m=1",
                          "--spec", "synthetic:lora:1:r=4", "--out", out, "--seed", "9"});
        QCOMPARE(o.code, 0);
        QCOMPARE(QDir(out).entryList(QDir::Dirs | QDir::NoDotAndDotDot),
                 (QStringList{"boft-b16-m1-0001", "boft-b8-m2-0000", "lora-r4-0002"}));
        QCOMPARE(spartan_with({"inspect", out + "/lora-r4-0002", "--json"}).json()["kind"].get<std::string>(),
                 std::string("lora"));
        const QStringList base{"generate", "--model", "synthetic:tiny", "--ignore-eos", "--max-tokens", "6",
                               "--seed",   "9",       "--prompt",       "Hello",        "--json"};
        const Output made = spartan_with(base + QStringList{"--adapter", "x=" + out + "/boft-b8-m2-0000"});
        const Output direct = spartan_with(
            base + QStringList{"--adapter", "synthetic:boft:2:b=8,m=2,b=16,m=1", "--use", "boft-b8-m2-0000"});
        QCOMPARE(made.code, 0);
        QCOMPARE(made.json()["results"][0]["ids"].dump(), direct.json()["results"][0]["ids"].dump());
        const Output twice = spartan_with(
            {"make-adapters", "--model", "synthetic:tiny", "--spec", "synthetic:lora:1:r=4", "--out", out});
        QVERIFY(twice.code == 1 && twice.err.contains("not empty"));
        QCOMPARE(entries(dir), QStringList{"adapters"});
        // An empty folder stays the folder that it is: a shell may stand in it.
        QVERIFY(QDir(dir.path()).mkdir("here"));
        struct stat before {
        }, after{};
        QVERIFY(::stat(qPrintable(dir.filePath("here")), &before) == 0);
        QCOMPARE(spartan_with({"make-adapters", "--model", "synthetic:tiny", "--spec", "synthetic:oft:1:b=8", "--out",
                               dir.filePath("here")})
                     .code,
                 0);
        QVERIFY(::stat(qPrintable(dir.filePath("here")), &after) == 0 && after.st_ino == before.st_ino);
        QCOMPARE(QDir(dir.filePath("here")).entryList(QDir::AllEntries | QDir::Hidden | QDir::NoDotAndDotDot),
                 QStringList{"oft-b8-0000"});
    }

    void a_killed_run_can_be_read() {
        const QTemporaryDir dir;
        const QString w = write(dir, "w.json", kWorkload), out = dir.filePath("r.wbrun");
        QProcess p;
        p.start(BUILD_DIR "/app/spartan", {"run", w, "--out", out, "--set", "requests=100000", "--set",
                                           "arrival.kind=constant", "--set", "arrival.rate=50"});
        QTRY_VERIFY_WITH_TIMEOUT(QFileInfo(out + "/steps.jsonl").size() > 0, 60'000);
        p.kill();
        p.waitForFinished();
        QCOMPARE(spartan_with({"export", out, "--csv", dir.filePath("o.csv"), "--html", dir.filePath("o.html")}).code,
                 0);
    }

    void a_full_standard_output_is_reported() {
        const Output o = spartan_with({"devices", "--json"}, {}, "/dev/full");
        QCOMPARE(o.code, 1);
        QVERIFY2(o.err.contains("standard output"), o.err);
    }

    void completion_scripts_are_valid() {
        for (const char* shell : {"bash", "zsh", "fish"}) {
            const Output o = spartan_with({"completion", shell});
            QCOMPARE(o.code, 0);
            QVERIFY(o.out.contains("make-adapters") && !o.out.contains("simulate"));
            if (QByteArray(shell) != "bash") continue;
            QProcess bash;
            bash.start("bash",
                       {"-c",
                        "source /dev/stdin && COMP_WORDS=(spartan run --s) COMP_CWORD=2 && _spartan && echo "
                        "${COMPREPLY[@]} && "
                        "COMP_WORDS=(spartan bench decode --b) COMP_CWORD=3 && _spartan && echo ${COMPREPLY[@]} && "
                        "COMP_WORDS=(spartan --dtype bf16 gen) COMP_CWORD=3 && _spartan && echo ${COMPREPLY[@]}"});
            bash.write(o.out);
            bash.closeWriteChannel();
            bash.waitForFinished();
            QCOMPARE(bash.exitCode(), 0);
            QCOMPARE(bash.readAllStandardOutput(), QByteArray("--set --seed\n--batch --boft\ngenerate\n"));
        }
    }

    void benchmarks_measure() {
        const QStringList quick{"--model", "synthetic:tiny", "--json"};
        const Output load = spartan_with(QStringList{"bench", "load", "--repeats", "1"} + quick);
        QCOMPARE(load.code, 0);
        QVERIFY(load.json()["best_ready_ms"].get<double>() > 0);
        QVERIFY(load.json()["load"][0]["peak_resident_bytes"].get<int64_t>() > 0);
        const Output decode =
            spartan_with(QStringList{"bench", "decode", "--batch", "1,2", "--steps", "2", "--context", "8"} + quick);
        QCOMPARE(decode.code, 0);
        QVERIFY(decode.json()["limits"]["read_bytes_per_s"].get<double>() > 0);
        QVERIFY(decode.json()["decode"].size() >= 4);
        const Output prefill =
            spartan_with(QStringList{"bench", "prefill", "--prompt-tokens", "16", "--repeats", "1"} + quick);
        QCOMPARE(prefill.code, 0);
        QCOMPARE(prefill.json()["prefill"][0]["tokens"].get<int>(), 16);
    }

    void decode_is_measured_by_kind_and_number_of_adapters() {
        const QTemporaryDir dir;
        const QString csv = dir.filePath("d.csv");
        const Output o = spartan_with({"bench",      "decode",
                                       "--device",   "cpu",
                                       "--model",    "synthetic:tiny",
                                       "--batch",    "2,6",
                                       "--kinds",    "base,boft,half",
                                       "--adapters", "1,2,6,96",
                                       "--boft",     "b=32,m=2,b=16",
                                       "--lora",     "r=8",
                                       "--context",  "8",
                                       "--steps",    "2",
                                       "--json",     "--csv",
                                       csv});
        QCOMPARE(o.code, 0);
        QStringList cases;
        int64_t base_bytes = 0, kv_bytes = 0;
        const Json document = o.json();
        for (const Json& f : document["decode"]) {
            cases << QString("%1 %2 %3")
                         .arg(QString::fromStdString(f["adapters"].get<std::string>()))
                         .arg(f["rows"].get<int>())
                         .arg(f["distinct_adapters"].get<int>());
            if (f["adapters"] == "base") {
                base_bytes = f["weight_bytes"].get<int64_t>(), kv_bytes = f["kv_bytes"].get<int64_t>();
                QCOMPARE(f["adapter_bytes"].get<int>(), 0);
            } else {
                QVERIFY(f["adapter_bytes"].get<int64_t>() > 0);
            }
            QCOMPARE(f["weight_bytes"].get<int64_t>(), base_bytes);
            QCOMPARE(f["kv_bytes"].get<int64_t>(), kv_bytes);
            const double bytes = double(base_bytes + kv_bytes) + f["adapter_bytes"].get<double>();
            const double floor_ms = bytes / document["limits"]["read_bytes_per_s"].get<double>() * 1e3;
            QVERIFY(std::abs(f["floor_ms"].get<double>() / floor_ms - 1) < 1e-9);
            QVERIFY(std::abs(f["bandwidth_share"].get<double>() * f["median_ms"].get<double>() / floor_ms - 1) < 1e-9);
            QVERIFY(f["min_ms"].get<double>() <= f["median_ms"].get<double>());
            QVERIFY(f["gap_ms"].is_null() && f["graphs"].is_null());  // of a GPU only
        }
        // 96 adapters in 2 rows are 2; every third row of "half" is on the base.
        QCOMPARE(cases, (QStringList{"base 2 0", "boft 2 1", "boft 2 2", "half 2 1", "half 2 2", "base 6 0", "boft 6 1",
                                     "boft 6 2", "boft 6 6", "half 6 1", "half 6 2", "half 6 4"}));
        const QStringList lines = QString::fromUtf8(read(csv)).trimmed().split('\n');
        QCOMPARE(lines.size(), cases.size() + 1);
        QVERIFY(lines[0].startsWith("adapters,rows,distinct_adapters,"));
        QVERIFY(lines[12].startsWith("half,6,4,8,,,,2,"));
        QCOMPARE(lines[12].count(','), lines[0].count(','));
    }

    void decode_by_every_strategy() {
        const Output o =
            spartan_with({"bench", "decode", "--device", "cpu", "--model", "synthetic:tiny", "--batch", "3", "--kinds",
                          "base,boft", "--boft", "b=8,m=2,b=16", "--context", "8", "--steps", "1", "--strategy",
                          "folded,common_block,sequential,merged", "--json"});
        QCOMPARE(o.code, 0);
        QStringList cases;
        const Json document = o.json();
        for (const Json& f : document["decode"]) {
            const bool adapters = f["adapters"] == "boft";
            cases << QString("%1 %2").arg(f["strategy"].get<std::string>().c_str()).arg(f["passes"].get<int>());
            QCOMPARE(f["common_block"].get<int>(), f["strategy"] == "common_block" && adapters ? 8 : 0);
            QCOMPARE(f["staging_bytes"].get<int64_t>() > 0, f["strategy"] == "merged" && adapters);  // in every step
        }
        QCOMPARE(cases, (QStringList{"folded 1", "folded 1", "common_block 1", "common_block 1", "sequential 1",
                                     "sequential 3", "merged 1", "merged 3"}));
        QVERIFY(spartan_with({"bench", "decode", "--strategy", "paper"}).code != 0);
    }

    void prefill_of_several_prompts_on_different_adapters() {
        const Output o = spartan_with({"bench", "prefill", "--device", "cpu", "--model", "synthetic:tiny",
                                       "--prompt-tokens", "24", "--sequences", "4", "--adapters", "3",
                                       "--max-batch-tokens", "40", "--repeats", "1", "--kinds", "base,lora", "--json"});
        QCOMPARE(o.code, 0);
        const Json figures = o.json()["prefill"];
        QCOMPARE(figures.size(), size_t(2));
        QCOMPARE(figures[1]["distinct_adapters"].get<int>(), 3);
        QCOMPARE(figures[1]["sequences"].get<int>(), 4);
        QVERIFY(figures[1]["added_share"].get<double>() != 0);
        QVERIFY(figures[0]["tokens_per_s"].get<double>() > 0);
    }

    void bench_options_that_cannot_be_are_refused() {
        const auto refused = [](const QStringList& more, int code, const char* with) {
            const QTemporaryDir dir;
            const QString csv = dir.filePath("d.csv");
            const Output o = spartan_with(
                QStringList{"bench", "decode", "--model", "synthetic:tiny", "--device", "cpu", "--csv", csv} + more);
            if (o.code == code && o.out.isEmpty() && o.err.contains(with) && entries(dir).isEmpty()) return true;
            qDebug() << more << o.code << o.out << o.err << entries(dir);
            return false;
        };
        QVERIFY(refused({"--kinds", "dora"}, 2, "found dora, expected one of base, boft, lora, boft+lora, half"));
        QVERIFY(refused({"--boft", "r=8"}, 2, "expected b=N"));
        QVERIFY(refused({"--boft", "b=48"}, 1, "b=48 does not divide 128"));
        QVERIFY(refused({"--adapters", "0"}, 2, "expected an integer from 1"));
        QVERIFY(refused({"--set", "pdl=false"}, 2, "expected one of graphs=true, graphs=false"));
        QVERIFY(refused({"--set", "graphs=false"}, 1, "found the CPU, expected a GPU"));
        QVERIFY(refused({"--ablation"}, 1, "found the CPU, expected a GPU"));
        QVERIFY(refused({"--ablation", "--set", "graphs=false"}, 2, "--ablation"));
        const Output twice = spartan_with({"bench", "decode", "--model", "synthetic:tiny", "--json", "--csv", "-"});
        QCOMPARE(twice.code, 2);
        const Output nowhere = spartan_with(
            {"bench", "decode", "--model", "synthetic:tiny", "--device", "cpu", "--csv", "/nonexistent/d.csv"});
        QCOMPARE(nowhere.code, 1);
    }

    // The workloads of a 7B model, on the smallest one and with few requests.
    void paper_workloads_run_with_other_numbers() {
        const auto run = [](const QString& name, const QString& adapters) {
            QStringList arguments{"run",      SOURCE_DIR "/resources/workloads/paper-7b-" + name + ".json",
                                  "--set",    "model=synthetic:tiny",
                                  "--set",    "requests=6",
                                  "--set",    "prompt_tokens.max=40",
                                  "--set",    "output_tokens.value=2",
                                  "--set",    "engine.pool_bytes=64000000",
                                  "--device", "cpu",
                                  "--json"};
            if (!adapters.isEmpty())
                arguments << "--set"
                          << "adapters=[\"" + adapters + "\"]";
            return spartan_with(arguments);
        };
        const auto used = [](const Output& o) { return o.json()["adapters"]["used"].get<int>(); };
        const Output base = run("base", "");
        QCOMPARE(base.code, 0);
        QCOMPARE(used(base), 0);
        QCOMPARE(base.json()["completed"].get<int>(), 6);
        const std::pair<const char*, const char*> cases[] = {{"boft", "synthetic:boft:3:b=32,m=2"},
                                                             {"mixed", "synthetic:boft:3:b=32,m=2,b=64,m=2"},
                                                             {"lora64", "synthetic:lora:3:r=64"},
                                                             {"lora32", "synthetic:lora:3:r=32"}};
        for (const auto& [name, adapters] : cases) {
            const Output o = run(name, adapters);
            QCOMPARE(o.code, 0);
            QCOMPARE(used(o), 3);
            QCOMPARE(o.json()["completed"].get<int>(), 6);
            const Output as_it_is = run(name, "");
            QCOMPARE(as_it_is.code, 0);
            QCOMPARE(as_it_is.json()["adapters"]["registered"].get<int>(), 96);
        }
    }
};

QTEST_GUILESS_MAIN(SpartanTest)
#include "spartan_test.moc"
