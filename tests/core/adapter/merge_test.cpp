// Merged checkpoints: to PEFT's own merge_and_unload() weight by weight, and served again to the adapter's answers.
#include "core/adapter/merge.h"
#include "core/engine/engine.h"
#include "tests/core/adapter/adapter_cases.h"
#include "tests/core/engine/fixture.h"

#include <QtTest>

#include <sys/resource.h>

#include <csignal>

using namespace spartan;
using namespace spartan::test;

namespace {

struct Loaded {
    std::shared_ptr<const Model> model;
    std::shared_ptr<const Adapter> adapter;
};

Loaded load(const AdapterCases& cases, const std::string& name) {
    Progress progress;
    Loaded l;
    l.model = expect(load_model(expect(open_model(cases.model_dir())), DType::f32, 1, progress));
    l.adapter = expect(load_adapter(name, cases.adapter_dir(name), *l.model, progress));
    return l;
}

// Those whose merged weights the reference has told.
std::vector<std::string> merged_cases(const AdapterCases& cases) {
    std::vector<std::string> names;
    for (const std::string& name : cases.adapters()) {
        const auto it = cases.floats.lower_bound(name + ".merged.");
        if (it != cases.floats.end() && it->first.rfind(name + ".merged.", 0) == 0) names.push_back(name);
    }
    return names;
}

// The largest difference of W'·v to the reference's, over the largest value of the tensor's; v drawn from the seed.
double probe_error(const SafetensorsFile& file, const std::string& tensor, const std::vector<float>& want) {
    const SafetensorsEntry* entry = file.find(tensor);
    if (!entry) return 1e9;
    const std::vector<float> values = *file.read_finite(*entry);
    const int64_t cols = entry->shape.back();
    const std::vector<float> vector = draw("probe", cols, 1024, 0);
    double worst = 0, largest = 1e-3;
    for (size_t row = 0; row < want.size(); ++row) {
        double sum = 0;
        for (int64_t k = 0; k < cols; ++k)
            sum += double(values[row * size_t(cols) + size_t(k)]) * double(vector[size_t(k)]);
        if (!(std::abs(sum - double(want[row])) <= worst)) worst = std::abs(sum - double(want[row]));
        largest = std::max(largest, std::abs(double(want[row])));
    }
    return worst / largest;
}

std::vector<float> last_logits(std::shared_ptr<const Model> model, const std::vector<Token>& prompt) {
    const auto vocab = std::ptrdiff_t(model->config().vocab_size);
    TestEngine e(std::move(model), TestEngine::small_options());
    Request request = make_request(prompt, AdapterId::base, 1);
    request.want_logits = true;
    const std::vector<float> all = e.records.logits(e.run({request})[0]);
    return {all.end() - vocab, all.end()};
}

}  // namespace

class MergeTest : public QObject {
    Q_OBJECT
private slots:
    void equals_the_reference_data() {
        QTest::addColumn<QString>("family");
        for (const std::string& family : families_with_cases())
            if (!merged_cases(AdapterCases(family)).empty())
                QTest::newRow(family.c_str()) << QString::fromStdString(family);
    }
    void equals_the_reference() {
        QFETCH(QString, family);
        const AdapterCases cases(family.toStdString());
        double worst = 0;
        for (const std::string& name : merged_cases(cases)) {
            const Loaded l = load(cases, name);
            QTemporaryDir dir;
            Progress progress;
            const auto report = write_merged(*l.model, *l.adapter, DType::f32, dir.path().toStdString(), progress);
            QVERIFY2(report, report ? "" : report.error().message().c_str());
            QCOMPARE(progress.done.load(), progress.total.load());
            const auto file = expect(SafetensorsFile::open(dir.filePath("model.safetensors").toStdString()));
            size_t compared = 0;
            const std::string prefix = name + ".merged.";
            for (const auto& [key, want] : cases.floats) {
                if (key.rfind(prefix, 0) != 0) continue;
                const std::string tensor = key.substr(prefix.size());
                if (tensor == "lm_head.weight" && !file->find(tensor)) continue;  // tied
                const double error = probe_error(*file, tensor, want);
                QVERIFY2(error <= 2e-6, (name + " " + tensor + ": " + std::to_string(error)).c_str());
                worst = std::max(worst, error);
                ++compared;
            }
            QCOMPARE(compared, file->entries().size());  // nothing missing, nothing more
        }
        qInfo("worst difference of W'v to merge_and_unload's %.2g", worst);
    }

