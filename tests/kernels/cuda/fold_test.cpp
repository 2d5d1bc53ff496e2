#include "kernels/cuda/fold.h"

#include "core/adapter/rotation.h"
#include "gpu_fixture.h"
#include "kernels/cuda/rotate.h"

using namespace spartan;

namespace {

struct Case {
    int64_t dim = 0, b = 0, m = 1;
    double deviation = 0.05;  // of the entries of S
    bool half = true;         // skew in bf16
};

std::string name_of(const Case& c) {
    return text_of("dim ", c.dim, " b ", c.b, " m ", c.m, c.half ? " bf16" : " f32", " S ", c.deviation);
}

// Values as they are stored, with rubbish in the padding, and the groups that they fold to, in double precision.
struct Rotation {
    std::vector<float> skew;
    std::vector<double> r;  // [dim / group][group][group]
    int64_t group = 0, groups = 0;
};

Rotation random_rotation(const Case& c, uint32_t seed) {
    Rotation out;
    out.group = c.b << (c.m - 1);
    out.groups = c.dim / out.group;
    out.skew = random_values<float>(size_t(skew_values_of(c.dim, c.b, c.m)), seed, float(c.deviation));
    if (c.half)
        for (float& v : out.skew) v = to_float(to_bf16(v));
    const Progress progress;
    const float* at = out.skew.data();
    for (int64_t g = 0; g < out.groups; ++g) {
        Matrix factors;
        for (int64_t i = 0; i < c.m << (c.m - 1); ++i, at += skew_values(c.b)) {
            const Matrix q = cayley(oft_skew(at, c.b), c.b, progress);
            factors.insert(factors.end(), q.begin(), q.end());
        }
        const Matrix product = compose_butterfly(factors, c.b, c.m, progress);
        out.r.insert(out.r.end(), product.begin(), product.end());
    }
    return out;
}

template <class T>
std::vector<T> stored_as(const std::vector<float>& values) {
    std::vector<T> out;
    for (const float v : values) out.push_back(from_float<T>(v));
    return out;
}

// What the device made of it, in the memory of the whole rotation, cut into jobs of `at_once` groups.
template <class T>
std::vector<T> folded(CudaDevice& device, const Case& c, const Rotation& r, bool packed, int64_t at_once,
                      int64_t groups, int most_blocks) {
    const DeviceArray<bf16> half(c.half ? stored_as<bf16>(r.skew) : std::vector<bf16>());
    const DeviceArray<float> full(c.half ? std::vector<float>() : r.skew);
    const DeviceArray<T> out(packed ? size_t(packed_rotation_bytes(c.dim, r.group) / 2) : r.r.size());
    const DeviceArray<float> scratch(size_t(groups * fold_scratch_bytes(c.b, c.m) / 4));
    std::vector<FoldJob> jobs;
    for (int64_t g = 0; g < groups; g += at_once) {
        FoldJob& job = jobs.emplace_back();
        const int64_t values = g * skew_values_of_group(c.b, c.m);
        job.skew = c.half ? static_cast<const void*>(half.data() + values) : full.data() + values;
        job.rotation = out.data();
        if (scratch.size() > 0) job.factors = scratch.data() + g * fold_scratch_bytes(c.b, c.m) / 4;
        job.group = int32_t(r.group);
        job.first_group = int32_t(g);
        job.groups = int32_t(std::min(at_once, groups - g));
        job.half = c.half;
        job.packed = packed;
    }
    const DeviceArray<FoldJob> on_device(jobs);
    fold_rotations<T>(device, on_device.data(), int(jobs.size()), {int32_t(c.b), int32_t(c.m), int32_t(at_once)},
                      most_blocks);
    device.synchronize();
    return out.read();
}

// What fp32 loses before a value is rounded (fold.h).
double lost_by(const Case& c) { return 3e-6 * (1 + c.deviation * std::sqrt(double(c.b))); }

// `got` against D or R: one rounding of T, and what fp32 loses before it.
template <class T>
std::string check_value(T got, double want, double lost, int64_t i) {
    const double bar = lost + std::abs(want) * (std::is_same_v<T, float>  ? 0
                                                : std::is_same_v<T, bf16> ? 1. / 256
                                                                          : 1. / 2048);
    const double error = std::abs(double(to_float(got)) - want);
    if (error <= bar) return {};
    return text_of("value ", i, ": found ", to_float(got), ", expected ", want, " up to ", bar);
}

template <class T>
std::string check(const Case& c, uint32_t seed = 1) {
    CudaDevice device;
    const Rotation r = random_rotation(c, seed);
    const double lost = lost_by(c);
    const std::vector<T> plain = folded<T>(device, c, r, false, r.groups, r.groups, 0);
    for (size_t i = 0; i < plain.size(); ++i)
        if (auto wrong = check_value(plain[i], r.r[i], lost, int64_t(i)); !wrong.empty())
            return name_of(c) + ", plain: " + wrong;
    // Cut into jobs, with few thread blocks: the same bits.
    const std::vector<T> cut = folded<T>(device, c, r, false, 3, r.groups, 2);
    if (std::memcmp(cut.data(), plain.data(), plain.size() * sizeof(T)) != 0) return name_of(c) + ": cut otherwise";
    // A part of the groups: nothing of the others is written.
    if (r.groups > 1) {
        const int64_t half = r.groups / 2;
        const std::vector<T> some = folded<T>(device, c, r, false, half, half, 0);
        const auto end = size_t(half * r.group * r.group);
        if (std::memcmp(some.data(), plain.data(), end * sizeof(T)) != 0) return name_of(c) + ": half of it";
        for (size_t i = end; i < some.size(); ++i)
            if (!std::isnan(to_float(some[i]))) return name_of(c) + ": written beyond its groups";
    }
    if constexpr (is_16_bit<T>) {
        if (!packs(c.dim, r.group, dtype_of<T>)) return {};
        const std::vector<T> packed = folded<T>(device, c, r, true, 2, r.groups, 0);
        for (int64_t i = 0; i < c.dim * r.group; ++i) {
            const int64_t u = i / r.group % r.group, column = i / r.group / r.group * r.group + i % r.group;
            const double d = r.r[size_t(i)] - (u == i % r.group ? 1 : 0);
            const auto at = size_t(packed_rotation_offset(r.group, column, u));
            if (auto wrong = check_value(packed[at], d, lost, i); !wrong.empty())
                return name_of(c) + ", packed: " + wrong;
        }
    }
    return {};
}

}  // namespace

