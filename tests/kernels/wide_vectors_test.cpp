// The inner loops over 16 lanes, with AVX-512's tile sizes and pairwise bf16 product, on any processor: the compiler's
// vector extension stands in for the instructions. What only the instructions themselves could get wrong is left to
// machines that have them (the other tests run there at those levels).
#pragma GCC diagnostic ignored "-Wpsabi"  // nothing here is called from another file
#define SPARTAN_GENERIC_LANES 16
#define Vec GenericVec
#include "kernels/cpu/simd/vec_generic.h"
#undef Vec

namespace spartan {
namespace {

struct Vec : GenericVec {
    static constexpr int kAccumulators = 24;
    static constexpr bool kDotsPairs = true;
    SIMD F dot_pairs(const uint32_t* x, const bf16* w, F c) {
        const uint32_t pair = *x;
        const F first = set1(__builtin_bit_cast(float, pair << 16));
        const F second = set1(__builtin_bit_cast(float, pair & 0xffff0000u));
        return fma(second, pair_second(w), fma(first, pair_first(w), c));
    }
};

}  // namespace
}  // namespace spartan

#include "kernel_testing.h"
#include "kernels/cpu/simd/kernels.h"
//
#include "kernels/cpu/simd/tiles.h"
#include "kernels/matmul.h"

using namespace spartan;

namespace {

// Both tables multiply and add without fusing, one chain per output in rising k: the bits must be the same.
template <class T>
void compare_matmul() {
    Random random(1);
    for (int round = 0; round < 60; ++round) {
        const int64_t m = random.between(0, 40), n = random.between(1, 200),
                      k = round % 4 ? random.between(1, 300) : 800;
        const auto x = random.normals(m * k), values = random.normals(n * k);
        PackedMatrix<T> w(n, k);
        w.set_rows(0, n, values.data());
        std::vector<float> want(size_t(m * n), NAN), got(size_t(m * n), NAN);
        CpuDevice device(1, CpuIsa::generic);
        matmul(device, view(want, m, n), view(x, m, k), w);

        const int64_t padded = k + k % 2;
        const bool f32 = std::is_same_v<T, float>;
        std::vector<uint16_t> pairs(size_t(m * padded));
        for (int64_t i = 0; i < m; ++i) kKernels.prepare_bf16(pairs.data() + i * padded, x.data() + i * k, k);
        MatmulBlock block{.out = got.data(),
                          .out_stride = n,
                          .x = f32 ? static_cast<const void*>(x.data()) : pairs.data(),
                          .x_stride = f32 ? k * 4 : padded * 2,
                          .rows = m,
                          .panels = w.data(),
                          .columns = n,
                          .steps = f32 ? k : padded / 2,
                          .panel_begin = 0,
                          .panel_end = 0};
        const int64_t panels = (n + kPanel - 1) / kPanel, split = random.between(0, panels);
        for (const auto& [begin, end] : {std::pair{int64_t(0), split}, std::pair{split, panels}}) {
            block.panel_begin = begin;
            block.panel_end = end;
            (f32 ? kKernels.matmul_f32 : kKernels.matmul_bf16)(block);
        }
        VERIFY_CASE(same_bits(got.data(), want.data(), m * n), text_of("M ", m, " N ", n, " K ", k));
    }
}

// The tile registers as plain memory. Rows and columns beyond the configured ones are neither read nor written.
struct PlainTiles {
    static inline float sums[4][16][16];
    static inline bf16 operands[8][16][32];
    static inline int64_t rows[8];

