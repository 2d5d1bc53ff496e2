// labels: gpu
// Every family and configuration of tests/fixtures/models (made by tests/fidelity/make_model_cases.py) against what
// transformers gave, at the bar of tests/golden/README.md: alone, all mixed in one batch and cut into chunks.
#include "../model/model_files.h"
#include "core/engine/engine.h"
#include "core/model/model.h"
#include "fixture.h"

#include <QDir>
#include <QTemporaryDir>
#include <QtTest>
#include <bit>
#include <fstream>

using namespace spartan;
using namespace spartan::test;

namespace {

struct Prompt {
    std::vector<Token> ids, greedy;
    std::vector<float> logits;  // of the last position
    double bf16_error = 0;
};

struct Case {
    std::vector<Prompt> prompts;
    std::shared_ptr<const Model> model;
};

// draw() of the script.
std::vector<float> draw(const std::string& name, const std::vector<int64_t>& shape, const std::string& kind) {
    uint64_t key = 0xcbf29ce484222325u;
    for (const char c : name) key = (key ^ uint8_t(c)) * 0x100000001b3u;
    int64_t count = 1;
    for (const int64_t n : shape) count *= n;
    std::vector<float> values;
    for (int64_t i = 0; i < count; ++i) {
        uint64_t x = uint64_t(i) * 0x9e3779b97f4a7c15u + key;
        x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
        x = (x ^ x >> 27) * 0x94d049bb133111ebu;
        x = x ^ x >> 31;
        const float unit = float(int64_t(x >> 40) - (1 << 23)) / float(1 << 23);
        if (shape.size() == 2)
            values.push_back(unit * float(3 / std::sqrt(double(shape[1]))));
        else if (name.ends_with(".bias"))
            values.push_back(unit * 0.5f);
        else
            values.push_back(unit * 0.5f + (kind == "gemma" ? 0.f : 1.f));
    }
    return values;
}

Json read_case(const QString& file) {
    std::ifstream in(file.toStdString());
    return Json::parse(in);
}

// The case as a Hugging Face folder.
TinyHf folder_of(const Json& json) {
    TinyHf hf;
    hf.config = json["config"];
    const std::string kind = hf.config["model_type"];
    for (const auto& [name, shape] : json["tensors"].items()) {
        const auto sizes = shape.get<std::vector<int64_t>>();
        hf.tensors.push_back({name, "F32", sizes, bytes_of(draw(name, sizes, kind))});
    }
    return hf;
}

Case load_case(const Json& json, DType dtype, const std::string& path) {
    Case c;
    for (const Json& p : json["prompts"])
        c.prompts.push_back({p["ids"].get<std::vector<Token>>(), p["greedy"].get<std::vector<Token>>(),
                             p["logits"].get<std::vector<float>>(), p["bf16_error"].get<double>()});
    Progress progress;
    OpenedModel opened = expect(open_model(path));
    for (const std::string& problem : opened.problems) qWarning("%s", problem.c_str());
    c.model = expect(load_model(std::move(opened), dtype, 1, progress));
    return c;
}

// ---- the same model as llama.cpp's converter would write it
// ------------------------------------------------------------

std::string gguf_name(std::string name) {
    const std::pair<const char*, const char*> names[] = {{"model.embed_tokens", "token_embd"},
                                                         {"model.norm", "output_norm"},
                                                         {"lm_head", "output"},
                                                         {"model.layers.", "blk."},
                                                         {"input_layernorm", "attn_norm"},
                                                         {"post_attention_layernorm", "ffn_norm"},
                                                         {"self_attn.qkv_proj", "attn_qkv"},
                                                         {"self_attn.q_proj", "attn_q"},
                                                         {"self_attn.k_proj", "attn_k"},
                                                         {"self_attn.v_proj", "attn_v"},
                                                         {"self_attn.o_proj", "attn_output"},
                                                         {"self_attn.q_norm", "attn_q_norm"},
                                                         {"self_attn.k_norm", "attn_k_norm"},
                                                         {"mlp.gate_up_proj", "ffn_up"},
                                                         {"mlp.gate_proj", "ffn_gate"},
                                                         {"mlp.up_proj", "ffn_up"},
                                                         {"mlp.down_proj", "ffn_down"}};
    for (const auto& [hf, gguf] : names)
        if (const size_t at = name.find(hf); at != std::string::npos) name.replace(at, std::strlen(hf), gguf);
    return name;
}

// Rows of each head from [2][half] to [half][2]: neighbours rotate together.
std::vector<float> interleave_heads(const std::vector<float>& values, int64_t head_dim, int64_t cols) {
    std::vector<float> out(values.size());
    const int64_t rows = int64_t(values.size()) / cols, half = head_dim / 2;
    for (int64_t row = 0; row < rows; ++row) {
        const int64_t head = row / head_dim, p = row % head_dim / half, j = row % half;
        std::copy_n(values.begin() + row * cols, cols, out.begin() + (head * head_dim + 2 * j + p) * cols);
    }
    return out;
}

// What the converter writes of a rope_scaling of type yarn.
void add_yarn(GgufBuilder& g, const std::string& arch, const Json& scaling) {
    const std::string prefix = arch + ".rope.scaling.";
    g.str(prefix + "type", "yarn").f32(prefix + "factor", scaling["factor"].get<float>());
    g.u32(prefix + "original_context_length", scaling["original_max_position_embeddings"].get<uint32_t>());
    const std::pair<const char*, const char*> optional[] = {
        {"attention_factor", "yarn_attn_factor"}, {"beta_fast", "yarn_beta_fast"}, {"beta_slow", "yarn_beta_slow"}};
    for (const auto& [hf, gguf] : optional)
        if (scaling.contains(hf)) g.f32(prefix + gguf, scaling[hf].get<float>());
}

// `c` is the config as the folder gives it.
std::string gguf_of(const TinyHf& hf, const ModelConfig& c) {
    const std::string arch = c.kind == "mistral" ? "llama" : c.kind;
    GgufBuilder g;
    g.str("general.architecture", arch);
    const auto u32 = [&](const char* key, int64_t value) { g.u32(arch + "." + key, uint32_t(value)); };
    u32("context_length", c.max_position);
    u32("embedding_length", c.hidden_size);
    u32("block_count", c.num_layers);
    u32("feed_forward_length", c.intermediate_size);
    u32("attention.head_count", c.num_heads);
    u32("attention.head_count_kv", c.num_kv_heads);
    u32("attention.key_length", c.head_dim);
    u32("attention.value_length", c.head_dim);
    if (arch != "gemma") u32("rope.dimension_count", c.rotary_size());
    if (arch == "phi3") u32("attention.sliding_window", c.window_of(0));
    g.f32(arch + ".attention.layer_norm_rms_epsilon", c.rms_norm_eps);
    if (arch != "gemma") g.f32(arch + ".rope.freq_base", float(c.rope.theta));
    if (hf.config.contains("rope_scaling")) add_yarn(g, arch, hf.config["rope_scaling"]);
    for (const FileTensor& t : hf.tensors) {
        std::vector<float> values(t.data.size() / 4);
        std::memcpy(values.data(), t.data.data(), t.data.size());
        const bool rotates = contains(t.name, ".q_proj.") || contains(t.name, ".k_proj.");
        if (arch == "llama" && rotates)
            values = interleave_heads(values, c.head_dim, t.shape.size() == 2 ? t.shape[1] : 1);
        if (arch == "gemma" && contains(t.name, "norm"))
            for (float& v : values) v += 1;
        std::vector<uint64_t> ne(t.shape.rbegin(), t.shape.rend());
        g.tensors.push_back({gguf_name(t.name), ne, kF32, bytes_of(values)});
    }
    return g.bytes();
}

struct Answer {
    std::vector<float> logits;  // of every position of the prompt
    std::vector<Token> greedy;
    std::span<const float> last(size_t vocab) const { return std::span(logits).last(vocab); }
};

std::vector<Answer> answer(const Case& c, bool together, int32_t max_batch_tokens) {
    EngineOptions options = TestEngine::small_options();
    options.threads = 2;
    options.max_batch_tokens = max_batch_tokens;
    TestEngine e(c.model, options);
    std::vector<Request> requests;
    for (const Prompt& p : c.prompts) {
        requests.push_back(make_request(p.ids, AdapterId::base, int32_t(p.greedy.size())));
        requests.back().want_logits = true;
    }
    const std::vector<RequestId> submitted = together ? e.run(requests) : e.run_alone(requests);
    const auto done = e.records.finished();
    std::vector<Answer> answers;
    for (const RequestId id : submitted) answers.push_back({e.records.logits(id), done.at(id).output});
    return answers;
}

}  // namespace

