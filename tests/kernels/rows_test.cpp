// The kernels that work on one row at a time: norm, rotary embedding, SwiGLU, addition.
#include "kernel_testing.h"
#include "kernels/elementwise.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"

using namespace spartan;

namespace {

std::string describe(CpuIsa isa, int64_t rows, int64_t dim) {
    return text_of(name_of(isa), " rows ", rows, " dim ", dim, " ");
}

// Runs `kernel(device, rows, first)` for all rows at once and row by row: the bits must be the same.
template <class Kernel>
void check_row_invariance(CpuIsa isa, int64_t rows, int64_t dim, const Kernel& kernel) {
    CpuDevice one(1, isa), many(3, isa);
    std::vector<float> all(size_t(rows * dim), NAN), single(size_t(rows * dim), NAN);
    kernel(many, view(all, rows, dim), int64_t(0));
    for (int64_t i = 0; i < rows; ++i) kernel(one, View<float, 2>{single.data() + i * dim, {1, dim}}, i);
    VERIFY_CASE(same_bits(all.data(), single.data(), rows * dim), describe(isa, rows, dim));
}

}  // namespace

class RowsTest : public QObject {
    Q_OBJECT

private slots:
    void rmsNorm() {
        Random random(1);
        for (const auto& [rows, dim] :
             std::vector<std::pair<int64_t, int64_t>>{{0, 8}, {1, 1}, {3, 17}, {70, 576}, {5, 4100}}) {
            const auto x = random.normals(rows * dim, 3), weight = random.normals(dim);
            std::vector<double> want;
            for (int64_t t = 0; t < rows; ++t) {
                double sum = 0;
                for (int64_t i = 0; i < dim; ++i)
                    sum += double(x[size_t(t * dim + i)]) * double(x[size_t(t * dim + i)]);
                for (int64_t i = 0; i < dim; ++i)
                    want.push_back(double(x[size_t(t * dim + i)]) / std::sqrt(sum / double(dim) + 1e-5) *
                                   double(weight[size_t(i)]));
            }
            for (const CpuIsa isa : isa_levels()) {
                CpuDevice device(2, isa);
                std::vector<float> out = x;  // in place
                rms_norm(device, view(out, rows, dim), view(std::as_const(out), rows, dim), {weight.data(), {dim}},
                         1e-5f);
                const std::string wrong = mismatch(out, want, 2e-6);
                VERIFY_CASE(wrong.empty(), text_of(describe(isa, rows, dim), wrong));
                check_row_invariance(isa, rows, dim, [&](CpuDevice& d, View<float, 2> o, int64_t first) {
                    rms_norm(d, o, {x.data() + first * dim, o.shape}, {weight.data(), {dim}}, 1e-5f);
                });
            }
        }
    }

    void rope_() {
        Random random(2);
        struct Shape {
            int64_t rows, heads, head_dim, rotated;
        };
        for (const auto& [rows, heads, head_dim, rotated] : std::vector<Shape>{
                 {0, 1, 8, 8}, {1, 9, 64, 64}, {40, 3, 64, 64}, {7, 2, 10, 6}, {3, 1, 128, 128}, {2, 2, 6, 0}}) {
            const int64_t dim = heads * head_dim, half = rotated / 2;
            std::vector<float> inv_freq;
            for (int64_t i = 0; i < half; ++i) inv_freq.push_back(float(std::pow(1e4, -double(i) / double(half))));
            std::vector<int32_t> positions;
            for (int64_t t = 0; t < rows; ++t) positions.push_back(int32_t(t % 2 ? random.between(0, 131072) : t));
            const auto x = random.normals(rows * dim);
            std::vector<double> want(x.begin(), x.end());
            for (int64_t t = 0; t < rows; ++t)
                for (int64_t h = 0; h < heads; ++h)
                    for (int64_t i = 0; i < half; ++i) {
                        const double angle = double(float(positions[size_t(t)]) * inv_freq[size_t(i)]);
                        const size_t at = size_t(t * dim + h * head_dim + i), to = at + size_t(half);
                        want[at] = double(x[at]) * std::cos(angle) - double(x[to]) * std::sin(angle);
                        want[to] = double(x[to]) * std::cos(angle) + double(x[at]) * std::sin(angle);
                    }
            for (const CpuIsa isa : isa_levels()) {
                CpuDevice device(2, isa);
                auto out = x;
                rope(device, view(out, rows, dim), positions, inv_freq, head_dim);
                std::string wrong = mismatch(out, want, 1e-6);
                VERIFY_CASE(wrong.empty(), text_of(describe(isa, rows, dim), wrong));
                out = x;  // features that are not rotated are not scaled either
                rope(device, view(out, rows, dim), positions, inv_freq, head_dim, 1.25f);
                auto scaled = want;
                for (size_t i = 0; i < scaled.size(); ++i)
                    if (int64_t(i) % head_dim < 2 * half) scaled[i] *= 1.25;
                wrong = mismatch(out, scaled, 1e-6);
                VERIFY_CASE(wrong.empty(), text_of(describe(isa, rows, dim), wrong));
                check_row_invariance(isa, rows, dim, [&](CpuDevice& d, View<float, 2> o, int64_t first) {
                    std::copy_n(x.data() + first * dim, o.shape[0] * dim, o.data);
                    rope(d, o, std::span(positions).subspan(size_t(first), size_t(o.shape[0])), inv_freq, head_dim);
                });
            }
        }
    }

