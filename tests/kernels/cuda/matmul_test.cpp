// Products on the GPU against sums in double precision: every path, odd sizes, several products in one launch, batch
// invariance, plans and capture.
#include "kernels/cuda/matmul.h"
#include "gpu_fixture.h"
#include "kernels/cuda/skinny.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <thread>

#include <QFile>
#include <QTemporaryDir>

using namespace spartan;

namespace {

// x [m, k] * w [n, k]^T in double precision, by all processors.
template <class T>
std::vector<double> exact_product(const std::vector<T>& x, const std::vector<T>& w, size_t m, size_t n, size_t k) {
    const std::vector<double> wide_x = [&] {
        std::vector<double> v;
        for (const T& value : x) v.push_back(double(to_float(value)));
        return v;
    }();
    std::vector<double> out(m * n);
    const size_t team = std::max(1u, std::thread::hardware_concurrency());
    std::vector<std::thread> threads;
    for (size_t part = 0; part < team; ++part)
        threads.emplace_back([&, part] {
            std::vector<double> row(k);
            for (size_t i = n * part / team; i < n * (part + 1) / team; ++i) {
                for (size_t j = 0; j < k; ++j) row[j] = double(to_float(w[i * k + j]));
                for (size_t t = 0; t < m; ++t) {
                    const double* const values = wide_x.data() + t * k;
                    double sums[4] = {};
                    size_t j = 0;
                    for (; j + 4 <= k; j += 4)
                        for (size_t u = 0; u < 4; ++u) sums[u] += values[j + u] * row[j + u];
                    for (; j < k; ++j) sums[0] += values[j] * row[j];
                    out[t * n + i] = sums[0] + sums[1] + sums[2] + sums[3];
                }
            }
        });
    for (std::thread& t : threads) t.join();
    return out;
}

// An output with a margin behind it that nobody may write to.
template <class Out>
struct Output {
    static constexpr size_t kMargin = 256;
    size_t count;
    DeviceArray<Out> array;

    explicit Output(size_t size) : count(size), array(size + kMargin) {}
    Out* data() const { return array.data(); }

    // "" when all of the first want.size() values are right, each on its own, and the margin is untouched. `rounding`:
    // what one rounding and the sum's own error may leave of a value.
    std::string wrong(const std::vector<double>& want, double rounding) const {
        const std::vector<Out> got = array.read();
        double squares = 0;
        for (const double v : want) squares += v * v;
        const double usual = std::sqrt(squares / double(std::max<size_t>(want.size(), 1)));
        if (want.size() != count) return "sizes differ";
        for (size_t i = 0; i < count; ++i)
            if (!(std::abs(double(to_float(got[i])) - want[i]) <= rounding * (std::abs(want[i]) + 0.25 * usual)))
                return text_of("[", i, "] got ", to_float(got[i]), ", want ", want[i]);
        for (size_t i = count; i < got.size(); ++i)
            if (!std::isnan(to_float(got[i]))) return text_of("written behind the end at +", i - count);
        return "";
    }
    std::vector<Out> values() const {
        std::vector<Out> v = array.read();
        v.resize(count);
        return v;
    }
};

template <class Out>
constexpr double kRounding = std::is_same_v<Out, float>  ? 2e-4
                             : std::is_same_v<Out, bf16> ? 1. / 256
                                                         : 1. / 2048 + 2e-4;

// x and w in host and device memory and their exact product for up to `rows` rows of x.
template <class T>
struct Problem {
    size_t rows, n, k;
    std::vector<T> x, w;
    std::vector<double> want;
    DeviceArray<T> device_x, device_w;

    Problem(size_t rows_, size_t n_, size_t k_, uint32_t seed)
        : rows(rows_),
          n(n_),
          k(k_),
          x(random_values<T>(rows * k, seed)),
          w(random_values<T>(n * k, seed + 1, 0.03f)),
          want(exact_product(x, w, rows, n, k)),
          device_x(x),
          device_w(w) {}

    std::vector<double> want_of(size_t m) const { return {want.begin(), want.begin() + std::ptrdiff_t(m * n)}; }