class FamiliesTest : public QObject {
    Q_OBJECT
private slots:
    void initTestCase() { SKIP_WITHOUT_TEST_DEVICE(); }
    void all_families_are_there();
    void f32_data() { cases(); }
    void f32();
    void bf16_data() { cases(); }
    void bf16() { check_16_bit(DType::bf16); }
    void f16_data() { cases(); }
    void f16() { check_16_bit(DType::f16); }
    void gguf_data();
    void gguf();

private:
    static void check_16_bit(DType dtype);
    static QDir folder() { return QDir(TESTS_DIR "/fixtures/models"); }
    static void cases() {
        QTest::addColumn<QString>("file");
        for (const QString& name : folder().entryList({"*.json"}, QDir::Files))
            QTest::newRow(qPrintable(name.chopped(5))) << folder().filePath(name);
    }
};

void FamiliesTest::all_families_are_there() {
    std::set<std::string> kinds;
    for (const QString& name : folder().entryList({"*.json"}, QDir::Files))
        kinds.insert(read_case(folder().filePath(name))["config"]["model_type"]);
    for (const char* kind : {"llama", "mistral", "qwen2", "qwen3", "gemma", "phi3", "granite", "smollm3"})
        QVERIFY2(kinds.count(kind), kind);
}

void FamiliesTest::f32() {
    QFETCH(QString, file);
    QTemporaryDir dir;
    folder_of(read_case(file)).write(dir.path().toStdString());
    const Case c = load_case(read_case(file), DType::f32, dir.path().toStdString());
    QVERIFY(c.prompts.size() >= 8);
    const auto alone = answer(c, false, 512), mixed = answer(c, true, 1024), chunked = answer(c, true, 13);
    double worst = 0;
    for (size_t i = 0; i < c.prompts.size(); ++i) {
        const Prompt& p = c.prompts[i];
        QCOMPARE(alone[i].logits.size(), p.logits.size() * p.ids.size());
        const auto got = alone[i].last(p.logits.size());
        float largest = 0, difference = 0;
        for (size_t k = 0; k < got.size(); ++k) {
            QVERIFY(std::isfinite(got[k]));
            largest = std::max(largest, std::fabs(p.logits[k]));
            difference = std::max(difference, std::fabs(p.logits[k] - got[k]));
        }
        worst = std::max(worst, double(difference / largest));
        QVERIFY2(difference <= 1e-4f * largest,
                 qPrintable(QString("prompt of %1: %2").arg(p.ids.size()).arg(double(difference / largest))));
        QCOMPARE(alone[i].greedy, p.greedy);
        for (const auto* other : {&mixed, &chunked}) {
            QCOMPARE((*other)[i].greedy, alone[i].greedy);
            QVERIFY(agree((*other)[i].logits, alone[i].logits, DType::f32));
        }
    }
    qInfo("worst |difference| / max |logit| %.2g (bar 1e-4)", worst);
}

