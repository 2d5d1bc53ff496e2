#include "core/adapter/rotation.h"
#include "tests/core/adapter/dense_oracle.h"

#include <QtTest>

#include <random>

using namespace spartan;

namespace {

const Progress progress;  // never cancelled

std::vector<float> random_values(size_t count, double deviation, unsigned seed = 1) {
    std::mt19937 generator(seed);
    std::normal_distribution<double> normal(0, deviation);
    std::vector<float> values(count);
    for (float& v : values) v = float(normal(generator));
    return values;
}

double largest_difference(const Matrix& a, const oracle::Dense& b) {
    double worst = a.size() == b.v.size() ? 0 : 1e9;
    for (size_t i = 0; i < a.size() && i < b.v.size(); ++i) worst = std::max(worst, std::abs(a[i] - b.v[i]));
    return worst;
}

// The whole d x d matrix out of folded groups, as out[v] = sum over u of x[u] * F[u][v].
oracle::Dense folded(const std::vector<float>& boft_r, int64_t m, int64_t blocks, int64_t b) {
    const int64_t in_group = int64_t(1) << (m - 1), group = b * in_group;
    oracle::Dense all(blocks * b);
    for (int64_t g = 0; g < blocks / in_group; ++g) {
        Matrix factors;
        for (int64_t i = 0; i < m; ++i)
            for (int64_t j = 0; j < in_group; ++j) {
                const float* a = &boft_r[size_t(((i * blocks) + g * in_group + j) * b * b)];
                const Matrix q = cayley(boft_skew(a, b), b, progress);
                factors.insert(factors.end(), q.begin(), q.end());
            }
        const Matrix product = compose_butterfly(factors, b, m, progress);
        for (int64_t u = 0; u < group; ++u)
            for (int64_t v = 0; v < group; ++v) all.at(g * group + u, g * group + v) = product[size_t(u * group + v)];
    }
    return all;
}

}  // namespace

class RotationTest : public QObject {
    Q_OBJECT
private slots:
    void permutations_of_the_page() {
        const std::vector<int64_t> b4 = {0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15};
        const std::vector<int64_t> b2_1 = {0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15};
        const std::vector<int64_t> b2_2 = {0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15};
        QCOMPARE(oracle::permutation(16, 4, 1), b4);
        QCOMPARE(oracle::permutation(16, 2, 1), b2_1);
        QCOMPARE(oracle::permutation(16, 2, 2), b2_2);
    }

    // M[a, c] = BD[perm[a], perm[c]]: the features of block j are those a with perm[a] inside block j, in perm's order.
    void features_follow_the_permutation() {
        for (const auto& [d, b, factor] :
             std::vector<std::array<int64_t, 3>>{{16, 4, 1}, {16, 2, 2}, {48, 4, 1}, {64, 4, 3}}) {
            const auto perm = oracle::permutation(d, b, factor);
            const int64_t superblock = int64_t(1) << factor;
            for (int64_t j = 0; j < d / b; ++j) {
                std::vector<int64_t> expected(static_cast<size_t>(b));
                for (int64_t a = 0; a < d; ++a)
                    if (perm[size_t(a)] / b == j) expected[size_t(perm[size_t(a)] % b)] = a;
                std::vector<int64_t> found = butterfly_features(b, factor, j);
                for (int64_t& feature : found) feature += j / superblock * superblock * b;
                QCOMPARE(found, expected);
            }
        }
    }

    void numeric_example() {
        // d=4, b=2, m=2, R[i,j] = [[0, 2t], [0, 0]].
        const double t[2][2] = {{0.2, -0.4}, {0.6, 1.0}};
        std::vector<float> boft_r(16, 0.0f);
        for (size_t i = 0; i < 2; ++i)
            for (size_t j = 0; j < 2; ++j) boft_r[(i * 2 + j) * 4 + 1] = float(2 * t[i][j]);
        const oracle::Dense f = folded(boft_r, 2, 2, 2);
        const double r[4][4] = {{.434389, -.180995, -.638945, -.608519},
                                {0, 0, .689655, -.724138},
                                {.814480, -.339367, .340771, .324544},
                                {.384615, .923077, 0, 0}};
        for (int64_t u = 0; u < 4; ++u)
            for (int64_t v = 0; v < 4; ++v) QVERIFY(std::abs(f.at(u, v) - r[u][v]) < 1e-6);
        const oracle::Vec rotated = oracle::row_times({1, 2, 3, 4}, f);
        const double expected[4] = {4.416290, 2.493213, 1.762677, -1.083164};
        for (size_t i = 0; i < 4; ++i) QVERIFY(std::abs(rotated[i] - expected[i]) < 1e-6);
        const oracle::Vec y = oracle::matrix_times({1, 0, 2, -1, .5, 1, 0, 1}, rotated);
        QVERIFY(std::abs(2 * y[0] + .1 - 18.149618) < 1e-6);
        QVERIFY(std::abs(.5 * y[1] - .2 - 1.609097) < 1e-6);
    }

