// Merging an adapter's parts into a weight on a GPU, against the formula in double precision.
#include "kernels/cuda/merge.h"

#include "gpu_fixture.h"

#include <memory>

using namespace spartan;

namespace {

struct Parts {
    int64_t group = 0, rank = 0;
    bool gain = false;
};

template <class T>
void check(int64_t out, int64_t in, const Parts& parts) {
    CudaDevice device;
    const auto w = random_values<T>(size_t(out * in), 1), r = random_values<T>(size_t(in * parts.group), 2, 0.3f),
               a = random_values<T>(size_t(parts.rank * in), 3, 0.3f),
               b_t = random_values<T>(size_t(parts.rank * out), 4, 0.3f);
    const auto gain = random_values<float>(size_t(out), 5);
    const DeviceArray<T> device_w(w), device_r(r), device_a(a), device_b(b_t), merged(size_t(out * in));
    const DeviceArray<float> device_gain(gain);
    CudaPart part;
    part.scale = 0.5f;
    if (parts.group > 0) part.rotation = device_r.data(), part.group = int32_t(parts.group);
    if (parts.rank > 0) part.a = device_a.data(), part.b_t = device_b.data(), part.rank = int32_t(parts.rank);
    if (parts.gain) part.gain = device_gain.data();
    merge_part<T>(device, merged.data(), device_w.data(), part, out, in);
    device.synchronize();
    std::vector<double> want(static_cast<size_t>(out * in));
    for (int64_t n = 0; n < out; ++n)
        for (int64_t k = 0; k < in; ++k) {
            double sum = parts.group > 0 ? 0 : double(to_float(w[size_t(n * in + k)]));
            for (int64_t v = 0; v < parts.group; ++v)
                sum += double(to_float(w[size_t(n * in + k / parts.group * parts.group + v)])) *
                       double(to_float(r[size_t(k * parts.group + v)]));
            for (int64_t i = 0; i < parts.rank; ++i)
                sum += 0.5 * double(to_float(b_t[size_t(i * out + n)])) * double(to_float(a[size_t(i * in + k)]));
            want[size_t(n * in + k)] = parts.gain ? double(gain[size_t(n)]) * sum : sum;
        }
    const double error = relative_error(merged.read(), want);
    QVERIFY2(error < kTolerance<T>,
             text_of(out, " x ", in, " group ", parts.group, " rank ", parts.rank, ": ", error).c_str());
    QVERIFY(std::memcmp(device_w.read().data(), w.data(), w.size() * sizeof(T)) == 0);  // the base stays as it is
}

template <class T>
void check_all() {
    check<T>(96, 128, {.group = 64});
    check<T>(40, 96, {.group = 24, .gain = true});
    check<T>(33, 66, {.group = 3, .rank = 5});
    check<T>(64, 256, {.group = 256, .rank = 40, .gain = true});
    check<T>(70, 50, {.rank = 8});
    check<T>(70, 50, {.gain = true});
    check<T>(5, 512, {.group = 512});
}

}  // namespace

class MergeTest : public QObject {
    Q_OBJECT
private slots:
    void initTestCase() { SKIP_WITHOUT_GPU(); }
    void merged_f32() { check_all<float>(); }
    void merged_bf16() { check_all<bf16>(); }
    void merged_f16() { check_all<f16>(); }
};

QTEST_GUILESS_MAIN(MergeTest)
#include "merge_test.moc"
