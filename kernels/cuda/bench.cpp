#include "kernels/cuda/bench.h"

#include "kernels/check.h"
#include "kernels/cuda/bench_cases.h"
#include "kernels/cuda/graph_timer.h"

#include <algorithm>

namespace spartan {

namespace {

constexpr int64_t kColdBytes = int64_t(4) << 30;
constexpr int64_t kRoundBytes = int64_t(400) << 20;   // that launches read before one reads what another has read
constexpr int64_t kGraphBytes = int64_t(4000) << 20;  // that a graph reads: its start does not count then
constexpr int64_t kMostLaunches = 240;
constexpr int kReplays = 9;

}  // namespace

KernelBench::KernelBench(CudaDevice& d, const MachineLimits& limits, const std::string& only,
                         const std::function<bool()>& cancelled)
    : device(d), cold(d, kColdBytes / 2, 1, 0.0625f), limits_(limits), only_(only), cancelled_(cancelled) {}

std::string KernelBench::named(const std::string& what, std::initializer_list<std::pair<const char*, int64_t>> sizes) {
    std::string name = what;
    for (const auto& [key, value] : sizes) name.append(" ").append(key).append("=").append(std::to_string(value));
    return name;
}

bool KernelBench::wants(const std::string& name) const {
    return name.find(only_) != std::string::npos && !(cancelled_ && cancelled_());
}

int64_t KernelBench::rounds(int64_t bytes) const {
    const int64_t room = kColdBytes / std::max<int64_t>(bytes, 1);
    return std::clamp(kRoundBytes / std::max<int64_t>(bytes, 1) + 2, int64_t(1),
                      std::clamp(room, int64_t(1), kMostLaunches));
}

int64_t KernelBench::piece(int64_t round, int64_t bytes) const {
    CHECK(bytes % 16 == 0 && (round + 1) * bytes <= kColdBytes);
    return round * bytes / 2;
}

int64_t KernelBench::launches(int64_t bytes) {
    return std::clamp(kGraphBytes / std::max<int64_t>(bytes, 1), int64_t(4), kMostLaunches);
}

template <class Out>
void KernelBench::prepare_products(std::span<const MatmulProduct<Out, bf16>> products, int64_t m, int64_t k) {
    if (m <= 8) return;
    for (auto rest = products; !rest.empty();) {
        const MatmulRun<Out, bf16> run = leading_run(rest, m);
        rest = rest.subspan(size_t(run.count));
        const int64_t bytes = 2 * run.first.n * k * run.count;
        std::vector<MatmulRun<Out, bf16>> runs;
        for (int64_t i = 0; i < std::min<int64_t>(rounds(bytes), 16); ++i) {
            runs.push_back(run);
            runs.back().first.w = piece_at(i, bytes);
        }
        plans.prepare<Out, bf16>(device, runs, m, k);
    }
}
template void KernelBench::prepare_products<float>(std::span<const MatmulProduct<float, bf16>>, int64_t, int64_t);
template void KernelBench::prepare_products<bf16>(std::span<const MatmulProduct<bf16, bf16>>, int64_t, int64_t);

double KernelBench::median_us(const Case& c, bool overlapping) {
    device.set_overlap_launches(overlapping);
    const int64_t count = launches(c.cost.bytes), rounds_of_case = rounds(c.cold_bytes);
    c.enqueue(0);
    device.synchronize();
    const std::vector<double> us = time_graph(device, kReplays, [&] {
        for (int64_t i = 0; i < count; ++i) c.enqueue(i % rounds_of_case);
    });
    return us[us.size() / 2] / double(count);
}

GpuKernelTiming::Timing KernelBench::share_of(const Case& c, double us) const {
    const double floor_s = std::max(double(c.cost.bytes) / limits_.read_bytes_per_s,
                                    double(c.cost.flops) / (c.in_f32 ? limits_.f32_flops : limits_.bf16_flops));
    return {us, us > 0 ? floor_s * 1e6 / us : 0};
}

void KernelBench::time(const Case& c) {
    GpuKernelTiming t{.name = c.name, .cost = c.cost, .alone = {}, .chain = {}, .peer = {}, .wrong = c.wrong};
    if (c.wrong.empty()) {
        t.alone = share_of(c, median_us(c, false));
        t.chain = share_of(c, median_us(c, true));
        t.peer = share_of(c, c.peer_us);
    }
    device.set_overlap_launches(true);
    timings_.push_back(std::move(t));
}

std::vector<GpuKernelTiming> bench_kernels(CudaDevice& device, const MachineLimits& limits, const std::string& only,
                                           const std::function<bool()>& cancelled) {
    KernelBench bench(device, limits, only, cancelled);
    bench_layers(bench);
    bench_products(bench);
    bench_rotations(bench);
    bench_low_ranks(bench);
    bench_folds(bench);
    bench_attention(bench);
    bench_rows(bench);
    bench_sampling(bench);
    return bench.take();
}

}  // namespace spartan
