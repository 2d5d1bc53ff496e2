#include "kernels/cuda/sample.h"
#include "gpu_fixture.h"
#include "kernels/sample.h"

#include <cmath>
#include <limits>

using namespace spartan;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Rows of every shape that has its own way through the sampler.
std::vector<float> logits_of(int kind, size_t vocab, uint32_t seed) {
    std::vector<float> x = random_values<float>(vocab, seed, kind % 2 ? 1.f : 4.f);
    std::mt19937 random(seed + 1);
    const auto anywhere = [&] { return random() % vocab; };
    switch (kind) {
        case 2:  // many ties
            for (float& v : x) v = std::round(v);
            break;
        case 3:  // as a bf16 product leaves them
            for (float& v : x) v = to_float(to_bf16(v));
            break;
        case 4:  // nearly all forbidden
            for (float& v : x)
                if (random() % 100) v = -kInfinity;
            x[anywhere()] = 1;
            break;
        case 5:  // all the same
            for (float& v : x) v = 2.5f;
            break;
        case 6:  // both zeros
            for (float& v : x) v = random() % 2 ? 0.f : -0.f;
            break;
        case 7:
            x[anywhere()] = NAN;
            break;
        case 8:
            x[anywhere()] = kInfinity;
            break;
        case 9:
            for (float& v : x) v = -kInfinity;
            break;
        case 10:  // the ends of the range
            for (float& v : x) v *= 5e37f;
            break;
        case 11:  // one far above the others
            x[anywhere()] = 40;
            break;
        default:
            break;
    }
    return x;
}
constexpr int kKinds = 12;

SampleParams params_of(uint32_t i, std::mt19937& random) {
    constexpr float kTemperatures[] = {0, 1, 0.7f, 0.1f, 2, 1e-30f, 100};
    constexpr float kTopP[] = {1, 0.9f, 0.1f, 0.5f, 0.999999f, 1e-6f};
    constexpr int32_t kTopK[] = {0, 1, 2, 40, 1000, 0, 1023, 1024, 1025, 5000};
    SampleParams p;
    p.temperature = kTemperatures[i % std::size(kTemperatures)];
    p.top_p = i % 4 == 3 ? 0.1f + 0.9f * float(random() % 1000) / 1000 : kTopP[random() % std::size(kTopP)];
    p.top_k = i % 5 == 4 ? int32_t(random() % 1000 + 1) : kTopK[random() % std::size(kTopK)];
    p.seed = uint64_t(random()) << 32 | random();
    return p;
}

}  // namespace

class CudaSampleTest : public QObject {
    Q_OBJECT

private slots:
    void picksTheCpusToken_data() {
        QTest::addColumn<int>("vocab");
        QTest::addColumn<int>("rounds");
        const std::vector<std::pair<int, int>> all{{1, 10},     {5, 60},     {1000, 40},  {1025, 40},
                                                   {32000, 40}, {49152, 20}, {151936, 12}};
        for (const auto& [vocab, rounds] : cases(all, {{1, 1}, {5, 4}, {1000, 4}, {1025, 4}, {32000, 2}}))
            QTest::newRow(qPrintable(QString::number(vocab))) << vocab << rounds;
    }
    void picksTheCpusToken() {
        SKIP_WITHOUT_GPU();
        QFETCH(int, vocab);
        QFETCH(int, rounds);
        constexpr int kRows = 2 * kKinds;
        std::vector<float> logits;
        for (int row = 0; row < kRows; ++row) {
            const auto one = logits_of(row % kKinds, size_t(vocab), uint32_t(row));
            logits.insert(logits.end(), one.begin(), one.end());
        }
        CudaDevice device;
        CpuDevice cpu;
        const DeviceArray<float> x(logits);
        std::mt19937 random(7);
        for (int round = 0; round < rounds; ++round) {
            std::vector<SampleParams> params;
            std::vector<CudaSampleParams> device_params;
            for (int row = 0; row < kRows; ++row) {
                const SampleParams p = params_of(uint32_t(round + row), random);
                params.push_back(p);
                device_params.push_back({.seed = p.seed,
                                         .position = round * 1000 + row,
                                         .temperature = p.temperature,
                                         .top_p = p.top_p,
                                         .top_k = p.top_k,
                                         .sample = row % 11 != 10});
            }
            const DeviceArray<CudaSampleParams> on_device(device_params);
            const DeviceArray<int32_t> tokens(std::vector<int32_t>(kRows, -7));
            sample(device, tokens.data(), {x.data(), {kRows, vocab}}, on_device.data());
            const auto got = tokens.read();
            for (int row = 0; row < kRows; ++row) {
                const std::span<const float> one(logits.data() + size_t(row) * size_t(vocab), size_t(vocab));
                const SampleParams& p = params[size_t(row)];
                const int32_t want =
                    device_params[size_t(row)].sample ? sample(cpu, one, p, device_params[size_t(row)].position) : -7;
                QVERIFY2(got[size_t(row)] == want,
                         qPrintable(QStringLiteral("kind %1 temperature %2 top_p %3 top_k %4: %5, not %6")
                                        .arg(row % kKinds)
                                        .arg(double(p.temperature))
                                        .arg(double(p.top_p))
                                        .arg(p.top_k)
                                        .arg(got[size_t(row)])
                                        .arg(want)));
            }
        }
    }

    void nothingToDo() {
        SKIP_WITHOUT_GPU();
        CudaDevice device;
        const DeviceArray<CudaSampleParams> params(std::vector<CudaSampleParams>{{.sample = 1}});
        const DeviceArray<int32_t> tokens(std::vector<int32_t>{-7});
        const DeviceArray<float> x(std::vector<float>{1});
        sample(device, tokens.data(), {x.data(), {0, 1}}, params.data());
        QCOMPARE(tokens.read()[0], -7);
        sample(device, tokens.data(), {x.data(), {1, 0}}, params.data());
        QCOMPARE(tokens.read()[0], -1);
    }
};

QTEST_APPLESS_MAIN(CudaSampleTest)
#include "sample_test.moc"
