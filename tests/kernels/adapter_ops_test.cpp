#include "kernels/adapter_ops.h"
#include "kernel_testing.h"

using namespace spartan;

namespace {

// Splits [0, rows) into segments, some empty, some rows in none.
std::vector<std::pair<int64_t, int64_t>> random_segments(Random& random, int64_t rows) {
    std::vector<std::pair<int64_t, int64_t>> segments;
    for (int64_t at = 0; at < rows;) {
        at += random.chance(0.3) ? random.between(0, 3) : 0;
        const int64_t end = std::min(rows, at + (random.chance(0.5) ? 1 : random.between(0, 20)));
        if (at <= end) segments.push_back({at, end});
        at = std::max(end, at);
    }
    return segments;
}

template <class T>
struct RotateCase {
    int64_t rows = 0, dim = 0;
    std::vector<float> x;
    std::vector<std::vector<T>> blocks;
    std::vector<RotateSegment<T>> segments;
    std::vector<double> want;
};

template <class T>
RotateCase<T> random_rotation(Random& random, int64_t rows, int64_t groups, int64_t group) {
    RotateCase<T> c;
    c.rows = rows;
    c.dim = groups * group;
    c.x = random.normals(rows * c.dim);
    c.want.assign(c.x.begin(), c.x.end());
    for (const auto& [begin, end] : random_segments(random, rows)) {
        if (random.chance(0.15)) {
            c.segments.push_back({begin, end, nullptr, 0});
            continue;
        }
        c.blocks.push_back(stored_as<T>(random.normals(c.dim * group)));
        c.segments.push_back({begin, end, c.blocks.back().data(), group});
        for (int64_t row = begin; row < end; ++row)
            for (int64_t i = 0; i < c.dim; ++i) {
                double sum = 0;
                for (int64_t u = 0; u < group; ++u)
                    sum += double(c.x[size_t(row * c.dim + i / group * group + u)]) *
                           double(to_float(c.blocks.back()[size_t((i / group * group + u) * group + i % group)]));
                c.want[size_t(row * c.dim + i)] = sum;
            }
    }
    return c;
}

template <class T>
void check_rotate() {
    Random random(1);
    for (const int64_t group : {1, 2, 3, 4, 5, 8, 16, 17, 24, 32, 33, 64, 100, 256}) {
        for (const int64_t rows : {0, 1, 5, 40}) {
            const auto c = random_rotation<T>(random, rows, random.between(1, 600 / group + 2), group);
            for (const CpuIsa isa : isa_levels())
                for (int threads = 1; threads <= 4; ++threads) {
                    const std::string text =
                        text_of(name_of(isa), " group ", group, " rows ", rows, " threads ", threads, " ");
                    CpuDevice device(threads, isa);
                    std::vector<float> out(c.x.size(), NAN), alone(size_t(c.dim), NAN);
                    rotate<T>(device, view(out, rows, c.dim), view(c.x, rows, c.dim), c.segments);
                    const std::string wrong = mismatch(out, c.want, 1e-6 * (double(group) + 4));
                    VERIFY_CASE(wrong.empty(), text_of(text, wrong));
                    for (const RotateSegment<T>& s : c.segments)
                        for (int64_t row = s.row_begin; row < s.row_end; ++row) {
                            const std::vector<RotateSegment<T>> single{{0, 1, s.blocks, s.group}};
                            rotate<T>(device, view(alone, 1, c.dim), {c.x.data() + row * c.dim, {1, c.dim}}, single);
                            VERIFY_CASE(same_bits(alone.data(), out.data() + row * c.dim, c.dim),
                                        text_of(text, "alone"));
                        }
                }
        }
    }
}

template <class T>
struct LoraCase {
    int64_t rows = 0, in = 0, out = 0;
    std::vector<float> x, y;
    std::vector<std::vector<T>> a, b_t;
    std::vector<LoraSegment<T>> segments;
    std::vector<double> want;
};

template <class T>
LoraCase<T> random_lora(Random& random, int64_t rows, int64_t in, int64_t out, bool one_segment) {
    LoraCase<T> c;
    c.rows = rows;
    c.in = in;
    c.out = out;
    c.x = random.normals(rows * in);
    c.y = random.normals(rows * out);
    c.want.assign(c.y.begin(), c.y.end());
    const std::vector<std::pair<int64_t, int64_t>> whole{{0, rows}};
    for (const auto& [begin, end] : one_segment ? whole : random_segments(random, rows)) {
        const int64_t rank = random.between(1, 20);
        c.a.push_back(stored_as<T>(random.normals(rank * in, 1 / std::sqrt(float(in)))));
        c.b_t.push_back(stored_as<T>(random.normals(rank * out)));
        const LoraSegment<T> s{begin, end, c.a.back().data(), c.b_t.back().data(), rank, 0.75f};
        c.segments.push_back(s);
        for (int64_t row = begin; row < end; ++row)
            for (int64_t r = 0; r < rank; ++r) {
                double sum = 0;
                for (int64_t k = 0; k < in; ++k)
                    sum += double(c.x[size_t(row * in + k)]) * double(to_float(s.a[r * in + k]));
                for (int64_t n = 0; n < out; ++n)
                    c.want[size_t(row * out + n)] += double(s.scale) * sum * double(to_float(s.b_t[r * out + n]));
            }
    }
    return c;
}

template <class T>
void check_lora() {
    Random random(2);
    for (int round = 0; round < 24; ++round) {
        const int64_t rows = round == 0 ? 0 : round % 4 == 1 ? 1 : random.between(1, 70);
        const int64_t in = round % 3 ? random.between(1, 300) : 2048, out = round % 5 ? random.between(1, 300) : 1536;
        const auto c = random_lora<T>(random, rows, in, out, round % 2 == 0);
        for (const CpuIsa isa : isa_levels())
            for (int threads = 1; threads <= 4; ++threads) {
                const std::string text = text_of(name_of(isa), " rows ", rows, " in ", in, " out ", out, " ");
                CpuDevice device(threads, isa);
                auto y = c.y;
                lora<T>(device, view(y, rows, out), view(c.x, rows, in), c.segments);
                const std::string wrong = mismatch(y, c.want, 1e-5);
                VERIFY_CASE(wrong.empty(), text_of(text, wrong));
                for (LoraSegment<T> s : c.segments)
                    for (int64_t row = s.row_begin; row < s.row_end; ++row) {
                        std::vector<float> alone(c.y.begin() + row * out, c.y.begin() + (row + 1) * out);
                        LoraSegment<T> single = s;
                        single.row_begin = 0;
                        single.row_end = 1;
                        lora<T>(device, view(alone, 1, out), {c.x.data() + row * in, {1, in}}, std::span(&single, 1));
                        VERIFY_CASE(same_bits(alone.data(), y.data() + row * out, out), text_of(text, "alone"));
                    }
            }
    }
}

}  // namespace

