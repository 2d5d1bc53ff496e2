#include "kernels/sample.h"
#include "kernel_testing.h"
#include "kernels/cpu/simd/table.h"
#include "kernels/sample_arithmetic.h"

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>

using namespace spartan;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The probabilities that the definition gives, by a full sort in double precision.
std::vector<double> oracle(const std::vector<float>& logits, const SampleParams& p) {
    std::vector<size_t> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
    if (p.top_k > 0) order.resize(std::min(order.size(), size_t(p.top_k)));
    std::vector<double> probability(logits.size(), 0.);
    double total = 0, kept = 0;
    for (const size_t i : order)
        total += std::exp((double(logits[i]) - double(logits[order[0]])) / double(p.temperature));
    for (const size_t i : order) {
        if (p.top_p < 1 && kept >= double(p.top_p) * total) break;
        probability[i] = std::exp((double(logits[i]) - double(logits[order[0]])) / double(p.temperature));
        kept += probability[i];
    }
    for (double& v : probability) v /= kept;
    return probability;
}

}  // namespace

class SampleTest : public QObject {
    Q_OBJECT

private slots:
    void greedyTakesTheFirstLargest() {
        CpuDevice device(2);
        Random random(1);
        for (const int64_t n : {1, 2, 63, 64, 65, 1000, 49152}) {
            auto logits = random.normals(n);
            const auto best = int32_t(std::max_element(logits.begin(), logits.end()) - logits.begin());
            QCOMPARE(sample(device, logits, {}, 0), best);
            logits.push_back(logits[size_t(best)]);
            QCOMPARE(sample(device, logits, {}, 0), best);
        }
        QCOMPARE(sample(device, std::vector<float>{-1, -0.f, 0.f}, {}, 0), 1);
        QCOMPARE(sample(device, std::vector<float>{-kInfinity, -5}, {}, 0), 1);
    }

    void refusesWhatIsNotANumber() {
        CpuDevice device(2);
        for (const float temperature : {0.f, 1.f}) {
            const SampleParams p{.temperature = temperature};
            QCOMPARE(sample(device, {}, p, 0), -1);
            QCOMPARE(sample(device, std::vector<float>{1, NAN, 3}, p, 0), -1);
            QCOMPARE(sample(device, std::vector<float>{1, kInfinity}, p, 0), -1);
            QCOMPARE(sample(device, std::vector<float>{-kInfinity, -kInfinity}, p, 0), -1);
            std::vector<float> logits(50000, 1.f);
            logits[49999] = NAN;
            QCOMPARE(sample(device, logits, p, 0), -1);
        }
    }

    // Known answers of Philox4x32-10 (Salmon et al. 2011, Random123's kat_vectors).
    void philox() {
        QCOMPARE(philox_uniform(0, 0), float(0x6627e8d5u >> 8) * 0x1p-24f);
        double sum = 0;
        for (uint64_t i = 0; i < 20000; ++i) {
            const float u = philox_uniform(7, i);
            QVERIFY(u >= 0 && u < 1);
            sum += double(u);
        }
        QVERIFY(std::abs(sum / 20000 - 0.5) < 0.01);
    }

    void drawsFollowTheProbabilities() {
        CpuDevice device(2);
        Random random(2);
        const auto logits = random.normals(40, 2);
        for (const SampleParams p :
             {SampleParams{.temperature = 1.f, .seed = 3}, SampleParams{.temperature = 0.7f, .top_p = 0.8f, .seed = 4},
              SampleParams{.temperature = 1.5f, .top_k = 5, .seed = 5},
              SampleParams{.temperature = 1.f, .top_p = 0.6f, .top_k = 10, .seed = 6}}) {
            const auto want = oracle(logits, p);
            std::vector<int> hits(logits.size(), 0);
            constexpr int kDraws = 40000;
            for (int i = 0; i < kDraws; ++i) ++hits[size_t(sample(device, logits, p, i))];
            for (size_t i = 0; i < logits.size(); ++i) {
                if (want[i] == 0) QCOMPARE(hits[i], 0);
                const double sigma = std::sqrt(want[i] * (1 - want[i]) / kDraws);
                QVERIFY(std::abs(hits[i] / double(kDraws) - want[i]) <= 5 * sigma + 1e-4);
            }
        }
    }

