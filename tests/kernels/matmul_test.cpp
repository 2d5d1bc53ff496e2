#include "kernels/matmul.h"
#include "kernel_testing.h"
#include "kernels/memory.h"

using namespace spartan;

namespace {

template <class T>
PackedMatrix<T> packed(const std::vector<float>& values, int64_t rows, int64_t cols) {
    PackedMatrix<T> w(rows, cols);
    const int64_t half = rows / 2;  // in two parts, as a loader with several threads does
    w.set_rows(0, half, values.data());
    w.set_rows(half, rows - half, values.data() + half * cols);
    return w;
}

template <class T>
std::vector<double> oracle(const std::vector<float>& x, const std::vector<float>& w, int64_t m, int64_t n, int64_t k) {
    std::vector<double> out(size_t(m * n));
    for (int64_t i = 0; i < m; ++i)
        for (int64_t j = 0; j < n; ++j) {
            double sum = 0;
            for (int64_t c = 0; c < k; ++c)
                sum += double(to_float(from_float<T>(x[size_t(i * k + c)]))) *
                       double(to_float(from_float<T>(w[size_t(j * k + c)])));
            out[size_t(i * n + j)] = sum;
        }
    return out;
}

std::string describe(CpuIsa isa, int threads, int64_t m, int64_t n, int64_t k) {
    return text_of(name_of(isa), " threads ", threads, " M ", m, " N ", n, " K ", k, " ");
}

template <class T>
void compare_with_oracle() {
    Random random(1);
    struct Shape {
        int64_t m, n, k;
    };
    std::vector<Shape> shapes{{0, 5, 7},     {1, 1, 1},      {3, 0, 4},     {2, 17, 0},
                              {1, 576, 576}, {70, 33, 1030}, {200, 48, 512}};
    for (int i = 0; i < 30; ++i)
        shapes.push_back({random.between(0, 70), random.between(1, 150), random.between(1, 400)});
    for (const auto& [m, n, k] : shapes) {
        const auto x = random.normals(m * k), w = random.normals(n * k);
        const auto weight = packed<T>(w, n, k);
        const auto want = oracle<T>(x, w, m, n, k);
        for (const CpuIsa isa : isa_levels()) {
            CpuDevice device(2, isa);
            std::vector<float> out(size_t(m * n), NAN);
            matmul(device, view(out, m, n), view(x, m, k), weight);
            // Each of k additions rounds a partial sum of size sqrt(k): about 2^-24 k in all, some outputs four times.
            const std::string wrong = mismatch(out, want, 2.5e-7 * double(k) + 1e-6);
            VERIFY_CASE(wrong.empty(), text_of(describe(isa, 2, m, n, k), wrong));
        }
    }
}

// Blocks with small finite scales and any weights.
std::vector<std::byte> random_blocks(Random& random, GgufType type, int64_t count) {
    const int64_t size = block_bytes(type);
    const std::vector<int64_t> halves = type == GgufType::q6_k                             ? std::vector<int64_t>{208}
                                        : type == GgufType::q4_1 || type == GgufType::q4_k ? std::vector<int64_t>{0, 2}
                                                                                           : std::vector<int64_t>{0};
    std::vector<std::byte> blocks(size_t(count * size));
    for (std::byte& b : blocks) b = std::byte(random.between(0, 255));
    for (int64_t i = 0; i < count; ++i)
        for (const int64_t at : halves) {
            const auto scale = uint16_t(random.between(0, 1) << 15 | random.between(0, 0x2fff));  // up to 0.125
            std::memcpy(blocks.data() + i * size + at, &scale, 2);
        }
    return blocks;
}

// A kept matrix is the dense one of its values, to the bit, whatever the number of rows.
template <class T>
void compare_kept_with_dense() {
    Random random(7);
    for (const GgufType type : {GgufType::q4_0, GgufType::q4_1, GgufType::q8_0, GgufType::q4_k, GgufType::q6_k})
        for (const auto& [n, k] :
             {std::pair<int64_t, int64_t>{1, 32}, {16, 64}, {70, 576}, {193, 1536}, {129, 96}, {33, 256}}) {
            if (k % block_elements(type) != 0) continue;
            const auto blocks = random_blocks(random, type, n * k / block_elements(type));
            std::vector<float> values(size_t(n * k));
            dequantise_row(type, blocks.data(), n * k, values.data());
            const auto dense = packed<T>(values, n, k);
            using Matrix = PackedMatrix<T>;
            Matrix kept(n, k, std::shared_ptr<std::byte[]>(allocate_memory(Matrix::bytes_of(n, k, type))), type);
            for (int64_t row = 0; row < n; row += 48)  // whole panels, as a loader does
                kept.set_blocks(row, std::min<int64_t>(48, n - row),
                                blocks.data() + row * k / block_elements(type) * block_bytes(type));
            QVERIFY(kept.bytes() <= (n + 15) / 16 * 16 * k / block_elements(type) * block_bytes(type) + 63);
            std::vector<float> row(static_cast<size_t>(k)), want(static_cast<size_t>(k));
            for (const int64_t i : {int64_t(0), n / 2, n - 1}) {
                kept.get_row(i, row.data());
                dense.get_row(i, want.data());
                QCOMPARE(row, want);
            }
            for (const int64_t m : {1, 2, 5, 12, 13, 33, 100})
                for (const CpuIsa isa : isa_levels()) {
                    CpuDevice device(2, isa);
                    const auto x = random.normals(m * k);
                    std::vector<float> a(size_t(m * n), NAN), b(size_t(m * n), NAN);
                    matmul(device, view(a, m, n), view(x, m, k), kept);
                    matmul(device, view(b, m, n), view(x, m, k), dense);
                    VERIFY_CASE(std::memcmp(a.data(), b.data(), a.size() * 4) == 0,
                                text_of(describe(isa, 2, m, n, k), name_of(type)));
                }
        }
}

// Each row alone must give the very bits that it gives among any others, for every team.
template <class T>
void check_row_invariance() {
    Random random(2);
    for (const CpuIsa isa : isa_levels()) {
        std::vector<std::unique_ptr<CpuDevice>> devices;
        for (int threads = 1; threads <= 4; ++threads) devices.push_back(std::make_unique<CpuDevice>(threads, isa));
        for (int round = 0; round < 12; ++round) {
            const int64_t rows = round == 0 ? 300 : 70;
            const int64_t n = random.between(1, 200),
                          k = round % 3 ? random.between(1, 700) : 64 * random.between(1, 16);
            const auto x = random.normals(rows * k), w = random.normals(n * k);
            const auto weight = packed<T>(w, n, k);
            std::vector<float> alone(size_t(rows * n), NAN), out;
            for (int64_t i = 0; i < rows; ++i)
                matmul(*devices[0], {alone.data() + i * n, {1, n}}, {x.data() + i * k, {1, k}}, weight);
            for (int batch = 0; batch < 20; ++batch) {
                const int64_t m = batch == 0 ? rows : random.between(0, rows), first = random.between(0, rows - m);
                const int threads = int(random.between(1, 4));
                out.assign(size_t(m * n), NAN);
                matmul(*devices[size_t(threads - 1)], view(out, m, n), {x.data() + first * k, {m, k}}, weight);
                VERIFY_CASE(same_bits(out.data(), alone.data() + first * n, m * n), describe(isa, threads, m, n, k));
            }
        }
    }
}

template <class T>
void check_rows_read_back() {
    Random random(3);
    const int64_t n = 37, k = 29;
    const auto values = random.normals(n * k);
    const auto w = packed<T>(values, n, k);
    QCOMPARE(w.rows(), n);
    QCOMPARE(w.cols(), k);
    QVERIFY(w.bytes() >= n * k * int64_t(sizeof(T)));
    QCOMPARE(reinterpret_cast<uintptr_t>(w.data()) % 64, uintptr_t(0));
    const std::vector<int32_t> ids{36, 0, 17, 17};
    std::vector<float> rows(ids.size() * size_t(k));
    CpuDevice device(2);
    gather_rows(device, view(rows, int64_t(ids.size()), k), w, ids);
    for (size_t i = 0; i < ids.size(); ++i)
        for (int64_t c = 0; c < k; ++c)
            QCOMPARE(rows[i * size_t(k) + size_t(c)], to_float(from_float<T>(values[size_t(ids[i] * k + c)])));
}

}  // namespace

