// Every file that the program opens, damaged: one clear line, exit 1, nothing created, in little memory and time
// (reliability.md, contract for every row). The readers' own tests hold the rows in depth; this one goes through the
// program, under a limit on its address space.
#include "tests/app/program.h"
#include "tests/core/model/model_files.h"

#include <cstdio>
#include <filesystem>
#include <random>

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace program;
using spartan::test::bytes_of;
using spartan::test::raw_safetensors;
using spartan::test::tiny_gguf;
using spartan::test::tiny_hf;

namespace {

constexpr rlim_t kAddressSpace = rlim_t(1) << 30;

void put(const QString& path, const std::string& content) { spartan::test::put(path.toStdString(), content); }

void put_sparse(const QString& path, qint64 bytes) {
    QFile file(path);
    QVERIFY(file.open(QIODevice::WriteOnly) && file.resize(bytes));
}

void copy_folder(const QString& from, const QString& to) {
    QDir().mkpath(to);
    for (const QString& name : QDir(from).entryList(QDir::Files)) QFile::copy(from + "/" + name, to + "/" + name);
}

// Arguments of any bytes, which QProcess could not pass on; standard output and error go to files in `dir`.
int run_raw(const QTemporaryDir& dir, const std::vector<std::string>& arguments) {
    const std::string out = dir.filePath("out").toStdString(), err = dir.filePath("err").toStdString();
    const pid_t child = ::fork();
    if (child == 0) {
        std::vector<std::string> copy{BUILD_DIR "/app/spartan"};
        copy.insert(copy.end(), arguments.begin(), arguments.end());
        std::vector<char*> argv;
        for (std::string& a : copy) argv.push_back(a.data());
        argv.push_back(nullptr);
        if (!std::freopen(out.c_str(), "w", stdout) || !std::freopen(err.c_str(), "w", stderr)) ::_exit(126);
        ::execv(argv[0], argv.data());
        ::_exit(127);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

using Spoil = std::function<void(const QString& dir)>;

}  // namespace
Q_DECLARE_METATYPE(Spoil)

class HostileTest : public QObject {
    Q_OBJECT

    // A folder with one of everything that the program reads, all of it sound.
    static void fill(const QTemporaryDir& dir) {
        tiny_hf().write(dir.filePath("model").toStdString());
        put(dir.filePath("m.gguf"), tiny_gguf().bytes());
        copy_folder(kGolden + "/llama-mha/adapters/lora-r8", dir.filePath("adapter"));
        copy_folder(kGolden + "/tokenizers/gpt2", dir.filePath("tokenizer"));
        write(dir, "p.json", R"({"prompts":[{"ids":[1,2,3],"adapter":"x"}]})");
        write(dir, "w.json", R"({"schema":1,"model":"synthetic:tiny","requests":3,"output_tokens":{"value":2}})");
        write(dir, "t.json", R"({"schema":1,"model":"synthetic:tiny","trace":"t.csv"})");
        write(dir, "t.csv", "request_id,arrival_s,adapter,prompt_tokens,output_tokens\na,0,,4,2\nb,0.001,,4,2\n");
    }
    // One command for each kind of file in the folder.
    static QList<QStringList> commands() {
        return {{"inspect", "model"},
                {"inspect", "m.gguf"},
                {"inspect", "adapter"},
                {"tokenize", "--model", "tokenizer", "--text", "Hello there"},
                {"logits", "--model", kGolden + "/llama-mha/model", "--adapter", "x=adapter", "--prompts", "p.json",
                 "--out", "o.safetensors"},
                {"run", "w.json"},
                {"run", "t.json"}};
    }
    static Output in(const QTemporaryDir& dir, QStringList arguments) {
        for (QString& a : arguments)
            for (const char* name : {"model", "m.gguf", "adapter", "tokenizer", "p.json", "w.json", "t.json"})
                if (a == name) a = dir.filePath(a);
        for (QString& a : arguments) {
            if (a == "x=adapter") a = "x=" + dir.filePath("adapter");
            if (a == "o.safetensors") a = dir.filePath(a);
        }
        return spartan_with(arguments, {}, {}, kAddressSpace);
    }

private slots:
    void sound_files_pass() {
        const QTemporaryDir dir;
        fill(dir);
        for (const QStringList& command : commands()) {
            const Output o = in(dir, command);
            QVERIFY2(o.code == 0, qPrintable(command.join(' ') + ": " + o.err));
        }
    }

    void refuses_data() {
        QTest::addColumn<QStringList>("arguments");
        QTest::addColumn<Spoil>("spoil");
        QTest::addColumn<QByteArray>("says");
        const auto row = [](const char* name, int command, Spoil spoil, const char* says) {
            QTest::newRow(name) << commands()[command] << std::move(spoil) << QByteArray(says);
        };
        const auto config = [](const char* key, spartan::Json value) {
            return [=](const QString& dir) {
                auto hf = tiny_hf();
                hf.config[key] = value;
                put(dir + "/model/config.json", hf.config.dump());
            };
        };
        const auto weights = [](const std::string& bytes) {
            return [=](const QString& dir) { put(dir + "/model/model.safetensors", bytes); };
        };
        // S: safetensors
        row("S2 header of 2^64-1", 0, weights(bytes_of(UINT64_MAX) + "{}"), "header size: found 18446744073709551615");
        row("S3 no tensors", 0, weights(raw_safetensors("{}", "")), "no tensors");
        row("S5 depth 100,000", 0, weights(raw_safetensors(std::string(100'000, '['), "")), "model.safetensors");
        row("S10 shape that wraps", 0,
            weights(raw_safetensors(R"({"t":{"dtype":"F32","shape":[4194305,4194305,211106198978564],)"
                                    R"("data_offsets":[0,16]}})",
                                    std::string(16, 0))),
            "t.shape");
        row("S12 50 MB of metadata in one string", 0,
            weights(raw_safetensors("{\"__metadata__\":{\"m\":\"" + std::string(50'000'000, 'x') + "\"}}", "")),
            "no tensors");
        row(
            "S15 a pipe", 0,
            [](const QString& dir) {
                QFile::remove(dir + "/model/model.safetensors");
                QVERIFY(::mkfifo(qPrintable(dir + "/model/model.safetensors"), 0600) == 0);
            },
            "a named pipe");
        row(
            "S15 /dev/zero", 0,
            [](const QString& dir) {
                QFile::remove(dir + "/model/model.safetensors");
                QVERIFY(QFile::link("/dev/zero", dir + "/model/model.safetensors"));
            },
            "a device");
        row(
            "S15 64 GB of zeros", 0,
            [](const QString& dir) { put_sparse(dir + "/model/model.safetensors", 1ll << 36); }, "model.safetensors");
        // C: config.json
        row(
            "C20 4 GB", 0, [](const QString& dir) { put_sparse(dir + "/model/config.json", 4ll << 30); },
            "config.json: found 4294967296 bytes");
        row("C21 hidden_size 2^31", 0, config("hidden_size", 1ll << 31), "hidden_size: found 2147483648");
        row("C21 10^9 layers", 0, config("num_hidden_layers", 1'000'000'000), "num_hidden_layers: found 1000000000");
        row("C22 no heads", 0, config("num_attention_heads", 0), "num_attention_heads: found 0");
        row("C24 context 2^60", 0, config("max_position_embeddings", 1ll << 60), "max_position_embeddings");
        row("C25 theta 0", 0, config("rope_theta", 0), "rope_theta: found 0");
        row("C26 text for a number", 0, config("hidden_size", "4096"), "hidden_size: found \"4096\" (string)");
        row("C27 code", 0, config("architectures", {"EvilForCausalLM"}), "EvilForCausalLM");
        row("C28 quantised", 0, config("quantization_config", {{"bits", 4}}), "quantization_config");
        // G: GGUF
        const auto gguf = [](const std::function<void(spartan::test::GgufBuilder&)>& change) {
            return [=](const QString& dir) {
                auto g = tiny_gguf();
                change(g);
                put(dir + "/m.gguf", g.bytes());
            };
        };
        row("G29 2^64-2 tensors", 1, gguf([](auto& g) { g.tensor_count = UINT64_MAX - 1; }), "tensor count");
        row("G30 a string of 2^63 bytes", 1,
            gguf([](auto& g) { g.raw("general.name", 8, bytes_of(uint64_t(1) << 63)); }), "9223372036854775808");
        row("G33 sizes that wrap", 1, gguf([](auto& g) {
                g.tensors[0].ne = {0x7FFFFFFFFFFFFFC0, 1};
            }),
            "token_embd.weight");
        row("G34 data past the end", 1, gguf([](auto& g) { g.tensors.back().offset = 1 << 30; }), "offset 1073741824");
        row(
            "GGUF cut off", 1,
            [](const QString& dir) { QVERIFY(QFile::resize(dir + "/m.gguf", QFileInfo(dir + "/m.gguf").size() - 1)); },
            "m.gguf");
        // T: tokenizer.json
        row(
            "T36 cut off", 3,
            [](const QString& dir) { QVERIFY(QFile::resize(dir + "/tokenizer/tokenizer.json", 20'000)); },
            "tokenizer.json: line ");
        row(
            "T36 1 GB", 3, [](const QString& dir) { put_sparse(dir + "/tokenizer/tokenizer.json", 1ll << 30); },
            "found 1073741824 bytes");
        row(
            "T38 negative id", 3,
            [](const QString& dir) {
                auto json = *spartan::read_json_file((dir + "/tokenizer/tokenizer.json").toStdString());
                json["model"]["vocab"].begin().value() = -1;
                put(dir + "/tokenizer/tokenizer.json", json.dump());
            },
            "found id -1");
        // A: adapters
        const auto adapter = [](const char* key, spartan::Json value) {
            return [=](const QString& dir) {
                const std::string file = (dir + "/adapter/adapter_config.json").toStdString();
                auto json = *spartan::read_json_file(file);
                json[key] = value;
                spartan::test::put(file, json.dump());
            };
        };
        row("A44 unknown type", 4, adapter("peft_type", "IA3"), "peft_type: found \"IA3\"");
        row("A48 r of 2^31", 4, adapter("r", 1ll << 31), "r: found 2147483648");
        row("A54 modules to save", 4, adapter("modules_to_save", {"lm_head"}), "modules_to_save");
        row(
            "A55 a pickle", 4,
            [](const QString& dir) {
                QVERIFY(QFile::rename(dir + "/adapter/adapter_model.safetensors", dir + "/adapter/adapter_model.bin"));
            },
            "never opened");
        row(
            "A46 cut off", 4,
            [](const QString& dir) {
                const QString file = dir + "/adapter/adapter_model.safetensors";
                QVERIFY(QFile::resize(file, QFileInfo(file).size() / 2));
            },
            "adapter_model.safetensors");
        // W: workloads and traces; prompts
        row(
            "W duplicate key", 5,
            [](const QString& dir) { put(dir + "/w.json", R"({"schema":1,"schema":1,"model":"synthetic:tiny"})"); },
            "schema: found the key twice");
        row(
            "W 10^7 requests and one", 5,
            [](const QString& dir) {
                put(dir + "/w.json", R"({"schema":1,"model":"synthetic:tiny","requests":10000001})");
            },
            "requests: found 10000001");
        row(
            "W59 a line of 1 GB", 6, [](const QString& dir) { put_sparse(dir + "/t.csv", 1ll << 30); }, "NUL byte");
        row(
            "W60 unsorted", 6,
            [](const QString& dir) {
                put(dir + "/t.csv", "request_id,arrival_s,adapter,prompt_tokens,output_tokens\na,1,,4,2\nb,0,,4,2\n");
            },
            "line 3, column 3 (arrival_s)");
        row(
            "W61 unknown adapter", 6,
            [](const QString& dir) {
                put(dir + "/t.csv", "request_id,arrival_s,adapter,prompt_tokens,output_tokens\na,1,ghost,4,2\n");
            },
            "found \"ghost\"");
        row(
            "T43 prompt over the context", 4,
            [](const QString& dir) {
                put(dir + "/p.json",
                    "{\"prompts\":[{\"ids\":[" + QByteArray("1,").repeated(256).toStdString() + "1]}]}");
            },
            "found 257 ids, expected at most the context, 256");
        row(
            "prompts of depth 100,000", 4,
            [](const QString& dir) { put(dir + "/p.json", "{\"prompts\":" + std::string(100'000, '[')); }, "64 levels");
        row(
            "prompts of 1 GB", 4, [](const QString& dir) { put_sparse(dir + "/p.json", 1ll << 30); },
            "found 1073741824 bytes");
    }
    void refuses() {
        QFETCH(QStringList, arguments);
        QFETCH(Spoil, spoil);
        QFETCH(QByteArray, says);
        const QTemporaryDir dir;
        fill(dir);
        spoil(dir.path());
        const QStringList before = entries(dir);
        const Output o = in(dir, arguments);
        QVERIFY2(o.code == 1, o.err + QByteArray::number(o.code));
        const bool lists_problems = arguments[0] == "inspect" && !o.out.isEmpty();  // on standard output as well
        QVERIFY(o.out.isEmpty() || lists_problems);
        QVERIFY2(o.err.count('\n') == 1 && o.err.startsWith("spartan: ") && o.err.size() < 1000, o.err);
        QVERIFY2(o.err.contains(says), o.err);
        QCOMPARE(entries(dir), before);
    }

    // K78: names as Linux allows them.
    void strange_paths() {
        const QTemporaryDir dir;
        for (const char* name : {"new\nline", "bad\xff utf8", "\x1b[31m", "-"}) {
            const std::string folder = dir.path().toStdString() + "/" + name;
            QVERIFY(::mkdir(folder.c_str(), 0700) == 0);
            QCOMPARE(run_raw(dir, {"make-adapters", "--model", "synthetic:tiny", "--spec", "synthetic:lora:1:r=4",
                                   "--out", folder + "/a"}),
                     0);
            QCOMPARE(run_raw(dir, {"inspect", folder + "/a/lora-r4-0000", "--json"}), 0);
            const QByteArray out = read(dir.filePath("out"));
            QVERIFY2(spartan::parse_json(out.toStdString(), "out"), out);
            QCOMPARE(run_raw(dir, {"inspect", folder + "/none"}), 1);
            const QByteArray err = read(dir.filePath("err"));
            QVERIFY2(err.count('\n') == 1 && !err.contains('\x1b') && !err.contains('\xff'), err);
            std::filesystem::remove_all(folder);  // QTemporaryDir could not name it
        }
        const Output o = spartan_with({"inspect", QString(5000, 'x')});
        QCOMPARE(o.code, 1);
        QVERIFY2(o.err.contains("too long") && o.err.count('\n') == 1, o.err);
    }

    // Random damage to one file at a time: whatever comes out, it is not a crash, a hang or a riddle.
    void mutated_files() {
        const QTemporaryDir dir;
        std::mt19937 random(7);
        const QList<std::pair<QString, int>> files{{"model/config.json", 0},
                                                   {"model/model.safetensors", 0},
                                                   {"m.gguf", 1},
                                                   {"adapter/adapter_config.json", 4},
                                                   {"adapter/adapter_model.safetensors", 4},
                                                   {"tokenizer/tokenizer.json", 3},
                                                   {"p.json", 4}};
        fill(dir);
        for (const auto& [name, command] : files) {
            const QByteArray sound = read(dir.filePath(name));
            for (int round = 0; round < 8; ++round) {
                QByteArray bytes = sound;
                const auto reach = uint32_t(std::min<qsizetype>(bytes.size(), 3000));
                for (auto k = 1 + random() % 3; k > 0; --k) {
                    const auto at = qsizetype(random() % reach);
                    switch (random() % 4) {
                        case 0:
                            bytes[at] = char(random());
                            break;
                        case 1:
                            bytes[at] = "0123456789-{}[]\",:."[random() % 19];
                            break;
                        case 2:
                            bytes.remove(at, qsizetype(random() % 8));
                            break;
                        default:
                            bytes.truncate(std::max<qsizetype>(at, 1));
                            break;
                    }
                    if (bytes.size() < qsizetype(reach)) break;
                }
                put(dir.filePath(name), bytes.toStdString());
                const Output o = in(dir, commands()[command]);
                const QByteArray what = name.toUtf8() + ", round " + QByteArray::number(round) + ": " + o.err;
                QVERIFY2(o.code == 0 || o.code == 1, what);
                QVERIFY2(o.code == 0 || o.err.count('\n') >= 1, what);
                QVERIFY2(o.err.count('\n') <= 4 && !o.err.contains("unknown error"), what);
            }
            put(dir.filePath(name), sound.toStdString());
        }
    }

    void little_memory_is_enough_and_too_little_is_said() {
        const QStringList small{"generate", "--model", "synthetic:tiny", "--prompt", "a", "--max-tokens", "2"};
        QCOMPARE(spartan_with(small, {}, {}, rlim_t(400) << 20).code, 0);
        const QStringList large{"generate", "--model", "synthetic:smollm2-135m", "--prompt", "a", "--dtype", "f32"};
        const Output o = spartan_with(large, {}, {}, rlim_t(400) << 20);
        QCOMPARE(o.code, 1);
        QVERIFY2(o.err.contains("memory: found 538.1 MB needed for the weights"), o.err);
    }
};

QTEST_GUILESS_MAIN(HostileTest)
#include "hostile_test.moc"
