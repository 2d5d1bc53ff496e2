#include "kernels/check.h"
#include "kernels/cuda/blas.h"
#include "kernels/cuda/graph_timer.h"
#include "kernels/cuda/skinny.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <limits>
#include <map>
#include <optional>
#include <sstream>

#include <unistd.h>

namespace spartan {

namespace {

constexpr int kAlgorithms = 32;    // asked of cuBLASLt
constexpr int kFewAlgorithms = 8;  // for many rows, where they differ little
constexpr size_t kFinalists = 8;
constexpr int kReplays = 7;  // of which the fastest counts
constexpr double kNever = std::numeric_limits<double>::infinity();
constexpr int64_t kMostSkinnyRows = 96;  // in groups of 32: more would wait for the L2 cache

struct Plan {
    ProductKernel kernel = ProductKernel::skinny;
    cublasLtMatmulAlgo_t algorithm{};  // of cuBLASLt

    Plan() = default;
    explicit Plan(ProductKernel own) : kernel(own) {}
    explicit Plan(const cublasLtMatmulAlgo_t& of_blas) : kernel(ProductKernel::blas), algorithm(of_blas) {}
};

bool is_capturing(CudaDevice& device) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    CHECK_CUDA(cudaStreamIsCapturing(device.stream(), &status));
    return status != cudaStreamCaptureStatusNone;
}

template <class Out, class T>
BlasShape shape_of(const MatmulRun<Out, T>& run, int64_t m, int64_t k) {
    return {m, run.first.n, k, run.count, dtype_of<Out>, dtype_of<T>};
}
template <class Out, class T>
BlasOperands operands_of(const MatmulRun<Out, T>& run) {
    return {run.first.out, run.first.x, run.first.w, run.out_step, run.x_step, run.w_step};
}
template <class Out, class T>
void own_run(CudaDevice& device, ProductKernel kernel, const MatmulRun<Out, T>& run, int64_t m, int64_t k) {
    std::array<MatmulProduct<Out, T>, kMostProducts> products;
    for (int64_t i = 0; i < run.count; ++i)
        products[size_t(i)] = {run.first.out + i * run.out_step, run.first.x + i * run.x_step,
                               run.first.w + i * run.w_step, run.first.n};
    const auto all = std::span(products).first(size_t(run.count));
    if (kernel == ProductKernel::spread)
        spread_matmul<Out, T>(device, all, m, k);
    else
        skinny_matmul<Out, T>(device, all, m, k, false);
}

// What plans depend on besides their shape; the number at the start is our kernels': raise it when their speed changes.
std::string machine() {
    int ordinal = 0, driver = 0;
    cudaDeviceProp properties{};
    CHECK_CUDA(cudaGetDevice(&ordinal));
    CHECK_CUDA(cudaGetDeviceProperties(&properties, ordinal));
    CHECK_CUDA(cudaDriverGetVersion(&driver));
    const bool spread = has_warpgroup_products(10 * properties.major + properties.minor);
    return "plans 5" + std::string(spread ? ", spread, " : ", ") + properties.name + ", driver " +
           std::to_string(driver) + ", cuBLASLt " + std::to_string(cublasLtGetVersion());
}

// An algorithm is plain data, as words of hexadecimal digits.
std::string text_of(const Plan& plan) {
    if (plan.kernel == ProductKernel::skinny) return "skinny";
    if (plan.kernel == ProductKernel::spread) return "spread";
    std::string text;
    for (const uint64_t word : plan.algorithm.data) {
        char digits[17];
        std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(word));
        text += digits;
    }
    return text;
}
std::optional<DType> dtype_from(const std::string& name) {
    for (const DType t : {DType::f32, DType::bf16, DType::f16})
        if (name == name_of(t)) return t;
    return std::nullopt;
}
std::optional<Plan> plan_from(const std::string& text) {
    if (text == "skinny") return Plan(ProductKernel::skinny);
    if (text == "spread") return Plan(ProductKernel::spread);
    cublasLtMatmulAlgo_t algorithm;
    if (text.size() != 16 * std::size(algorithm.data) || text.find_first_not_of("0123456789abcdef") != text.npos)
        return std::nullopt;
    for (size_t i = 0; i < std::size(algorithm.data); ++i)
        algorithm.data[i] = std::stoull(text.substr(16 * i, 16), nullptr, 16);
    return Plan(algorithm);
}

}  // namespace

struct MatmulPlans::State {
    std::optional<Blas> blas;         // none: batch invariant
    std::map<BlasShape, Plan> plans;  // m: a bucket; those that were timed
    std::map<BlasShape, Plan> guesses;
    std::string file, machine;
    bool changed = false;

