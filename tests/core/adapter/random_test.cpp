// labels: slow
// Random adapter configurations against PEFT itself, where Python with transformers and peft is there ($SPARTAN_PYTHON,
// else python3). $SPARTAN_RANDOM_SEED draws others.
#include "core/adapter/adapter.h"
#include "core/engine/engine.h"
#include "tests/core/adapter/adapter_cases.h"
#include "tests/core/engine/fixture.h"

#include <QProcess>
#include <QtTest>

using namespace spartan;
using namespace spartan::test;

namespace {

constexpr int kCount = 6;  // a family

QString python() {
    const QString chosen = qEnvironmentVariable("SPARTAN_PYTHON");
    return chosen.isEmpty() ? QStringLiteral("python3") : chosen;
}

// Empty: all there.
QString missing() {
    QProcess p;
    p.start(python(), {"-c", "import torch, transformers, peft, safetensors, numpy"});
    if (!p.waitForStarted()) return python() + " cannot be started";
    if (!p.waitForFinished(120'000)) return python() + " does not finish importing";
    const QByteArray said = p.readAllStandardError().trimmed();
    return p.exitCode() == 0 ? QString() : QString::fromUtf8(said.mid(said.lastIndexOf('\n') + 1));
}

}  // namespace

class RandomTest : public QObject {
    Q_OBJECT
private slots:
    void equals_peft_data() {
        QTest::addColumn<QString>("family");
        for (const std::string& family : families_with_cases())
            if (family.find("peft") ==
                std::string::npos)  // those are of another release than random_config() draws for
                QTest::newRow(family.c_str()) << QString::fromStdString(family);
    }
    void equals_peft();
};

void RandomTest::equals_peft() {
    if (const QString why = missing(); !why.isEmpty()) QSKIP(qPrintable("no reference to compare with: " + why));
    QFETCH(QString, family);
    const QString seed = qEnvironmentVariable("SPARTAN_RANDOM_SEED", "1");
    QTemporaryDir dir;
    QProcess made;
    made.setProcessChannelMode(QProcess::MergedChannels);
    made.start(python(), {TESTS_DIR "/fidelity/make_adapter_cases.py", "--random", seed, QString::number(kCount),
                          dir.path(), family});
    QVERIFY(made.waitForFinished(500'000));
    QVERIFY2(made.exitCode() == 0, made.readAll().constData());

    const AdapterCases cases(family.toStdString(), dir.path().toStdString());
    Progress progress;
    const auto model = expect(load_model(expect(open_model(cases.model_dir())), DType::f32, 1, progress));
    EngineOptions options = TestEngine::small_options();
    options.pool_bytes = 32 << 20;
    TestEngine e(model, options);
    std::vector<Request> requests;
    for (const std::string& name : cases.adapters()) {
        const auto adapter = load_adapter(name, cases.adapter_dir(name), *model, progress);
        QVERIFY2(adapter, adapter ? "" : adapter.error().message().c_str());
        const AdapterId id = expect(e->add_adapter(*adapter));
        for (const auto& prompt : cases.prompts()) {
            requests.push_back(make_request(prompt, id, 8));
            requests.back().want_logits = true;
        }
    }
    const std::vector<RequestId> ids = e.run(requests);
    const auto done = e.records.finished();
    double worst = 0;
    for (size_t i = 0; i < ids.size(); ++i) {
        const std::string name = cases.adapters()[i / cases.prompts().size()];
        const size_t prompt = i % cases.prompts().size();
        const std::vector<float> got = e.records.logits(ids[i]), want = cases.logits(name, prompt);
        double largest = 0, difference = 0;
        for (size_t k = 0; k < want.size(); ++k) {
            const double d = std::abs(double(got[got.size() - want.size() + k]) - double(want[k]));
            if (!(d <= difference)) difference = d;
            largest = std::max(largest, std::abs(double(want[k])));
        }
        QVERIFY2(difference <= 1e-4 * largest,
                 qPrintable(QString("seed %1, %2: %3").arg(seed, name.c_str()).arg(difference / largest)));
        QCOMPARE(done.at(ids[i]).output, cases.greedy(name, prompt));
        worst = std::max(worst, difference / largest);
    }
    qInfo("%zu adapters, worst %.2g", cases.adapters().size(), worst);
}

QTEST_GUILESS_MAIN(RandomTest)
#include "random_test.moc"
