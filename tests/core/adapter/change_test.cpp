#include "core/adapter/change.h"

#include "tests/core/engine/fixture.h"

#include <QtTest>

using namespace spartan;
using namespace spartan::test;

namespace {

// |W' - W| / |W| of one part in doubles, W' column by column from what the formula does to unit vectors.
double oracle(const Adapter& adapter, const AdapterPart& part, const PackedMatrix<float>& w) {
    const auto at = [&](int64_t offset) { return reinterpret_cast<const float*>(adapter.blob.data() + offset); };
    std::vector<std::vector<float>> rows(size_t(part.out), std::vector<float>(size_t(part.in)));
    for (int64_t n = 0; n < part.out; ++n) w.get_row(n, rows[size_t(n)].data());
    double difference = 0, whole = 0;
    for (int64_t k = 0; k < part.in; ++k) {
        std::vector<double> x(size_t(part.in), 0.0);
        x[size_t(k)] = 1;
        std::vector<double> turned = x;
        if (part.rotation >= 0)
            for (int64_t v = 0; v < part.in; ++v) {
                turned[size_t(v)] = 0;
                for (int64_t u = v / part.group * part.group; u < (v / part.group + 1) * part.group; ++u)
                    turned[size_t(v)] += x[size_t(u)] * double(at(part.rotation)[u * part.group + v % part.group]);
            }
        for (int64_t n = 0; n < part.out; ++n) {
            double y = 0;
            for (int64_t v = 0; v < part.in; ++v) y += double(rows[size_t(n)][size_t(v)]) * turned[size_t(v)];
            for (int64_t r = 0; part.a >= 0 && r < part.rank; ++r)
                y += double(part.scale) * double(at(part.b_t)[r * part.out + n]) * double(at(part.a)[r * part.in + k]);
            if (part.gain >= 0) y *= double(at(part.gain)[n]);
            const double before = double(rows[size_t(n)][size_t(k)]);
            difference += (y - before) * (y - before);
            whole += before * before;
        }
    }
    return std::sqrt(difference / whole);
}

}  // namespace

class ChangeTest : public QObject {
    Q_OBJECT
private slots:
    void agreesWithTheFormula() {
        const auto model = make_model();
        const AdapterShape shapes[] = {
            {.group = 8, .rank = 0}, {.group = 0, .rank = 4}, {.group = 8, .rank = 2, .gain = true}};
        for (const AdapterShape& shape : shapes) {
            const auto adapter = make_adapter(*model, "a", shape, 3);
            Progress progress;
            const auto changes = measure_change(*adapter, *model, progress);
            QCOMPARE(changes.size(), adapter->parts.size());
            for (size_t i = 0; i < changes.size(); ++i) {
                const AdapterPart& part = adapter->parts[i];
                if (part.out > kMostRows) continue;
                const auto& weights = std::get<Weights<float>>(model->weights);
                const double want =
                    oracle(*adapter, part, weights.layers[size_t(part.layer)].projection[size_t(part.projection)]);
                QVERIFY2(std::abs(changes[i].relative - want) <= 1e-5 * want,
                         qPrintable(QString::number(changes[i].relative)));
                QCOMPARE(changes[i].layer, part.layer);
            }
        }
    }

    // An adapter that changes nothing measures nothing; a cancelled measurement ends early.
    void nothingAndCancelled() {
        const auto model = make_model(DType::bf16);
        auto adapter = make_adapter(*model, "a", {.group = 0, .rank = 4}, 3);
        for (AdapterPart& part : adapter->parts) part.scale = 0;
        Progress progress;
        for (const PartChange& c : measure_change(*adapter, *model, progress)) QCOMPARE(c.relative, 0.0);
        progress.cancel = true;
        QVERIFY(measure_change(*adapter, *model, progress).empty());
    }

    void structureInWords() {
        Adapter adapter;
        for (const int layer : {0, 1, 2, 5})
            for (const Projection p : {Projection::q, Projection::v, Projection::down}) {
                AdapterPart part;
                part.layer = layer;
                part.projection = p;
                part.a = 0;
                part.rank = p == Projection::down && layer == 5 ? 4 : 8;
                part.scale = 2;
                adapter.parts.push_back(part);
            }
        AdapterPart turned;
        turned.projection = Projection::o;
        turned.rotation = 0, turned.block_size = 16, turned.num_factors = 2, turned.group = 32;
        adapter.parts.push_back(turned);
        const std::vector<std::string> want = {"q v, layers 0-2, 5: rank 8, scale 2",
                                               "o, layer 0: b 16, m 2 folded to groups of 32",
                                               "down, layer 5: rank 4, scale 2", "down, layers 0-2: rank 8, scale 2"};
        QCOMPARE(describe_structure(adapter), want);
    }
};

QTEST_GUILESS_MAIN(ChangeTest)
#include "change_test.moc"
