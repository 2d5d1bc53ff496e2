#include "core/model/demo_model.h"
#include "core/model/inspect.h"
#include "core/model/model.h"
#include "core/tokenizer/chat_template.h"
#include "core/tokenizer/tokenizer.h"
#include "model_files.h"

#include <unistd.h>
#include <QElapsedTimer>
#include <QTemporaryDir>
#include <QTest>

using namespace spartan;
using namespace spartan::test;

using Change = std::function<void(const std::string& dir)>;
Q_DECLARE_METATYPE(Change)

namespace {

std::string index_json(const std::vector<std::pair<std::string, std::string>>& map) {
    Json json = {{"metadata", {{"total_size", 1}}}, {"weight_map", Json::object()}};
    for (const auto& [tensor, file] : map) json["weight_map"][tensor] = file;
    return json.dump();
}

// The tiny model in two files.
std::vector<std::pair<std::string, std::string>> write_shards(const std::string& dir) {
    const TinyHf hf = tiny_hf();
    hf.write(dir);
    QFile::remove(QString::fromStdString(dir + "/model.safetensors"));
    std::vector<FileTensor> parts[2];
    std::vector<std::pair<std::string, std::string>> map;
    for (size_t i = 0; i < hf.tensors.size(); ++i) {
        const size_t shard = i % 2;
        parts[shard].push_back(hf.tensors[i]);
        map.emplace_back(hf.tensors[i].name, "part-" + std::to_string(shard) + ".safetensors");
    }
    put(dir + "/part-0.safetensors", safetensors(parts[0]));
    put(dir + "/part-1.safetensors", safetensors(parts[1]));
    put(dir + "/model.safetensors.index.json", index_json(map));
    return map;
}

}  // namespace

class OpenTest : public QObject {
    Q_OBJECT

