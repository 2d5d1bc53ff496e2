// The block-sparse product and the cutting of blocks on a GPU: against a plain product in double precision, blocks of
// mixed sizes under one cell, rows of every number, adapters without a factor; and bits that do not depend on the
// batch.
#include "kernels/cuda/block_sparse.h"

#include "tiles_on_device.h"

#include <algorithm>
#include <numeric>

using namespace spartan;

namespace {

constexpr int kParts = 4;  // of an adapter's table in these tests

// Chains of factors for kParts linear layers, batched for one cell. block 0: the adapter has none.
template <class T>
struct Chains {
    int64_t block = 0, factors = 0;
    std::vector<std::vector<T>> blocks;      // [part][factors][dim / block][block][block]
    std::vector<std::vector<int32_t>> maps;  // [part][factors - 1][dim]
    std::vector<std::unique_ptr<DeviceArray<T>>> raw, cells;
    std::vector<std::unique_ptr<DeviceArray<int32_t>>> device_maps;
    std::unique_ptr<DeviceArray<CudaFactors>> table;
    std::unique_ptr<DeviceArray<CudaPart>> parts;
};

template <class T>
Chains<T> random_chains(CudaDevice& device, int64_t dim, int64_t block, int64_t factors, int64_t cell, uint32_t seed) {
    Chains<T> a;
    a.block = block;
    a.factors = factors;
    std::vector<CudaFactors> table(kParts);
    std::vector<CudaFactorRun> runs;
    std::mt19937 random(seed);
    for (int i = 0; i < kParts && block > 0; ++i) {
        a.blocks.push_back(random_values<T>(size_t(factors * dim * block), seed + uint32_t(i), 0.2f));
        a.maps.emplace_back();
        for (int64_t f = 1; f < factors; ++f) {
            std::vector<int32_t> map(static_cast<size_t>(dim));
            std::iota(map.begin(), map.end(), 0);
            std::shuffle(map.begin(), map.end(), random);
            a.maps.back().insert(a.maps.back().end(), map.begin(), map.end());
        }
        a.raw.push_back(std::make_unique<DeviceArray<T>>(a.blocks.back()));
        a.cells.push_back(std::make_unique<DeviceArray<T>>(a.blocks.back().size()));
        a.device_maps.push_back(std::make_unique<DeviceArray<int32_t>>(a.maps.back()));
        runs.push_back({a.raw.back()->data(), a.cells.back()->data(), int32_t(factors * dim / block), int32_t(block)});
        table[size_t(i)] = {a.cells.back()->data(), a.device_maps.back()->data(), int32_t(block), int32_t(factors)};
    }
    const DeviceArray<CudaFactorRun> device_runs(runs);
    if (!runs.empty()) cut_blocks<T>(device, device_runs.data(), int(runs.size()), factors * dim * block, cell);
    device.synchronize();
    a.table = std::make_unique<DeviceArray<CudaFactors>>(table);
    std::vector<CudaPart> parts(kParts);
    for (int i = 0; i < kParts && block > 0; ++i) parts[size_t(i)].factors = a.table->data() + i;
    a.parts = std::make_unique<DeviceArray<CudaPart>>(parts);
    return a;
}

template <class T>
std::vector<double> multiplied_row(const T* x, const Chains<T>* a, int part, int factor, int64_t dim) {
    std::vector<double> want(static_cast<size_t>(dim));
    for (int64_t c = 0; c < dim; ++c) want[size_t(c)] = double(to_float(x[c]));
    if (!a || a->block == 0 || factor >= a->factors) return want;
    const auto feature = [&](int64_t i) {
        return factor == 0 ? i : int64_t(a->maps[size_t(part)][size_t((factor - 1) * dim + i)]);
    };
    const int64_t b = a->block;
    const T* blocks = a->blocks[size_t(part)].data() + factor * dim * b;
    for (int64_t i = 0; i < dim; ++i) {
        double sum = 0;
        for (int64_t u = 0; u < b; ++u)
            sum += double(to_float(x[feature(i / b * b + u)])) * double(to_float(blocks[(i / b * b + u) * b + i % b]));
        want[size_t(feature(i))] = sum;
    }
    return want;
}

struct Geometry {
    int64_t block = 0, factors = 1;
};

template <class T>
void check(int64_t dim, int64_t cell, const std::vector<Geometry>& geometries, const std::vector<TileSpec>& specs,
           int num_projections, int factor, bool shared) {
    CudaDevice device;
    std::vector<Chains<T>> adapters;
    std::vector<CudaPart*> parts;
    for (size_t i = 0; i < geometries.size(); ++i) {
        adapters.push_back(
            random_chains<T>(device, dim, geometries[i].block, geometries[i].factors, cell, uint32_t(50 * i)));
        parts.push_back(adapters.back().parts->data());
    }
    const int64_t used = rows_of(specs), rows = used + 2;
    const int first_part = kParts - num_projections;
    const auto tiles = upload_tiles(specs, parts, 3);
    const auto x = random_values<T>(size_t((shared ? 1 : num_projections) * rows * dim), 7);
    const DeviceArray<T> device_x(x), out(size_t(num_projections * rows * dim));
    block_sparse<T>(device, out.data(), device_x.data(), shared, tiles.data(), int(tiles.size()), first_part,
                    num_projections, rows, dim, cell, factor);
    device.synchronize();
    const auto got = out.read();
    for (int p = 0; p < num_projections; ++p) {
        int64_t row = 0;
        for (const TileSpec& t : specs) {
            const Chains<T>* a = t.adapter < 0 ? nullptr : &adapters[size_t(t.adapter)];
            std::vector<double> want;
            for (int64_t i = row; i < row + t.rows; ++i) {
                const T* from = &x[size_t(((shared ? 0 : p * rows) + i) * dim)];
                const auto one = multiplied_row(from, a, first_part + p, factor, dim);
                want.insert(want.end(), one.begin(), one.end());
            }
            const auto part = rows_between(got, p * rows + row, p * rows + row + t.rows, dim);
            const double error = relative_error(part, want);
            QVERIFY2(error < kTolerance<T>,
                     text_of("dim ", dim, " cell ", cell, " factor ", factor, ": ", error).c_str());
            row += t.rows;
        }
        // Rows of no tile.
        for (const T v : rows_between(got, p * rows + used, (p + 1) * rows, dim)) QVERIFY(std::isnan(to_float(v)));
    }
}

template <class T>
void check_all() {
    const std::vector<TileSpec> mixed{{1, 0}, {3, kBase}, {64, 1}, {1, 2}, {5, 1}, {7, 0}};
    check<T>(4096, 32, {{32, 2}, {64, 2}, {0, 0}}, mixed, 3, 1, true);
    check<T>(4096, 32, {{32, 2}, {64, 1}, {32, 1}}, mixed, 3, 0, false);
    check<T>(4096, 32, {{32, 2}, {64, 1}, {32, 1}}, mixed, 1, 1, false);  // some have no such factor
    check<T>(256, 4, {{4, 4}, {8, 3}, {16, 1}}, mixed, 3, 2, false);
    check<T>(96, 2, {{6, 3}, {8, 2}, {12, 1}}, mixed, 2, 1, false);
    check<T>(96, 1, {{3, 1}, {8, 3}, {32, 1}}, mixed, 1, 0, true);
    check<T>(576, 24, {{24, 2}, {48, 1}, {72, 3}}, mixed, 3, 1, true);  // no power of two
    check<T>(1024, 512, {{512, 2}, {512, 1}, {0, 0}}, mixed, 1, 1, true);
    check<T>(11008, 16, {{16, 2}, {32, 1}, {688, 1}}, {{2, 0}, {2, 1}}, 1, 0, true);
}

}  // namespace

