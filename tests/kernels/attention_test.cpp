#include "kernels/attention.h"
#include "kernel_testing.h"

#include <algorithm>
#include <numeric>

using namespace spartan;

namespace {

// A pool with a few sequences' keys and values, their pages shuffled, everything else NaN: a read of a slot that was
// never written shows.
template <class T>
struct Cache {
    KvLayout layout;
    std::vector<T> pool;
    std::vector<int64_t> lengths;
    std::vector<std::vector<int32_t>> pages;
    std::vector<std::vector<float>> k, v, q;  // per sequence, one row a token
    int64_t window = 0;

    Cache(Random& random, const KvLayout& l, const std::vector<int64_t>& token_counts)
        : layout(l), lengths(token_counts) {
        int32_t num_pages = 0;
        for (const int64_t n : lengths) {
            pages.emplace_back(size_t((n + l.block_tokens - 1) / l.block_tokens));
            for (int32_t& p : pages.back()) p = num_pages++;
            k.push_back(random.normals(n * l.kv_heads * l.head_dim));
            v.push_back(random.normals(n * l.kv_heads * l.head_dim));
            q.push_back(random.normals(n * l.num_heads * l.head_dim));
        }
        for (auto& list : pages) std::reverse(list.begin(), list.end());
        pool.assign(size_t(num_pages * l.page_elements()), from_float<T>(NAN));
    }

    int64_t q_dim() const { return layout.num_heads * layout.head_dim; }
    int64_t kv_dim() const { return layout.kv_heads * layout.head_dim; }

    // Feeds tokens [first, first + count) of each sequence as one batch; rows of `out` in sequence order.
    struct Chunk {
        size_t sequence;
        int64_t first, count;
    };
    std::vector<float> run(CpuDevice& device, const std::vector<Chunk>& chunks, float scale, bool store = true) {
        std::vector<float> bk, bv, bq;
        std::vector<AttentionSegment> segments;
        int64_t rows = 0;
        for (const auto& [s, first, count] : chunks) {
            bk.insert(bk.end(), k[s].begin() + first * kv_dim(), k[s].begin() + (first + count) * kv_dim());
            bv.insert(bv.end(), v[s].begin() + first * kv_dim(), v[s].begin() + (first + count) * kv_dim());
            bq.insert(bq.end(), q[s].begin() + first * q_dim(), q[s].begin() + (first + count) * q_dim());
            segments.push_back({rows, rows + count, first, pages[s]});
            rows += count;
        }
        if (store)
            store_kv<T>(device, pool.data(), layout, {bk.data(), {rows, kv_dim()}}, {bv.data(), {rows, kv_dim()}},
                        segments);
        std::vector<float> out(size_t(rows * q_dim()), NAN);
        attention<T>(device, view(out, rows, q_dim()), {bq.data(), {rows, q_dim()}}, pool.data(), layout, scale,
                     segments, window);
        return out;
    }

    std::vector<double> oracle(size_t s, double scale) const {
        std::vector<double> out;
        const int64_t hd = layout.head_dim, group = layout.num_heads / layout.kv_heads;
        const auto stored = [](float value) { return double(to_float(from_float<T>(value))); };
        for (int64_t p = 0; p < lengths[s]; ++p)
            for (int64_t h = 0; h < layout.num_heads; ++h) {
                std::vector<double> weights;
                const int64_t first = window > 0 ? std::max(p + 1 - window, int64_t(0)) : 0;
                for (int64_t j = first; j <= p; ++j) {
                    double dot = 0;
                    for (int64_t d = 0; d < hd; ++d)
                        dot += double(q[s][size_t(p * q_dim() + h * hd + d)]) *
                               stored(k[s][size_t(j * kv_dim() + h / group * hd + d)]);
                    weights.push_back(dot * scale);
                }
                const double max = *std::max_element(weights.begin(), weights.end());
                for (double& w : weights) w = std::exp(w - max);
                const double sum = std::accumulate(weights.begin(), weights.end(), 0.);
                for (int64_t d = 0; d < hd; ++d) {
                    double value = 0;
                    for (int64_t j = first; j <= p; ++j)
                        value +=
                            weights[size_t(j - first)] / sum * stored(v[s][size_t(j * kv_dim() + h / group * hd + d)]);
                    out.push_back(value);
                }
            }
        return out;
    }
};

const std::vector<KvLayout> kLayouts{
    {9, 3, 64, 16},  {4, 4, 32, 16}, {1, 1, 5, 16}, {6, 1, 80, 32},
    {8, 2, 128, 16}, {2, 2, 24, 8},  {3, 1, 7, 3},  {32, 1, 16, 16},
};

std::string describe(CpuIsa isa, const KvLayout& l) {
    return text_of(name_of(isa), " heads ", l.num_heads, "/", l.kv_heads, " head_dim ", l.head_dim, " block ",
                   l.block_tokens, " ");
}

// 0: none. One key; less than a page; a page and a bit; two pages of 16; more than any sequence.
const std::vector<int64_t> kWindows{0, 1, 7, 17, 32, 1000};

template <class T>
void compare_with_oracle(int64_t window) {
    for (const KvLayout& layout : kLayouts)
        for (const CpuIsa isa : isa_levels()) {
            Random random(1);
            Cache<T> cache(random, layout, {1, 50, 33});
            cache.window = window;
            CpuDevice device(3, isa);
            const float scale = 1 / std::sqrt(float(layout.head_dim));
            std::vector<double> want;
            for (size_t s = 0; s < 3; ++s) {
                const auto part = cache.oracle(s, double(scale));
                want.insert(want.end(), part.begin(), part.end());
            }
            const std::string wrong =
                mismatch(cache.run(device, {{0, 0, 1}, {1, 0, 50}, {2, 0, 33}}, scale), want, 3e-6);
            VERIFY_CASE(wrong.empty(), text_of(describe(isa, layout), "window ", window, " ", wrong));
        }
}

// Cutting the prompts into chunks at random and batching the chunks at random changes no bit of any row.
template <class T>
void check_invariance(int64_t window) {
    for (const KvLayout& layout : kLayouts)
        for (const CpuIsa isa : isa_levels()) {
            Random random(2);
            Cache<T> cache(random, layout, {70, 41, 5});
            cache.window = window;
            CpuDevice one(1, isa), many(int(random.between(2, 4)), isa);
            const float scale = 1 / std::sqrt(float(layout.head_dim));
            std::vector<std::vector<float>> alone;
            for (size_t s = 0; s < 3; ++s) {
                alone.emplace_back();
                for (int64_t p = 0; p < cache.lengths[s]; ++p) {
                    const auto row = cache.run(one, {{s, p, 1}}, scale);
                    alone.back().insert(alone.back().end(), row.begin(), row.end());
                }
            }
            for (int round = 0; round < 5; ++round) {
                std::fill(cache.pool.begin(), cache.pool.end(), from_float<T>(NAN));
                std::vector<int64_t> done(3, 0);
                while (done != cache.lengths) {
                    std::vector<typename Cache<T>::Chunk> chunks;
                    for (size_t s = 0; s < 3; ++s) {
                        const int64_t count = std::min(random.between(0, 40), cache.lengths[s] - done[s]);
                        if (count > 0) chunks.push_back({s, done[s], count});
                    }
                    const auto out = cache.run(many, chunks, scale);
                    int64_t row = 0;
                    for (const auto& [s, first, count] : chunks) {
                        VERIFY_CASE(same_bits(out.data() + row * cache.q_dim(), alone[s].data() + first * cache.q_dim(),
                                              count * cache.q_dim()),
                                    describe(isa, layout));
                        row += count;
                        done[s] += count;
                    }
                }
            }
        }
}

}  // namespace

