// labels: gpu
// Every adapter configuration of tests/fidelity/adapter_cases against transformers + PEFT at the bar of
// tests/golden/README.md: alone, with all others of its model in one batch, and by every strategy.
#include "core/adapter/adapter.h"
#include "core/engine/adapter_strategy.h"
#include "core/engine/engine.h"
#include "core/model/model.h"
#include "tests/core/adapter/adapter_cases.h"
#include "tests/core/engine/fixture.h"

#include <QtTest>

#include <cmath>

using namespace spartan;
using namespace spartan::test;

namespace {

struct Answer {
    std::vector<float> logits;  // of the prompt's last position
    std::vector<Token> greedy;
};
// By adapter ("base" first) and prompt.
using Answers = std::vector<std::vector<Answer>>;

struct Subject {
    std::shared_ptr<const Model> model;
    std::vector<std::string> names{"base"};
    std::vector<std::shared_ptr<const Adapter>> adapters{nullptr};
};

Subject load(const AdapterCases& cases, DType dtype,
             AdapterForm form = form_of(AdapterStrategy::folded, test_device())) {
    Subject s;
    Progress progress;
    s.model = expect(load_model(expect(open_model(cases.model_dir())), dtype, 1, progress));
    for (const std::string& name : cases.adapters()) {
        s.names.push_back(name);
        s.adapters.push_back(expect(load_adapter(name, cases.adapter_dir(name), *s.model, progress, form)));
    }
    return s;
}

Answers answer(const AdapterCases& cases, const Subject& s, bool together,
               AdapterStrategy strategy = AdapterStrategy::folded) {
    EngineOptions options = TestEngine::small_options();
    options.adapter_strategy = name_of(strategy);
    options.threads = 2;
    options.max_batch_tokens = together ? 512 : 64;
    options.max_batch_rows = 256;
    options.pool_bytes = 64 << 20;
    TestEngine e(s.model, options);
    std::vector<Request> requests;
    for (const auto& adapter : s.adapters) {
        const AdapterId id = adapter ? expect(e->add_adapter(adapter)) : AdapterId::base;
        for (const auto& prompt : cases.prompts()) {
            requests.push_back(make_request(prompt, id, 8));
            requests.back().want_logits = true;
        }
    }
    const std::vector<RequestId> ids = together ? e.run(requests) : e.run_alone(requests);
    const auto done = e.records.finished();
    Answers answers(s.adapters.size());
    for (size_t i = 0; i < ids.size(); ++i) {
        std::vector<float> logits = e.records.logits(ids[i]);
        logits.erase(logits.begin(), logits.end() - s.model->config().vocab_size);
        answers[i / cases.prompts().size()].push_back({std::move(logits), done.at(ids[i]).output});
    }
    return answers;
}

// max |difference| / max |want|; NaN stays.
double worst_error(const std::vector<float>& got, const std::vector<float>& want) {
    double worst = 0, largest = 0;
    for (size_t i = 0; i < want.size(); ++i) {
        const double d = std::fabs(double(got[i]) - double(want[i]));
        if (!(d <= worst)) worst = d;
        largest = std::max(largest, std::fabs(double(want[i])));
    }
    return worst / largest;
}

std::string kind_of(const Subject& s, size_t i) { return i ? name_of(s.adapters[i]->kind) : "base"; }

}  // namespace

class FidelityTest : public QObject {
    Q_OBJECT
private slots:
    void initTestCase() { SKIP_WITHOUT_TEST_DEVICE(); }
    void f32_data() { families(); }
    void f32();
    void bf16_data() { families(); }
    void bf16() { check_16_bit(DType::bf16); }
    void f16_data() { families(); }
    void f16() { check_16_bit(DType::f16); }
    void strategies_data() { families(); }
    void strategies();
    void there_are_enough();

private:
    static void check_16_bit(DType dtype);
    static void families() {
        QTest::addColumn<QString>("family");
        for (const std::string& family : families_with_cases())
            QTest::newRow(family.c_str()) << QString::fromStdString(family);
    }
};

void FidelityTest::f32() {
    QFETCH(QString, family);
    const AdapterCases cases(family.toStdString());
    const Subject s = load(cases, DType::f32);
    const Answers alone = answer(cases, s, false), mixed = answer(cases, s, true);
    std::map<std::string, double> worst;
    QStringList failed;
    for (size_t a = 0; a < s.names.size(); ++a) {
        for (size_t i = 0; i < cases.prompts().size(); ++i) {
            const double error = worst_error(alone[a][i].logits, cases.logits(s.names[a], i));
            if (!(error <= worst[kind_of(s, a)])) worst[kind_of(s, a)] = error;
            if (!(error <= 1e-4) || alone[a][i].greedy != cases.greedy(s.names[a], i))
                failed << QString("%1 prompt %2: %3").arg(s.names[a].c_str()).arg(i).arg(error);
            QVERIFY2(agree(mixed[a][i].logits, alone[a][i].logits, DType::f32), s.names[a].c_str());
            QVERIFY2(agree(mixed[a][i].greedy, alone[a][i].greedy, DType::f32), s.names[a].c_str());
        }
    }
    for (const auto& [kind, error] : worst) qInfo("%s, worst |difference| / max |logit| %.2g", kind.c_str(), error);
    QVERIFY2(failed.isEmpty(), qPrintable(failed.join("; ")));
}

