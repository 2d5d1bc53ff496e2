#include "kernels/cuda/rotate.h"

#include "tiles_on_device.h"

#include <set>

using namespace spartan;

namespace {

constexpr int kParts = 5;  // of an adapter's table in these tests

// Rotations of kParts linear layers, all of one group size; 0: the adapter leaves them alone.
template <class T>
struct Rotations {
    int64_t group = 0;
    std::vector<std::vector<T>> r;  // [part][dim / group][group][group]
    std::vector<std::unique_ptr<DeviceArray<T>>> stored;
    std::unique_ptr<DeviceArray<CudaPart>> parts;
};

template <class T>
Rotations<T> random_rotations(CudaDevice& device, int64_t dim, int64_t group, bool pack, uint32_t seed) {
    Rotations<T> a;
    a.group = group;
    std::vector<CudaPart> parts(kParts);
    for (int i = 0; i < kParts && group > 0; ++i) {
        a.r.push_back(random_values<T>(size_t(dim * group), seed + uint32_t(i), 0.1f));
        for (int64_t n = 0; n < dim * group; ++n)
            if (n / group % group == n % group) {
                T& diagonal = a.r.back()[size_t(n)];
                diagonal = from_float<T>(to_float(diagonal) + 1);
            }
        a.stored.push_back(std::make_unique<DeviceArray<T>>(a.r.back()));
        parts[size_t(i)].group = int32_t(group);
        if constexpr (is_16_bit<T>)
            if (pack) {
                auto packed = std::make_unique<DeviceArray<T>>(size_t(packed_rotation_bytes(dim, group) / 2));
                pack_rotation(device, packed->data(), a.stored.back()->data(), dim, group);
                device.synchronize();
                a.stored.back() = std::move(packed);
                parts[size_t(i)].rotation_packed = 1;
            }
        parts[size_t(i)].rotation = a.stored.back()->data();
    }
    a.parts = std::make_unique<DeviceArray<CudaPart>>(parts);
    return a;
}

template <class T>
std::vector<double> rotated_row(const T* x, const Rotations<T>* a, int part, int64_t dim) {
    std::vector<double> want(static_cast<size_t>(dim));
    for (int64_t c = 0; c < dim; ++c) want[size_t(c)] = double(to_float(x[c]));
    if (!a || a->group == 0) return want;
    std::fill(want.begin(), want.end(), 0.0);
    const T* r = a->r[size_t(part)].data();
    for (int64_t i = 0; i < dim; ++i, r += a->group)
        for (int64_t v = 0; v < a->group; ++v)
            want[size_t(i / a->group * a->group + v)] += double(to_float(x[i])) * double(to_float(r[v]));
    return want;
}

struct Case {
    int64_t dim = 0;
    std::vector<int64_t> groups;  // of the adapters
    bool pack = true;
    std::vector<TileSpec> tiles;
    int num_projections = 3, first_part = 0, empty = 3, rows_behind = 2;
};

template <class T>
void check(const Case& c) {
    CudaDevice device;
    const std::string text = QStringLiteral("dim %1, group %2.., %3 tiles of %4.. rows, %5 projections")
                                 .arg(c.dim)
                                 .arg(c.groups.empty() ? 0 : c.groups[0])
                                 .arg(c.tiles.size())
                                 .arg(c.tiles[0].rows)
                                 .arg(c.num_projections)
                                 .toStdString();
    std::vector<Rotations<T>> adapters;
    std::vector<CudaPart*> parts;
    int max_group = 0;
    bool any_plain = false;
    for (size_t i = 0; i < c.groups.size(); ++i) {
        const bool pack = c.pack && packs(c.dim, c.groups[i], dtype_of<T>);
        adapters.push_back(random_rotations<T>(device, c.dim, c.groups[i], pack, uint32_t(100 * i)));
        parts.push_back(adapters.back().parts->data());
        if (pack) max_group = std::max(max_group, int(c.groups[i]));
        any_plain = any_plain || (!pack && c.groups[i] > 0);
    }
    const int64_t used = rows_of(c.tiles), rows = used + c.rows_behind;
    const auto tiles = upload_tiles(c.tiles, parts, c.empty);
    const auto x = random_values<T>(size_t(rows * c.dim), 7);
    const DeviceArray<T> device_x(x), out(size_t(c.num_projections * rows * c.dim));
    rotate<T>(device, out.data(), device_x.data(), tiles.data(), int(tiles.size()), c.first_part, c.num_projections,
              rows, c.dim, max_group, any_plain);
    device.synchronize();
    const auto got = out.read();
    for (int p = 0; p < c.num_projections; ++p) {
        int64_t row = int64_t(p) * rows;
        for (const TileSpec& t : c.tiles) {
            const Rotations<T>* a = t.adapter < 0 ? nullptr : &adapters[size_t(t.adapter)];
            std::vector<double> want;
            for (int64_t i = row; i < row + t.rows; ++i) {
                const auto one = rotated_row(&x[size_t((i - p * rows) * c.dim)], a, c.first_part + p, c.dim);
                want.insert(want.end(), one.begin(), one.end());
            }
            const auto part = rows_between(got, row, row + t.rows, c.dim);
            const double error = relative_error(part, want);
            const bool copied = !a || a->group == 0;
            if (!(copied ? error == 0 : error < kTolerance<T>))
                QFAIL(qPrintable(QStringLiteral("%1: projection %2, row %3, adapter %4: error %5")
                                     .arg(QString::fromStdString(text))
                                     .arg(p)
                                     .arg(row - p * rows)
                                     .arg(t.adapter)
                                     .arg(error)));
            row += t.rows;
        }
        const auto behind = rows_between(got, p * rows + used, (p + 1) * rows, c.dim);
        std::vector<T> untouched(behind.size());
        std::memset(static_cast<void*>(untouched.data()), 0xff, untouched.size() * sizeof(T));
        QVERIFY2(same_bits(behind, untouched), text.c_str());
    }
}

void check_16_bit(const Case& c) {
    check<bf16>(c);
    check<f16>(c);
}

template <class T>
void check_packing() {
    CudaDevice device;
    for (const auto& [dim, group] : {std::pair<int64_t, int64_t>{576, 32}, {576, 16}, {4096, 64}, {1536, 256}}) {
        const auto r = random_values<float>(size_t(dim * group), 3);
        const DeviceArray<float> device_r(r);
        const DeviceArray<T> packed(size_t(packed_rotation_bytes(dim, group) / 2));
        pack_rotation(device, packed.data(), device_r.data(), dim, group);
        device.synchronize();
        const auto got = packed.read();
        for (int64_t at = 0; at < int64_t(got.size()); ++at) {
            const PackedPlace place = packed_rotation_place(group, at);
            float want = 0;
            if (place.column < dim) {
                const int64_t v = place.column % group, row = place.column - v + place.u;
                want = r[size_t(row * group + v)] - (place.u == v ? 1.f : 0.f);
            }
            QCOMPARE(got[size_t(at)].bits, from_float<T>(want).bits);
        }
    }
}

template <class T>
void check_packing_at_once() {
    CudaDevice device;
    const std::vector<std::pair<int64_t, int64_t>> sizes{{576, 32}, {4096, 64}, {1536, 256}, {48, 16}, {4096, 16}};
    std::vector<DeviceArray<T>> r, one, many;
    std::vector<PackJob<T>> jobs;
    int64_t most_items = 0;
    for (const auto& [dim, group] : sizes) {
        const auto count = size_t(packed_rotation_bytes(dim, group) / 2);
        r.emplace_back(random_values<T>(size_t(dim * group), uint32_t(jobs.size())));
        one.emplace_back(count);
        many.emplace_back(count);
        pack_rotation(device, one.back().data(), r.back().data(), dim, group);
        jobs.push_back({r.back().data(), many.back().data(), int32_t(dim), int32_t(group)});
        most_items = std::max(most_items, packed_rotation_items(dim, group));
    }
    const DeviceArray<PackJob<T>> device_jobs(jobs);
    pack_rotations(device, device_jobs.data(), int(jobs.size()), most_items);
    device.synchronize();
    for (size_t i = 0; i < jobs.size(); ++i) QVERIFY(same_bits(many[i].read(), one[i].read()));
}

}  // namespace