// f16 has three bits more than bf16, whose bars and the reference's errors are divided by 8, and a little wider.
void FamiliesTest::check_16_bit(DType dtype) {
    if (dtype == DType::f16 && test_device() < 0) QSKIP("a CPU does not compute in f16");
    const double bar = dtype == DType::bf16 ? 1.25 : 1.5 / 8, finer = dtype == DType::bf16 ? 1 : 1. / 8;
    QFETCH(QString, file);
    QTemporaryDir dir;
    folder_of(read_case(file)).write(dir.path().toStdString());
    const Case c = load_case(read_case(file), dtype, dir.path().toStdString());
    const auto alone = answer(c, false, 512), mixed = answer(c, true, 1024);
    double square = 0, reference_square = 0;
    for (size_t i = 0; i < c.prompts.size(); ++i) {
        const Prompt& p = c.prompts[i];
        QVERIFY(agree(mixed[i].logits, alone[i].logits, dtype));
        QVERIFY(agree(mixed[i].greedy, alone[i].greedy, dtype));
        const double error = relative_error(alone[i].last(p.logits.size()), p.logits);
        QVERIFY2(
            error <= finer * std::max(2e-2, 2 * p.bf16_error),
            qPrintable(QString("prompt of %1: %2, the reference %3").arg(p.ids.size()).arg(error).arg(p.bf16_error)));
        square += error * error;
        reference_square += p.bf16_error * p.bf16_error;
    }
    const double ratio = std::sqrt(square / reference_square);
    qInfo("error over the reference's own in bf16: %.3f (in %s, bar %.3g)", ratio, name_of(dtype), bar);
    QVERIFY2(ratio <= bar, qPrintable(QString::number(ratio)));
}

