#include "kernels/bench.h"

#include "kernels/adapter_ops.h"
#include "kernels/attention.h"
#include "kernels/cpu/simd/table.h"
#include "kernels/elementwise.h"
#include "kernels/matmul.h"
#include "kernels/rms_norm.h"
#include "kernels/sample.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>

namespace spartan {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Far beyond any cache, and still modest.
int64_t cold_bytes() {
    const int64_t cache = std::max(int64_t(sysconf(_SC_LEVEL3_CACHE_SIZE)), int64_t(0));
    return std::clamp(4 * cache, int64_t(256) << 20, int64_t(1) << 30);
}

template <class Run>
double fastest_seconds(double least_total, int least_calls, const Run& run) {
    double best = 1e30;
    const auto start = Clock::now();
    for (int64_t i = 0; i < least_calls || (seconds_since(start) < least_total && i < 10000); ++i) {
        const auto begin = Clock::now();
        run(i);
        best = std::min(best, seconds_since(begin));
    }
    return best;
}

using Buffer = std::vector<float>;

// Cheap, deterministic values of about unit size.
Buffer values(int64_t n, uint64_t seed, float scale = 1) {
    Buffer out(static_cast<size_t>(n));
    uint64_t state = seed * 0x9E3779B97F4A7C15u + 1;
    for (float& v : out) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        v = (float(state >> 40) * 0x1p-23f - 1) * scale;
    }
    return out;
}

template <class T>
std::vector<T> stored(const Buffer& v) {
    std::vector<T> out(v.size());
    std::transform(v.begin(), v.end(), out.begin(), [](float f) { return from_float<T>(f); });
    return out;
}

View<float, 2> view(Buffer& v, int64_t rows, int64_t cols) { return {v.data(), {rows, cols}}; }
View<const float, 2> view(const Buffer& v, int64_t rows, int64_t cols) { return {v.data(), {rows, cols}}; }

// A NaN is not within anything.
bool within(float got, double want, double tolerance) {
    return std::abs(double(got) - want) <= tolerance * (1 + std::abs(want));
}

std::string differs(const char* what, int64_t index, float got, double want) {
    return std::string(what) + " " + std::to_string(index) + ": found " + std::to_string(got) + ", expected " +
           std::to_string(want);
}

class Bench {
public:
    Bench(CpuDevice& device, const MachineLimits& limits, const std::string& only,
          const std::function<bool()>& cancelled)
        : device_(device), limits_(limits), only_(only), cancelled_(cancelled) {}

    std::vector<KernelTiming> run() {
        for_type<float>();
        for_type<bf16>();
        norms_and_activations();
        sampling();
        return std::move(timings_);
    }

private:
    static constexpr int64_t kHidden = 576, kInner = 1536, kVocab = 49152;

    bool done() const { return cancelled_ && cancelled_(); }

    // Checks `wrong`, times `run(i)` (i counts calls, to pick a cold copy) and notes it.
    template <class T, class Run>
    void note(std::string name, Cost cost, std::string wrong, const Run& run) {
        if (name.find(only_) == std::string::npos) return;
        KernelTiming t{.name = std::move(name), .cost = cost, .ms = 0, .share = 0, .wrong = std::move(wrong)};
        if (t.wrong.empty()) {
            const double seconds = fastest_seconds(0.12, 5, run);
            const double peak = std::is_same_v<T, float> ? limits_.f32_flops : limits_.bf16_flops;
            t.ms = seconds * 1e3;
            t.share = std::max(double(cost.bytes) / limits_.read_bytes_per_s, double(cost.flops) / peak) / seconds;
        }
        timings_.push_back(std::move(t));
    }

    template <class T>
    static std::string named(const char* kernel, std::initializer_list<std::pair<const char*, int64_t>> sizes) {
        std::string name = std::string(kernel) + " " + spartan::name_of(dtype_of<T>);
        for (const auto& [key, value] : sizes) name.append(" ").append(key).append("=").append(std::to_string(value));
        return name;
    }