    // Out of the first m rows; "" or what is wrong.
    template <class Out>
    std::string run(CudaDevice& device, MatmulPlans& plans, size_t m) const {
        Output<Out> out(m * n);
        matmul(device, plans, out.data(), device_x.data(), device_w.data(), int64_t(m), int64_t(n), int64_t(k));
        const std::string wrong = out.wrong(want_of(m), kRounding<Out>);
        return wrong.empty() ? "" : text_of("m ", m, " n ", n, " k ", k, ": ", wrong);
    }
    template <class Out>
    std::vector<Out> values(CudaDevice& device, MatmulPlans& plans, size_t first, size_t m) const {
        Output<Out> out(m * n);
        matmul(device, plans, out.data(), device_x.data() + first * k, device_w.data(), int64_t(m), int64_t(n),
               int64_t(k));
        return out.values();
    }
};

// As numbers.cuh describes mma.m16n8k16, for one warp: registers of each lane as pairs of values.
struct Fragments {
    std::array<std::array<std::array<int, 2>, 4>, 32> a{};
    std::array<std::array<std::array<int, 2>, 2>, 32> b{};

    int product(int row, int column) const {
        int sum = 0;
        for (int k = 0; k < 16; ++k) {
            const auto q = size_t(k % 8 / 2), pair = size_t(k % 2), high = size_t(k / 8);
            sum += a[size_t(row % 8) * 4 + q][2 * high + size_t(row / 8)][pair] * b[size_t(column) * 4 + q][high][pair];
        }
        return sum;
    }
};

}  // namespace

class CudaMatmulTest : public QObject {
    Q_OBJECT

private slots:
    // On the CPU: what the lanes load, multiplied as the tensor cores do, is the product.
    void skinnyLayout() {
        constexpr int kTile = kSkinnyTile, kBlock = kSkinnyBlock;
        std::array<std::array<int, kBlock>, kTile> w{};
        std::array<std::array<int, kBlock>, 8> x{};
        std::mt19937 random(1);
        for (auto& row : w)
            for (int& v : row) v = int(random() % 19) - 9;
        for (auto& row : x)
            for (int& v : row) v = int(random() % 19) - 9;
        std::array<std::array<int, 8>, kTile> sums{};
        for (int half = 0; half < 2; ++half)
            for (int t = 0; t < 2; ++t)
                for (int step = 0; step < 2; ++step) {
                    Fragments f;
                    for (int lane = 0; lane < 32; ++lane)
                        for (int reg = 0; reg < 4; ++reg)
                            for (int e = 0; e < 2; ++e) {
                                const int k = skinny_k(lane, half) + step * 4 + reg / 2 * 2 + e;
                                const int row = skinny_w_row(lane, 2 * t + reg % 2);
                                f.a[size_t(lane)][size_t(reg)][size_t(e)] = w[size_t(row)][size_t(k)];
                                f.b[size_t(lane)][size_t(reg / 2)][size_t(e)] = x[size_t(lane / 4)][size_t(k)];
                            }
                    for (int row = 0; row < 16; ++row)
                        for (int column = 0; column < 8; ++column)
                            sums[size_t(skinny_w_row(row % 8 * 4, 2 * t + row / 8))][size_t(column)] +=
                                f.product(row, column);
                }
        for (size_t row = 0; row < kTile; ++row)
            for (size_t column = 0; column < 8; ++column) {
                int want = 0;
                for (size_t k = 0; k < kBlock; ++k) want += w[row][k] * x[column][k];
                QCOMPARE(sums[row][column], want);
            }
    }

    void buckets() {
        for (const auto& [m, bucket] : std::vector<std::pair<int64_t, int64_t>>{{1, 8},
                                                                                {9, 16},
                                                                                {32, 32},
                                                                                {33, 48},
                                                                                {48, 48},
                                                                                {49, 64},
                                                                                {64, 64},
                                                                                {65, 96},
                                                                                {97, 128},
                                                                                {129, 192},
                                                                                {256, 256},
                                                                                {8192, 8192}})
            QCOMPARE(MatmulPlans::bucket_of(m), bucket);
    }

    void square() {
        SKIP_WITHOUT_GPU();
        square_<bf16>();
        square_<f16>();
    }

    void vocabulary() {
        SKIP_WITHOUT_GPU();
        CudaDevice device;
        MatmulPlans plans;
        const Problem<bf16> problem(40, cases(49152, 1030), cases(576, 128), 3);
        for (const size_t m : {1, 16, 24, 40}) VERIFY_RIGHT(problem.run<float>(device, plans, m));
        VERIFY_RIGHT(problem.run<bf16>(device, plans, 8));
    }

