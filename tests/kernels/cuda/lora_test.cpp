#include "kernels/cuda/lora.h"

#include "kernels/cuda/skinny.h"
#include "tiles_on_device.h"

using namespace spartan;

namespace {

constexpr int kParts = 5;

// Low-rank parts of kParts linear layers of one rank; 0: the adapter leaves them alone.
template <class T>
struct LowRank {
    int rank = 0;
    float scale = 1;
    std::vector<std::vector<T>> a, b_t;  // [part]
    std::vector<std::unique_ptr<DeviceArray<T>>> stored;
    std::unique_ptr<DeviceArray<CudaPart>> parts;
};

struct Case {
    int64_t in = 0;
    std::vector<int64_t> widths;  // of the projections
    std::vector<int> ranks;       // of the adapters
    std::vector<TileSpec> tiles;
    int first_part = 0, empty = 3, rows_behind = 2;
    bool cancels = false;  // ranks come in pairs that all but cancel, and are added to 0
};

template <class T>
LowRank<T> random_low_rank(const Case& c, int rank, uint32_t seed) {
    LowRank<T> l;
    l.rank = rank;
    l.scale = 0.5f + 0.25f * float(seed % 7);
    std::vector<CudaPart> parts(kParts);
    for (int i = 0; i < kParts && rank > 0; ++i) {
        const int p = i - c.first_part;
        const int64_t width = p >= 0 && p < int(c.widths.size()) ? c.widths[size_t(p)] : 1;
        l.a.push_back(random_values<T>(size_t(rank * c.in), seed + uint32_t(2 * i), 1 / std::sqrt(float(c.in))));
        l.b_t.push_back(random_values<T>(size_t(rank * width), seed + uint32_t(2 * i + 1), 1 / std::sqrt(float(rank))));
        for (int r = 1; c.cancels && r < rank; r += 2) {
            for (int64_t k = 1; k < c.in; ++k)
                l.a.back()[size_t(r * c.in + k)] = l.a.back()[size_t((r - 1) * c.in + k)];
            for (int64_t n = 0; n < width; ++n)
                l.b_t.back()[size_t(r * width + n)] =
                    from_float<T>(-to_float(l.b_t.back()[size_t((r - 1) * width + n)]));
        }
        for (const auto* values : {&l.a.back(), &l.b_t.back()})
            l.stored.push_back(std::make_unique<DeviceArray<T>>(*values));
        CudaPart& part = parts[size_t(i)];
        part.a = l.stored[l.stored.size() - 2]->data();
        part.b_t = l.stored.back()->data();
        part.rank = rank;
        part.scale = l.scale;
    }
    l.parts = std::make_unique<DeviceArray<CudaPart>>(parts);
    return l;
}

template <class T>
std::vector<double> with_low_rank(const T* y, const T* x, const LowRank<T>* l, int part, int64_t in, int64_t width) {
    std::vector<double> want(static_cast<size_t>(width));
    for (int64_t n = 0; n < width; ++n) want[size_t(n)] = double(to_float(y[n]));
    for (int r = 0; l && r < l->rank; ++r) {
        double sum = 0;
        for (int64_t k = 0; k < in; ++k)
            sum += double(to_float(l->a[size_t(part)][size_t(r * in + k)])) * double(to_float(x[k]));
        for (int64_t n = 0; n < width; ++n)
            want[size_t(n)] += double(l->scale) * sum * double(to_float(l->b_t[size_t(part)][size_t(r * width + n)]));
    }
    return want;
}

template <class T>
void check(const Case& c) {
    CudaDevice device;
    const std::string text = QStringLiteral("in %1, out %2.., rank %3.., %4 tiles of %5.. rows")
                                 .arg(c.in)
                                 .arg(c.widths[0])
                                 .arg(c.ranks[0])
                                 .arg(c.tiles.size())
                                 .arg(c.tiles[0].rows)
                                 .toStdString();
    std::vector<LowRank<T>> adapters;
    std::vector<CudaPart*> parts;
    int max_rank = 0;
    for (size_t i = 0; i < c.ranks.size(); ++i) {
        adapters.push_back(random_low_rank<T>(c, c.ranks[i], uint32_t(100 * i)));
        parts.push_back(adapters.back().parts->data());
        max_rank = std::max(max_rank, c.ranks[i]);
    }
    const int num_projections = int(c.widths.size());
    const int64_t used = rows_of(c.tiles), rows = used + c.rows_behind;
    const auto tiles = upload_tiles(c.tiles, parts, c.empty);
    const auto x = random_values<T>(size_t(rows * c.in), 7);
    const DeviceArray<T> device_x(x);
    const DeviceArray<float> workspace(size_t(lora_workspace_bytes(num_projections, rows, c.in, max_rank) / 4));
    LoraOutputs<T> outputs;
    std::vector<std::vector<T>> before;
    std::vector<std::unique_ptr<DeviceArray<T>>> out;
    for (int p = 0; p < num_projections; ++p) {
        before.push_back(random_values<T>(size_t(rows * c.widths[size_t(p)]), uint32_t(50 + p), c.cancels ? 0.f : 1.f));
        out.push_back(std::make_unique<DeviceArray<T>>(before.back()));
        outputs.out[p] = out.back()->data();
        outputs.width[p] = c.widths[size_t(p)];
    }
    lora<T>(device, outputs, device_x.data(), tiles.data(), int(tiles.size()), c.first_part, num_projections, rows,
            c.in, max_rank, workspace.data());
    device.synchronize();
    for (int p = 0; p < num_projections; ++p) {
        const auto got = out[size_t(p)]->read();
        const auto& old = before[size_t(p)];
        const int64_t width = c.widths[size_t(p)];
        int64_t row = 0;
        for (const TileSpec& t : c.tiles) {
            const LowRank<T>* l = t.adapter < 0 ? nullptr : &adapters[size_t(t.adapter)];
            std::vector<double> want;
            for (int64_t i = row; i < row + t.rows; ++i) {
                const auto one =
                    with_low_rank(&old[size_t(i * width)], &x[size_t(i * c.in)], l, c.first_part + p, c.in, width);
                want.insert(want.end(), one.begin(), one.end());
            }
            const double error = relative_error(rows_between(got, row, row + t.rows, width), want);
            const bool alone = !l || l->rank == 0;
            if (!(alone ? error == 0 : error < kTolerance<T>))
                QFAIL(qPrintable(QStringLiteral("%1: projection %2, row %3, rank %4: error %5")
                                     .arg(QString::fromStdString(text))
                                     .arg(p)
                                     .arg(row)
                                     .arg(l ? l->rank : 0)
                                     .arg(error)));
            row += t.rows;
        }
        QVERIFY2(same_bits(rows_between(got, used, rows, width), rows_between(old, used, rows, width)), text.c_str());
    }
    if (!lora_sets<T>(device, outputs, int(tiles.size()), num_projections, rows, c.in, max_rank)) return;
    // What it sets, it adds to zeros.
    for (int p = 0; p < num_projections; ++p) {
        const auto size = size_t(rows * c.widths[size_t(p)]);
        const DeviceArray<T> zeros(std::vector<T>(size, from_float<T>(0))), set(size);
        LoraOutputs<T> one;
        one.width[0] = c.widths[size_t(p)];
        for (const bool sets : {false, true}) {
            one.out[0] = sets ? set.data() : zeros.data();
            lora<T>(device, one, device_x.data(), tiles.data(), int(tiles.size()), c.first_part + p, 1, rows, c.in,
                    max_rank, workspace.data(), sets);
        }
        const auto want = zeros.read(), got = set.read();
        const int64_t width = one.width[0];
        QVERIFY2(same_bits(rows_between(got, 0, used, width), rows_between(want, 0, used, width)), text.c_str());
        for (const T& behind : rows_between(got, used, rows, width)) QVERIFY(std::isnan(to_float(behind)));
    }
}

void check_16_bit(const Case& c) {
    check<bf16>(c);
    check<f16>(c);
}

}  // namespace