    const QTemporaryDir dir_;
    int serial_ = 0;
    std::string fresh() {
        const std::string path = dir_.filePath("model-" + QString::number(serial_++)).toStdString();
        QDir().mkpath(QString::fromStdString(path));
        return path;
    }

private slots:
    void refuses_data() {
        QTest::addColumn<Change>("change");
        QTest::addColumn<QByteArray>("says");
        const auto row = [](const char* name, Change change, const char* says) {
            QTest::newRow(name) << std::move(change) << QByteArray(says);
        };
        const auto remove = [](const std::string& path) { QFile::remove(QString::fromStdString(path)); };
        // reliability.md C20
        row(
            "no config", [=](auto& d) { remove(d + "/config.json"); }, "config.json: found no such file");
        row(
            "empty config", [](auto& d) { put(d + "/config.json", ""); }, "config.json: line 1");
        row(
            "4 GB config",
            [](auto& d) {
                QFile sparse(QString::fromStdString(d + "/config.json"));
                QVERIFY(sparse.open(QIODevice::WriteOnly) && sparse.resize(qint64(4) << 30));
            },
            "config.json: found 4294967296 bytes");
        row(
            "duplicate key", [](auto& d) { put(d + "/config.json", "{\"hidden_size\": 8, \"hidden_size\": 8}"); },
            "hidden_size: found the key twice");
        row(
            "adapter folder", [=](auto& d) { remove(d + "/config.json"), put(d + "/adapter_config.json", "{}"); },
            "an adapter's folder");
        row(
            "no weights", [=](auto& d) { remove(d + "/model.safetensors"); }, "no model.safetensors");
        row(
            "pickle", [=](auto& d) { remove(d + "/model.safetensors"), put(d + "/pytorch_model.bin", "x"); },
            "pytorch_model.bin: found a pickle, which is never opened");
        row(
            "damaged weights", [](auto& d) { put(d + "/model.safetensors", "x"); }, "model.safetensors: found 1 bytes");
        row(
            "folder for weights",
            [=](auto& d) {
                remove(d + "/model.safetensors"), QDir().mkpath(QString::fromStdString(d + "/model.safetensors"));
            },
            "found a folder, expected a regular file");
        row(
            "damaged generation config", [](auto& d) { put(d + "/generation_config.json", "{"); },
            "generation_config.json: line 1");
        // S14
        row(
            "shard ../x",
            [](auto& d) {
                auto m = write_shards(d);
                m[0].second = "../x.safetensors";
                put(d + "/model.safetensors.index.json", index_json(m));
            },
            "weight_map.model.embed_tokens.weight: found \"../x.safetensors\"");
        row(
            "shard absolute",
            [](auto& d) {
                auto m = write_shards(d);
                m[0].second = "/etc/passwd";
                put(d + "/model.safetensors.index.json", index_json(m));
            },
            "found \"/etc/passwd\" (string), expected the name of a file beside the index");
        row(
            "shard ..",
            [](auto& d) {
                auto m = write_shards(d);
                m[0].second = "..";
                put(d + "/model.safetensors.index.json", index_json(m));
            },
            "found \"..\"");
        row(
            "shard missing", [=](auto& d) { write_shards(d), remove(d + "/part-1.safetensors"); },
            "part-1.safetensors");
        row(
            "tensor in two shards",
            [](auto& d) {
                write_shards(d);
                put(d + "/part-1.safetensors", safetensors({tiny_hf().tensors[0], tiny_hf().tensors[1]}));
            },
            "part-1.safetensors: model.embed_tokens.weight: found the tensor also in part-0.safetensors");
        row(
            "tensor not in its shard",
            [](auto& d) {
                auto m = write_shards(d);
                m.emplace_back("model.extra", "part-0.safetensors");
                put(d + "/model.safetensors.index.json", index_json(m));
            },
            "part-0.safetensors: model.extra: found no such tensor");
        row(
            "index without map", [](auto& d) { write_shards(d), put(d + "/model.safetensors.index.json", "{}"); },
            "weight_map: found nothing");
        row(
            "index map of lists",
            [](auto& d) {
                write_shards(d), put(d + "/model.safetensors.index.json", "{\"weight_map\": {\"a\": [1]}}");
            },
            "weight_map.a: found");
        row(
            "empty index",
            [](auto& d) { write_shards(d), put(d + "/model.safetensors.index.json", "{\"weight_map\": {}}"); },
            "weight_map: found no tensors");
    }
    void refuses() {
        QFETCH(Change, change);
        QFETCH(QByteArray, says);
        const std::string dir = fresh();
        tiny_hf().write(dir);
        change(dir);
        QElapsedTimer timer;
        timer.start();
        const auto opened = open_model(dir);
        QVERIFY(timer.elapsed() < 1000);
        QVERIFY(!opened);
        VERIFY_CONTAINS(opened.error().message(), dir);
        VERIFY_CONTAINS(opened.error().message(), says.toStdString());
    }

    void refuses_other_paths() {
        put(dir_.filePath("a.txt").toStdString(), "hello world");
        put(dir_.filePath("b.safetensors").toStdString(), "x");
        VERIFY_CONTAINS(open_model("").error().message(), "a model folder, a .gguf file or synthetic:SHAPE");
        VERIFY_CONTAINS(open_model(dir_.filePath("a.txt").toStdString()).error().message(), "a file of another kind");
        VERIFY_CONTAINS(open_model(dir_.filePath("b.safetensors").toStdString()).error().message(),
                        "the folder it lies in");
        VERIFY_CONTAINS(open_model(dir_.filePath("none").toStdString()).error().message(), "No such file");
        VERIFY_CONTAINS(open_model("/dev/zero").error().message(), "a device");
        VERIFY_CONTAINS(open_model("synthetic:huge").error().message(), "expected one of llama-2-7b");
    }