    template <class T>
    void for_type() {
        const std::array<std::array<int64_t, 2>, 6> small{{{kHidden, kHidden},
                                                           {192, kHidden},
                                                           {kInner, kHidden},
                                                           {2 * kInner, kHidden},
                                                           {kHidden, kInner},
                                                           {kVocab, kHidden}}};
        for (const auto& [n, k] : small) {
            matmuls<T>(n, k, n == kVocab ? std::vector<int64_t>{1, 32} : std::vector<int64_t>{1, 2, 4, 8, 32, 64, 256});
            if (done()) return;
        }
        matmuls<T>(4096, 4096, {1, 8, 64});
        if (!done()) matmuls<T>(11008, 4096, {1, 64});
        if (!done()) rotations<T>(32, 1, 32);
        if (!done()) rotations<T>(1, 1, 32);
        if (!done()) rotations<T>(1, 256, 32);
        if (!done()) rotations<T>(32, 1, 4);
        if (!done()) loras<T>(32, 1, 16);
        if (!done()) loras<T>(1, 1, 16);
        if (!done()) loras<T>(1, 256, 16);
        if (!done()) attentions<T>(1, 1, 2048);
        if (!done()) attentions<T>(32, 1, 512);
        if (!done()) attentions<T>(1, 512, 512);
    }

    template <class T>
    void matmuls(int64_t n, int64_t k, const std::vector<int64_t>& row_counts) {
        std::vector<PackedMatrix<T>> copies;
        const Buffer w = values(n * k, 1);
        const int64_t count = std::max(cold_bytes() / (n * k * int64_t(sizeof(T))), int64_t(2));
        copies.emplace_back(n, k);
        copies[0].set_rows(0, n, w.data());
        for (int64_t i = 1; i < count && !done(); ++i) {
            copies.emplace_back(n, k);  // the same values: only where they lie matters
            std::memcpy(const_cast<T*>(copies.back().data()), copies[0].data(), size_t(copies[0].bytes()));
        }
        for (const int64_t m : row_counts) {
            if (done()) return;
            const Buffer x = values(m * k, 2);
            Buffer out(size_t(m * n));
            matmul(device_, view(out, m, n), view(x, m, k), copies[0]);
            std::string wrong;
            for (int64_t i = 0; i < 64 && wrong.empty(); ++i) {
                const int64_t row = i * 7919 % m, column = i * 104729 % n;
                double sum = 0;
                for (int64_t c = 0; c < k; ++c)
                    sum += double(to_float(from_float<T>(x[size_t(row * k + c)]))) *
                           double(to_float(from_float<T>(w[size_t(column * k + c)])));
                if (!within(out[size_t(row * n + column)], sum, 2.5e-7 * double(k)))
                    wrong = differs("output", row * n + column, out[size_t(row * n + column)], sum);
            }
            note<T>(named<T>("matmul", {{"M", m}, {"N", n}, {"K", k}}), matmul_cost<T>(m, n, k), wrong, [&](int64_t i) {
                matmul(device_, view(out, m, n), view(x, m, k), copies[size_t(i) % copies.size()]);
            });
        }
    }

    // `per_call` adapters of `calls` pieces of `count` elements, in all enough to be cold: a call reads a piece of
    // each, as a layer does.
    template <class T>
    static std::vector<T> blobs(int64_t count, int64_t per_call, int64_t& calls) {
        const std::vector<T> one = stored<T>(values(count, 3, 0.2f));
        calls = std::max(cold_bytes() / (count * per_call * int64_t(sizeof(T))), int64_t(2));
        std::vector<T> all;
        all.reserve(size_t(count * per_call * calls));
        for (int64_t i = 0; i < per_call * calls; ++i) all.insert(all.end(), one.begin(), one.end());
        return all;
    }