class CudaLoraTest : public QObject {
    Q_OBJECT
private slots:
    void one_row_for_each_adapter() {
        SKIP_WITHOUT_GPU();
        const std::vector<int> ranks{64, 1, 4, 8, 16, 100, 0, 32, 48};
        const int64_t in = cases(4096, 1024);
        check_16_bit({.in = in, .widths = {in, 1024, 1024}, .ranks = ranks, .tiles = tiles_in_turn(96, 1, 9, 12)});
        check_16_bit({.in = in, .widths = {in}, .ranks = {64}, .tiles = {{1, 0}}, .first_part = 3});
        check_16_bit({.in = cases(11008, 2752),
                      .widths = {512},
                      .ranks = {256, 24, 300},
                      .tiles = {{1, 0}, {2, 1}, {1, -1}, {1, 2}}});
    }

    // More ranks than a block holds at once, or than the fast expand takes.
    void large_ranks() {
        SKIP_WITHOUT_GPU();
        const std::vector<TileSpec> tiles{{1, 0}, {12, 1}, {8, 2}, {40, 0}, {7, -1}, {3, 1}};
        check_16_bit({.in = 136, .widths = {264, 72}, .ranks = {300, 512, 257}, .tiles = tiles});
        check_16_bit({.in = 136, .widths = {264}, .ranks = {520, 16, 192}, .tiles = tiles});
    }