class AdapterOpsTest : public QObject {
    Q_OBJECT

private slots:
    void rotateF32() { check_rotate<float>(); }
    void rotateBf16() { check_rotate<bf16>(); }
    void loraF32() { check_lora<float>(); }
    void loraBf16() { check_lora<bf16>(); }

    void scaleBias() {
        Random random(3);
        for (const int64_t dim : {1, 13, 576}) {
            const int64_t rows = 30;
            const auto x = random.normals(rows * dim), gain = random.normals(dim), bias = random.normals(dim);
            const std::vector<ScaleBiasSegment> segments{{0, 3, gain.data(), nullptr},
                                                         {3, 4, nullptr, bias.data()},
                                                         {6, 6, gain.data(), bias.data()},
                                                         {6, 20, gain.data(), bias.data()},
                                                         {21, 22, nullptr, nullptr}};
            std::vector<double> want(x.begin(), x.end());
            for (const ScaleBiasSegment& s : segments)
                for (int64_t i = s.row_begin * dim; i < s.row_end * dim; ++i)
                    want[size_t(i)] = want[size_t(i)] * (s.gain ? double(s.gain[i % dim]) : 1.) +
                                      (s.bias ? double(s.bias[i % dim]) : 0.);
            for (const CpuIsa isa : isa_levels()) {
                CpuDevice device(3, isa);
                auto out = x;
                scale_bias(device, view(out, rows, dim), segments);
                const std::string wrong = mismatch(out, want, 1e-6);
                VERIFY_CASE(wrong.empty(), text_of(name_of(isa), wrong));
            }
        }
    }
};

QTEST_GUILESS_MAIN(AdapterOpsTest)
#include "adapter_ops_test.moc"
