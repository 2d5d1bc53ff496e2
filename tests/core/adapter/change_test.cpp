#include "core/adapter/change.h"

#include "core/adapter/own_table.h"
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

// The same of a table that is looked up: gain (row R + scale A[token] B), over all rows.
double lookup_oracle(const Adapter& adapter, const PackedMatrix<float>& w) {
    const AdapterPart& part = adapter.embedding->part;
    const auto at = [&](int64_t offset) { return reinterpret_cast<const float*>(adapter.blob.data() + offset); };
    double difference = 0, whole = 0;
    std::vector<float> row(size_t(w.cols()));
    for (int64_t token = 0; token < w.rows(); ++token) {
        w.get_row(token, row.data());
        for (int64_t v = 0; v < w.cols(); ++v) {
            double y = 0;
            for (int64_t u = v / part.group * part.group; u < (v / part.group + 1) * part.group; ++u)
                y += double(row[size_t(u)]) * double(at(part.rotation)[u * part.group + v % part.group]);
            for (int64_t r = 0; r < part.rank; ++r)
                y += double(part.scale) * double(at(part.a)[token * part.rank + r]) *
                     double(at(part.b_t)[r * part.out + v]);
            y *= double(at(part.gain)[v]);
            difference += std::pow(y - double(row[size_t(v)]), 2);
            whole += std::pow(double(row[size_t(v)]), 2);
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

    // Tables are looked at in part, so what is measured is near what all rows give; norms are exact.
    void tablesAndNorms() {
        const auto model = make_model();
        const auto& weights = std::get<Weights<float>>(model->weights);
        const auto adapter =
            make_adapter(*model, "a", {.group = 8, .rank = 2, .gain = true, .tables = true, .norms = true}, 3);
        adapter->parts.clear();
        Progress progress;
        const auto changes = measure_change(*adapter, *model, progress);
        QCOMPARE(changes.size(), adapter->norms.size() + 2);
        QCOMPARE(progress.done.load(), progress.total.load());
        for (size_t i = 0; i < adapter->norms.size(); ++i) {
            const NormPart& norm = adapter->norms[i];
            const auto& layer = weights.layers[size_t(norm.layer)];
            const auto& before = norm.role == NormRole::final       ? weights.final_norm
                                 : norm.role == NormRole::attention ? layer.attention_norm
                                                                    : layer.mlp_norm;
            const auto* after = reinterpret_cast<const float*>(adapter->blob.data() + norm.weight);
            double difference = 0, whole = 0;
            for (size_t k = 0; k < before.size(); ++k) {
                difference += std::pow(double(after[k]) - double(before[k]), 2);
                whole += std::pow(double(before[k]), 2);
            }
            QVERIFY(std::abs(changes[i].relative - std::sqrt(difference / whole)) < 1e-6);
            QCOMPARE(changes[i].layer, norm.role == NormRole::final ? -1 : norm.layer);
        }
        const PartChange &embedding = changes[changes.size() - 2], &head = changes.back();
        QVERIFY(embedding.part == ChangedPart::embedding && head.part == ChangedPart::head && head.layer == -1);
        const auto near = [](double got, double want) { return std::abs(got - want) < 0.1 * want; };
        QVERIFY2(near(head.relative, oracle(*adapter, adapter->head->part, weights.output())),
                 qPrintable(QString::number(head.relative)));
        QVERIFY2(near(embedding.relative, lookup_oracle(*adapter, weights.embedding)),
                 qPrintable(QString::number(embedding.relative)));
    }

    // However few, trained tokens are all looked at, and once.
    void trainedTokens() {
        const auto model = make_model();
        const auto& w = std::get<Weights<float>>(model->weights).embedding;
        const auto adapter = make_adapter(*model, "a", {.group = 0, .rank = 0, .tokens = {0, 77, 131}}, 3);
        adapter->parts.clear();
        const OwnTable<float> rows(*adapter, adapter->embedding->token_rows, 3, w.cols());
        double difference = 0, whole = 0;
        std::vector<float> before(size_t(w.cols())), after(before.size());
        for (int64_t n = 0; n < w.rows(); ++n) {
            w.get_row(n, before.data());
            for (const float v : before) whole += double(v) * double(v);
        }
        for (int64_t i = 0; i < 3; ++i) {
            w.get_row(adapter->embedding->tokens[size_t(i)], before.data());
            rows.get()->get_row(i, after.data());
            for (size_t k = 0; k < before.size(); ++k) difference += std::pow(double(after[k]) - double(before[k]), 2);
        }
        Progress progress;
        const auto changes = measure_change(*adapter, *model, progress);
        QCOMPARE(changes.size(), size_t(2));
        const double want = std::sqrt(difference / whole);
        QVERIFY2(std::abs(changes[0].relative - want) < 0.1 * want, qPrintable(QString::number(changes[0].relative)));
        const std::vector<std::string> lines = {"the embedding: 3 trained tokens", "the output head: 3 trained tokens"};
        QCOMPARE(describe_structure(*adapter), lines);
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