    static void configure(int64_t low, int64_t high) {
        const int64_t all[8] = {low, low, high, high, low, high, 16, 16};
        std::copy(all, all + 8, rows);
    }
    static void release() { std::fill(rows, rows + 8, 0); }
    template <int N>
    static void load(const void* from, int64_t stride) {
        for (int64_t r = 0; r < rows[N]; ++r)
            std::memcpy(operands[N][r], static_cast<const char*>(from) + r * stride, 64);
    }
    template <int N>
    static void store(void* to, int64_t stride) {
        for (int64_t r = 0; r < rows[N]; ++r) std::memcpy(static_cast<char*>(to) + r * stride, sums[N][r], 64);
    }
    template <int N>
    static void zero() {
        for (auto& row : sums[N]) std::fill(row, row + 16, 0.f);
    }
    template <int Sum, int X, int W>
    static void dot() {
        for (int64_t r = 0; r < rows[X]; ++r)
            for (int64_t n = 0; n < 16; ++n)
                for (int64_t k = 0; k < 32; ++k)
                    sums[Sum][r][n] += to_float(operands[X][r][k]) * to_float(operands[W][k / 2][2 * n + k % 2]);
    }
};

void compare_tiles() {
    Random random(5);
    for (int round = 0; round < 60; ++round) {
        const int64_t m = random.between(0, 70), n = random.between(1, 150),
                      k = round % 4 ? random.between(1, 200) : 64;
        const auto x = random.normals(m * k), values = random.normals(n * k);
        PackedMatrix<bf16> w(n, k);
        w.set_rows(0, n, values.data());
        std::vector<double> want;
        for (int64_t i = 0; i < m * n; ++i) {
            double sum = 0;
            for (int64_t j = 0; j < k; ++j)
                sum += double(to_float(from_float<bf16>(x[size_t(i / n * k + j)]))) *
                       double(to_float(from_float<bf16>(values[size_t(i % n * k + j)])));
            want.push_back(sum);
        }
        const int64_t stride = (k + 31) / 32 * 32;
        std::vector<bf16> lines(size_t(m * stride), from_float<bf16>(NAN));
        for (int64_t i = 0; i < m; ++i) prepare_bf16_lines(lines.data() + i * stride, x.data() + i * k, k);
        std::vector<float> got(size_t(m * n), NAN);
        const int64_t panels = (n + kPanel - 1) / kPanel, split = random.between(0, panels);
        for (const auto& [begin, end] : {std::pair{int64_t(0), split}, std::pair{split, panels}})
            matmul_tiles<PlainTiles>({.out = got.data(),
                                      .out_stride = n,
                                      .x = lines.data(),
                                      .x_stride = stride * 2,
                                      .rows = m,
                                      .panels = w.data(),
                                      .columns = n,
                                      .steps = (k + 1) / 2,
                                      .panel_begin = begin,
                                      .panel_end = end});
        const std::string wrong = mismatch(got, want, 2.5e-7 * double(k) + 1e-6);
        VERIFY_CASE(wrong.empty(), text_of("M ", m, " N ", n, " K ", k, " ", wrong));
    }
}

}  // namespace

class WideVectorsTest : public QObject {
    Q_OBJECT

private slots:
    void tileSizes() {
        QCOMPARE(int(kTileRows), 12);
        QCOMPARE(int(kWidePanels), 2);
        QCOMPARE(kKernels.prepared_bf16_size, int64_t(2));
    }
    void matmulF32() { compare_matmul<float>(); }
    void matmulBf16() { compare_matmul<bf16>(); }
    void matmulByTiles() { compare_tiles(); }

    void rotation() {
        Random random(2);
        for (const int64_t group : {1, 3, 4, 7, 8, 16, 17, 32, 48, 64, 100}) {
            const int64_t groups = random.between(1, 5), rows = random.between(1, 30), dim = group * groups;
            const auto x = random.normals(rows * dim);
            const auto blocks = stored_as<bf16>(random.normals(dim * group));
            std::vector<float> want(x.size(), NAN), got(x.size(), NAN);
            RotateBlock<bf16> b{want.data(), x.data(), dim, rows, blocks.data(), group, groups};
            kGenericKernels.rotate_bf16(b);
            b.out = got.data();
            kKernels.rotate_bf16(b);
            VERIFY_CASE(same_bits(got.data(), want.data(), rows * dim), text_of("group ", group));
        }
    }