    template <class T>
    void rotations(int64_t adapters, int64_t rows_each, int64_t group) {
        const int64_t rows = adapters * rows_each, size = kHidden * group;
        int64_t calls = 0;
        const std::vector<T> all = blobs<T>(size, adapters, calls);
        const Buffer x = values(rows * kHidden, 4);
        Buffer out(x.size());
        const auto run = [&](int64_t call) {
            std::vector<RotateSegment<T>> segments;
            for (int64_t i = 0; i < adapters; ++i)
                segments.push_back(
                    {i * rows_each, (i + 1) * rows_each, all.data() + (i * calls + call % calls) * size, group});
            rotate<T>(device_, view(out, rows, kHidden), view(x, rows, kHidden), segments);
        };
        run(0);
        std::string wrong;
        for (int64_t i = 0; i < rows * kHidden && wrong.empty(); i += 37) {
            const int64_t at = i % kHidden, g = at / group * group;
            double sum = 0;
            for (int64_t u = 0; u < group; ++u)
                sum += double(x[size_t(i - at + g + u)]) * double(to_float(all[size_t((g + u) * group + at % group)]));
            if (!within(out[size_t(i)], sum, 1e-5)) wrong = differs("output", i, out[size_t(i)], sum);
        }
        note<T>(named<T>("rotate", {{"adapters", adapters}, {"rows", rows}, {"dim", kHidden}, {"G", group}}),
                rotate_cost<T>(rows, adapters, kHidden, group), wrong, run);
    }

    template <class T>
    void loras(int64_t adapters, int64_t rows_each, int64_t rank) {
        const int64_t rows = adapters * rows_each, half = kHidden * rank;
        int64_t calls = 0;
        const std::vector<T> all = blobs<T>(2 * half, adapters, calls);
        const Buffer x = values(rows * kHidden, 5);
        Buffer out(x.size(), 0.f);
        const auto run = [&](int64_t call) {
            std::vector<LoraSegment<T>> segments;
            for (int64_t i = 0; i < adapters; ++i) {
                const T* a = all.data() + (i * calls + call % calls) * 2 * half;
                segments.push_back({i * rows_each, (i + 1) * rows_each, a, a + half, rank, 0.01f});
            }
            lora<T>(device_, view(out, rows, kHidden), view(x, rows, kHidden), segments);
        };
        run(0);
        std::string wrong;
        for (int64_t i = 0; i < rows * kHidden && wrong.empty(); i += 997) {
            double sum = 0;
            for (int64_t r = 0; r < rank; ++r) {
                double low = 0;
                for (int64_t k = 0; k < kHidden; ++k)
                    low +=
                        double(x[size_t(i / kHidden * kHidden + k)]) * double(to_float(all[size_t(r * kHidden + k)]));
                sum += 0.01 * low * double(to_float(all[size_t(half + r * kHidden + i % kHidden)]));
            }
            if (!within(out[size_t(i)], sum, 1e-5)) wrong = differs("output", i, out[size_t(i)], sum);
        }
        note<T>(named<T>("lora",
                         {{"adapters", adapters}, {"rows", rows}, {"in", kHidden}, {"out", kHidden}, {"rank", rank}}),
                lora_cost<T>(rows, adapters, kHidden, kHidden, rank), wrong, run);
    }

    // The last `rows_each` tokens of sequences of `tokens`.
    template <class T>
    void attentions(int64_t sequences, int64_t rows_each, int64_t tokens) {
        const KvLayout layout{9, 3, 64, 16};
        const int64_t pages_each = (tokens + 15) / 16, rows = sequences * rows_each;
        const std::vector<T> pool = stored<T>(values(sequences * pages_each * layout.page_elements(), 6));
        std::vector<int32_t> pages(static_cast<size_t>(sequences * pages_each));
        for (size_t i = 0; i < pages.size(); ++i) pages[i] = int32_t(i);
        std::vector<AttentionSegment> segments;
        for (int64_t s = 0; s < sequences; ++s)
            segments.push_back({s * rows_each, (s + 1) * rows_each, tokens - rows_each,
                                std::span(pages).subspan(size_t(s * pages_each), size_t(pages_each))});
        const Buffer q = values(rows * kHidden, 7);
        Buffer out(q.size());
        const auto run = [&](int64_t) {
            attention<T>(device_, view(out, rows, kHidden), view(q, rows, kHidden), pool.data(), layout, 0.125f,
                         segments);
        };
        run(0);
        std::string wrong;
        for (int64_t i = 0; i < 8 && wrong.empty(); ++i) {
            const int64_t row = i * 7919 % rows, head = i % layout.num_heads, d = i * 31 % 64;
            const double want =
                attention_value(layout, segments[size_t(row / rows_each)], pool.data(), q, row, head, d);
            const float got = out[size_t(row * kHidden + head * 64 + d)];
            if (!within(got, want, 1e-5)) wrong = differs("row", row, got, want);
        }
        note<T>(named<T>("attention", {{"sequences", sequences}, {"rows", rows}, {"tokens", tokens}}),
                attention_cost<T>(layout, sequences * tokens, rows_each, tokens, sequences), wrong, run);
    }

