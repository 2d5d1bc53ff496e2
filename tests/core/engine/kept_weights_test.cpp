// Weights kept as a GGUF file has them give the very bits that the converted ones give: logits, tokens, adapters on
// top.
#include "core/model/inspect.h"
#include "fixture.h"
#include "tests/core/model/model_files.h"

#include <QtTest>

#include <fstream>

using namespace spartan;
using namespace spartan::test;

namespace {

// Random blocks with scales of either sign up to 0.125.
std::string random_blocks(std::mt19937_64& random, GgufType type, uint64_t values) {
    std::string bytes(size_t(values) / 32 * size_t(block_bytes(type)), '\0');
    for (char& c : bytes) c = char(random() % 256);
    const size_t halves = type == GgufType::q4_1 ? 2 : 1;
    for (size_t block = 0; block < bytes.size(); block += size_t(block_bytes(type)))
        for (size_t h = 0; h < halves; ++h) {
            const auto scale = uint16_t(random() % 2 << 15 | random() % 0x2fff);
            std::memcpy(bytes.data() + block + 2 * h, &scale, 2);
        }
    return bytes;
}

std::string quantised_file(const QTemporaryDir& dir) {
    GgufBuilder g = tiny_gguf();
    std::mt19937_64 random(3);
    const GgufType types[] = {GgufType::q4_0, GgufType::q4_1, GgufType::q8_0};
    size_t next = 0;
    for (auto& t : g.tensors) {
        if (t.ne.size() != 2 || t.name == "blk.0.ffn_up.weight") continue;  // that one stays F32
        const GgufType type = types[next++ % 3];
        t.type = uint32_t(type);
        t.data = random_blocks(random, type, t.ne[0] * t.ne[1]);
    }
    const std::string path = dir.filePath("quantised.gguf").toStdString();
    std::ofstream(path, std::ios::binary) << g.bytes();
    return path;
}

struct Answer {
    std::vector<std::vector<float>> logits;
    std::vector<std::vector<Token>> output;
};

Answer answer(const std::shared_ptr<const Model>& model, int32_t max_batch_tokens) {
    EngineOptions options = TestEngine::small_options();
    options.threads = 2;
    options.max_batch_tokens = max_batch_tokens;
    TestEngine e(model, options);
    const AdapterId rotating = expect(e->add_adapter(make_adapter(*model, "boft", {.group = 8, .rank = 0}, 5)));
    const AdapterId low_rank = expect(e->add_adapter(make_adapter(*model, "lora", {.group = 0, .rank = 4}, 6)));
    Random random(9);
    std::vector<Request> requests;
    for (const AdapterId id : {AdapterId::base, rotating, low_rank, AdapterId::base, rotating}) {
        requests.push_back(make_request(random_prompt(random, pick(random, 1, 40), 12), id, 12));
        requests.back().want_logits = true;
    }
    Answer a;
    for (const RequestId id : e.run(requests)) {
        a.logits.push_back(e.records.logits(id));
        a.output.push_back(e.records.finished().at(id).output);
    }
    return a;
}

std::shared_ptr<const Model> load(const std::string& path, Precision precision) {
    Progress progress;
    return expect(load_model(expect(open_model(path)), precision, 2, progress));
}

}  // namespace

class KeptWeightsTest : public QObject {
    Q_OBJECT

    const QTemporaryDir dir_;

private slots:
    void sameBits_data() {
        QTest::addColumn<int>("type");
        QTest::newRow("f32") << int(DType::f32);
        QTest::newRow("bf16") << int(DType::bf16);
    }
    void sameBits() {
        QFETCH(int, type);
        const std::string path = quantised_file(dir_);
        const auto converted = load(path, DType(type)), kept = load(path, {DType(type), true});
        QCOMPARE(kept->content_hash, converted->content_hash);
        for (const int32_t batch : {1, 7, 256}) {
            const Answer a = answer(converted, batch), b = answer(kept, batch);
            QCOMPARE(b.output, a.output);
            for (size_t i = 0; i < a.logits.size(); ++i) {
                QVERIFY(!a.logits[i].empty() && a.logits[i].size() == b.logits[i].size());
                QVERIFY(std::memcmp(a.logits[i].data(), b.logits[i].data(), a.logits[i].size() * 4) == 0);
            }
        }
    }

    // What is promised before loading is what is held, and little more than the file.
    void memory() {
        const std::string path = quantised_file(dir_);
        const auto opened = expect(open_model(path));
        const auto kept = load(path, {DType::f32, true}), converted = load(path, DType::f32);
        QCOMPARE(kept->weight_bytes, weight_bytes_needed(opened, {DType::f32, true}));
        QCOMPARE(kept->kept_bytes, kept_bytes_needed(opened));
        QCOMPARE(converted->kept_bytes, int64_t(0));
        QVERIFY(kept->weight_bytes < converted->weight_bytes / 2);
        const auto& weights = std::get<Weights<float>>(kept->weights);
        QCOMPARE(weights.embedding.kept(), std::optional(GgufType::q4_0));
        QVERIFY(!weights.layers[0].projection[size_t(Projection::up)].kept());
        QVERIFY(weights.layers[0].projection[size_t(Projection::down)].kept());
    }

    void theDemoModelsFileIsItsMemory() {
        const std::string demo = cache_dir() + "/SmolLM2-135M-Instruct.Q4_1.gguf";
        if (!QFile::exists(QString::fromStdString(demo))) QSKIP("the demo model is not in the cache");
        const auto opened = expect(open_model(demo));
        const int64_t bytes = weight_bytes_needed(opened, {DType::f32, true});
        QVERIFY2(bytes < opened.file_bytes * 11 / 10, std::to_string(bytes).c_str());
    }

    void nothingToKeepIsSaid() {
        const std::string path = dir_.filePath("plain.gguf").toStdString();
        std::ofstream(path, std::ios::binary) << tiny_gguf().bytes();
        const auto model = load(path, {DType::f32, true});
        QCOMPARE(model->kept_bytes, int64_t(0));
        QCOMPARE(model->info.warnings.size(), size_t(1));
        VERIFY_CONTAINS(model->info.warnings[0], "nothing to keep");
    }

    // A scale that is not a number is refused as in a converted model, by tensor and index.
    void badScalesAreRefused() {
        GgufBuilder g = tiny_gguf();
        auto& t = g.tensor("blk.0.ffn_down.weight");
        std::mt19937_64 random(4);
        t.type = uint32_t(GgufType::q4_1);
        t.data = random_blocks(random, GgufType::q4_1, t.ne[0] * t.ne[1]);
        t.data[3 * 20 + 3] = 0x7c;  // m of the fourth block: infinity or NaN
        const std::string path = dir_.filePath("bad.gguf").toStdString();
        std::ofstream(path, std::ios::binary) << g.bytes();
        Progress progress;
        const auto loaded = load_model(expect(open_model(path)), {DType::f32, true}, 2, progress);
        QVERIFY(!loaded);
        VERIFY_CONTAINS(loaded.error().message(), "model.layers.0.mlp.down_proj.weight[1, 32]");
    }
};

QTEST_GUILESS_MAIN(KeptWeightsTest)
#include "kept_weights_test.moc"