    void tiles_of_many_rows() {
        SKIP_WITHOUT_GPU();
        const std::vector<int> ranks{64, 1, 100, 8, 16, 0};
        check_16_bit({.in = 576,
                      .widths = {576, 192, 192},
                      .ranks = ranks,
                      .tiles = tiles_in_turn(6, 64, 6, 4),
                      .first_part = 1});
        check_16_bit(
            {.in = 1536, .widths = {576, 64}, .ranks = ranks, .tiles = {{9, 0}, {8, 1}, {33, 2}, {1, 4}, {63, 3}}});
    }

    // More than 512 rows: lora_long.h, or its shrink only.
    void many_rows_and_single_ones_between() {
        SKIP_WITHOUT_GPU();
        std::vector<TileSpec> tiles = tiles_in_turn(9, 64, 5, 3);
        for (const TileSpec& t : {TileSpec{1, 0}, {8, 2}, {9, 2}, {1, 3}, {17, 4}}) tiles.push_back(t);
        const std::vector<int> ranks{64, 16, 100, 1, 130};
        for (const std::vector<int>& of : {ranks, {64, 16, 40, 1, 9}, {128, 65, 64, 1, 8}}) {
            check_16_bit({.in = 576, .widths = {576, 192, 192}, .ranks = of, .tiles = tiles});
            if (small_cases()) continue;
            check_16_bit({.in = 1096, .widths = {320}, .ranks = of, .tiles = tiles});
            check_16_bit({.in = 3080, .widths = {64, 1032}, .ranks = of, .tiles = tiles, .first_part = 1});
        }
        check_16_bit({.in = 48, .widths = {48, 64}, .ranks = {16, 3}, .tiles = tiles_in_turn(10, 64, 2)});
        check_16_bit({.in = 64, .widths = {2056, 8}, .ranks = {8, 24, 128}, .tiles = tiles_in_turn(600, 1, 3, 4)});
        check_16_bit({.in = 136, .widths = {72, 40}, .ranks = {300, 520}, .tiles = tiles_in_turn(9, 64, 2)});
    }

    // Sums over k are not rounded to T on their way to B.
    void inner_sums_are_exact() {
        SKIP_WITHOUT_GPU();
        for (const int rank : {2, 40, 100})
            check_16_bit({.in = 512, .widths = {264}, .ranks = {rank}, .tiles = {{1, 0}, {20, 0}}, .cancels = true});
        check_16_bit({.in = 512, .widths = {264}, .ranks = {40}, .tiles = tiles_in_turn(10, 64, 1), .cancels = true});
    }

    void odd_sizes() {
        SKIP_WITHOUT_GPU();
        for (const int64_t in : cases<std::vector<int64_t>>({8, 30, 48, 64, 1024, 1032}, {8, 30, 1032}))
            for (const int64_t out : cases<std::vector<int64_t>>({8, 33, 64, 136}, {33, 136})) {
                check_16_bit({.in = in, .widths = {out, 48}, .ranks = {7, 16, 33}, .tiles = tiles_in_turn(5, 3, 3, 2)});
                check<float>(
                    {.in = in, .widths = {out, 48}, .ranks = {7, 16, 33}, .tiles = tiles_in_turn(5, 11, 3, 2)});
            }
    }

    void floats() {
        SKIP_WITHOUT_GPU();
        const std::vector<int> ranks{64, 1, 4, 8, 16, 100, 0};
        check<float>(
            {.in = cases(4096, 1024), .widths = {1536, 64, 64}, .ranks = ranks, .tiles = tiles_in_turn(20, 1, 7, 4)});
        check<float>(
            {.in = 576, .widths = {576}, .ranks = ranks, .tiles = tiles_in_turn(7, 64, 7, 4), .first_part = 2});
    }

    void nothing_at_all() {
        SKIP_WITHOUT_GPU();
        check_16_bit({.in = 64, .widths = {64}, .ranks = {0}, .tiles = {{3, 0}, {2, -1}}});
    }

    // A row's bits are the same alone, among few and among many.
    void same_bits_in_any_batch() {
        SKIP_WITHOUT_GPU();
        same_bits_in_any_batch_<bf16>();
        same_bits_in_any_batch_<f16>();
    }

