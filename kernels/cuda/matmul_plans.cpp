#include "kernels/check.h"
#include "kernels/cuda/blas.h"
#include "kernels/cuda/skinny.h"

#include <algorithm>
#include <limits>
#include <map>
#include <optional>

namespace spartan {

namespace {

constexpr int kAlgorithms = 32;                    // asked of cuBLASLt
constexpr int64_t kMostSkinnyRows = 96;            // in groups of 32: more would wait for the L2 cache
using Plan = std::optional<cublasLtMatmulAlgo_t>;  // none: skinny.h

// Owns what a captured graph consists of.
struct Graph {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    cudaEvent_t begin = nullptr, end = nullptr;

    Graph() = default;
    Graph(const Graph&) = delete;
    Graph& operator=(const Graph&) = delete;
    ~Graph() {
        if (executable) cudaGraphExecDestroy(executable);
        if (graph) cudaGraphDestroy(graph);
        if (begin) cudaEventDestroy(begin);
        if (end) cudaEventDestroy(end);
    }
};

// Microseconds that the work `enqueue()` puts on the stream takes when a graph brings it, the least of a few tries.
template <class Enqueue>
double time_us(CudaDevice& device, const Enqueue& enqueue) {
    constexpr int kTries = 3;
    Graph g;
    CHECK_CUDA(cudaStreamBeginCapture(device.stream(), cudaStreamCaptureModeThreadLocal));
    enqueue();
    CHECK_CUDA(cudaStreamEndCapture(device.stream(), &g.graph));
    CHECK_CUDA(cudaGraphInstantiate(&g.executable, g.graph, 0));
    CHECK_CUDA(cudaEventCreate(&g.begin));
    CHECK_CUDA(cudaEventCreate(&g.end));
    double least = std::numeric_limits<double>::infinity();
    for (int i = 0; i < kTries; ++i) {
        CHECK_CUDA(cudaEventRecord(g.begin, device.stream()));
        CHECK_CUDA(cudaGraphLaunch(g.executable, device.stream()));
        CHECK_CUDA(cudaEventRecord(g.end, device.stream()));
        device.synchronize();
        float ms = 0;
        CHECK_CUDA(cudaEventElapsedTime(&ms, g.begin, g.end));
        least = std::min(least, 1e3 * double(ms));
    }
    return least;
}

bool is_capturing(CudaDevice& device) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    CHECK_CUDA(cudaStreamIsCapturing(device.stream(), &status));
    return status != cudaStreamCaptureStatusNone;
}

}  // namespace

struct MatmulPlans::State {
    std::optional<Blas> blas;         // none: batch invariant
    std::map<BlasShape, Plan> plans;  // m: a bucket

    const Plan& plan_of(BlasShape shape) {
        shape.m = bucket_of(shape.m);
        const auto found = plans.find(shape);
        if (found != plans.end()) return found->second;
        const auto algorithms = blas->algorithms(shape, 1);
        return plans[shape] = algorithms.empty() ? Plan() : Plan(algorithms.front());
    }
};

MatmulPlans::MatmulPlans(bool batch_invariant) : state_(std::make_unique<State>()) {
    if (!batch_invariant) state_->blas.emplace();
}
MatmulPlans::~MatmulPlans() = default;

bool MatmulPlans::batch_invariant() const { return !state_->blas; }

int64_t MatmulPlans::bucket_of(int64_t m) {
    int64_t power = kSkinnyRows;
    while (m > 2 * power) power *= 2;
    return m <= power + power / 2 ? power + power / 2 : 2 * power;
}

template <class Out>
MatmulPlans::Choice MatmulPlans::prepare(CudaDevice& device, Out* out, const bf16* x, std::span<const bf16* const> w,
                                         int64_t m, int64_t n, int64_t k) {
    CHECK(m > kSkinnyRows && n > 0 && k > 0 && k % kSkinnyBlock == 0 && !w.empty());
    if (batch_invariant()) return {};
    CHECK(!is_capturing(device));
    const BlasShape shape{m, n, k, dtype_of<Out>};
    std::vector<Plan> candidates;
    for (const auto& algorithm : state_->blas->algorithms(shape, kAlgorithms)) candidates.emplace_back(algorithm);
    candidates.emplace_back();  // in the end skinny.h, for a few rows more than it is made for or when all else fails

    const bool brief = 2 * m * n * k < 100'000'000'000;
    const int64_t calls = brief ? std::clamp<int64_t>(int64_t(w.size()), 4, 16) : 2;
    Choice choice{.skinny = true, .candidates = 0, .us = std::numeric_limits<double>::infinity()};
    for (const Plan& plan : candidates) {
        if (!plan && m > kMostSkinnyRows && choice.candidates > 0) continue;
        const auto multiply = [&](int64_t i) {
            const bf16* const weights = w[size_t(i) % w.size()];
            if (plan) return state_->blas->multiply(device, shape, *plan, out, x, weights);
            const MatmulProduct<Out, bf16> product{out, x, weights, n};
            skinny_matmul<Out>(device, {&product, 1}, m, k, false);
            return true;
        };
        if (!multiply(0)) continue;  // and its code is loaded now, before it is captured
        device.synchronize();
        const double us = time_us(device, [&] {
            for (int64_t i = 0; i < calls; ++i) multiply(i);
        });
        ++choice.candidates;
        if (us / double(calls) >= choice.us) continue;
        choice.us = us / double(calls);
        choice.skinny = !plan;
        state_->plans[{bucket_of(m), n, k, dtype_of<Out>}] = plan;
    }
    CHECK(choice.candidates > 0);
    return choice;
}

template <class Out>
bool MatmulPlans::uses_blas(int64_t m, int64_t n, int64_t k) {
    return state_->blas && state_->plan_of({m, n, k, dtype_of<Out>});
}

template <class Out>
bool MatmulPlans::multiply(CudaDevice& device, Out* out, const bf16* x, const bf16* w, int64_t m, int64_t n,
                           int64_t k) {
    const BlasShape shape{m, n, k, dtype_of<Out>};
    const Plan& plan = state_->plan_of(shape);
    if (plan && state_->blas->multiply(device, shape, *plan, out, x, w)) return true;
    const auto algorithms = state_->blas->algorithms(shape, 1);  // the bucket's does not take this m
    return !algorithms.empty() && state_->blas->multiply(device, shape, algorithms.front(), out, x, w);
}

template MatmulPlans::Choice MatmulPlans::prepare(CudaDevice&, float*, const bf16*, std::span<const bf16* const>,
                                                  int64_t, int64_t, int64_t);
template MatmulPlans::Choice MatmulPlans::prepare(CudaDevice&, bf16*, const bf16*, std::span<const bf16* const>,
                                                  int64_t, int64_t, int64_t);
template bool MatmulPlans::uses_blas<float>(int64_t, int64_t, int64_t);
template bool MatmulPlans::uses_blas<bf16>(int64_t, int64_t, int64_t);
template bool MatmulPlans::multiply(CudaDevice&, float*, const bf16*, const bf16*, int64_t, int64_t, int64_t);
template bool MatmulPlans::multiply(CudaDevice&, bf16*, const bf16*, const bf16*, int64_t, int64_t, int64_t);

}  // namespace spartan