    void load() {
        std::ifstream kept(file);
        std::string line;
        if (!kept || !std::getline(kept, line) || line != machine) return;
        while (std::getline(kept, line)) {
            std::istringstream words(line);
            BlasShape s;
            std::string out, in, algorithm;
            words >> s.m >> s.n >> s.k >> s.count >> out >> in >> algorithm;
            const std::optional<Plan> plan = plan_from(algorithm);
            const auto out_type = dtype_from(out), in_type = dtype_from(in);
            if (!words || !plan || !out_type || !in_type) return;
            if (plan->kernel == ProductKernel::spread && s.m > kMostSpreadRows) return;  // no file of ours
            s.out = *out_type, s.in = *in_type;
            plans[s] = *plan;
        }
    }

    const Plan& plan_of(BlasShape shape, const BlasOperands& operands) {
        shape.m = bucket_of(shape.m);
        if (const auto found = plans.find(shape); found != plans.end()) return found->second;
        if (const auto found = guesses.find(shape); found != guesses.end()) return found->second;
        if (shape.m <= kSkinnyRows) return guesses[shape];
        const auto algorithms = blas->algorithms(shape, operands, 1);
        return guesses[shape] = algorithms.empty() ? Plan() : Plan(algorithms.front());
    }

    // Microseconds of a run by this plan; kNever when it does not run.
    template <class Out, class T>
    double us_of(CudaDevice& device, const Plan& plan, std::span<const MatmulRun<Out, T>> runs, int64_t m, int64_t k,
                 int64_t calls, int replays) {
        const auto multiply = [&](int64_t i) {
            const MatmulRun<Out, T>& run = runs[size_t(i) % runs.size()];
            if (plan.kernel == ProductKernel::blas)
                return blas->multiply(device, shape_of(run, m, k), operands_of(run), plan.algorithm);
            own_run(device, plan.kernel, run, m, k);
            return true;
        };
        if (!multiply(0)) return kNever;  // and its code is loaded now, before it is captured
        device.synchronize();
        const auto all = [&] {
            for (int64_t i = 0; i < calls; ++i) multiply(i);
        };
        return time_graph(device, replays, all).front() / double(calls);
    }
};

MatmulPlans::MatmulPlans(bool batch_invariant, std::string file) : state_(std::make_unique<State>()) {
    if (batch_invariant) return;
    state_->blas.emplace();
    if (file.empty()) return;
    state_->file = std::move(file);
    state_->machine = machine();
    state_->load();
}
MatmulPlans::~MatmulPlans() = default;

bool MatmulPlans::batch_invariant() const { return !state_->blas; }

int64_t MatmulPlans::bucket_of(int64_t m) {
    for (const int64_t few : {8, 16, 32})
        if (m <= few) return few;
    int64_t power = kSkinnyRows;
    while (m > 2 * power) power *= 2;
    return m <= power + power / 2 ? power + power / 2 : 2 * power;
}

template <class Out, class T>
MatmulPlans::Choice MatmulPlans::prepare(CudaDevice& device, std::span<const MatmulRun<Out, T>> runs, int64_t m,
                                         int64_t k) {
    CHECK(!runs.empty() && m > 8 && k > 0 && k % kSkinnyBlock == 0 && runs[0].first.n > 0);
    if (batch_invariant()) return {};
    CHECK(!is_capturing(device));
    BlasShape shape = shape_of(runs[0], m, k), bucket = shape;
    bucket.m = bucket_of(m);
    if (const auto known = state_->plans.find(bucket); known != state_->plans.end()) {
        const Plan& plan = known->second;  // maybe from the file
        if (plan.kernel != ProductKernel::blas || state_->blas->accepts(shape, operands_of(runs[0]), plan.algorithm))
            return {.kernel = plan.kernel, .candidates = 0, .us = 0};
    }

    std::vector<Plan> candidates;
    const int most = m <= 256 ? kAlgorithms : kFewAlgorithms;
    for (const auto& algorithm : state_->blas->algorithms(shape, operands_of(runs[0]), most))
        candidates.emplace_back(algorithm);
    if (m <= kMostSpreadRows && has_warpgroup_products(device.compute_capability()))
        candidates.emplace_back(ProductKernel::spread);
    // skinny.h for a few rows more than it is made for, or when all else fails
    if (m <= kMostSkinnyRows || candidates.empty()) candidates.emplace_back(ProductKernel::skinny);

    // All of them briefly, then the best of them well.
    const bool brief = 2 * m * shape.n * k * shape.count < 100'000'000'000;
    const int64_t calls = brief ? std::clamp<int64_t>(int64_t(runs.size()), 4, 16) : 2;
    std::vector<std::pair<double, Plan>> timed;
    for (const Plan& plan : candidates) {
        const double us = state_->us_of(device, plan, runs, m, k, std::min<int64_t>(calls, 4), 1);
        if (us != kNever) timed.emplace_back(us, plan);
    }
    CHECK(!timed.empty());
    const auto faster = [](const auto& a, const auto& b) { return a.first < b.first; };
    std::stable_sort(timed.begin(), timed.end(), faster);
    const int tried = int(timed.size());
    timed.resize(std::min(timed.size(), kFinalists));
    for (auto& [us, plan] : timed) us = state_->us_of(device, plan, runs, m, k, calls, kReplays);
    const auto& best = *std::min_element(timed.begin(), timed.end(), faster);
    state_->plans[bucket] = best.second;
    state_->changed = true;
    return {.kernel = best.second.kernel, .candidates = tried, .us = best.first};
}

