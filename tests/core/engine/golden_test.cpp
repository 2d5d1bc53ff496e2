// labels: gpu
// Every oracle case under tests/golden at its bar (tests/golden/README.md), alone and all mixed.
#include "core/adapter/adapter.h"
#include "core/engine/engine.h"
#include "core/model/model.h"
#include "fixture.h"

#include <QDir>
#include <QtTest>
#include <fstream>

using namespace spartan;
using namespace spartan::test;

namespace {

struct Tensor {
    std::vector<int64_t> shape;
    std::vector<float> values;  // F32
    std::vector<int64_t> ids;   // I64
};

// A plain reader, apart from the one under test.
std::map<std::string, Tensor> read_expected(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    uint64_t length = 0;
    in.read(reinterpret_cast<char*>(&length), 8);
    std::string header(length, ' ');
    in.read(header.data(), std::streamsize(length));
    const Json json = Json::parse(header);
    std::map<std::string, Tensor> out;
    for (const auto& [name, entry] : json.items()) {
        if (name == "__metadata__") continue;
        Tensor t;
        t.shape = entry["shape"].get<std::vector<int64_t>>();
        const auto begin = entry["data_offsets"][0].get<uint64_t>(), end = entry["data_offsets"][1].get<uint64_t>();
        in.seekg(std::streamoff(8 + length + begin));
        if (entry["dtype"] == "F32") {
            t.values.resize((end - begin) / 4);
            in.read(reinterpret_cast<char*>(t.values.data()), std::streamsize(end - begin));
        } else {
            t.ids.resize((end - begin) / 8);
            in.read(reinterpret_cast<char*>(t.ids.data()), std::streamsize(end - begin));
        }
        out[name] = std::move(t);
    }
    return out;
}

struct Prompt {
    std::vector<Token> ids;
    std::string adapter;  // empty: base
};

struct Case {
    std::vector<Prompt> prompts;
    std::map<std::string, Tensor> expected;
    std::shared_ptr<const Model> model;
    std::map<std::string, std::shared_ptr<const Adapter>> adapters;
};

Case load_case(const std::string& dir, DType dtype) {
    Case c;
    std::ifstream in(dir + "/prompts.json");
    const Json json = Json::parse(in);
    for (const auto& p : json["prompts"])
        c.prompts.push_back({p["ids"].get<std::vector<Token>>(),
                             p.contains("adapter") && p["adapter"].is_string() ? p["adapter"].get<std::string>() : ""});
    c.expected = read_expected(dir + "/expected.safetensors");
    Progress progress;
    c.model = expect(load_model(expect(open_model(dir + "/model")), dtype, 1, progress));
    for (const QString& name :
         QDir(QString::fromStdString(dir + "/adapters")).entryList(QDir::Dirs | QDir::NoDotAndDotDot)) {
        const std::string n = name.toStdString();
        c.adapters[n] = expect(load_adapter(n, dir + "/adapters/" + n, *c.model, progress));
    }
    return c;
}

struct Answer {
    std::vector<float> logits;
    std::vector<Token> greedy;
};

// All prompts in one go, or one after another.
std::vector<Answer> answer(const Case& c, bool together, int32_t max_batch_tokens) {
    EngineOptions options = TestEngine::small_options();
    options.threads = 2;
    options.max_batch_tokens = max_batch_tokens;
    TestEngine e(c.model, options);
    std::map<std::string, AdapterId> ids{{"", AdapterId::base}};
    for (const auto& [name, adapter] : c.adapters) ids[name] = expect(e->add_adapter(adapter));
    std::vector<Request> requests;
    for (const Prompt& p : c.prompts) {
        requests.push_back(make_request(p.ids, ids.at(p.adapter), 16));
        requests.back().want_logits = true;
    }
    const std::vector<RequestId> submitted = together ? e.run(requests) : e.run_alone(requests);
    const auto done = e.records.finished();
    std::vector<Answer> answers;
    for (const RequestId id : submitted) answers.push_back({e.records.logits(id), done.at(id).output});
    return answers;
}

}  // namespace

