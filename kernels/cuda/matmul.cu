#include "kernels/cuda/matmul.h"

#include "kernels/check.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/skinny.h"
#include "kernels/rounding.h"

#include <array>

namespace spartan {

namespace {

constexpr int kTile = 64;      // rows and columns of out that a CTA computes
constexpr int kDepth = 16;     // of k, staged in shared memory at a time
constexpr int kThreads = 256;  // each has 4 x 4 outputs, 16 apart
constexpr int kPerThread = 4;  // along either side

// values[0, count)[k0, k0 + kDepth) of a row-major [.., k] matrix, transposed; zeros outside.
template <class T>
__device__ void stage(float (&to)[kDepth][kTile + 1], const T* values, int64_t count, int64_t k, int64_t k0) {
#pragma unroll
    for (int i = 0; i < kTile * kDepth / kThreads; ++i) {
        const int at = threadIdx.x + i * kThreads, row = at / kDepth, depth = at % kDepth;
        to[depth][row] = row < count && k0 + depth < k ? to_float(values[row * k + k0 + depth]) : 0.f;
    }
}

template <class Out, class T>
__global__ void __launch_bounds__(kThreads) plain(Out* out, const T* x, const T* w, int64_t m, int64_t n, int64_t k) {
    __shared__ float x_tile[kDepth][kTile + 1], w_tile[kDepth][kTile + 1];
    pdl_trigger();
    pdl_wait();
    const int64_t m0 = int64_t(blockIdx.y) * kTile, n0 = int64_t(blockIdx.x) * kTile;
    const int row = threadIdx.x / 16, column = threadIdx.x % 16;
    float sum[kPerThread][kPerThread] = {};
    for (int64_t k0 = 0; k0 < k; k0 += kDepth) {
        stage(x_tile, x + m0 * k, m - m0, k, k0);
        stage(w_tile, w + n0 * k, n - n0, k, k0);
        __syncthreads();
#pragma unroll
        for (int depth = 0; depth < kDepth; ++depth)
#pragma unroll
            for (int i = 0; i < kPerThread; ++i)
#pragma unroll
                for (int j = 0; j < kPerThread; ++j)
                    sum[i][j] = fmaf(x_tile[depth][row + 16 * i], w_tile[depth][column + 16 * j], sum[i][j]);
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < kPerThread; ++i)
#pragma unroll
        for (int j = 0; j < kPerThread; ++j) {
            const int64_t to_row = m0 + row + 16 * i, to_column = n0 + column + 16 * j;
            if (to_row < m && to_column < n) out[to_row * n + to_column] = from_float<Out>(sum[i][j]);
        }
}

template <class Out, class T>
void plain_matmul(CudaDevice& device, const MatmulProduct<Out, T>& p, int64_t m, int64_t k) {
    const auto tiles = [](int64_t size) { return unsigned(divide_up(size, kTile)); };
    CHECK(m <= int64_t(kTile) * 65535);
    launch(device, plain<Out, T>, dim3(tiles(p.n), tiles(m)), kThreads, 0, p.out, p.x, p.w, m, p.n, k);
}

template <class Out, class T>
void tensor_core_matmul(CudaDevice& device, MatmulPlans& plans, std::span<const MatmulProduct<Out, T>> products,
                        int64_t m, int64_t k) {
    if (plans.batch_invariant() && m > kSkinnyRows)
        return has_warpgroup_products(device.compute_capability()) ? wide_hopper_matmul<Out, T>(device, products, m, k)
                                                                   : wide_matmul<Out, T>(device, products, m, k);
    if (plans.batch_invariant() || m <= 8)
        return skinny_matmul<Out, T>(device, products, m, k, plans.batch_invariant());
    // What cuBLASLt does not compute is one launch of each kernel, behind it.
    struct Others {
        std::array<MatmulProduct<Out, T>, kMostProducts> products;
        size_t count = 0;
        std::span<const MatmulProduct<Out, T>> all() const { return std::span(products).first(count); }
    } skinny, spread;
    for (auto rest = products; !rest.empty();) {
        const MatmulRun<Out, T> run = leading_run(rest, m);
        const auto of_run = rest.first(size_t(run.count));
        rest = rest.subspan(size_t(run.count));
        if (run.first.n == 0) continue;
        const ProductKernel kernel = aligned_to_16(run.first.out) ? plans.kernel_of(run, m, k) : ProductKernel::skinny;
        if (kernel == ProductKernel::blas && plans.multiply(device, run, m, k)) continue;
        Others& others = kernel == ProductKernel::spread ? spread : skinny;
        for (const auto& p : of_run) others.products[others.count++] = p;
    }
    if (skinny.count > 0) skinny_matmul<Out, T>(device, skinny.all(), m, k, false);
    if (spread.count > 0) spread_matmul<Out, T>(device, spread.all(), m, k);
}

}  // namespace

template <class Out, class T>
MatmulRun<Out, T> leading_run(std::span<const MatmulProduct<Out, T>> products, int64_t m) {
    CHECK(!products.empty());
    MatmulRun<Out, T> run{.first = products[0]};
    // Of memory that was allocated as one or not: addresses, not pointers, are subtracted.
    const auto step = [](const auto* from, const auto* to) {
        return int64_t(reinterpret_cast<uintptr_t>(to) - reinterpret_cast<uintptr_t>(from)) / int64_t(sizeof *to);
    };
    for (size_t i = 1; i < products.size(); ++i) {
        const auto &p = products[i], &before = products[i - 1];
        const int64_t out = step(before.out, p.out), x = step(before.x, p.x), w = step(before.w, p.w);
        const bool first = run.count == 1;
        // Whole pieces of 16 bytes, and outputs that do not overlap.
        if (p.n != run.first.n || out < m * p.n || out == 0 || x < 0 || w <= 0 || out % 8 != 0 || x % 8 != 0 ||
            w % 8 != 0)
            break;
        if (!first && (out != run.out_step || x != run.x_step || w != run.w_step)) break;
        run.out_step = out, run.x_step = x, run.w_step = w;
        ++run.count;
    }
    return run;
}
template MatmulRun<float, bf16> leading_run(std::span<const MatmulProduct<float, bf16>>, int64_t);
template MatmulRun<bf16, bf16> leading_run(std::span<const MatmulProduct<bf16, bf16>>, int64_t);
template MatmulRun<float, f16> leading_run(std::span<const MatmulProduct<float, f16>>, int64_t);
template MatmulRun<f16, f16> leading_run(std::span<const MatmulProduct<f16, f16>>, int64_t);

template <class Out, class T>
void matmul(CudaDevice& device, MatmulPlans& plans, std::span<const MatmulProduct<Out, T>> products, int64_t m,
            int64_t k) {
    CHECK(!products.empty() && products.size() <= kMostProducts && m >= 0 && k >= 1);
    bool tensor_cores = is_16_bit<T> && k % kSkinnyBlock == 0;
    for (const auto& p : products) {
        CHECK(p.n >= 0 && (p.n == 0 || m == 0 || (p.out && p.x && p.w)));
        tensor_cores &= aligned_to_16(p.x, p.w);
    }
    if (m == 0) return;
    if constexpr (is_16_bit<T>)
        if (tensor_cores) return tensor_core_matmul<Out, T>(device, plans, products, m, k);
    for (const auto& p : products) plain_matmul(device, p, m, k);
}

template <class T>
bool can_multiply_onto(MatmulPlans& plans, std::span<const MatmulProduct<T, T>> products, int64_t m, int64_t k) {
    if constexpr (is_16_bit<T>) {
        if (m <= 8 || k % kSkinnyBlock != 0) return false;
        for (auto rest = products; !rest.empty();) {
            const MatmulRun<T, T> run = leading_run(rest, m);
            rest = rest.subspan(size_t(run.count));
            if (!aligned_to_16(run.first.out, run.first.x, run.first.w) ||
                plans.kernel_of(run, m, k) != ProductKernel::blas)
                return false;
        }
        return true;
    }
    return false;
}

template <class T>
bool multiply_onto(CudaDevice& device, MatmulPlans& plans, std::span<const MatmulProduct<T, T>> products, int64_t m,
                   int64_t k) {
    if constexpr (is_16_bit<T>) {
        for (auto rest = products; !rest.empty();) {
            const MatmulRun<T, T> run = leading_run(rest, m);
            rest = rest.subspan(size_t(run.count));
            if (!plans.multiply(device, run, m, k, /*onto=*/true)) return false;
        }
        return true;
    }
    return false;
}

template bool can_multiply_onto(MatmulPlans&, std::span<const MatmulProduct<float, float>>, int64_t, int64_t);
template bool can_multiply_onto(MatmulPlans&, std::span<const MatmulProduct<bf16, bf16>>, int64_t, int64_t);
template bool can_multiply_onto(MatmulPlans&, std::span<const MatmulProduct<f16, f16>>, int64_t, int64_t);
template bool multiply_onto(CudaDevice&, MatmulPlans&, std::span<const MatmulProduct<float, float>>, int64_t, int64_t);
template bool multiply_onto(CudaDevice&, MatmulPlans&, std::span<const MatmulProduct<bf16, bf16>>, int64_t, int64_t);
template bool multiply_onto(CudaDevice&, MatmulPlans&, std::span<const MatmulProduct<f16, f16>>, int64_t, int64_t);

template void matmul(CudaDevice&, MatmulPlans&, std::span<const MatmulProduct<float, float>>, int64_t, int64_t);
template void matmul(CudaDevice&, MatmulPlans&, std::span<const MatmulProduct<float, bf16>>, int64_t, int64_t);
template void matmul(CudaDevice&, MatmulPlans&, std::span<const MatmulProduct<bf16, bf16>>, int64_t, int64_t);
template void matmul(CudaDevice&, MatmulPlans&, std::span<const MatmulProduct<float, f16>>, int64_t, int64_t);
template void matmul(CudaDevice&, MatmulPlans&, std::span<const MatmulProduct<f16, f16>>, int64_t, int64_t);

}  // namespace spartan