void MatmulPlans::save() {
    if (!state_->changed || state_->file.empty()) return;
    state_->changed = false;
    const std::string written = state_->file + "." + std::to_string(getpid());  // others may write theirs
    std::ofstream out(written);
    out << state_->machine << '\n';
    for (const auto& [shape, plan] : state_->plans)
        out << shape.m << ' ' << shape.n << ' ' << shape.k << ' ' << shape.count << ' ' << name_of(shape.out) << ' '
            << name_of(shape.in) << ' ' << text_of(plan) << '\n';
    out.close();
    if (!out || std::rename(written.c_str(), state_->file.c_str()) != 0) std::remove(written.c_str());
}

template <class Out, class T>
double MatmulPlans::best_blas_us(CudaDevice& device, std::span<const MatmulRun<Out, T>> runs, int64_t m, int64_t k,
                                 int64_t calls) {
    CHECK(!is_capturing(device) && !batch_invariant() && m > 0 && k > 0 && !runs.empty() && calls > 0);
    double best = kNever;
    for (const auto& algorithm : state_->blas->algorithms(shape_of(runs[0], m, k), operands_of(runs[0]), kAlgorithms))
        best = std::min(best, state_->us_of(device, Plan(algorithm), runs, m, k, calls, kReplays));
    return best;
}

template <class Out, class T>
ProductKernel MatmulPlans::kernel_of(const MatmulRun<Out, T>& run, int64_t m, int64_t k) {
    return state_->blas ? state_->plan_of(shape_of(run, m, k), operands_of(run)).kernel : ProductKernel::skinny;
}

template <class Out, class T>
bool MatmulPlans::multiply(CudaDevice& device, const MatmulRun<Out, T>& run, int64_t m, int64_t k, bool onto) {
    const BlasShape shape = shape_of(run, m, k);
    const BlasOperands operands = operands_of(run);
    const Plan& plan = state_->plan_of(shape, operands);
    if (plan.kernel == ProductKernel::blas && state_->blas->multiply(device, shape, operands, plan.algorithm, onto))
        return true;
    const auto algorithms = state_->blas->algorithms(shape, operands, 1);  // the bucket's does not take this m
    return !algorithms.empty() && state_->blas->multiply(device, shape, operands, algorithms.front(), onto);
}

template MatmulPlans::Choice MatmulPlans::prepare(CudaDevice&, std::span<const MatmulRun<float, bf16>>, int64_t,
                                                  int64_t);
template double MatmulPlans::best_blas_us(CudaDevice&, std::span<const MatmulRun<float, bf16>>, int64_t, int64_t,
                                          int64_t);
template ProductKernel MatmulPlans::kernel_of(const MatmulRun<float, bf16>&, int64_t, int64_t);
template bool MatmulPlans::multiply(CudaDevice&, const MatmulRun<float, bf16>&, int64_t, int64_t, bool);
template MatmulPlans::Choice MatmulPlans::prepare(CudaDevice&, std::span<const MatmulRun<bf16, bf16>>, int64_t,
                                                  int64_t);
template double MatmulPlans::best_blas_us(CudaDevice&, std::span<const MatmulRun<bf16, bf16>>, int64_t, int64_t,
                                          int64_t);
template ProductKernel MatmulPlans::kernel_of(const MatmulRun<bf16, bf16>&, int64_t, int64_t);
template bool MatmulPlans::multiply(CudaDevice&, const MatmulRun<bf16, bf16>&, int64_t, int64_t, bool);
template MatmulPlans::Choice MatmulPlans::prepare(CudaDevice&, std::span<const MatmulRun<float, f16>>, int64_t,
                                                  int64_t);
template double MatmulPlans::best_blas_us(CudaDevice&, std::span<const MatmulRun<float, f16>>, int64_t, int64_t,
                                          int64_t);
template ProductKernel MatmulPlans::kernel_of(const MatmulRun<float, f16>&, int64_t, int64_t);
template bool MatmulPlans::multiply(CudaDevice&, const MatmulRun<float, f16>&, int64_t, int64_t, bool);
template MatmulPlans::Choice MatmulPlans::prepare(CudaDevice&, std::span<const MatmulRun<f16, f16>>, int64_t, int64_t);
template double MatmulPlans::best_blas_us(CudaDevice&, std::span<const MatmulRun<f16, f16>>, int64_t, int64_t, int64_t);
template ProductKernel MatmulPlans::kernel_of(const MatmulRun<f16, f16>&, int64_t, int64_t);
template bool MatmulPlans::multiply(CudaDevice&, const MatmulRun<f16, f16>&, int64_t, int64_t, bool);

}  // namespace spartan