class CudaRotateTest : public QObject {
    Q_OBJECT
private slots:
    // Needs no GPU.
    void packed_layout_is_a_bijection() {
        for (const int64_t group : {16, 32, 64, 128, 256})
            for (const int64_t dim : {48, 64, 256, 576, 768, 1536, 4096, 4160}) {
                QCOMPARE(packs(dim, group, DType::bf16), dim % group == 0);
                if (dim % group != 0) continue;
                const int64_t values = packed_rotation_bytes(dim, group) / 2;
                QCOMPARE(values % kPackedItem, 0);
                QVERIFY(values >= dim * group && values < dim * group + kPackedItem);
                std::vector<char> taken(static_cast<size_t>(values));
                for (int64_t column = 0; column < dim; ++column)
                    for (int64_t u = 0; u < group; ++u) {
                        const int64_t at = packed_rotation_offset(group, column, u);
                        QVERIFY(at >= 0 && at < values && !taken[size_t(at)]);
                        taken[size_t(at)] = 1;
                        const PackedPlace place = packed_rotation_place(group, at);
                        QVERIFY(place.column == column && place.u == u);
                    }
                for (int64_t at = 0; at < values; ++at)  // the rest is padding, and known as such
                    QVERIFY(taken[size_t(at)] || packed_rotation_place(group, at).column >= dim);
            }
        QCOMPARE(packed_rotation_bytes(576, 32), int64_t(5 * 8192));
        QVERIFY(!packs(4096, 24, DType::bf16) && !packs(4096, 512, DType::bf16) && !packs(96, 64, DType::bf16));
        QVERIFY(packs(4096, 64, DType::f16) && !packs(4096, 64, DType::f32));
    }

