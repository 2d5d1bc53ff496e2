// Adapters with their factors kept: what folding multiplies out, in the order that the strategy common_block reads.
#include "../engine/fixture.h"
#include "core/adapter/rotation.h"
#include "core/engine/common_block.h"

#include <QTemporaryDir>
#include <QtTest>

using namespace spartan;
using namespace spartan::test;

namespace {

const float* values_at(const Adapter& adapter, int64_t offset) {
    return reinterpret_cast<const float*>(adapter.blob.data() + offset);
}

// x through the factors, the last first, by index maps.
std::vector<double> through_factors(const Adapter& adapter, const AdapterPart& part, std::vector<double> x) {
    const int64_t b = part.block_size, in = part.in;
    for (int64_t factor = part.num_factors; factor-- > 0;) {
        const std::vector<int32_t> map = factor_map(in, b, factor);
        const float* blocks = values_at(adapter, part.factors) + factor * in * b;
        std::vector<double> out(x.size(), NAN);
        for (int64_t i = 0; i < in; ++i) {
            double sum = 0;
            for (int64_t u = 0; u < b; ++u)
                sum += x[size_t(map[size_t(i / b * b + u)])] * double(blocks[(i / b * b + u) * b + i % b]);
            out[size_t(map[size_t(i)])] = sum;
        }
        x = out;
    }
    return x;
}

std::vector<double> through_rotation(const Adapter& adapter, const AdapterPart& part, const std::vector<double>& x) {
    std::vector<double> out;
    const int64_t g = part.group;
    for (int64_t i = 0; i < part.in; ++i) {
        double sum = 0;
        for (int64_t u = 0; u < g; ++u)
            sum += x[size_t(i / g * g + u)] * double(values_at(adapter, part.rotation)[(i / g * g + u) * g + i % g]);
        out.push_back(sum);
    }
    return out;
}

std::shared_ptr<const Model> model_96() {
    return make_model(DType::f32, {.hidden = 96, .intermediate = 96, .heads = 6, .kv_heads = 2, .head_dim = 16});
}

}  // namespace

class FactoredTest : public QObject {
    Q_OBJECT
private slots:
    void factors_are_what_folding_multiplies() {
        const auto model = model_96();
        Random random(2);
        for (const char* text :
             {"boft:1:b=8,m=1", "boft:1:b=16,m=2", "boft:1:b=8,m=3", "boft:1:b=12,m=4", "oft:1:b=3"}) {
            const SyntheticSpec spec = expect(parse_synthetic_spec(std::string("synthetic:") + text));
            const auto folded = expect(make_synthetic_adapter(spec, 0, 0, 7, *model));
            const auto factored = expect(make_synthetic_adapter(spec, 0, 0, 7, *model, AdapterForm::factored));
            QCOMPARE(factored->geometry(), folded->geometry());
            QCOMPARE(factored->orthogonality_error, folded->orthogonality_error);
            QVERIFY(factored->factor_bytes > 0 && folded->factor_bytes == 0);
            for (size_t i = 0; i < folded->parts.size(); ++i) {
                const AdapterPart &a = folded->parts[i], &b = factored->parts[i];
                QVERIFY(a.rotation >= 0 && a.factors < 0 && b.rotation < 0 && b.factors >= 0);
                QVERIFY(a.gain < 0 || b.gain >= factored->factor_bytes);  // factors come first
                std::vector<double> x;
                for (const float v : uniform_vector(random, a.in, 1)) x.push_back(double(v));
                const auto want = through_rotation(*folded, a, x), got = through_factors(*factored, b, x);
                for (size_t k = 0; k < want.size(); ++k) QVERIFY(std::abs(got[k] - want[k]) < 2e-6);
            }
        }
    }

    // The same from a folder.
    void from_a_folder() {
        const auto model = model_96();
        for (const char* text : {"boft:1:b=16,m=2", "oft:1:b=32"}) {
            const SyntheticSpec spec = expect(parse_synthetic_spec(std::string("synthetic:") + text));
            QTemporaryDir dir;
            const std::string path = dir.filePath("a").toStdString();
            expect(write_synthetic_adapter(spec, 0, 0, 7, model->config(), "base", path));
            Progress progress;
            const auto read = expect(load_adapter("a", path, *model, progress, AdapterForm::factored));
            const auto made = expect(make_synthetic_adapter(spec, 0, 0, 7, *model, AdapterForm::factored));
            QCOMPARE(read->factor_bytes, made->factor_bytes);
            QVERIFY(std::memcmp(read->blob.data(), made->blob.data(), size_t(made->factor_bytes)) == 0);
        }
    }

    void every_run_of_factors_once() {
        Adapter adapter;
        for (const int64_t offset : {0, 0, 0, 640, 1280, 1280}) {
            AdapterPart part;
            part.factors = offset;
            part.in = 32;
            part.block_size = offset == 640 ? 4 : 8;
            part.num_factors = 2;
            adapter.parts.push_back(part);
        }
        std::vector<int64_t> offsets, counts;
        for_each_factor_run(adapter, [&](int64_t offset, int64_t count, int64_t) {
            offsets.push_back(offset);
            counts.push_back(count);
        });
        QCOMPARE(offsets, (std::vector<int64_t>{0, 640, 1280}));
        QCOMPARE(counts, (std::vector<int64_t>{8, 16, 8}));
        QCOMPARE(common_block_of(adapter), int64_t(4));
    }
};

QTEST_GUILESS_MAIN(FactoredTest)
#include "factored_test.moc"