    // Every adapter that can be merged answers merged as it did unmerged, which for tied tables PEFT's own merge does
    // not.
    void answers_as_before_data() {
        QTest::addColumn<QString>("family");
        for (const std::string& family : families_with_cases())
            QTest::newRow(family.c_str()) << QString::fromStdString(family);
    }
    void answers_as_before() {
        QFETCH(QString, family);
        const AdapterCases cases(family.toStdString());
        for (const std::string& name : cases.adapters()) {
            const Loaded l = load(cases, name);
            QTemporaryDir dir;
            Progress progress;
            const auto report = write_merged(*l.model, *l.adapter, DType::f32, dir.path().toStdString(), progress);
            if (!report) {
                QVERIFY2(name == "lora-output-bias", report.error().message().c_str());
                QVERIFY(report.error().message().find("no place for it") != std::string::npos);
                continue;
            }
            const auto merged =
                expect(load_model(expect(open_model(dir.path().toStdString())), DType::f32, 1, progress));
            const std::vector<float> got = last_logits(merged, cases.prompts()[0]), want = cases.logits(name, 0);
            double worst = 0, largest = 0;
            for (size_t i = 0; i < want.size(); ++i) {
                if (!(std::abs(double(got[i]) - double(want[i])) <= worst))
                    worst = std::abs(double(got[i]) - double(want[i]));
                largest = std::max(largest, std::abs(double(want[i])));
            }
            QVERIFY2(worst <= 1e-4 * largest, (name + ": " + std::to_string(worst / largest)).c_str());
        }
    }

    void rounds_once_and_says_so() {
        const AdapterCases cases("llama");
        const Loaded l = load(cases, "lora");
        QTemporaryDir dir;
        QVERIFY(QFile::copy(QString::fromStdString(cases.model_dir()) + "/config.json",
                            QString::fromStdString(cases.model_dir()) + "/generation_config.json"));
        Progress progress;
        const auto report = expect(write_merged(*l.model, *l.adapter, DType::bf16, dir.path().toStdString(), progress));
        QCOMPARE(report.copied, std::vector<std::string>{"generation_config.json"});
        const Json config = *read_json_file(dir.filePath("config.json").toStdString());
        QCOMPARE(config["dtype"].get<std::string>(), std::string("bfloat16"));
        QCOMPARE(report.bytes, QFileInfo(dir.filePath("model.safetensors")).size());
        QVERIFY(open_model(dir.path().toStdString()));
    }

    void stops_when_cancelled() {
        const AdapterCases cases("llama");
        const Loaded l = load(cases, "lora");
        QTemporaryDir dir;
        Progress progress;
        progress.cancel = true;
        const auto report = write_merged(*l.model, *l.adapter, DType::f32, dir.path().toStdString(), progress);
        QVERIFY(!report && report.error().cancelled);
        QVERIFY(QDir(dir.path()).isEmpty());
    }

    // What a full disk does: the system takes a part and then refuses.
    void full_disk() {
        const AdapterCases cases("llama");
        const Loaded l = load(cases, "lora");
        QTemporaryDir dir;
        std::signal(SIGXFSZ, SIG_IGN);
        rlimit old{};
        QCOMPARE(getrlimit(RLIMIT_FSIZE, &old), 0);
        rlimit small = old;
        small.rlim_cur = 20'000;
        QCOMPARE(setrlimit(RLIMIT_FSIZE, &small), 0);
        Progress progress;
        const auto report = write_merged(*l.model, *l.adapter, DType::f32, dir.path().toStdString(), progress);
        QCOMPARE(setrlimit(RLIMIT_FSIZE, &old), 0);
        QVERIFY(!report);
        const std::string message = report.error().message();
        QVERIFY2(message.find("model.safetensors") != std::string::npos && message.find("room") != std::string::npos,
                 message.c_str());
        QVERIFY(QDir(dir.path()).isEmpty());
    }

    void other_sources_are_refused() {
        Progress progress;
        const auto model = expect(load_model(expect(open_model("synthetic:tiny")), DType::f32, 1, progress));
        const auto adapter =
            expect(make_synthetic_adapter(expect(parse_synthetic_spec("synthetic:lora:1:r=2")), 0, 0, 1, *model));
        QTemporaryDir dir;
        const auto report = write_merged(*model, *adapter, DType::f32, dir.path().toStdString(), progress);
        QVERIFY(!report && report.error().message().find("a Hugging Face folder") != std::string::npos);
    }
};

QTEST_GUILESS_MAIN(MergeTest)
#include "merge_test.moc"