    // What an item is for: a lane's 16 bytes of a tile are an operand of mma.m16n8k16, whose inputs and outputs lie
    // together in a row of activations.
    void packed_layout_is_made_of_operands() {
        for (const int64_t group : {16, 32, 64, 128, 256})
            for (int64_t chunk = 0; chunk < kPackedItem / 8; ++chunk) {
                const PackedPlace first = packed_rotation_place(group, chunk * 8);
                for (int64_t i = 0; i < 8; ++i) {
                    const PackedPlace place = packed_rotation_place(group, chunk * 8 + i);
                    QCOMPARE(place.column, first.column + i / 2 % 2);  // output rows r and r + 8 of the operand
                    QCOMPARE(place.u, first.u + i / 4 * 2 + i % 2);    // inputs 2q, 2q + 1, then 2q + 8, 2q + 9
                }
                QVERIFY(first.column % 2 == 0 && first.u % 4 == 0);
            }
    }

    void packs_what_it_is_given() {
        SKIP_WITHOUT_GPU();
        check_packing<bf16>();
        check_packing<f16>();
    }

    void packs_many_at_once_as_one_by_one() {
        SKIP_WITHOUT_GPU();
        check_packing_at_once<bf16>();
        check_packing_at_once<f16>();
    }

    void packed_groups_in_one_launch() {
        SKIP_WITHOUT_GPU();
        const std::vector<int64_t> groups{64, 16, 0, 256, 32, 128};
        check_16_bit({.dim = cases(4096, 1024), .groups = groups, .tiles = tiles_in_turn(96, 1, 6, 16)});
        check_16_bit({.dim = 4096, .groups = {64}, .tiles = {{1, 0}}, .num_projections = 1, .first_part = 3});
        check_16_bit({.dim = 1536, .groups = groups, .tiles = tiles_in_turn(12, 64, 6, 4), .first_part = 2});
        check_16_bit(
            {.dim = 768, .groups = groups, .tiles = {{5, 1}, {8, 4}, {9, 0}, {3, -1}, {17, 5}, {64, 3}, {63, 2}}});
        check_16_bit(
            {.dim = cases(14336, 3584), .groups = groups, .tiles = tiles_in_turn(7, 2, 6, 3), .num_projections = 1});
    }

    // More than 512: rotate_long.cuh.
    void many_rows() {
        SKIP_WITHOUT_GPU();
        std::vector<TileSpec> tiles = tiles_in_turn(9, 64, 6, 4);
        for (const TileSpec& t : {TileSpec{1, 0}, {8, 2}, {9, 3}, {17, 4}, {63, 5}}) tiles.push_back(t);
        for (const int64_t dim : cases<std::vector<int64_t>>({768, 4352}, {768}))
            check_16_bit({.dim = dim, .groups = {64, 16, 0, 256, 32, 128}, .tiles = tiles, .first_part = 1});
    }

