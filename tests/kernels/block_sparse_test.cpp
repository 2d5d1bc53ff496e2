// The block-sparse product against a dense one in double precision: blocks of mixed sizes under one cell size, index
// maps, rows without a factor, any number of threads.
#include "kernels/block_sparse.h"
#include "kernel_testing.h"

#include <algorithm>
#include <numeric>

using namespace spartan;

namespace {

template <class T>
struct Case {
    int64_t rows = 0, dim = 0, cell = 0;
    std::vector<float> x;
    std::vector<std::vector<T>> cells;
    std::vector<std::vector<int32_t>> maps;
    std::vector<BlockSparseSegment<T>> segments;
    std::vector<double> want;
};

template <class T>
Case<T> random_case(Random& random, int64_t dim, int64_t cell, const std::vector<int64_t>& blocks) {
    Case<T> c;
    c.dim = dim;
    c.cell = cell;
    CpuDevice device(1);
    std::vector<std::vector<double>> dense;  // of each segment; empty: the identity
    for (const int64_t block : blocks) {
        const int64_t begin = c.rows + (random.chance(0.3) ? random.between(1, 3) : 0);
        c.rows = begin + (random.chance(0.5) ? 1 : random.between(0, 40));
        dense.emplace_back();
        c.cells.emplace_back();
        c.maps.emplace_back();
        BlockSparseSegment<T> s{begin, c.rows, nullptr, 0, nullptr};
        if (block > 0) {
            const auto values = stored_as<T>(random.normals(dim * block));
            c.cells.back().resize(values.size());
            cut_blocks<T>(device, c.cells.back().data(), values.data(), dim / block, block, cell);
            std::vector<int32_t>& map = c.maps.back();
            map.resize(size_t(dim));
            std::iota(map.begin(), map.end(), 0);
            const bool mapped = random.chance(0.7);
            for (int64_t i = dim - 1; mapped && i > 0; --i)
                std::swap(map[size_t(i)], map[size_t(random.between(0, i))]);
            s.cells = c.cells.back().data();
            s.block = block;
            s.map = mapped ? map.data() : nullptr;
            dense.back().assign(size_t(dim * dim), 0.0);
            for (int64_t i = 0; i < dim; ++i)
                for (int64_t v = 0; v < block; ++v)
                    dense.back()[size_t(map[size_t(i)] * dim + map[size_t(i / block * block + v)])] =
                        double(to_float(values[size_t(i * block + v)]));
        }
        c.segments.push_back(s);
    }
    c.x = random.normals(c.rows * dim);
    c.want.assign(c.x.begin(), c.x.end());
    for (size_t i = 0; i < c.segments.size(); ++i)
        for (int64_t row = c.segments[i].row_begin; row < c.segments[i].row_end && !dense[i].empty(); ++row)
            for (int64_t n = 0; n < dim; ++n) {
                double sum = 0;
                for (int64_t u = 0; u < dim; ++u)
                    sum += double(c.x[size_t(row * dim + u)]) * dense[i][size_t(u * dim + n)];
                c.want[size_t(row * dim + n)] = sum;
            }
    return c;
}

template <class T>
std::vector<float> run(const Case<T>& c, int threads) {
    CpuDevice device(threads);
    std::vector<float> out(c.x.size(), NAN);
    block_sparse<T>(device, {out.data(), {c.rows, c.dim}}, {c.x.data(), {c.rows, c.dim}}, c.cell, c.segments);
    return out;
}

template <class T>
void check() {
    Random random(3);
    struct Geometry {
        int64_t dim, cell;
        std::vector<int64_t> blocks;
    };
    const Geometry geometries[] = {
        {96, 2, {6, 8, 0, 12}},     {64, 16, {16, 32, 64}}, {64, 4, {0, 4, 0}}, {30, 1, {3, 5, 2, 0, 30}},
        {256, 32, {32, 64, 0, 32}}, {48, 3, {3, 48}},       {32, 8, {0, 0}}};
    for (const Geometry& g : geometries)
        for (int round = 0; round < 4; ++round) {
            const Case<T> c = random_case<T>(random, g.dim, g.cell, g.blocks);
            const std::vector<float> got = run(c, 1);
            const std::string wrong = mismatch(got, c.want, 1e-4);
            QVERIFY2(wrong.empty(), text_of("dim ", g.dim, " cell ", g.cell, ": ", wrong).c_str());
            const std::vector<float> again = run(c, 3);
            QVERIFY(std::memcmp(got.data(), again.data(), got.size() * sizeof(float)) == 0);
        }
}

}  // namespace

class BlockSparseTest : public QObject {
    Q_OBJECT
private slots:
    void product_f32() { check<float>(); }
    void product_bf16() { check<bf16>(); }

    // The layout names every cell that a block covers, and its values in the order that cut_blocks() writes.
    void unified_layout() {
        for (const auto& [block, cell] : {std::pair<int64_t, int64_t>{32, 8}, {8, 8}, {12, 2}, {3, 1}})
            for (int64_t j = 0; j < 5 * block / cell; ++j) {
                const BlockColumn column = block_column(block, cell, j);
                QCOMPARE(column.count, block / cell);
                QCOMPARE(column.first * cell, j * cell / block * block);
                QCOMPARE(column.value, j * cell * block);
            }
    }

    // A row's bits are its own: alone, or among others of any number.
    void rows_do_not_see_each_other() {
        Random random(9);
        const Case<bf16> c = random_case<bf16>(random, 64, 8, {16, 8, 32});
        const std::vector<float> all = run(c, 1);
        CpuDevice device(1);
        for (const auto& s : c.segments)
            for (int64_t row = s.row_begin; row < s.row_end; ++row) {
                BlockSparseSegment<bf16> one = s;
                one.row_begin = 0;
                one.row_end = 1;
                std::vector<float> out(64);
                block_sparse<bf16>(device, {out.data(), {1, 64}}, {c.x.data() + row * 64, {1, 64}}, 8, {&one, 1});
                QVERIFY(std::memcmp(out.data(), all.data() + row * 64, sizeof(float) * 64) == 0);
            }
    }
};

QTEST_GUILESS_MAIN(BlockSparseTest)
#include "block_sparse_test.moc"