    void oddSizes() {
        SKIP_WITHOUT_GPU();
        odd_sizes_<bf16>();
        odd_sizes_<f16>();
    }

    void plainFloat() {
        SKIP_WITHOUT_GPU();
        CudaDevice device;
        MatmulPlans plans(true);
        uint32_t seed = 30;
        for (const auto& [n, k] :
             std::vector<std::pair<size_t, size_t>>{{1, 1}, {70, 48}, {576, 576}, {65, 1537}, {129, 16}}) {
            if (small_cases() && n * k > 20'000) continue;
            const Problem<float> problem(70, n, k, seed++);
            for (const size_t m : {0, 1, 3, 63, 64, 65, 70}) VERIFY_RIGHT(problem.run<float>(device, plans, m));
            const std::vector<float> all = problem.values<float>(device, plans, 0, 70);
            const std::vector<float> last = problem.values<float>(device, plans, 69, 1);
            QVERIFY(std::memcmp(all.data() + 69 * n, last.data(), n * sizeof(float)) == 0);
        }
    }

    // x or w in the middle of a row: no 16-byte loads.
    void misaligned() {
        SKIP_WITHOUT_GPU();
        misaligned_<bf16>();
        misaligned_<f16>();
    }

    void severalProductsAtOnce() {
        SKIP_WITHOUT_GPU();
        CudaDevice device;
        MatmulPlans plans, invariant(true);
        const size_t k = cases(576, 192);
        const Problem<bf16> q(70, cases(576, 136), k, 60), key(70, 193, k, 62), v(70, 40, k, 64);
        for (MatmulPlans* p : {&plans, &invariant})
            for (const size_t m : {1, 9, 30, 70}) {
                Output<bf16> out_q(m * q.n), out_k(m * key.n), out_v(m * v.n);
                const auto product = [](const Output<bf16>& out, const Problem<bf16>& from) {
                    return MatmulProduct<bf16, bf16>{out.data(), from.device_x.data(), from.device_w.data(),
                                                     int64_t(from.n)};
                };
                const std::array<MatmulProduct<bf16, bf16>, 3> three{product(out_q, q), product(out_k, key),
                                                                     product(out_v, v)};
                matmul<bf16, bf16>(device, *p, three, int64_t(m), int64_t(k));
                VERIFY_RIGHT(out_q.wrong(q.want_of(m), kRounding<bf16>));
                VERIFY_RIGHT(out_k.wrong(key.want_of(m), kRounding<bf16>));
                VERIFY_RIGHT(out_v.wrong(v.want_of(m), kRounding<bf16>));
                // Alone or with others, empty ones between: the same bits.
                Output<bf16> alone(m * key.n);
                const std::array<MatmulProduct<bf16, bf16>, 2> with_empty{MatmulProduct<bf16, bf16>{},
                                                                          product(alone, key)};
                matmul<bf16, bf16>(device, *p, with_empty, int64_t(m), int64_t(k));
                QVERIFY(std::memcmp(alone.values().data(), out_k.values().data(), m * key.n * sizeof(bf16)) == 0);
            }
        const Problem<float> gate(5, 65, 50, 66), up(5, 65, 50, 68);
        Output<float> out_gate(5 * 65), out_up(5 * 65);
        const std::array<MatmulProduct<float, float>, 2> two{
            MatmulProduct<float, float>{out_gate.data(), gate.device_x.data(), gate.device_w.data(), 65},
            MatmulProduct<float, float>{out_up.data(), up.device_x.data(), up.device_w.data(), 65}};
        matmul<float, float>(device, plans, two, 5, 50);
        VERIFY_RIGHT(out_gate.wrong(gate.want, kRounding<float>));
        VERIFY_RIGHT(out_up.wrong(up.want, kRounding<float>));
    }

    void batchInvariance() {
        SKIP_WITHOUT_GPU();
        batch_invariance_<bf16>();
        batch_invariance_<f16>();
    }

    // All kernels of a batch-invariant product, whichever of them serves this GPU: the same bits.
    void invariantKernelsAgree() {
        SKIP_WITHOUT_GPU();
        invariant_kernels_agree_<bf16>();
        invariant_kernels_agree_<f16>();
    }

    // W cut for all multiprocessors: rows of a CTA that are no whole tiles, one piece of k and two, several waves.
    void spread() {
        SKIP_WITHOUT_GPU();
        CudaDevice device;
        if (!has_warpgroup_products(device.compute_capability()))
            QSKIP("this GPU, or this build, has no warpgroup products");
        spread_<bf16>(device);
        spread_<f16>(device);
    }

    // out += x * w^T, where cuBLASLt computes it.
    void onto() {
        SKIP_WITHOUT_GPU();
        onto_<bf16>();
        onto_<f16>();
        const Problem<float> problem(2, 16, 64, 90);
        const Output<float> out(32);
        const MatmulProduct<float, float> one{out.data(), problem.device_x.data(), problem.device_w.data(), 16};
        MatmulPlans plans;
        QVERIFY(!can_multiply_onto<float>(plans, {&one, 1}, 2, 64));
    }

    void sameBitsEveryTime() {
        SKIP_WITHOUT_GPU();
        CudaDevice device;
        MatmulPlans plans;
        const Problem<bf16> problem(96, cases(1000, 200), cases(1024, 512), 80);
        for (const size_t m : {1, 12, 32, 96}) {
            const std::vector<float> first = problem.values<float>(device, plans, 0, m);
            for (int i = 0; i < cases(5, 1); ++i)
                QVERIFY(std::memcmp(first.data(), problem.values<float>(device, plans, 0, m).data(),
                                    first.size() * sizeof(float)) == 0);
        }
    }

    // On the CPU: what lies equally far apart is one run.
    void runs() {
        std::vector<bf16> memory(1024);
        bf16* const p = memory.data();
        using Product = MatmulProduct<bf16, bf16>;
        const auto count_of = [](std::vector<Product> products) { return leading_run<bf16, bf16>(products, 8).count; };
        QCOMPARE(count_of({{p, p, p, 8}}), 1);
        QCOMPARE(count_of({{p, p, p, 8}, {p + 64, p, p + 128, 8}, {p + 128, p, p + 256, 8}}), 3);
        QCOMPARE(count_of({{p, p, p, 8}, {p + 64, p, p + 128, 8}, {p + 128, p, p + 264, 8}}), 2);
        QCOMPARE(count_of({{p, p, p, 8}, {p + 64, p, p + 128, 4}, {p + 128, p, p + 256, 4}}), 1);
        QCOMPARE(count_of({{p, p, p, 8}, {p, p, p + 128, 8}}), 1);       // the same output
        QCOMPARE(count_of({{p, p, p, 8}, {p + 56, p, p + 128, 8}}), 1);  // outputs overlap
        QCOMPARE(count_of({{p, p, p, 8}, {p + 4, p, p + 128, 8}}), 1);   // not whole pieces of 16 bytes
        QCOMPARE(count_of({{p + 64, p, p, 8}, {p, p, p + 128, 8}}), 1);  // backwards
        QCOMPARE(count_of({{}, {p, p, p, 8}}), 1);
        const auto run = leading_run<bf16, bf16>(std::vector<Product>{{p, p, p, 8}, {p + 64, p + 32, p + 128, 8}}, 8);
        QCOMPARE(run.out_step, 64);
        QCOMPARE(run.x_step, 32);
        QCOMPARE(run.w_step, 128);
    }

    // Three products as one, with an input each or one for all, before and after they have been timed.
    void equallySpaced() {
        SKIP_WITHOUT_GPU();
        equally_spaced_<bf16>();
        equally_spaced_<f16>();
    }

    void plansAreKept() {
        SKIP_WITHOUT_GPU();
        CudaDevice device;
        QTemporaryDir folder;
        const std::string file = folder.filePath("plans.txt").toStdString();
        const int64_t m = 48, n = cases(512, 136), k = cases(512, 128);
        const DeviceArray<bf16> x(random_values<bf16>(size_t(m * k), 1)), w(random_values<bf16>(size_t(n * k), 2));
        DeviceArray<bf16> out(size_t(m * n));
        const MatmulRun<bf16, bf16> run{.first = {out.data(), x.data(), w.data(), n}};
        const auto prepare = [&](MatmulPlans& plans) { return plans.prepare<bf16, bf16>(device, {&run, 1}, m, k); };
        MatmulPlans first(false, file);
        const MatmulPlans::Choice chosen = prepare(first);
        QVERIFY(chosen.candidates > 0);
        first.save();
        MatmulPlans second(false, file);
        const MatmulPlans::Choice known = prepare(second);
        QCOMPARE(known.candidates, 0);
        QCOMPARE(known.kernel, chosen.kernel);
        const MatmulRun<f16, f16> other_type{.first = {reinterpret_cast<f16*>(out.data()),
                                                       reinterpret_cast<const f16*>(x.data()),
                                                       reinterpret_cast<const f16*>(w.data()), n}};
        QVERIFY((second.prepare<f16, f16>(device, {&other_type, 1}, m, k).candidates > 0));
        // Of another machine, or damaged: found again.
        QFile kept(QString::fromStdString(file));
        QVERIFY(kept.open(QIODevice::ReadOnly));
        const QByteArray text = kept.readAll();
        kept.close();
        for (const QByteArray& other : {"another " + text, text.left(text.size() / 2), QByteArray("\0\1", 2)}) {
            QVERIFY(kept.open(QIODevice::WriteOnly));
            kept.write(other);
            kept.close();
            MatmulPlans third(false, file);
            QVERIFY(prepare(third).candidates > 0);
        }
    }

    void preparedAndCaptured() {
        SKIP_WITHOUT_GPU();
        prepared_and_captured_<bf16>();
        prepared_and_captured_<f16>();
    }

private:
    template <class T>
    static void square_() {
        CudaDevice device;
        MatmulPlans plans;
        const size_t side = cases(4096, 320);
        const Problem<T> problem(256, side, side, 1);
        for (const size_t m : {1, 7, 8, 9, 16, 17, 31, 32, 33, 48, 64, 65, 96, 256}) {
            VERIFY_RIGHT(problem.template run<T>(device, plans, m));
            VERIFY_RIGHT(problem.template run<float>(device, plans, m));
        }
    }

    template <class T>
    static void odd_sizes_() {
        CudaDevice device;
        MatmulPlans plans, invariant(true);
        uint32_t seed = 10;
        for (const auto& [n, k] : std::vector<std::pair<size_t, size_t>>{
                 {70, 48}, {70, 64}, {71, 128}, {1, 64}, {33, 1088}, {257, 1}, {100, 7}, {192, 2560}, {31, 11008}}) {
            if (small_cases() && n * k > 40'000) continue;
            const Problem<T> problem(130, n, k, seed++);
            for (const size_t m :
                 cases<std::vector<size_t>>({0, 1, 5, 8, 13, 24, 32, 33, 64, 97, 130}, {5, 13, 24, 33, 97})) {
                VERIFY_RIGHT(problem.template run<T>(device, plans, m));
                VERIFY_RIGHT(problem.template run<float>(device, plans, m));
                VERIFY_RIGHT(problem.template run<T>(device, invariant, m));
            }
        }
    }

    template <class T>
    static void misaligned_() {
        CudaDevice device;
        MatmulPlans plans;
        constexpr size_t m = 3, n = 70, k = 128;
        const auto x = random_values<T>(m * k + 1, 50), w = random_values<T>(n * k + 1, 51);
        const DeviceArray<T> device_x(x), device_w(w);
        const auto behind_first = [](const std::vector<T>& v) { return std::vector<T>(v.begin() + 1, v.end()); };
        Output<T> out(m * n);
        matmul(device, plans, out.data(), device_x.data() + 1, device_w.data() + 1, m, n, k);
        VERIFY_RIGHT(out.wrong(exact_product(behind_first(x), behind_first(w), m, n, k), kRounding<T>));
        Output<T> shifted(m * n + 1);  // out may lie anywhere
        matmul(device, plans, shifted.data() + 1, device_x.data(), device_w.data(), m, n, k);
        std::vector<T> values = shifted.values();
        QVERIFY(std::isnan(to_float(values[0])));
        values.erase(values.begin());
        QVERIFY(relative_error(values, exact_product(x, w, m, n, k)) < kTolerance<T>);
    }

    template <class T>
    static void batch_invariance_() {
        CudaDevice device;
        MatmulPlans plans(true);
        const std::vector<std::pair<size_t, size_t>> sizes{{4096, 4096}, {130, 576}, {576, 1536}};
        for (const auto& [n, k] : cases(sizes, {{130, 320}, {33, 1088}})) {
            constexpr size_t kRows = 300;
            const Problem<T> problem(kRows, n, k, uint32_t(70 + n));
            const std::vector<float> all = problem.template values<float>(device, plans, 0, kRows);
            const std::vector<size_t> counts{1, 7, 8, 15, 16, 24, 32, 33, 64, 96, 97, 256};
            for (const size_t m : cases(counts, {8, 15, 24, 64, 96, 256})) {
                VERIFY_RIGHT(problem.template run<T>(device, plans, m));
                for (const size_t first : {size_t(0), size_t(3), kRows - m}) {
                    const std::vector<float> some = problem.template values<float>(device, plans, first, m);
                    QVERIFY2(std::memcmp(some.data(), all.data() + first * n, m * n * sizeof(float)) == 0,
                             text_of("n ", n, " k ", k, " m ", m, " from row ", first).c_str());
                }
            }
        }
    }

    template <class T>
    static void invariant_kernels_agree_() {
        CudaDevice device;
        const bool warpgroups = has_warpgroup_products(device.compute_capability());
        if (!warpgroups) qInfo("this GPU, or this build, has no warpgroup products");
        // Of 9 blocks of k some splits are empty; many rows of W have fewer pieces of k.
        for (const auto& [n, k] : std::vector<std::pair<size_t, size_t>>{
                 {257, 64}, {391, 576}, {4096, 4096}, {640, 11008}, {8200, 512}, {16390, 192}}) {
            constexpr size_t kRows = 200;
            const Problem<T> problem(kRows, n, k, uint32_t(170 + n));
            for (const size_t m : {1, 33, 64, 90, 96, 130, 200}) {
                using Kernel = void (*)(CudaDevice&, std::span<const MatmulProduct<float, T>>, int64_t, int64_t);
                const auto values = [&](Kernel kernel) {
                    Output<float> out(m * n);
                    const MatmulProduct<float, T> one{out.data(), problem.device_x.data(), problem.device_w.data(),
                                                      int64_t(n)};
                    kernel(device, {&one, 1}, int64_t(m), int64_t(k));
                    const std::string wrong = out.wrong(problem.want_of(m), kRounding<float>);
                    if (!wrong.empty()) qCritical("%s", wrong.c_str());
                    return wrong.empty() ? out.values() : std::vector<float>();
                };
                const std::vector<float> few = values([](auto& d, auto products, int64_t rows, int64_t depth) {
                    skinny_matmul<float, T>(d, products, rows, depth, true);
                });
                QVERIFY(!few.empty());
                const auto same = [&](const std::vector<float>& other) {
                    return other.size() == few.size() &&
                           std::memcmp(other.data(), few.data(), few.size() * sizeof(float)) == 0;
                };
                const std::string what = text_of("n ", n, " k ", k, " m ", m);
                QVERIFY2(same(values(wide_matmul<float, T>)), what.c_str());
                if (warpgroups) QVERIFY2(same(values(wide_hopper_matmul<float, T>)), what.c_str());
            }
        }
    }

    template <class T>
    static void spread_(CudaDevice& device) {
        const std::vector<std::pair<size_t, size_t>> sizes{{1, 64},     {30, 192},    {257, 128},   {391, 576},
                                                           {4096, 64},  {8200, 192},  {12288, 512}, {22016, 320},
                                                           {40001, 64}, {4096, 4096}, {640, 11008}};
        uint32_t seed = 270;
        for (const auto& [n, k] : cases(sizes, {{1, 64}, {257, 128}, {391, 576}})) {
            const Problem<T> problem(128, n, k, seed++);
            for (const size_t m : {1, 9, 32, 33, 64, 90, 96, 97, 128}) {
                if (n > 10'000 && m % 32 != 0) continue;
                const auto wrong = [&](const auto& out, auto* to) {
                    using Out = std::remove_pointer_t<decltype(to)>;
                    const MatmulProduct<Out, T> one{to, problem.device_x.data(), problem.device_w.data(), int64_t(n)};
                    spread_matmul<Out, T>(device, {&one, 1}, int64_t(m), int64_t(k));
                    const std::string what = out.wrong(problem.want_of(m), kRounding<Out>);
                    return what.empty() ? "" : text_of("m ", m, " n ", n, " k ", k, ": ", what);
                };
                Output<float> sums(m * n);
                VERIFY_RIGHT(wrong(sums, sums.data()));
                Output<T> out(m * n);
                VERIFY_RIGHT(wrong(out, out.data()));
            }
        }
        // Three at once, one of them empty, an input each, an output that lies anywhere.
        const size_t k = cases(1024, 320);
        const Problem<T> q(96, cases(1000, 136), k, seed), v(96, 193, k, seed + 2);
        for (const size_t m : {9, 40, 96}) {
            Output<T> out_q(m * q.n), out_v(m * v.n + 1);
            const std::array<MatmulProduct<T, T>, 3> three{
                MatmulProduct<T, T>{out_q.data(), q.device_x.data(), q.device_w.data(), int64_t(q.n)},
                MatmulProduct<T, T>{},
                MatmulProduct<T, T>{out_v.data() + 1, v.device_x.data(), v.device_w.data(), int64_t(v.n)}};
            spread_matmul<T, T>(device, three, int64_t(m), int64_t(k));
            VERIFY_RIGHT(out_q.wrong(q.want_of(m), kRounding<T>));
            std::vector<T> values = out_v.values();
            QVERIFY(std::isnan(to_float(values[0])));
            values.erase(values.begin());
            QVERIFY(relative_error(values, v.want_of(m)) < kTolerance<T>);
            const std::vector<T> first = out_q.values();
            spread_matmul<T, T>(device, three, int64_t(m), int64_t(k));
            QVERIFY(std::memcmp(first.data(), out_q.values().data(), first.size() * sizeof(T)) == 0);
        }
    }

    template <class T>
    static void onto_() {
        CudaDevice device;
        MatmulPlans plans, invariant(true);
        const size_t n = cases(1000, 136), k = cases(512, 128);
        const Problem<T> q(300, n, k, 91), v(300, 40, k, 93);
        for (const size_t m : cases<std::vector<size_t>>({8, 130, 300}, {8, 130})) {
            const auto before = random_values<T>(m * (q.n + v.n), 95);
            const DeviceArray<T> out(before);
            const std::array<MatmulProduct<T, T>, 2> two{
                MatmulProduct<T, T>{out.data(), q.device_x.data(), q.device_w.data(), int64_t(q.n)},
                MatmulProduct<T, T>{out.data() + m * q.n, v.device_x.data(), v.device_w.data(), int64_t(v.n)}};
            QVERIFY(!can_multiply_onto<T>(invariant, two, int64_t(m), int64_t(k)));
            QVERIFY(!can_multiply_onto<T>(plans, two, int64_t(m), int64_t(k - 8)));
            QCOMPARE(can_multiply_onto<T>(plans, two, int64_t(m), int64_t(k)), m > 128);
            if (m <= 128) continue;
            auto misaligned = two;
            ++misaligned[1].out;
            QVERIFY(!can_multiply_onto<T>(plans, misaligned, int64_t(m), int64_t(k)));
            QVERIFY(multiply_onto<T>(device, plans, two, int64_t(m), int64_t(k)));
            std::vector<double> want = q.want_of(m);
            const std::vector<double> of_v = v.want_of(m);
            want.insert(want.end(), of_v.begin(), of_v.end());
            const std::vector<T> got = out.read();
            for (size_t i = 0; i < want.size(); ++i) {
                const double product = std::abs(want[i]);  // may be rounded as well
                want[i] += double(to_float(before[i]));
                const double off = std::abs(double(to_float(got[i])) - want[i]);
                QVERIFY2(off <= kRounding<T> * (product + std::abs(want[i]) + 0.25),
                         text_of("m ", m, " [", i, "] got ", to_float(got[i]), ", want ", want[i], ", before ",
                                 to_float(before[i]))
                             .c_str());
            }
        }
    }

    template <class T>
    static void equally_spaced_() {
        CudaDevice device;
        MatmulPlans plans;
        constexpr size_t kCount = 3, kRows = 100;
        const size_t n = cases(320, 136), k = cases(512, 128);
        const Problem<T> all(kCount * kRows, kCount * n, k, 95);
        for (const bool prepared : {false, true})
            for (const size_t m : cases<std::vector<size_t>>({9, 16, 32, 40, 100}, {9, 40}))
                for (const bool shared : {false, true}) {
                    Output<T> out(kCount * m * n);
                    std::vector<MatmulProduct<T, T>> products;
                    for (size_t i = 0; i < kCount; ++i)
                        products.push_back({out.data() + i * m * n, all.device_x.data() + (shared ? 0 : i * kRows * k),
                                            all.device_w.data() + i * n * k, int64_t(n)});
                    const auto run = leading_run<T, T>(products, int64_t(m));
                    QCOMPARE(run.count, int64_t(kCount));
                    if (prepared) plans.prepare<T, T>(device, {&run, 1}, int64_t(m), int64_t(k));
                    matmul<T, T>(device, plans, products, int64_t(m), int64_t(k));
                    std::vector<double> want;
                    for (size_t i = 0; i < kCount; ++i)
                        for (size_t row = 0; row < m; ++row) {
                            const size_t from = (shared ? 0 : i * kRows) + row;
                            const double* const wanted = all.want.data() + from * kCount * n + i * n;
                            want.insert(want.end(), wanted, wanted + n);
                        }
                    VERIFY_RIGHT(out.wrong(want, kRounding<T>));
                }
    }

    template <class T>
    static void prepared_and_captured_() {
        CudaDevice device;
        MatmulPlans plans;
        constexpr size_t kRows = 256;
        const size_t n = cases(1024, 136), k = cases(2048, 256);
        const Problem<T> problem(kRows, n, k, 90);
        const DeviceArray<T> other_w(problem.w);
        const std::array<const T*, 2> layers{problem.device_w.data(), other_w.data()};
        Output<T> scratch(kRows * n);
        DeviceArray<float> logits(kRows * n);
        for (const int64_t m : cases<std::vector<int64_t>>({16, 32, 48, 64, 96, 256}, {48, 256})) {
            std::vector<MatmulRun<T, T>> runs;
            std::vector<MatmulRun<float, T>> float_runs;
            for (const T* w : layers) {
                runs.push_back({.first = {scratch.data(), problem.device_x.data(), w, int64_t(n)}});
                float_runs.push_back({.first = {logits.data(), problem.device_x.data(), w, int64_t(n)}});
            }
            for (const auto& choice : {plans.prepare<T, T>(device, runs, m, int64_t(k)),
                                       plans.prepare<float, T>(device, float_runs, m, int64_t(k))}) {
                QVERIFY(choice.candidates >= 1);
                QVERIFY(choice.us > 0.5 && (choice.us < 5000 || small_cases()));  // a sanitizer has no hurry
                QVERIFY(m <= 96 || choice.kernel != ProductKernel::skinny);
            }
            // The plan of a bucket serves what is in it.
            for (const int64_t below : {m, m - 1, m - 13}) {
                VERIFY_RIGHT(problem.template run<T>(device, plans, size_t(below)));
                VERIFY_RIGHT(problem.template run<float>(device, plans, size_t(below)));
            }
        }
        for (const size_t m : {4, 48, 96, 200, 256}) {  // 200 is in 256's bucket
            Output<T> out(m * n);
            cudaGraph_t graph = nullptr;
            cudaGraphExec_t executable = nullptr;
            CHECK_CUDA(cudaStreamBeginCapture(device.stream(), cudaStreamCaptureModeThreadLocal));
            for (int i = 0; i < 3; ++i)
                matmul(device, plans, out.data(), problem.device_x.data(), problem.device_w.data(), int64_t(m),
                       int64_t(n), int64_t(k));
            CHECK_CUDA(cudaStreamEndCapture(device.stream(), &graph));
            CHECK_CUDA(cudaGraphInstantiate(&executable, graph, 0));
            CHECK_CUDA(cudaGraphLaunch(executable, device.stream()));
            device.synchronize();
            VERIFY_RIGHT(out.wrong(problem.want_of(m), kRounding<T>));
            CHECK_CUDA(cudaGraphExecDestroy(executable));
            CHECK_CUDA(cudaGraphDestroy(graph));
        }
    }
};

QTEST_GUILESS_MAIN(CudaMatmulTest)
#include "matmul_test.moc"
