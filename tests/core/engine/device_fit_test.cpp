// The words for a GPU that has too little memory: what is missing, who has it, and that what is said to fit does.
#include "core/engine/device_fit.h"

#include <QtTest>

using namespace spartan;

namespace {

constexpr int64_t kGb = 1'000'000'000;

// A 13.5 GB model whose workspace takes 2 MB a token.
DeviceNeed need_of(int64_t free_gb, int64_t total_gb = 80) {
    DeviceNeed need;
    need.total_bytes = total_gb * kGb;
    need.free_bytes = free_gb * kGb;
    need.weight_bytes = 13'500'000'000;
    need.dtype = DType::bf16;
    need.max_batch_tokens = 2048;
    need.least_pool_bytes = 100'000'000;
    need.needed = [](int32_t tokens) { return 13'500'000'000 + int64_t(tokens) * 2'000'000; };
    return need;
}

std::string words(const DeviceNeed& need) {
    const auto left = fit_into_device(need);
    return left ? "fits" : left.error().message();
}

}  // namespace

class DeviceFitTest : public QObject {
    Q_OBJECT
private slots:
    void what_fits_leaves_the_rest_for_the_pool() {
        const auto left = fit_into_device(need_of(40));
        QVERIFY(left);
        QCOMPARE(*left, 40 * kGb - 13'500'000'000 - 2048 * int64_t(2'000'000));
    }
    void names_what_is_missing_who_has_it_and_what_would_fit() {
        const std::string text = words(need_of(15));
        QVERIFY2(text ==
                     "device memory: found 15.0 GB free of 80.0 GB (65.0 GB held by other programs and the driver), "
                     "expected 17.7 GB for weights, workspace and the smallest pool; 2.7 GB are missing; would fit: "
                     "engine.max_batch_tokens 512, or the same with 2.7 GB of what other programs hold",
                 text.c_str());
        DeviceNeed advised = need_of(15);
        advised.max_batch_tokens = 512;
        QCOMPARE(words(advised), std::string("fits"));
        advised.max_batch_tokens = 1024;  // nor is it more modest than it has to be
        QVERIFY(words(advised) != "fits");
    }
    void a_pool_that_is_too_large_is_told_its_limit() {
        DeviceNeed need = need_of(40);
        need.pool_bytes = 30 * kGb;
        const std::string text = words(need);
        QVERIFY2(text.starts_with("pool_bytes: found 40.0 GB free of 80.0 GB"), text.c_str());
        QVERIFY2(text.find("would fit: engine.pool_bytes of at most 22.4 GB") != std::string::npos, text.c_str());
        need.pool_bytes = 22 * kGb;
        QCOMPARE(words(need), std::string("fits"));
    }
    void f32_is_offered_bf16() {
        DeviceNeed need = need_of(10, 12);
        need.dtype = DType::f32;
        const std::string text = words(need);
        QVERIFY2(text.find("would fit: ") == std::string::npos, text.c_str());  // 10.9 GB even then
        need.max_batch_tokens = 512;
        QVERIFY2(words(need).ends_with("would fit: dtype bf16"), words(need).c_str());
    }
    void says_when_nothing_helps() {
        QVERIFY2(words(need_of(6, 8)).ends_with("nothing smaller of this model would fit on this GPU"),
                 words(need_of(6, 8)).c_str());
    }
};

QTEST_GUILESS_MAIN(DeviceFitTest)
#include "device_fit_test.moc"