class AttentionTest : public QObject {
    Q_OBJECT

    static void windows() {
        QTest::addColumn<qint64>("window");
        for (const int64_t window : kWindows)
            QTest::addRow("window %lld", static_cast<long long>(window)) << qint64(window);
    }

private slots:
    void f32AgreesWithTheOracle_data() { windows(); }
    void f32AgreesWithTheOracle() {
        QFETCH(qint64, window);
        compare_with_oracle<float>(window);
    }
    void bf16AgreesWithTheOracle_data() { windows(); }
    void bf16AgreesWithTheOracle() {
        QFETCH(qint64, window);
        compare_with_oracle<bf16>(window);
    }
    void f32RowsDependOnTheirSequenceOnly_data() { windows(); }
    void f32RowsDependOnTheirSequenceOnly() {
        QFETCH(qint64, window);
        check_invariance<float>(window);
    }
    void bf16RowsDependOnTheirSequenceOnly_data() { windows(); }
    void bf16RowsDependOnTheirSequenceOnly() {
        QFETCH(qint64, window);
        check_invariance<bf16>(window);
    }

    // A window as wide as the sequence is none, to the bit.
    void aWideWindowChangesNothing() {
        for (const CpuIsa isa : isa_levels()) {
            Random random(5);
            Cache<float> cache(random, {6, 2, 16, 16}, {70});
            CpuDevice device(2, isa);
            const auto full = cache.run(device, {{0, 0, 70}}, 0.25f);
            for (cache.window = 70; cache.window < 100; cache.window += 29) {
                const auto windowed = cache.run(device, {{0, 0, 70}}, 0.25f);
                QVERIFY(same_bits(full.data(), windowed.data(), int64_t(full.size())));
            }
        }
    }

    // Scores far apart: the softmax must not overflow, and takes the largest.
    void largeScores() {
        for (const CpuIsa isa : isa_levels()) {
            Random random(3);
            Cache<float> cache(random, {1, 1, 8, 16}, {40});
            for (float& k : cache.k[0]) k *= 100;
            CpuDevice device(1, isa);
            const std::string wrong = mismatch(cache.run(device, {{0, 0, 40}}, 10), cache.oracle(0, 10), 1e-4);
            VERIFY_CASE(wrong.empty(), text_of(name_of(isa), wrong));
        }
    }

    void nanReachesTheRowsThatReadIt() {
        for (const CpuIsa isa : isa_levels()) {
            Random random(4);
            Cache<float> cache(random, {2, 1, 16, 16}, {40});
            cache.k[0][20 * 16 + 3] = NAN;
            CpuDevice device(2, isa);
            const auto out = cache.run(device, {{0, 0, 40}}, 0.25f);
            for (int64_t i = 0; i < 40 * 32; ++i) QCOMPARE(std::isnan(out[size_t(i)]), i / 32 >= 20);
            cache.window = 6;  // and no further than the window: values outside it are not even multiplied by 0
            cache.v[0][20 * 16 + 5] = NAN;
            const auto windowed = cache.run(device, {{0, 0, 40}}, 0.25f);
            for (int64_t i = 0; i < 40 * 32; ++i)
                QCOMPARE(std::isnan(windowed[size_t(i)]), i / 32 >= 20 && i / 32 < 26);
        }
    }
};

QTEST_GUILESS_MAIN(AttentionTest)
#include "attention_test.moc"