    // Only members of the exact set are drawn, over large random vocabularies.
    void theSetIsExact() {
        CpuDevice device(3);
        Random random(3);
        for (int round = 0; round < 40; ++round) {
            const auto n = random.between(1, 5000);
            auto logits = random.normals(n, 3);
            for (float& l : logits) l = std::round(l * 8) / 8;  // with many ties
            SampleParams p{.temperature = random.chance(0.5) ? 1.f : 0.5f, .seed = uint64_t(round)};
            if (random.chance(0.7)) p.top_k = int32_t(random.between(1, 100));
            if (random.chance(0.7)) p.top_p = float(random.between(1, 99)) / 100.f;
            const auto want = oracle(logits, p);
            for (int i = 0; i < 300; ++i) {
                const int32_t token = sample(device, logits, p, i);
                QVERIFY(token >= 0 && token < n);
                QVERIFY(want[size_t(token)] > 0);
            }
        }
    }

    void tiesGoToTheLowerId() {
        CpuDevice device(1);
        const std::vector<float> logits(1000, 0.5f);
        for (int i = 0; i < 200; ++i) {
            QVERIFY(sample(device, logits, {.temperature = 1, .top_k = 3}, i) < 3);
            QVERIFY(sample(device, logits, {.temperature = 1, .top_p = 0.01f}, i) < 10);
        }
    }

    void sameSeedSameTokenWhateverTheTeam() {
        Random random(4);
        const auto logits = random.normals(49152, 2);
        CpuDevice one(1, CpuIsa::generic), four(4);
        for (int i = 0; i < 30; ++i)
            for (const SampleParams p :
                 {SampleParams{.temperature = 1, .seed = 9}, SampleParams{.temperature = 1, .top_p = 0.9f, .seed = 9},
                  SampleParams{.temperature = 0.8f, .top_k = 40, .seed = 9}})
                QCOMPARE(sample(one, logits, p, i), sample(four, logits, p, i));
    }

    void extremeTemperatures() {
        CpuDevice device(1);
        const std::vector<float> logits{1, 5, 3, -kInfinity};
        QCOMPARE(sample(device, logits, {.temperature = 1e-30f}, 0), 1);
        std::map<int32_t, int> hits;
        for (int i = 0; i < 600; ++i) ++hits[sample(device, logits, {.temperature = 1e30f}, i)];
        QCOMPARE(hits.size(), size_t(3));  // -infinity is never drawn
    }

    // What a GPU weighs with is the vectors' arithmetic, bit for bit.
    void oneWeightAsAllTogether() {
        Random random(5);
        for (const float temperature : {1.f, 0.3f, 1e-30f, 1e30f, 7.77f}) {
            std::vector<float> logits = random.normals(100'000, 8 * std::min(temperature, 1e20f));
            logits.insert(logits.end(), {-kInfinity, -3e38f, 0.f, -0.f});
            const float max = *std::max_element(logits.begin(), logits.end());
            for (const CpuIsa isa : isa_levels()) {
                std::vector<int32_t> weights(logits.size());
                kernels_for(isa).weigh_logits(weights.data(), logits.data(), int64_t(logits.size()), max, temperature);
                for (size_t i = 0; i < logits.size(); ++i)
                    QCOMPARE(weigh_logit(logits[i], max, temperature), weights[i]);
            }
        }
    }

    void keysRiseWithLogits() {
        const std::vector<float> rising{-kInfinity, -3e38f, -1, -1e-45f, 0, 1e-45f, 1, 3e38f};
        for (size_t i = 0; i < rising.size(); ++i) {
            QCOMPARE(logit_of_key(key_of_logit(rising[i])), rising[i]);
            if (i > 0) QVERIFY(key_of_logit(rising[i - 1]) < key_of_logit(rising[i]));
        }
        QCOMPARE(key_of_logit(-0.f), key_of_logit(0.f));
    }
};

QTEST_GUILESS_MAIN(SampleTest)
#include "sample_test.moc"