    void siluMul() {
        Random random(3);
        for (const auto& [rows, dim] : std::vector<std::pair<int64_t, int64_t>>{{0, 4}, {1, 1}, {3, 19}, {33, 1536}}) {
            auto gate = random.normals(rows * dim, 5);
            const auto up = random.normals(rows * dim);
            if (rows == 3) {
                gate[0] = 200;
                gate[1] = -200;
                gate[2] = 0;
                gate[3] = -85;
            }
            std::vector<double> want;
            for (size_t i = 0; i < gate.size(); ++i)
                want.push_back(double(gate[i]) / (1 + std::exp(-double(gate[i]))) * double(up[i]));
            for (const CpuIsa isa : isa_levels()) {
                CpuDevice device(2, isa);
                std::vector<float> out = gate;  // in place
                silu_mul(device, view(out, rows, dim), view(std::as_const(out), rows, dim), view(up, rows, dim));
                const std::string wrong = mismatch(out, want, 1e-6);
                VERIFY_CASE(wrong.empty(), text_of(describe(isa, rows, dim), wrong));
                check_row_invariance(isa, rows, dim, [&](CpuDevice& d, View<float, 2> o, int64_t first) {
                    silu_mul(d, o, {gate.data() + first * dim, o.shape}, {up.data() + first * dim, o.shape});
                });
                if (rows == 0) continue;
                auto broken = gate;
                broken[0] = NAN;
                silu_mul(device, view(out, rows, dim), view(std::as_const(broken), rows, dim), view(up, rows, dim));
                QVERIFY(std::isnan(out[0]));
            }
        }
    }

    void gelu() {
        Random random(6);
        for (const auto& [rows, dim] : std::vector<std::pair<int64_t, int64_t>>{{0, 4}, {1, 1}, {3, 19}, {33, 1536}}) {
            auto gate = random.normals(rows * dim, 4);
            const auto up = random.normals(rows * dim);
            const std::vector<float> corners{0, -0.f, 1e-20f, -1e-4f, 30, -30, 200, -200, 1e30f, -1e30f};
            if (rows == 3) std::copy(corners.begin(), corners.end(), gate.begin());
            std::vector<double> exact, tanh_form;
            for (size_t i = 0; i < gate.size(); ++i) {
                const double v = double(gate[i]), u = double(up[i]);
                exact.push_back(v / 2 * std::erfc(-v / std::sqrt(2.)) * u);
                tanh_form.push_back(v / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v))) * u);
            }
            for (const CpuIsa isa : isa_levels())
                for (const bool tanh : {false, true}) {
                    const auto kernel = tanh ? gelu_tanh_mul : gelu_mul;
                    CpuDevice device(2, isa);
                    std::vector<float> out = gate;  // in place
                    kernel(device, view(out, rows, dim), view(std::as_const(out), rows, dim), view(up, rows, dim));
                    const std::string wrong = mismatch(out, tanh ? tanh_form : exact, 2e-6);
                    VERIFY_CASE(wrong.empty(), text_of(describe(isa, rows, dim), tanh ? "tanh " : "erf ", wrong));
                    check_row_invariance(isa, rows, dim, [&](CpuDevice& d, View<float, 2> o, int64_t first) {
                        kernel(d, o, {gate.data() + first * dim, o.shape}, {up.data() + first * dim, o.shape});
                    });
                    if (rows == 0) continue;
                    auto broken = gate;
                    broken[0] = NAN;
                    kernel(device, view(out, rows, dim), view(std::as_const(broken), rows, dim), view(up, rows, dim));
                    QVERIFY(std::isnan(out[0]));
                }
        }
    }

    void scaling() {
        Random random(7);
        for (const int64_t dim : {1, 7, 16, 576, 50000}) {
            const auto a = random.normals(3 * dim), b = random.normals(3 * dim);
            for (const CpuIsa isa : isa_levels()) {
                CpuDevice device(2, isa);
                auto sum = a, product = a;
                add_scaled(device, view(sum, 3, dim), view(std::as_const(sum), 3, dim), view(b, 3, dim), 0.22f);
                scale(device, view(product, 3, dim), view(std::as_const(product), 3, dim), 0.22f);
                std::vector<double> want;
                for (size_t i = 0; i < a.size(); ++i) want.push_back(double(a[i]) + double(0.22f * b[i]));
                QVERIFY(mismatch(sum, want, 1e-7).empty());
                for (size_t i = 0; i < a.size(); ++i) QCOMPARE(product[i], a[i] * 0.22f);
            }
        }
    }

    void addition() {
        Random random(4);
        for (const int64_t dim : {1, 7, 16, 576, 50000}) {
            const auto a = random.normals(3 * dim), b = random.normals(3 * dim);
            for (const CpuIsa isa : isa_levels()) {
                CpuDevice device(2, isa);
                auto out = a;
                add(device, view(out, 3, dim), view(std::as_const(out), 3, dim), view(b, 3, dim));
                for (size_t i = 0; i < a.size(); ++i) QCOMPARE(out[i], a[i] + b[i]);
            }
        }
    }
};

QTEST_GUILESS_MAIN(RowsTest)
#include "rows_test.moc"