    // So many tiles and columns that a block of the kernels for many rows has a long way to go, past ragged tiles, base
    // ones and empty ones and from one B to the next: the bits that a few tiles at a time give.
    void long_walks() {
        SKIP_WITHOUT_GPU();
        long_walks_<bf16>();
        if (!small_cases()) long_walks_<f16>();
    }

private:
    // out [rows of `specs`, width], which begins as `before`.
    template <class T>
    static std::vector<T> run_one(CudaDevice& device, const std::vector<TileSpec>& specs,
                                  const std::vector<CudaPart*>& parts, const T* x, const std::vector<T>& before,
                                  int64_t in, int64_t width, int max_rank, bool sets = false) {
        const auto tiles = upload_tiles(specs, parts, 0);
        const int64_t rows = rows_of(specs);
        const DeviceArray<T> out(before);
        const DeviceArray<float> workspace(size_t(lora_workspace_bytes(1, rows, in, max_rank) / 4));
        LoraOutputs<T> outputs;
        outputs.out[0] = out.data();
        outputs.width[0] = width;
        lora<T>(device, outputs, x, tiles.data(), int(tiles.size()), 0, 1, rows, in, max_rank, workspace.data(), sets);
        device.synchronize();
        return out.read();
    }

    template <class T>
    static void same_bits_in_any_batch_() {
        CudaDevice device;
        const Case c{.in = cases(3096, 1536), .widths = {320}, .ranks = {}, .tiles = {}};
        const auto x = random_values<T>(size_t(640 * c.in), 5), y = random_values<T>(size_t(640 * 320), 6);
        const DeviceArray<T> device_x(x);
        for (const int rank : {60, 100, 300}) {
            const auto a = random_low_rank<T>(c, rank, 1), b = random_low_rank<T>(c, 16, 2);
            const auto run = [&](const std::vector<TileSpec>& specs, int64_t skip, int max_rank) {
                return run_one<T>(device, specs, {a.parts->data(), b.parts->data()}, device_x.data() + skip * c.in,
                                  rows_between(y, skip, skip + rows_of(specs), 320), c.in, 320, max_rank);
            };
            std::vector<TileSpec> many = tiles_in_turn(9, 64, 2);
            many.push_back({64, 0});
            const auto batch = run(many, 0, rank), small = run({{40, 0}, {5, 1}}, 0, rank);
            for (const int64_t row : {0, 7, 39}) {
                const auto alone = run({{1, 0}}, row, rank);
                QVERIFY(same_bits(alone, rows_between(batch, row, row + 1, 320)));
                QVERIFY(same_bits(alone, rows_between(small, row, row + 1, 320)));
            }
            QVERIFY(same_bits(run({{1, 1}}, 44, 16), rows_between(small, 44, 45, 320)));
            QVERIFY(same_bits(run({{1, 1}}, 70, 16), rows_between(batch, 70, 71, 320)));
        }
    }

    template <class T>
    static void long_walks_() {
        CudaDevice device;
        constexpr int64_t kWidth = 8192;
        const Case c{.in = 64, .widths = {kWidth}, .ranks = {}, .tiles = {}};
        const auto a = random_low_rank<T>(c, 64, 1), b = random_low_rank<T>(c, 8, 2);
        const std::vector<CudaPart*> parts{a.parts->data(), b.parts->data()};
        std::vector<TileSpec> tiles;
        for (int i = 0; i < 80; ++i)
            tiles.push_back({i % 9 == 4 ? 17 : i % 11 == 6 ? 0 : 64, i % 7 == 3 ? kBase : i / 3 % 2});
        const DeviceArray<T> x(random_values<T>(size_t(rows_of(tiles) * c.in), 5));
        const auto half = [](int64_t rows) { return std::vector<T>(size_t(rows * kWidth), from_float<T>(0.5f)); };
        const auto all = run_one<T>(device, tiles, parts, x.data(), half(rows_of(tiles)), c.in, kWidth, 64);
        LoraOutputs<T> outputs;
        outputs.width[0] = kWidth;
        const bool sets = lora_sets<T>(device, outputs, int(tiles.size()), 1, rows_of(tiles), c.in, 64);
        QCOMPARE(sets, has_warpgroup_products(device.compute_capability()));
        if (sets) {
            const std::vector<T> zeros(all.size(), from_float<T>(0)), ones(all.size(), from_float<T>(1));
            QVERIFY(same_bits(run_one<T>(device, tiles, parts, x.data(), ones, c.in, kWidth, 64, true),
                              run_one<T>(device, tiles, parts, x.data(), zeros, c.in, kWidth, 64)));
        }
        int64_t row = 0;
        for (auto first = tiles.begin(); first != tiles.end(); first += 5) {
            const std::vector<TileSpec> some(first, first + 5);  // so few rows that they take the other kernels
            const int64_t rows = rows_of(some);
            const auto apart = run_one<T>(device, some, parts, x.data() + row * c.in, half(rows), c.in, kWidth, 64);
            QVERIFY2(same_bits(apart, rows_between(all, row, row + rows, kWidth)), text_of("from row ", row).c_str());
            row += rows;
        }
    }
};

QTEST_GUILESS_MAIN(CudaLoraTest)
#include "lora_test.moc"