    void folded_equals_dense_data() {
        QTest::addColumn<int>("d");
        QTest::addColumn<int>("b");
        QTest::addColumn<int>("m");
        const int cases[][3] = {{16, 4, 1}, {16, 4, 2}, {16, 4, 3}, {64, 4, 4}, {64, 4, 5}, {64, 2, 5}, {16, 2, 3},
                                {24, 4, 2}, {40, 2, 3}, {40, 2, 2}, {15, 3, 1}, {35, 7, 1}, {48, 6, 3}, {64, 32, 2}};
        for (const auto& c : cases) QTest::addRow("d=%d b=%d m=%d", c[0], c[1], c[2]) << c[0] << c[1] << c[2];
    }
    void folded_equals_dense() {
        QFETCH(int, d);
        QFETCH(int, b);
        QFETCH(int, m);
        const auto boft_r = random_values(size_t(m * d * b), 0.4);
        const oracle::Dense f = folded(boft_r, m, d / b, b);
        // Rᵀ x as row vector times R: folded[u][v] = R[u][v].
        const oracle::Dense r = oracle::boft_rotation(boft_r, m, d / b, b);
        QVERIFY2(largest_difference(f.v, r) < 1e-12, "folded chain differs from PEFT's product");
        QVERIFY(orthogonality_error(f.v, d, progress) < 1e-11);
    }

    void exact_stays_orthogonal_for_large_parameters() {
        for (const double deviation : {1e-4, 1.0, 100.0, 1e8}) {
            const auto a = random_values(32 * 32, deviation);
            QVERIFY(orthogonality_error(cayley(boft_skew(a.data(), 32), 32, progress), 32, progress) < 1e-9);
        }
    }

    void zero_is_exactly_the_identity() {
        const std::vector<float> zero(64, 0.0f);
        QCOMPARE(cayley(boft_skew(zero.data(), 8), 8, progress), oracle::eye(8).v);
        QCOMPARE(neumann(oft_skew(zero.data(), 8), 8, 5, NeumannSeries::peft_0_18, progress), oracle::eye(8).v);
        // b=2, m=2: two factors of two 2x2 blocks.
        const Matrix identities = {1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1};
        QCOMPARE(compose_butterfly(identities, 2, 2, progress), oracle::eye(4).v);
    }

    void diagonal_and_symmetric_parts_do_not_count() {
        auto a = random_values(25, 0.3);
        const Matrix before = boft_skew(a.data(), 5);
        for (size_t i = 0; i < 5; ++i) a[i * 6] += 4;
        a[1] += 0.5f;
        a[5] += 0.5f;
        const Matrix after = boft_skew(a.data(), 5);
        for (size_t i = 0; i < 25; ++i) QVERIFY(std::abs(before[i] - after[i]) < 1e-7);
    }

    void neumann_in_both_dialects() {
        const auto values = random_values(8 * 7 / 2, 0.1);
        oracle::OftRules rules{.neumann = true};
        const Matrix s = oft_skew(values.data(), 8);
        for (const bool old_series : {false, true}) {
            for (int64_t terms = 0; terms <= 8; ++terms) {
                rules.old_series = old_series;
                rules.terms = terms;
                const Matrix q =
                    neumann(s, 8, terms, old_series ? NeumannSeries::peft_0_16 : NeumannSeries::peft_0_18, progress);
                QVERIFY(largest_difference(q, oracle::oft_rotation(values, 1, 8, 8, rules)) < 1e-13);
            }
        }
        // The two agree nowhere but below the cut.
        const auto new5 = neumann(s, 8, 5, NeumannSeries::peft_0_18, progress),
                   old5 = neumann(s, 8, 5, NeumannSeries::peft_0_16, progress);
        QVERIFY(new5 != old5);
        QCOMPARE(neumann(s, 8, 3, NeumannSeries::peft_0_18, progress),
                 neumann(s, 8, 4, NeumannSeries::peft_0_18, progress));
    }

    // The series approximates the transpose of the exact branch, so a flipped flag must change the result.
    void neumann_goes_the_other_way() {
        const auto values = random_values(32 * 31 / 2, 0.02);
        const Matrix s = oft_skew(values.data(), 32);
        const Matrix exact = cayley(s, 32, progress), series = neumann(s, 32, 5, NeumannSeries::peft_0_18, progress);
        oracle::Dense turned(32);
        turned.v = exact;
        QVERIFY(largest_difference(series, oracle::transposed(turned)) < 0.01);
        QVERIFY(largest_difference(series, turned) > 0.05);
    }

    void norm_limit() {
        const auto values = random_values(6, 1);
        Matrix s = oft_skew(values.data(), 4), same = s;
        limit_norm(same, 1e3);
        QCOMPARE(same, s);
        limit_norm(s, 1e-3);
        double sum = 0;
        for (const double v : s) sum += v * v;
        QVERIFY(std::abs(std::sqrt(sum) - 1e-3) < 1e-12);
        Matrix zero(16, 0.0);
        limit_norm(zero, 0);
        QCOMPARE(zero, Matrix(16, 0.0));
    }

    // As large as PEFT's r = 1 makes them: minutes when nothing looks at the cancellation.
    void large_blocks_can_be_cancelled() {
        Progress stop;
        stop.cancel = true;
        const int64_t b = 1536;
        const Matrix s(size_t(b * b), 1e-3);
        const std::clock_t before = std::clock();
        neumann(s, b, 64, NeumannSeries::peft_0_18, stop);
        orthogonality_error(s, b, stop);
        cayley(s, b, stop);
        QVERIFY(double(std::clock() - before) / CLOCKS_PER_SEC < 2);
    }

    void orthogonality_error_keeps_nan() {
        Matrix q = oracle::eye(4).v;
        QCOMPARE(orthogonality_error(q, 4, progress), 0.0);
        q[5] = std::nan("");
        QVERIFY(std::isnan(orthogonality_error(q, 4, progress)));
    }
};

QTEST_GUILESS_MAIN(RotationTest)
#include "rotation_test.moc"