    template <class T>
    static double attention_value(const KvLayout& l, const AttentionSegment& s, const T* pool, const Buffer& q,
                                  int64_t row, int64_t head, int64_t d) {
        double total = 0, value = 0;
        const int64_t kv = head / (l.num_heads / l.kv_heads), tile = l.block_tokens * l.head_dim;
        for (int64_t j = 0; j <= s.first_position + row - s.row_begin; ++j) {
            const T* page = pool + s.pages[size_t(j / l.block_tokens)] * l.page_elements() + kv * tile;
            const int64_t slot = j % l.block_tokens;
            double dot = 0;
            for (int64_t i = 0; i < l.head_dim; ++i)
                dot += double(q[size_t((row * l.num_heads + head) * l.head_dim + i)]) *
                       double(to_float(page[i * l.block_tokens + slot]));
            const double p = std::exp(dot * 0.125);
            total += p;
            value += p * double(to_float(page[l.page_elements() / 2 + slot * l.head_dim + d]));
        }
        return value / total;
    }

    void norms_and_activations() {
        for (const int64_t rows : {1, 32, 256}) {
            if (done()) return;
            const Buffer x = values(rows * kHidden, 8), weight = values(kHidden, 9),
                         gate = values(rows * kInner, 10, 4);
            Buffer out(x.size()), inner(gate.size());
            const auto norm = [&](int64_t) {
                rms_norm(device_, view(out, rows, kHidden), view(x, rows, kHidden), {weight.data(), {kHidden}}, 1e-5f);
            };
            norm(0);
            double square = 0;
            for (int64_t i = 0; i < kHidden; ++i) square += double(x[size_t(i)]) * double(x[size_t(i)]);
            const double want = double(x[3]) / std::sqrt(square / kHidden + 1e-5) * double(weight[3]);
            note<float>(named<float>("rms_norm", {{"rows", rows}, {"dim", kHidden}}), rms_norm_cost(rows, kHidden),
                        within(out[3], want, 1e-5) ? "" : differs("output", 3, out[3], want), norm);
            const auto silu = [&](int64_t) {
                silu_mul(device_, view(inner, rows, kInner), view(gate, rows, kInner), view(gate, rows, kInner));
            };
            silu(0);
            const double g = double(gate[5]), activated = g / (1 + std::exp(-g)) * g;
            note<float>(named<float>("silu_mul", {{"rows", rows}, {"dim", kInner}}), silu_mul_cost(rows, kInner),
                        within(inner[5], activated, 1e-5) ? "" : differs("output", 5, inner[5], activated), silu);
        }
    }

    void sampling() {
        const Buffer logits = values(kVocab, 11, 8);
        const auto best = int32_t(std::max_element(logits.begin(), logits.end()) - logits.begin());
        const Cost cost{.bytes = kVocab * 4, .flops = 0};
        const int32_t got = sample(device_, logits, {}, 0);
        if (done()) return;
        note<float>("sample greedy V=49152", cost, got == best ? "" : differs("token", best, float(got), best),
                    [&](int64_t i) { sample(device_, logits, {}, i); });
        for (const auto& [name, p] :
             {std::pair{"sample top_k=40 V=49152", SampleParams{.temperature = 1, .top_k = 40}},
              std::pair{"sample top_p=0.9 V=49152", SampleParams{.temperature = 0.7f, .top_p = 0.9f}}}) {
            if (done()) return;
            note<float>(name, cost, wrong_draws(logits, p), [&, q = p](int64_t i) { sample(device_, logits, q, i); });
        }
    }