class CudaFoldTest : public QObject {
    Q_OBJECT
private slots:
    void usual_geometries() {
        SKIP_WITHOUT_GPU();
        const int64_t dim = cases(512, 256);
        VERIFY_RIGHT(check<bf16>({.dim = 2 * dim, .b = 32, .m = 2}));
        VERIFY_RIGHT(check<f16>({.dim = 2 * dim, .b = 32, .m = 2}));
        VERIFY_RIGHT(check<bf16>({.dim = 320, .b = 32, .m = 2, .half = false}));
        VERIFY_RIGHT(check<f16>({.dim = 64, .b = 32, .m = 2, .half = false}));
        VERIFY_RIGHT(check<bf16>({.dim = dim, .b = 64, .m = 2}));
        VERIFY_RIGHT(check<bf16>({.dim = dim, .b = 32, .m = 1}));
        VERIFY_RIGHT(check<bf16>({.dim = 256, .b = 4, .m = 1, .deviation = 0.1}));
        VERIFY_RIGHT(check<float>({.dim = dim, .b = 32, .m = 2, .half = false}));
        VERIFY_RIGHT(check<float>({.dim = 256, .b = 32, .m = 1, .half = false}));
    }

    void every_block_size() {
        SKIP_WITHOUT_GPU();
        const std::vector<int64_t> all{2, 3, 5, 7, 8, 9, 12, 15, 16, 17, 24, 31, 33, 40, 48, 63, 64, 65, 96, 128, 130};
        for (const int64_t b : cases(all, {3, 8, 15, 16, 31, 33, 64, 65, 130})) {
            VERIFY_RIGHT(check<float>({.dim = cases(3, 2) * b, .b = b, .half = false}));
            VERIFY_RIGHT(check<bf16>({.dim = cases(5, 2) * b, .b = b}));
        }
        VERIFY_RIGHT(check<bf16>({.dim = cases(512, 256), .b = 256}));
    }