class GoldenTest : public QObject {
    Q_OBJECT
private slots:
    void initTestCase() { SKIP_WITHOUT_TEST_DEVICE(); }
    void f32_data() { cases(); }
    void f32();
    void bf16_data() { cases(); }
    void bf16() { check_16_bit(DType::bf16); }
    void f16_data() { cases(); }
    void f16() { check_16_bit(DType::f16); }

private:
    static void check_16_bit(DType dtype);
    static void cases() {
        QTest::addColumn<QString>("dir");
        const QDir golden(TESTS_DIR "/golden");
        for (const QString& name : golden.entryList(QDir::Dirs | QDir::NoDotAndDotDot))
            if (QFile::exists(golden.filePath(name + "/prompts.json")))
                QTest::newRow(qPrintable(name)) << golden.filePath(name);
    }
};

void GoldenTest::f32() {
    QFETCH(QString, dir);
    const Case c = load_case(dir.toStdString(), DType::f32);
    QVERIFY(c.prompts.size() >= 9);
    const auto alone = answer(c, false, 512), mixed = answer(c, true, 1024), chunked = answer(c, true, 13);
    double worst = 0;
    for (size_t i = 0; i < c.prompts.size(); ++i) {
        const Tensor& logits = c.expected.at("logits." + std::to_string(i));
        const Tensor& greedy = c.expected.at("greedy." + std::to_string(i));
        QCOMPARE(alone[i].logits.size(), logits.values.size());
        float largest = 0, difference = 0;
        for (size_t k = 0; k < logits.values.size(); ++k) {
            largest = std::max(largest, std::fabs(logits.values[k]));
            const float d = std::fabs(logits.values[k] - alone[i].logits[k]);
            QVERIFY(std::isfinite(d));
            difference = std::max(difference, d);
        }
        worst = std::max(worst, double(difference / largest));
        QVERIFY2(difference <= 1e-4f * largest,
                 qPrintable(
                     QString("prompt %1 (%2): %3").arg(i).arg(c.prompts[i].adapter.c_str()).arg(difference / largest)));
        QCOMPARE(std::vector<int64_t>(alone[i].greedy.begin(), alone[i].greedy.end()), greedy.ids);
        for (const auto* other : {&mixed, &chunked}) {
            QCOMPARE((*other)[i].greedy, alone[i].greedy);
            QVERIFY(agree((*other)[i].logits, alone[i].logits, DType::f32));
        }
    }
    qInfo("%zu prompts, worst |difference| / max |logit| %.2g (bar 1e-4)", c.prompts.size(), worst);
}

// f16 has three bits more than bf16, whose bars and the reference's errors are divided by 8, and a little wider.
void GoldenTest::check_16_bit(DType dtype) {
    if (dtype == DType::f16 && test_device() < 0) QSKIP("a CPU does not compute in f16");
    const double bar = dtype == DType::bf16 ? 1.25 : 1.5 / 8, finer = dtype == DType::bf16 ? 1 : 1. / 8;
    QFETCH(QString, dir);
    const Case c = load_case(dir.toStdString(), dtype);
    const auto alone = answer(c, false, 512), mixed = answer(c, true, 1024);
    double square = 0, reference_square = 0;
    for (size_t i = 0; i < c.prompts.size(); ++i) {
        const Tensor& logits = c.expected.at("logits." + std::to_string(i));
        const double reference = c.expected.at("bf16_error." + std::to_string(i)).values.at(0);
        QVERIFY(agree(mixed[i].logits, alone[i].logits, dtype));
        QVERIFY(agree(mixed[i].greedy, alone[i].greedy, dtype));
        QCOMPARE(alone[i].logits.size(), logits.values.size());
        const double error = relative_error(alone[i].logits, logits.values);
        QVERIFY2(error <= finer * std::max(2e-2, 2 * reference),
                 qPrintable(QString("prompt %1 (%2): %3").arg(i).arg(c.prompts[i].adapter.c_str()).arg(error)));
        square += error * error;
        reference_square += reference * reference;
    }
    const double ratio = std::sqrt(square / reference_square);
    qInfo("%zu prompts, error over the reference's own in bf16: %.3f (in %s, bar %.3g)", c.prompts.size(), ratio,
          name_of(dtype), bar);
    QVERIFY2(ratio <= bar, qPrintable(QString::number(ratio)));
}

QTEST_GUILESS_MAIN(GoldenTest)
#include "golden_test.moc"
