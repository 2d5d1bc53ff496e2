#include "core/adapter/layout.h"

#include <QtTest>

#include "tests/core/adapter/dense_oracle.h"

using namespace spartan;

class LayoutTest : public QObject {
    Q_OBJECT
private slots:
    // d=4096: the figures that the layout view quotes.
    void figures_at_4096() {
        const BlockLayout first = factor_layout(4096, 32, 0, 32);
        QCOMPARE(first.tiles, 128);
        QCOMPARE(first.nonzero_tiles(), 128);
        QCOMPARE(first.useful_share(), 1.0);
        QVERIFY(std::abs(first.density() - 0.0078125) < 1e-12);
        for (const int64_t factor : {1, 2, 3}) {
            const BlockLayout later = factor_layout(4096, 32, factor, 32);
            QCOMPARE(later.nonzero_tiles(), 256);
            QCOMPARE(later.useful_share(), 0.5);
            QVERIFY(std::abs(later.density() - 0.015625) < 1e-12);
            const BlockLayout exact = factor_layout(4096, 32, factor, 16);
            QCOMPARE(exact.nonzero_tiles(), 512);
            QCOMPARE(exact.useful_share(), 1.0);
        }
        for (const int64_t factor : {0, 1, 2}) {
            const BlockLayout wide = factor_layout(4096, 64, factor, 32);
            QCOMPARE(wide.nonzero_tiles(), 256);
            QCOMPARE(wide.useful_share(), 1.0);
        }
    }

    void paper_convention_keeps_whole_blocks() {
        QCOMPARE(factor_layout(4096, 32, 0, 32, BlockConvention::paper).nonzero_tiles(), 128);
        for (const int64_t factor : {1, 2}) {
            const BlockLayout layout = factor_layout(4096, 32, factor, 32, BlockConvention::paper);
            QCOMPARE(layout.nonzero_tiles(), 256);
            QCOMPARE(layout.useful_share(), 1.0);
            QVERIFY(layout.at(0, 0) && layout.at(0, int64_t(1) << (factor - 1)));
        }
    }

    // Every tile against the non-zeros of the matrix that PEFT multiplies with.
    void equals_the_permuted_matrix_data() {
        QTest::addColumn<int>("d");
        QTest::addColumn<int>("b");
        QTest::addColumn<int>("factor");
        QTest::addColumn<int>("cell");
        const int cases[][4] = {{64, 8, 0, 4}, {64, 8, 1, 8}, {64, 8, 2, 4}, {64, 8, 2, 16}, {48, 4, 1, 3},
                                {40, 2, 2, 7}, {15, 3, 0, 2}, {64, 4, 3, 1}, {64, 16, 1, 64}};
        for (const auto& c : cases)
            QTest::addRow("d=%d b=%d factor=%d cell=%d", c[0], c[1], c[2], c[3]) << c[0] << c[1] << c[2] << c[3];
    }
    void equals_the_permuted_matrix() {
        QFETCH(int, d);
        QFETCH(int, b);
        QFETCH(int, factor);
        QFETCH(int, cell);
        const auto perm = oracle::permutation(d, b, factor);
        const BlockLayout layout = factor_layout(d, b, factor, cell);
        QCOMPARE(layout.tiles, (d + cell - 1) / cell);
        std::vector<int> counts(layout.useful.size(), 0);
        for (int i = 0; i < d; ++i)
            for (int j = 0; j < d; ++j)
                if (perm[size_t(i)] / b == perm[size_t(j)] / b) ++counts[size_t(i / cell * layout.tiles + j / cell)];
        for (size_t t = 0; t < counts.size(); ++t)
            QVERIFY(std::abs(layout.useful[t] - float(counts[t]) / float(cell * cell)) < 1e-5f);
    }

    void folded_groups_and_union() {
        const BlockLayout folded = folded_layout(576, 32, 16);
        QCOMPARE(folded.nonzero_tiles(), 18 * 4);
        QCOMPARE(folded.useful_share(), 1.0);
        const BlockLayout both = union_layout({factor_layout(64, 8, 0, 8), factor_layout(64, 16, 0, 8)});
        QCOMPARE(both.nonzero_tiles(), 16);
        QCOMPARE(both.useful_share(), 0.75);  // half of the tiles are used by one of two adapters
        QCOMPARE(union_layout({}).nonzero_tiles(), 0);
        QCOMPARE(union_layout({}).density(), 0.0);
    }

    void common_blocks() {
        QCOMPARE(common_block_size({32, 64}), 32);
        QCOMPARE(common_block_size({16, 24}), 8);
        QCOMPARE(common_block_size({}), 0);
    }
};

QTEST_GUILESS_MAIN(LayoutTest)
#include "layout_test.moc"