class BlockSparseTest : public QObject {
    Q_OBJECT
private slots:
    void initTestCase() { SKIP_WITHOUT_GPU(); }
    void product_f32() { check_all<float>(); }
    void product_bf16() { check_all<bf16>(); }
    void product_f16() { check_all<f16>(); }

    // Alone, or anywhere in a tile of any size: the same bits.
    void rows_do_not_see_each_other() {
        CudaDevice device;
        const int64_t dim = 1024, rows = 64;
        const auto adapter = random_chains<bf16>(device, dim, 64, 2, 32, 3);
        const auto x = random_values<bf16>(size_t(rows * dim), 5);
        const DeviceArray<bf16> device_x(x), all(size_t(rows * dim)), split(size_t(rows * dim));
        const auto run = [&](const DeviceArray<bf16>& out, const std::vector<TileSpec>& specs) {
            const auto tiles = upload_tiles(specs, {adapter.parts->data()}, 0);
            block_sparse<bf16>(device, out.data(), device_x.data(), true, tiles.data(), int(tiles.size()), 0, 1, rows,
                               dim, 32, 1);
            device.synchronize();
        };
        run(all, {{64, 0}});
        run(split, {{1, 0}, {2, 0}, {3, 0}, {7, 0}, {1, 0}, {50, 0}});
        QVERIFY(same_bits(all.read(), split.read()));
    }
};

QTEST_GUILESS_MAIN(BlockSparseTest)
#include "block_sparse_test.moc"