    void chains_of_factors() {
        SKIP_WITHOUT_GPU();
        for (int64_t m = 2; m <= 4; ++m)
            for (const int64_t b : cases<std::vector<int64_t>>({2, 4, 6, 8, 12, 16, 20, 32, 40}, {2, 6, 12, 32})) {
                const int64_t group = b << (m - 1);
                VERIFY_RIGHT(check<float>({.dim = cases(2, 1) * group, .b = b, .m = m, .half = false}));
                VERIFY_RIGHT(check<bf16>({.dim = cases(3, 2) * group, .b = b, .m = m}));
            }
        const int64_t dim = cases(512, 256);
        VERIFY_RIGHT(check<bf16>({.dim = dim, .b = 64, .m = 3}));
        VERIFY_RIGHT(check<f16>({.dim = dim, .b = 64, .m = 3}));
        VERIFY_RIGHT(check<bf16>({.dim = 512, .b = 64, .m = 4}));
        VERIFY_RIGHT(check<bf16>({.dim = dim, .b = 128, .m = 2}));
        if (!small_cases()) VERIFY_RIGHT(check<float>({.dim = 512, .b = 256, .m = 2, .half = false}));
        VERIFY_RIGHT(check<bf16>({.dim = 512, .b = 4, .m = 8}));
    }

    // From no rotation at all to nearly -I in most directions.
    void small_and_large_entries() {
        SKIP_WITHOUT_GPU();
        for (const double deviation : cases<std::vector<double>>({0., 1e-6, 1e-3, 0.3, 1., 2.7}, {0., 2.7}))
            for (const int64_t b : cases<std::vector<int64_t>>({8, 32, 64, 96}, {8, 32})) {
                VERIFY_RIGHT(check<float>({.dim = 2 * b, .b = b, .deviation = deviation, .half = false}, 3));
                VERIFY_RIGHT(check<bf16>({.dim = 4 * b, .b = b, .m = 2, .deviation = deviation}, 4));
                VERIFY_RIGHT(check<float>({.dim = 4 * b, .b = b, .m = 2, .deviation = deviation, .half = false}, 5));
            }
    }

    // In fp32, where rounding does not hide it: rows stay at right angles, and as long as they were.
    void stays_orthogonal() {
        SKIP_WITHOUT_GPU();
        CudaDevice device;
        const Progress progress;
        for (const double deviation : cases<std::vector<double>>({1e-3, 0.05, 0.3, 2.7}, {0.05}))
            for (int64_t m = 1; m <= 3; ++m) {
                const Case c{.dim = 512, .b = 32, .m = m, .deviation = deviation, .half = false};
                const Rotation r = random_rotation(c, 6);
                const std::vector<float> got = folded<float>(device, c, r, false, r.groups, r.groups, 0);
                for (int64_t g = 0; g < r.groups; ++g) {
                    const auto first = got.begin() + g * r.group * r.group;
                    const double error = orthogonality_error({first, first + r.group * r.group}, r.group, progress);
                    const double bar = lost_by(c) * std::sqrt(double(r.group));
                    QVERIFY2(error <= bar, text_of(name_of(c), ", group ", g, ": ", error, " of ", bar).c_str());
                }
            }
    }

    void nothing_to_do() {
        SKIP_WITHOUT_GPU();
        CudaDevice device;
        fold_rotations<bf16>(device, nullptr, 0, {32, 2, 4});
        device.synchronize();
    }
};

QTEST_GUILESS_MAIN(CudaFoldTest)
#include "fold_test.moc"