class MatmulTest : public QObject {
    Q_OBJECT

private slots:
    void f32AgreesWithTheOracle() { compare_with_oracle<float>(); }
    void bf16AgreesWithTheOracle() { compare_with_oracle<bf16>(); }
    void f32RowsDependOnThemselvesOnly() { check_row_invariance<float>(); }
    void bf16RowsDependOnThemselvesOnly() { check_row_invariance<bf16>(); }
    void f32KeptIsDense() { compare_kept_with_dense<float>(); }
    void bf16KeptIsDense() { compare_kept_with_dense<bf16>(); }
    void f32RowsReadBack() { check_rows_read_back<float>(); }
    void bf16RowsReadBack() { check_rows_read_back<bf16>(); }

    void anEmptyMatrixIsEmpty() {
        PackedMatrix<float> none;
        QVERIFY(none.empty());
        QCOMPARE(none.bytes(), int64_t(0));
        PackedMatrix<float> moved = PackedMatrix<float>(3, 5);
        QVERIFY(!moved.empty());
        float row[5] = {1, 1, 1, 1, 1};
        moved.get_row(2, row);
        for (const float v : row) QCOMPARE(v, 0.f);
    }

    // A NaN in one row reaches every output of that row and no other row.
    void nanStaysInItsRow() {
        Random random(4);
        const int64_t m = 9, n = 40, k = 50;
        auto x = random.normals(m * k);
        x[4 * k + 7] = NAN;
        const auto w = random.normals(n * k);
        const auto weight = packed<bf16>(w, n, k);
        for (const CpuIsa isa : isa_levels()) {
            CpuDevice device(2, isa);
            std::vector<float> out(size_t(m * n));
            matmul(device, view(out, m, n), view(x, m, k), weight);
            for (int64_t i = 0; i < m * n; ++i) QCOMPARE(std::isnan(out[size_t(i)]), i / n == 4);
        }
    }
};

QTEST_GUILESS_MAIN(MatmulTest)
#include "matmul_test.moc"