    void packed_items_that_are_not_full() {
        SKIP_WITHOUT_GPU();
        for (const int64_t dim : cases<std::vector<int64_t>>({48, 64, 576, 4160}, {48, 576}))
            for (const int64_t group : {16, 32, 64})
                if (dim % group == 0)
                    check_16_bit({.dim = dim, .groups = {group, group}, .tiles = {{1, 0}, {7, 1}, {2, -1}, {64, 0}}});
    }

    void plain_groups() {
        SKIP_WITHOUT_GPU();
        for (const bool pack : {false, true}) {  // true: packed ones between
            check_16_bit(
                {.dim = 576, .groups = {3, 24, 48, 576, 32, 64}, .pack = pack, .tiles = tiles_in_turn(20, 3, 6, 4)});
            check_16_bit({.dim = 1536, .groups = {512, 24, 64}, .pack = pack, .tiles = tiles_in_turn(9, 64, 3, 2)});
            check_16_bit({.dim = 48, .groups = {1, 16, 24, 0}, .pack = pack, .tiles = tiles_in_turn(96, 1, 4)});
        }
        check_16_bit({.dim = 30, .groups = {5, 15, 0}, .tiles = tiles_in_turn(9, 11, 3, 2)});  // no 16 bytes in a row
    }

    void floats() {
        SKIP_WITHOUT_GPU();
        check<float>({.dim = 4096, .groups = {64, 16, 0, 256}, .tiles = tiles_in_turn(16, 1, 4, 5)});
        check<float>(
            {.dim = 576, .groups = {3, 24, 48, 576, 32}, .tiles = tiles_in_turn(10, 17, 5, 3), .first_part = 1});
        check<float>({.dim = 33, .groups = {11}, .tiles = {{64, 0}, {1, 0}}, .num_projections = 1});
    }

    void base_only_and_nothing_at_all() {
        SKIP_WITHOUT_GPU();
        check_16_bit({.dim = 4096, .groups = {}, .tiles = {{64, -1}, {1, -1}}});
        check<float>({.dim = 40, .groups = {}, .tiles = {{3, -1}}});
        CudaDevice device;
        rotate<bf16>(device, nullptr, DeviceArray<bf16>(8).data(), nullptr, 0, 0, 3, 0, 4096, 64, true);
        device.synchronize();
    }

    // A row's bits are the same alone as in a batch of other sizes.
    void same_bits_in_any_batch() {
        SKIP_WITHOUT_GPU();
        CudaDevice device;
        const int64_t dim = 768;
        const auto a = random_rotations<bf16>(device, dim, 64, true, 1),
                   b = random_rotations<bf16>(device, dim, 256, true, 9);
        const auto x = random_values<bf16>(size_t(640 * dim), 5);
        const DeviceArray<bf16> device_x(x);
        const auto run = [&](const std::vector<TileSpec>& specs, int64_t skip_rows, int max_group) {
            const auto tiles = upload_tiles(specs, {a.parts->data(), b.parts->data()}, 0);
            const DeviceArray<bf16> out(size_t(rows_of(specs) * dim));
            rotate<bf16>(device, out.data(), device_x.data() + skip_rows * dim, tiles.data(), int(tiles.size()), 0, 1,
                         rows_of(specs), dim, max_group, false);
            device.synchronize();
            return out.read();
        };
        const auto batch = run({{30, 1}, {64, 0}}, 0, 256);
        for (const int64_t row : {30, 31, 37, 60, 93}) {
            const auto alone = run({{1, 0}}, row, 64);
            QVERIFY(same_bits(alone, rows_between(batch, row, row + 1, dim)));
        }
        const auto many = run(tiles_in_turn(10, 64, 2), 0, 256);
        for (const int64_t row : {0, 63, 64, 577})
            QVERIFY(same_bits(run({{1, int(row / 64 % 2)}}, row, 256), rows_between(many, row, row + 1, dim)));
    }
};

QTEST_GUILESS_MAIN(CudaRotateTest)
#include "rotate_test.moc"