    // D18, C23: shapes are said for each tensor that does not fit.
    void problems() {
        TinyHf hf = tiny_hf();
        hf.tensor("model.layers.1.self_attn.k_proj.weight").shape = {8, 4};
        std::erase_if(hf.tensors, [](const FileTensor& t) { return t.name == "model.layers.0.mlp.up_proj.weight"; });
        hf.tensor("model.layers.0.rotary_emb.inv_freq") = {
            "model.layers.0.rotary_emb.inv_freq", "F32", {2}, std::string(8, 0)};
        hf.tensor("extra.weight") = {"extra.weight", "I64", {1}, std::string(8, 0)};
        hf.tensor("model.norm.weight").dtype = "I32";
        hf.config["vocab_size"] = 11;
        const std::string dir = fresh();
        hf.write(dir);
        const auto opened = open_model(dir);
        VERIFY_OK(opened);
        std::string all;
        for (const std::string& p : opened->problems) all += p + "\n";
        VERIFY_CONTAINS(all, "model.embed_tokens.weight: found shape [10, 8], expected [11, 8]");
        VERIFY_CONTAINS(all, "lm_head.weight: found shape [10, 8], expected [11, 8]");
        VERIFY_CONTAINS(all, "model.layers.1.self_attn.k_proj.weight: found shape [8, 4], expected [4, 8]");
        VERIFY_CONTAINS(all, "model.layers.0.mlp.up_proj.weight: found no such tensor, expected shape [12, 8]");
        VERIFY_CONTAINS(all, "model.norm.weight: found dtype I32");
        QCOMPARE(opened->problems.size(), size_t(5));
        QCOMPARE(opened->warnings, std::vector<std::string>{"tensor extra.weight is not used"});
        Progress progress;
        QVERIFY(!load_model(*opened, DType::f32, 1, progress));
    }

    void many_missing_layers_are_counted() {
        TinyHf hf = tiny_hf();
        hf.config["num_hidden_layers"] = 4000;
        const std::string dir = fresh();
        hf.write(dir);
        QElapsedTimer timer;
        timer.start();
        const auto opened = open_model(dir);
        VERIFY_OK(opened);
        QVERIFY(timer.elapsed() < 1000);
        QVERIFY(opened->problems.size() < 20);
        VERIFY_CONTAINS(opened->problems.back(), "more tensors are missing");
    }

    void one_file_and_shards_are_the_same_model() {
        const std::string single = fresh(), sharded = fresh();
        tiny_hf().write(single);
        write_shards(sharded);
        std::string hashes[2];
        int i = 0;
        for (const std::string& dir : {single, sharded}) {
            const auto opened = open_model(dir);
            VERIFY_OK(opened);
            QCOMPARE(opened->problems, std::vector<std::string>{});
            Progress progress;
            const auto model = load_model(*opened, DType::f32, 2, progress);
            VERIFY_OK(model);
            hashes[i++] = (*model)->content_hash;
        }
        QCOMPARE(hashes[0], hashes[1]);
    }

    void links_are_followed() {  // the Hugging Face cache
        const std::string blobs = fresh(), dir = fresh() + "/models--org--Nice-Name/snapshots/0123";
        tiny_hf().write(blobs);
        QDir().mkpath(QString::fromStdString(dir));
        for (const char* file : {"config.json", "model.safetensors"})
            QVERIFY(::symlink((blobs + "/" + file).c_str(), (dir + "/" + file).c_str()) == 0);
        const auto opened = open_model(dir + "/");
        VERIFY_OK(opened);
        QCOMPARE(opened->name, std::string("Nice-Name"));
    }

