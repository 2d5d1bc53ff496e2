#include "kernels/cuda/bench_cases.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/sample.h"
#include "kernels/sample.h"

#include <cmath>

namespace spartan {

namespace {

constexpr int64_t kHidden = 4096, kInner = 11008, kVocab = 32000;
constexpr float kEps = 1e-5f;

void bench_norm(KernelBench& bench, int64_t rows) {
    const std::string name = KernelBench::named("add_rms_norm 4096", {{"rows", rows}});
    if (!bench.wants(name)) return;
    const int64_t count = rows * kHidden;
    const RandomArray<float> x(bench.device, count, 10, 1), weight(bench.device, kHidden, 11, 1);
    const RandomArray<bf16> delta(bench.device, count, 12, 1);
    const OutputArray<bf16> out(bench.device, count);
    const auto enqueue = [&](int64_t) {
        add_rms_norm<bf16>(bench.device, out.data(), x.data(), delta.data(), 1, weight.data(), kEps, rows, kHidden);
    };
    enqueue(0);
    const auto want = [&](int64_t i) {
        double squares = 0;
        for (int64_t c = i / kHidden * kHidden; c < (i / kHidden + 1) * kHidden; ++c)
            squares += std::pow(x[c] + delta[c], 2);
        return (x[i] + delta[i]) / std::sqrt(squares / double(kHidden) + double(kEps)) * weight[i % kHidden];
    };
    const std::string wrong = check_values(bench.device, out.data(), count, 64, 4e-3, want);
    bench.time({name, {.bytes = count * 12, .flops = 0}, wrong, 0, 0, enqueue});
}

void bench_gate(KernelBench& bench, int64_t rows) {
    const std::string name = KernelBench::named("gate_mul 11008", {{"rows", rows}});
    if (!bench.wants(name)) return;
    const int64_t count = rows * kInner;
    const RandomArray<bf16> gate(bench.device, count, 13, 4), up(bench.device, count, 14, 1);
    const OutputArray<bf16> out(bench.device, count);
    const auto enqueue = [&](int64_t) {
        gate_mul<bf16>(bench.device, out.data(), gate.data(), up.data(), GateKind::silu, rows, kInner);
    };
    enqueue(0);
    const std::string wrong = check_values(bench.device, out.data(), count, 64, 4e-3,
                                           [&](int64_t i) { return gate[i] / (1 + std::exp(-gate[i])) * up[i]; });
    bench.time({name, {.bytes = count * 6, .flops = 0}, wrong, 0, 0, enqueue});
}

void bench_gather(KernelBench& bench, int64_t rows) {
    const std::string name = KernelBench::named("gather_rows 4096", {{"rows", rows}});
    if (!bench.wants(name)) return;
    const int64_t rounds = 64;
    std::vector<int32_t> list;
    for (int64_t i = 0; i < rounds * rows; ++i) list.push_back(int32_t(i * 7919 % kVocab));
    const TableArray<int32_t> ids(list);
    const OutputArray<float> out(bench.device, rows * kHidden);
    const auto enqueue = [&](int64_t round) {
        gather_rows<bf16>(bench.device, out.data(), bench.cold.data(), ids.data() + round % rounds * rows, 1, rows,
                          kHidden);
    };
    enqueue(0);
    const std::string wrong = check_values(bench.device, out.data(), out.size(), 64, 1e-6, [&](int64_t i) {
        return bench.cold[list[size_t(i / kHidden)] * kHidden + i % kHidden];
    });
    bench.time({name, {.bytes = rows * kHidden * 6, .flops = 0}, wrong, 0, rows * kHidden * 2, enqueue});
}

void bench_sampler(KernelBench& bench, const std::string& what, int64_t rows, const SampleParams& p) {
    const std::string name = KernelBench::named("sample " + what + " 32000", {{"rows", rows}});
    if (!bench.wants(name)) return;
    const RandomArray<float> logits(bench.device, rows * kVocab, 15, 8);
    const OutputArray<int32_t> tokens(bench.device, rows);
    std::vector<CudaSampleParams> list;
    for (int64_t i = 0; i < rows; ++i) list.push_back({p.seed, i, p.temperature, p.top_p, p.top_k, 1});
    const TableArray<CudaSampleParams> params(list);
    const auto enqueue = [&](int64_t) {
        sample(bench.device, tokens.data(), {logits.data(), {rows, kVocab}}, params.data());
    };
    enqueue(0);
    bench.device.synchronize();
    std::string wrong;
    CpuDevice cpu(1);
    for (int64_t row = 0; row < rows && wrong.empty(); row += 13) {
        std::vector<float> of_row;
        for (int64_t i = 0; i < kVocab; ++i) of_row.push_back(random_value(row * kVocab + i, 15, 8));
        int32_t got = -2;
        CHECK_CUDA(cudaMemcpy(&got, tokens.data() + row, sizeof got, cudaMemcpyDeviceToHost));
        const int32_t wanted = sample(cpu, of_row, p, row);
        if (got != wanted) wrong = "token " + std::to_string(got) + ", the CPU's " + std::to_string(wanted);
    }
    bench.time({name, {.bytes = rows * kVocab * 4, .flops = 0}, wrong, 0, 0, enqueue});
}

}  // namespace

void bench_rows(KernelBench& bench) {
    for (const int64_t rows : {1, 32, 96, 2048}) bench_norm(bench, rows);
    for (const int64_t rows : {1, 32, 96, 2048}) bench_gate(bench, rows);
    for (const int64_t rows : {1, 96}) bench_gather(bench, rows);
}

void bench_sampling(KernelBench& bench) {
    for (const int64_t rows : {1, 96}) {
        bench_sampler(bench, "greedy", rows, {});
        bench_sampler(bench, "top_p=0.9", rows, {.temperature = 0.8f, .top_p = 0.9f, .top_k = 0, .seed = 7});
        bench_sampler(bench, "top_k=40", rows, {.temperature = 0.8f, .top_p = 1, .top_k = 40, .seed = 7});
    }
}

}  // namespace spartan