    // Of some draws, those outside the tokens that top-k and top-p leave, found by sorting in double precision.
    std::string wrong_draws(const Buffer& logits, const SampleParams& p) {
        std::vector<int32_t> order(kVocab);
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
        const auto weight = [&](int32_t token) {
            return std::exp((double(logits[token]) - double(logits[order[0]])) / double(p.temperature));
        };
        size_t kept = p.top_k > 0 ? size_t(p.top_k) : order.size();
        double total = 0, sum = 0;
        for (size_t i = 0; i < kept; ++i) total += weight(order[i]);
        size_t nucleus = 0;
        while (nucleus < kept && sum < double(p.top_p) * total * (1 + 1e-5)) sum += weight(order[nucleus++]);
        for (int64_t position = 0; position < 50; ++position) {
            const int32_t token = sample(device_, logits, p, position);
            if (std::find(order.begin(), order.begin() + int64_t(nucleus), token) == order.begin() + int64_t(nucleus))
                return "drew token " + std::to_string(token) + " outside the " + std::to_string(nucleus) + " likeliest";
        }
        return "";
    }

    CpuDevice& device_;
    const MachineLimits& limits_;
    const std::string& only_;
    const std::function<bool()>& cancelled_;
    std::vector<KernelTiming> timings_;
};

double best_rate(double (*peak)(int64_t, float*), CpuDevice& device) {
    constexpr int64_t kRounds = 2000;
    std::vector<float> sinks(size_t(device.num_threads()));
    std::vector<double> flops(size_t(device.num_threads()), 0.);
    const double seconds = fastest_seconds(0.3, 5, [&](int64_t) {
        device.parallel_items(device.num_threads(),
                              [&](int64_t i, int) { flops[size_t(i)] = peak(kRounds, &sinks[size_t(i)]); });
    });
    double all = 0;
    for (const double f : flops) all += f;
    return all / seconds;
}

}  // namespace

MachineLimits measure_limits(CpuDevice& device) {
    const CpuKernels& kernels = kernels_for(device.isa());
    constexpr int64_t kChunk = 1 << 20;
    const int64_t bytes = cold_bytes() / kChunk * kChunk, chunks = bytes / kChunk;
    std::vector<float> buffer(size_t(bytes) / 4, 1.f), sinks(size_t(device.num_threads()) * 16);
    auto* memory = reinterpret_cast<char*>(buffer.data());
    MachineLimits limits;
    const double read = fastest_seconds(0.5, 4, [&](int64_t) {
        device.parallel_for(chunks, 1, [&](int64_t begin, int64_t end, int thread) {
            sinks[size_t(thread) * 16] += kernels.read_memory(memory + begin * kChunk, (end - begin) * kChunk);
        });
    });
    limits.read_bytes_per_s = double(bytes) / read;
    const double copy = fastest_seconds(0.5, 4, [&](int64_t) {
        device.parallel_for(chunks / 2, 1, [&](int64_t begin, int64_t end, int) {
            std::memcpy(memory + bytes / 2 + begin * kChunk, memory + begin * kChunk, size_t((end - begin) * kChunk));
        });
    });
    limits.copy_bytes_per_s =
        double((chunks & ~int64_t{1}) * kChunk) / copy;  // half of the chunks are read, half written
    limits.f32_flops = best_rate(kernels.peak_f32, device);
    limits.bf16_flops = best_rate(kernels.peak_bf16, device);
    return limits;
}

std::vector<KernelTiming> bench_kernels(CpuDevice& device, const MachineLimits& limits, const std::string& only,
                                        const std::function<bool()>& cancelled) {
    return Bench(device, limits, only, cancelled).run();
}

}  // namespace spartan