void FamiliesTest::gguf_data() {
    QTest::addColumn<QString>("file");
    QTest::addColumn<QByteArray>("yarn");  // a rope_scaling to add
    QTest::addColumn<int>("warnings");
    for (const char* name : {"llama", "llama-biases-head-dim", "llama-yarn", "mistral-full", "qwen2", "qwen3", "gemma",
                             "phi3", "phi3-partial-window"})
        QTest::newRow(name) << folder().filePath(QString(name) + ".json") << QByteArray() << 0;
    const QByteArray plain = R"({"type":"yarn","factor":2.5,"original_max_position_embeddings":32})";
    const QByteArray all = R"({"type":"yarn","factor":4.0,"original_max_position_embeddings":16,
                               "attention_factor":1.3,"beta_fast":8.0,"beta_slow":2.0})";
    for (const char* name : {"qwen2", "qwen3", "gemma"})
        QTest::addRow("%s-yarn", name) << folder().filePath(QString(name) + ".json") << plain << 0;
    for (const char* name : {"llama", "qwen3"})
        QTest::addRow("%s-yarn-all-keys", name) << folder().filePath(QString(name) + ".json") << all << 3;
}

// A GGUF file of the same weights gives the same bits as the folder.
void FamiliesTest::gguf() {
    QFETCH(QString, file);
    QFETCH(QByteArray, yarn);
    QFETCH(int, warnings);
    QTemporaryDir dir;
    const std::string folder_path = dir.filePath("folder").toStdString(), path = dir.filePath("m.gguf").toStdString();
    const Json json = read_case(file);
    TinyHf hf = folder_of(json);
    if (!yarn.isEmpty()) hf.config["rope_scaling"] = Json::parse(yarn.toStdString());
    hf.write(folder_path);
    const Case from_folder = load_case(json, DType::f32, folder_path);
    put(path, gguf_of(hf, from_folder.model->config()));
    const Case from_gguf = load_case(json, DType::f32, path);
    QCOMPARE(int(from_gguf.model->info.warnings.size()), warnings);
    const auto want = answer(from_folder, true, 1024), got = answer(from_gguf, true, 1024);
    for (size_t i = 0; i < want.size(); ++i) {
        QCOMPARE(got[i].greedy, want[i].greedy);
        QVERIFY(agree(got[i].logits, want[i].logits, DType::f32));
    }
}

QTEST_GUILESS_MAIN(FamiliesTest)
#include "families_test.moc"
