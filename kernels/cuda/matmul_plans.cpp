#include "kernels/check.h"
#include "kernels/cuda/blas.h"
#include "kernels/cuda/graph_timer.h"
#include "kernels/cuda/skinny.h"

#include <algorithm>
#include <limits>
#include <map>
#include <optional>

namespace spartan {

namespace {

constexpr int kAlgorithms = 32;  // asked of cuBLASLt
constexpr int kReplays = 3;      // of which the fastest counts
constexpr double kNever = std::numeric_limits<double>::infinity();
constexpr int64_t kMostSkinnyRows = 96;            // in groups of 32: more would wait for the L2 cache
using Plan = std::optional<cublasLtMatmulAlgo_t>;  // none: skinny.h

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

    // Microseconds of a product by this plan; kNever when it does not run.
    template <class Out>
    double us_of(CudaDevice& device, const Plan& plan, Out* out, const bf16* x, std::span<const bf16* const> w,
                 const BlasShape& shape, int64_t calls) {
        const auto multiply = [&](int64_t i) {
            const bf16* const weights = w[size_t(i) % w.size()];
            if (plan) return blas->multiply(device, shape, *plan, out, x, weights);
            const MatmulProduct<Out, bf16> product{out, x, weights, shape.n};
            skinny_matmul<Out>(device, {&product, 1}, shape.m, shape.k, false);
            return true;
        };
        if (!multiply(0)) return kNever;  // and its code is loaded now, before it is captured
        device.synchronize();
        const auto all = [&] {
            for (int64_t i = 0; i < calls; ++i) multiply(i);
        };
        return time_graph(device, kReplays, all).front() / double(calls);
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
    Choice choice{.skinny = true, .candidates = 0, .us = kNever};
    for (const Plan& plan : candidates) {
        if (!plan && m > kMostSkinnyRows && choice.candidates > 0) continue;
        const double us = state_->us_of(device, plan, out, x, w, shape, calls);
        if (us == kNever) continue;
        ++choice.candidates;
        if (us >= choice.us) continue;
        choice.us = us;
        choice.skinny = !plan;
        state_->plans[{bucket_of(m), n, k, dtype_of<Out>}] = plan;
    }
    CHECK(choice.candidates > 0);
    return choice;
}

template <class Out>
double MatmulPlans::best_blas_us(CudaDevice& device, Out* out, const bf16* x, std::span<const bf16* const> w, int64_t m,
                                 int64_t n, int64_t k, int64_t calls) {
    CHECK(!is_capturing(device) && !batch_invariant() && m > 0 && n > 0 && k > 0 && !w.empty() && calls > 0);
    const BlasShape shape{m, n, k, dtype_of<Out>};
    double best = kNever;
    for (const auto& algorithm : state_->blas->algorithms(shape, kAlgorithms))
        best = std::min(best, state_->us_of(device, Plan(algorithm), out, x, w, shape, calls));
    return best;
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
template double MatmulPlans::best_blas_us(CudaDevice&, float*, const bf16*, std::span<const bf16* const>, int64_t,
                                          int64_t, int64_t, int64_t);
template double MatmulPlans::best_blas_us(CudaDevice&, bf16*, const bf16*, std::span<const bf16* const>, int64_t,
                                          int64_t, int64_t, int64_t);
template bool MatmulPlans::uses_blas<float>(int64_t, int64_t, int64_t);
template bool MatmulPlans::uses_blas<bf16>(int64_t, int64_t, int64_t);
template bool MatmulPlans::multiply(CudaDevice&, float*, const bf16*, const bf16*, int64_t, int64_t, int64_t);
template bool MatmulPlans::multiply(CudaDevice&, bf16*, const bf16*, const bf16*, int64_t, int64_t, int64_t);

}  // namespace spartan