    void tied_embeddings() {
        TinyHf hf = tiny_hf();
        hf.config["tie_word_embeddings"] = true;
        const std::string differs = fresh(), same = fresh(), absent = fresh();
        hf.write(differs);
        hf.tensor("lm_head.weight").data = hf.tensor("model.embed_tokens.weight").data;
        hf.write(same);
        std::erase_if(hf.tensors, [](const FileTensor& t) { return t.name == "lm_head.weight"; });
        hf.write(absent);
        const auto a = open_model(differs), b = open_model(same), c = open_model(absent);
        VERIFY_OK(a);
        QVERIFY(!a->config.tied_embeddings && a->warnings.size() == 1);
        VERIFY_CONTAINS(a->warnings[0], "lm_head.weight differs");
        QVERIFY(b->config.tied_embeddings && b->warnings.empty() && b->problems.empty());
        QVERIFY(c->config.tied_embeddings && c->warnings.empty() && c->problems.empty());
        Progress progress;
        const auto model = load_model(*c, DType::f32, 1, progress);
        VERIFY_OK(model);
        const auto& w = std::get<Weights<float>>((*model)->weights);
        QVERIFY(w.head.empty() && &w.output() == &w.embedding);
        hf.config["tie_word_embeddings"] = false;
        hf.write(absent);
        VERIFY_CONTAINS(open_model(absent)->problems.at(0), "lm_head.weight: found no such tensor");
    }