    void lowRank() {
        Random random(3);
        for (int round = 0; round < 20; ++round) {
            const int64_t rows = random.between(1, 9), in = random.between(1, 200), out = random.between(1, 200),
                          rank = random.between(1, 20);
            const auto x = random.normals(rows * in), y = random.normals(rows * out);
            const auto a = stored_as<bf16>(random.normals(rank * in)),
                       b_t = stored_as<bf16>(random.normals(rank * out));
            std::vector<float> low(size_t(rows * rank)), want = y, got = y;
            kKernels.shrink_bf16({low.data(), rank, x.data(), rows, in, a.data(), rank, 0.5f});
            std::vector<double> dots;
            for (int64_t i = 0; i < rows * rank; ++i) {
                double sum = 0;
                for (int64_t k = 0; k < in; ++k)
                    sum += double(x[size_t(i / rank * in + k)]) * double(to_float(a[size_t(i % rank * in + k)]));
                dots.push_back(sum * 0.5);
            }
            const std::string wrong = mismatch(low, dots, 1e-4);
            VERIFY_CASE(wrong.empty(), wrong);
            kGenericKernels.expand_bf16({want.data(), out, low.data(), rank, rows, b_t.data(), out, out, rank});
            kKernels.expand_bf16({got.data(), out, low.data(), rank, rows, b_t.data(), out, out, rank});
            QVERIFY(same_bits(got.data(), want.data(), rows * out));
        }
    }

    void attention() {
        Random random(4);
        for (int round = 0; round < 20; ++round) {
            const int64_t heads = random.between(1, 4), head_dim = random.between(1, 70),
                          block = round % 2 ? 16 : random.between(1, 40);
            const int64_t rows = random.between(1, 9), first = random.between(0, 60),
                          pages = (first + rows + block - 1) / block;
            const auto pool = random.normals(pages * 2 * block * head_dim), q = random.normals(rows * heads * head_dim);
            std::vector<int32_t> order;
            for (int64_t p = pages; p-- > 0;) order.push_back(int32_t(p));
            std::vector<float> scratch(size_t(attend_scratch_floats(rows * heads, head_dim, block))), want(q.size()),
                got(q.size());
            AttendBlock<float> b{.out = want.data(),
                                 .q = q.data(),
                                 .stride = heads * head_dim,
                                 .rows = rows,
                                 .first_position = first,
                                 .heads = heads,
                                 .head_dim = head_dim,
                                 .block_tokens = block,
                                 .pages = order.data(),
                                 .pool = pool.data(),
                                 .page_elements = 2 * block * head_dim,
                                 .key_offset = 0,
                                 .value_offset = block * head_dim,
                                 .scale = 0.3f,
                                 .scratch = scratch.data()};
            kGenericKernels.attend_f32(b);
            b.out = got.data();
            kKernels.attend_f32(b);
            const std::string wrong = mismatch(got, std::vector<double>(want.begin(), want.end()), 1e-5);
            VERIFY_CASE(wrong.empty(), wrong);
        }
    }

    void rowKernels() {
        Random random(5);
        for (const int64_t n : {1, 15, 16, 17, 64, 100, 577}) {
            const auto x = random.normals(n), w = random.normals(n);
            std::vector<float> want(x.size()), got(x.size());
            kGenericKernels.rms_norm(want.data(), x.data(), w.data(), n, 1e-5f);
            kKernels.rms_norm(got.data(), x.data(), w.data(), n, 1e-5f);
            QVERIFY(mismatch(got, std::vector<double>(want.begin(), want.end()), 1e-5).empty());
            kGenericKernels.silu_mul(want.data(), x.data(), w.data(), n);
            kKernels.silu_mul(got.data(), x.data(), w.data(), n);
            QVERIFY(same_bits(got.data(), want.data(), n));
            for (const auto gate : {&CpuKernels::gelu_mul, &CpuKernels::gelu_tanh_mul}) {
                (kGenericKernels.*gate)(want.data(), x.data(), w.data(), n);
                (kKernels.*gate)(got.data(), x.data(), w.data(), n);
                QVERIFY(same_bits(got.data(), want.data(), n));
            }
            std::vector<int32_t> a(x.size()), b(x.size());
            kGenericKernels.weigh_logits(a.data(), x.data(), n, 4.f, 0.7f);
            kKernels.weigh_logits(b.data(), x.data(), n, 4.f, 0.7f);
            QCOMPARE(a, b);
        }
    }
};

QTEST_GUILESS_MAIN(WideVectorsTest)
#include "wide_vectors_test.moc"