// f16 has three bits more than bf16, whose bars and the reference's errors are divided by 8, and a little wider.
void FidelityTest::check_16_bit(DType dtype) {
    if (dtype == DType::f16 && test_device() < 0) QSKIP("a CPU does not compute in f16");
    const double bar = dtype == DType::bf16 ? 1.25 : 1.5 / 8, finer = dtype == DType::bf16 ? 1 : 1. / 8;
    QFETCH(QString, family);
    const AdapterCases cases(family.toStdString());
    const Subject s = load(cases, dtype);
    const Answers alone = answer(cases, s, false), mixed = answer(cases, s, true);
    double square = 0, reference_square = 0;
    QStringList failed;
    for (size_t a = 0; a < s.names.size(); ++a) {
        for (size_t i = 0; i < cases.prompts().size(); ++i) {
            const double reference = double(cases.floats.at(s.names[a] + ".bf16_error")[i]);
            const double error = relative_error(alone[a][i].logits, cases.logits(s.names[a], i));
            // The floor: on an H100 one prompt of 200 is off by 0.024 in bf16, and by less than an eighth of it in f16.
            if (!(error <= finer * std::max(2.5e-2, 2 * reference)))
                failed << QString("%1 prompt %2: %3 (%4)").arg(s.names[a].c_str()).arg(i).arg(error).arg(reference);
            QVERIFY2(agree(mixed[a][i].logits, alone[a][i].logits, dtype), s.names[a].c_str());
            square += error * error;
            reference_square += reference * reference;
        }
    }
    const double ratio = std::sqrt(square / reference_square);
    qInfo("%zu adapters, error over the reference's own in bf16: %.3f (in %s, bar %.3g)", s.names.size() - 1, ratio,
          name_of(dtype), bar);
    QVERIFY2(failed.isEmpty(), qPrintable(failed.join("; ")));
    QVERIFY2(ratio <= bar, qPrintable(QString::number(ratio)));
}

// The paper's own way, adapter by adapter and merged: what a strategy takes, it answers as PEFT does.
void FidelityTest::strategies() {
    QFETCH(QString, family);
    const AdapterCases cases(family.toStdString());
    for (const auto strategy : {AdapterStrategy::common_block, AdapterStrategy::sequential, AdapterStrategy::merged}) {
        Subject s = load(cases, DType::f32, form_of(strategy, test_device()));
        for (size_t a = s.names.size(); a-- > 1;) {
            const Result<void> taken = check_strategy(*s.adapters[a], strategy);
            if (taken) continue;
            const auto rotates = [](const auto& table) { return table && table->part.rotation >= 0; };
            QVERIFY2(strategy == AdapterStrategy::common_block &&
                         (rotates(s.adapters[a]->embedding) || rotates(s.adapters[a]->head)),
                     taken.error().message().c_str());
            s.names.erase(s.names.begin() + int64_t(a));
            s.adapters.erase(s.adapters.begin() + int64_t(a));
        }
        QVERIFY(2 * s.adapters.size() > cases.adapters().size());
        const Answers mixed = answer(cases, s, true, strategy);
        for (size_t a = 0; a < s.names.size(); ++a)
            for (size_t i = 0; i < cases.prompts().size(); ++i) {
                const double error = worst_error(mixed[a][i].logits, cases.logits(s.names[a], i));
                QVERIFY2(
                    error <= 1e-4 && mixed[a][i].greedy == cases.greedy(s.names[a], i),
                    qPrintable(
                        QString("%1, %2 prompt %3: %4").arg(name_of(strategy), s.names[a].c_str()).arg(i).arg(error)));
            }
    }
}

// So that a lost file does not pass for a success.
void FidelityTest::there_are_enough() {
    size_t adapters = 0;
    for (const std::string& family : families_with_cases()) adapters += AdapterCases(family).adapters().size();
    qInfo("%zu adapters over %zu families", adapters, families_with_cases().size());
    QVERIFY(adapters >= 100 && families_with_cases().size() >= 8);
}

QTEST_GUILESS_MAIN(FidelityTest)
#include "fidelity_test.moc"