    void chat_templates() {
        const std::string chatml =
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}";
        const std::string dir = fresh();
        tiny_hf().write(dir);
        const auto plain = [&] { return open_model(dir)->chat_template->is_plain(); };
        QVERIFY(plain());
        put(dir + "/tokenizer_config.json", Json{{"chat_template", chatml}, {"model_max_length", 1e30}}.dump());
        QVERIFY(!plain());
        put(dir + "/tokenizer_config.json", R"({"model_max_length": 1000000000000000019884624838656})");
        QVERIFY(plain());
        QVERIFY(open_model(dir)->warnings.empty());
        const Json named = {{{"name", "tool_use"}, {"template", "x"}}, {{"name", "default"}, {"template", chatml}}};
        put(dir + "/tokenizer_config.json", Json{{"chat_template", named}}.dump());
        QVERIFY(!plain());
        put(dir + "/tokenizer_config.json", R"({"chat_template": 5})");
        VERIFY_CONTAINS(open_model(dir)->warnings.at(0), "chat_template: found 5");
        put(dir + "/chat_template.jinja", chatml);
        QVERIFY(!plain());
    }

    void without_a_usable_tokenizer() {
        const std::string dir = fresh();
        tiny_hf().write(dir);
        QVERIFY(!open_model(dir)->tokenizer);
        put(dir + "/tokenizer.json", "{\"model\": {\"type\": \"Nonsense\"}}");
        const auto opened = open_model(dir);
        VERIFY_OK(opened);
        QVERIFY(!opened->tokenizer);
        VERIFY_CONTAINS(opened->tokenizer_error, "tokenizer.json");
        VERIFY_CONTAINS(opened->warnings.at(0), "runs on ids only");
    }

    void golden_models() {
        for (const char* name : {"llama-mha", "llama-gqa-tied", "qwen2"}) {
            const auto opened = open_model(std::string(TESTS_DIR) + "/golden/" + name + "/model");
            VERIFY_OK(opened);
            QCOMPARE(opened->problems, std::vector<std::string>{});
            QCOMPARE(opened->warnings, std::vector<std::string>{});
            QCOMPARE(opened->config.vocab_size, 256);
            QCOMPARE(opened->config.eos, std::vector<Token>{2});
            for (const DType dtype : {DType::f32, DType::bf16}) {
                Progress progress;
                const auto model = load_model(*opened, dtype, 2, progress);
                VERIFY_OK(model);
                QCOMPARE(progress.done.load(), progress.total.load());
            }
        }
    }

    void inspect() {
        const auto opened = open_model(std::string(TESTS_DIR) + "/golden/llama-gqa-tied/model");
        const Json json = inspect_model_json(*opened);
        QVERIFY(json["type"] == Json("model"));
        QVERIFY(json["kind"] == Json("llama"));
        QVERIFY(json["hidden_size"] == Json(96));
        QVERIFY(json["num_key_value_heads"] == Json(2));
        QVERIFY(json["tie_word_embeddings"] == Json(true));
        QVERIFY(json["dtype"] == Json("F32"));
        QVERIFY(json["rope_parameters"]["rope_type"] == Json("llama3"));
        QVERIFY(json["problems"].empty() && json["problems"].is_array());
        int64_t values = 0;
        for (const TensorSource& t : opened->tensors) values += t.rows() * t.cols();
        QVERIFY(json["parameters"] == Json(values));
        QVERIFY(inspect_model_text(*opened).size() >= 8);
    }

    void inspect_tells_switches() {
        const auto inspected = [this](const Json& changes) {
            TinyHf hf = tiny_hf();
            hf.config.erase("architectures");
            hf.config.update(changes);
            const std::string dir = fresh();
            hf.write(dir);
            const auto opened = open_model(dir);
            std::string text;
            for (const std::string& line : inspect_model_text(*opened)) text += line + "\n";
            return std::pair(inspect_model_json(*opened), text);
        };
        const auto [llama, llama_text] = inspected({{"model_type", "llama"}});
        QVERIFY(llama["switches"] == Json::object() && !contains(llama_text, "with "));
        const auto [mistral, mistral_text] = inspected({{"model_type", "mistral"}, {"sliding_window", 16}});
        QVERIFY(mistral["switches"]["sliding_windows"] == Json({16, 16}));
        VERIFY_CONTAINS(mistral_text, "sliding window of 16 in all 2 layers");
        const auto [granite, granite_text] = inspected({{"model_type", "granite"},
                                                        {"residual_multiplier", 0.22},
                                                        {"attention_multiplier", 0.5},
                                                        {"logits_scaling", 8}});
        VERIFY_CONTAINS(granite["switches"].dump(),
                        R"({"attention_multiplier":0.5,"residual_multiplier":0.22,"logits_scaling":8.0})");
        VERIFY_CONTAINS(granite_text, "scores times 0.5, residual times 0.22, logits over 8");
        const auto [smollm3, smollm3_text] = inspected({{"model_type", "smollm3"}, {"no_rope_layers", {0, 1}}});
        QVERIFY(smollm3["switches"]["no_rope_layers"] == Json({0, 1}));
        VERIFY_CONTAINS(smollm3_text, "no rope in 1 of 2 layers");
        const auto [yarn, yarn_text] =
            inspected({{"model_type", "llama"}, {"rope_scaling", {{"type", "yarn"}, {"factor", 4.0}}}});
        QVERIFY(yarn["rope_parameters"]["attention_factor"].get<double>() > 1.1);
        VERIFY_CONTAINS(yarn_text, "rope yarn, theta 10000.0, factor 4.0, attention factor 1.138");
    }

    // phi3 holds q, k, v and gate, up stacked; what is wrong with a stack is said of the stack.
    void fused_projections() {
        TinyHf hf = tiny_hf();
        const auto stack = [&](const std::string& prefix, const std::string& name,
                               const std::vector<std::string>& parts) {
            FileTensor whole{prefix + name + ".weight", "F32", {0, 8}, ""};
            for (const std::string& part : parts) {
                const FileTensor t = hf.tensor(prefix + part + ".weight");
                whole.shape[0] += t.shape[0];
                whole.data += t.data;
                std::erase_if(hf.tensors, [&](const FileTensor& x) { return x.name == t.name; });
            }
            hf.tensors.push_back(whole);
        };
        const std::string plain = fresh();
        hf.write(plain);
        for (const char* layer : {"model.layers.0.", "model.layers.1."}) {
            stack(std::string(layer) + "self_attn.", "qkv_proj", {"q_proj", "k_proj", "v_proj"});
            stack(std::string(layer) + "mlp.", "gate_up_proj", {"gate_proj", "up_proj"});
        }
        hf.config.erase("architectures");
        hf.config["model_type"] = "phi3";
        const std::string dir = fresh();
        hf.write(dir);
        const auto fused = open_model(dir), separate = open_model(plain);
        VERIFY_OK(fused);
        QVERIFY(fused->problems.empty() && fused->warnings.empty());
        QCOMPARE(fused->tensors.size(), separate->tensors.size());
        for (size_t i = 0; i < fused->tensors.size(); ++i) {
            const TensorSource &a = fused->tensors[i], &b = separate->tensors[i];
            QCOMPARE(a.name, b.name);
            QCOMPARE(a.shape, b.shape);
            std::vector<float> x(size_t(a.rows() * a.cols())), y(x.size());
            VERIFY_OK(a.read_rows(0, a.rows(), x.data()));
            VERIFY_OK(b.read_rows(0, b.rows(), y.data()));
            QCOMPARE(x, y);
        }
        TinyHf missing = hf, misshapen = hf;
        std::erase_if(missing.tensors,
                      [](const FileTensor& t) { return t.name.ends_with("1.mlp.gate_up_proj.weight"); });
        const std::string first = fresh(), second = fresh();
        missing.write(first);
        VERIFY_CONTAINS(open_model(first).error().message(),
                        "model.layers.1.mlp.gate_up_proj.weight: found no such tensor");
        FileTensor& t = misshapen.tensor("model.layers.0.self_attn.qkv_proj.weight");
        t.shape = {8, 16};
        misshapen.write(second);
        VERIFY_CONTAINS(open_model(second).error().message(), "qkv_proj.weight: found shape [8, 16], expected [16, 8]");
    }

    // A folder may hold the same weights twice; the pickle is never opened.
    void safetensors_beside_bin() {
        const TinyHf hf = tiny_hf();
        const std::string both = fresh(), bin = fresh();
        hf.write(both);
        put(both + "/pytorch_model.bin", "pickle");
        const auto opened = open_model(both);
        VERIFY_OK(opened);
        QVERIFY(opened->problems.empty());
        hf.write(bin);
        QVERIFY(QFile::remove(QString::fromStdString(bin + "/model.safetensors")));
        put(bin + "/pytorch_model.bin", "pickle");
        const auto refused = open_model(bin);
        QVERIFY(!refused);
        VERIFY_CONTAINS(refused.error().message(), "pytorch_model.bin: found a pickle, which is never opened");
        VERIFY_CONTAINS(refused.error().message(), "save_pretrained");
    }

    void the_word_demo() {
        const std::string cache = fresh();
        const QByteArray before = qgetenv("XDG_CACHE_HOME");
        qputenv("XDG_CACHE_HOME", cache.c_str());
        QVERIFY(QDir(QString::fromStdString(cache)).mkdir("spartanserve"));
        const auto absent = open_model("demo");
        QVERIFY(!absent);
        VERIFY_CONTAINS(absent.error().message(), demo_model_path() + ": found no demo model in the cache");
        VERIFY_CONTAINS(absent.error().message(), "bash app/run.sh");

        put(demo_model_path(), tiny_gguf().bytes());
        const auto opened = open_model("demo");
        VERIFY_OK(opened);
        QCOMPARE(opened->path, demo_model_path());
        QCOMPARE(opened->source, std::string("gguf"));

        const std::string beside = fresh();  // a model of that name comes first
        tiny_hf().write(beside + "/demo");
        QVERIFY(names_demo_model("demo", cache) && !names_demo_model("demo", beside) && !names_demo_model("Demo"));
        if (before.isNull())
            qunsetenv("XDG_CACHE_HOME");
        else
            qputenv("XDG_CACHE_HOME", before);
    }

    void memory_before_loading() {
        for (const std::string& shape : synthetic_shapes()) {
            const auto opened = open_model("synthetic:" + shape);
            VERIFY_OK(opened);
            QVERIFY(opened->tokenizer && opened->problems.empty());
            const int64_t f32 = weight_bytes_needed(*opened, DType::f32);
            QVERIFY(f32 >= 4 * opened->parameters && f32 < 4 * opened->parameters + 100'000);
        }
        QCOMPARE(open_model("synthetic:llama-2-7b")->parameters, 6738415616);
        QCOMPARE(open_model("synthetic:llama-3-8b")->parameters, 8030261248);
        QCOMPARE(open_model("synthetic:smollm2-135m")->parameters, 134515008);
    }
};

QTEST_GUILESS_MAIN(OpenTest)
#include "open_test.moc"
