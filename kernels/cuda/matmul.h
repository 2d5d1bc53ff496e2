// Matrix product of activation rows with a weight as Hugging Face stores it:
//
//     out[m, n] = sum over k of x[m, k] * w[n, k]
//
//     out  [m, n]  T or float (logits), must not alias x
//     x    [m, k]  T = float, bf16 or f16
//     w    [n, k]  T, row-major: one copy serves every path
//
// 16-bit types, k a multiple of 64, x and w 16-byte aligned:
//     m <= 8    skinny.h: weights read once; up to three products in one launch
//     m > 8     what MatmulPlans found fastest for (m's bucket, n, k, Out): cuBLASLt, which takes products of one size
//               as one, skinny.h over groups of 32 rows or, on Hopper, its products spread over all multiprocessors
//     batch invariant: skinny.h up to 32 rows, then its wide kernels: the same bits, of x, w and what shares the call
// All else: a plain tiled kernel, one fp32 accumulator per output in rising k (batch invariant as well).
// m, n may be 0; k >= 1. Sums are fp32 everywhere. Nothing here allocates or waits, so that calls may be captured.
#pragma once

#include "kernels/cuda/device.h"
#include "kernels/view.h"

#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace spartan {

template <class Out, class T>
struct MatmulProduct {
    Out* out = nullptr;    // [m, n]
    const T* x = nullptr;  // [m, k]
    const T* w = nullptr;  // [n, k]
    int64_t n = 0;
};
constexpr int kMostProducts = 3;  // of one call

// Products of one n whose operands lie equally far apart, in elements (x_step 0: they share x). cuBLASLt takes them as
// one.
template <class Out, class T>
struct MatmulRun {
    MatmulProduct<Out, T> first;
    int64_t count = 1, out_step = 0, x_step = 0, w_step = 0;
};

enum class ProductKernel : uint8_t { skinny, spread, blas };  // skinny.h's two and cuBLASLt

// How 16-bit products of more than 8 rows are computed, and the memory cuBLASLt works in. Belongs to the owner of the
// device and stays alive as long as the graphs that were captured with it. One stream at a time may use it.
class MatmulPlans {
public:
    struct Choice {
        ProductKernel kernel = ProductKernel::blas;
        int candidates = 0;  // that were timed; 0: known from the file
        double us = 0;       // a run, by the chosen one
    };

    // Allocates cuBLASLt's working memory, once; none when `batch_invariant`, which has no use for cuBLASLt. `file`:
    // keeps what prepare() chose, for the same GPU, driver and library; one of another is not looked at, nor is one
    // that cannot be read. Empty: nothing is kept.
    explicit MatmulPlans(bool batch_invariant = false, std::string file = {});
    ~MatmulPlans();
    MatmulPlans(const MatmulPlans&) = delete;
    MatmulPlans& operator=(const MatmulPlans&) = delete;

    bool batch_invariant() const;

    // Row counts that share a plan: the smallest of 8, 16, 32, 48, 64, 96, 128, 192, ... that is not below m.
    static int64_t bucket_of(int64_t m);

    // Times every way to compute these runs, all of one shape, of m > 8 rows and keeps the fastest for bucket_of(m),
    // here and for save(). Without it skinny.h serves up to 32 rows and cuBLASLt's first heuristic more. Goes round
    // among the runs, so many that their weights come from memory as they will. k a multiple of 64. Waits for the GPU:
    // call it at start, never while the stream is captured. Does nothing when batch_invariant().
    template <class Out, class T>
    Choice prepare(CudaDevice& device, std::span<const MatmulRun<Out, T>> runs, int64_t m, int64_t k);

    // Writes the file, when something is new. A failure is no error: plans are found again.
    void save();

    // Microseconds of one of `calls` products in a captured graph, by the fastest of cuBLASLt's algorithms; infinity
    // when it has none. Any m; changes no plan, otherwise like prepare().
    template <class Out, class T>
    double best_blas_us(CudaDevice& device, std::span<const MatmulRun<Out, T>> runs, int64_t m, int64_t k,
                        int64_t calls);

    // For matmul(). Pointers are 16-byte aligned, k is a multiple of 64. kernel_of(): the plan's; multiply(), when that
    // is cuBLASLt, onto: added to out; false when it has no algorithm for the shape, and then nothing was launched.
    template <class Out, class T>
    ProductKernel kernel_of(const MatmulRun<Out, T>& run, int64_t m, int64_t k);
    template <class Out, class T>
    bool multiply(CudaDevice& device, const MatmulRun<Out, T>& run, int64_t m, int64_t k, bool onto = false);

private:
    struct State;
    std::unique_ptr<State> state_;
};

// The products of m rows that `products` begins with and that cuBLASLt can take as one; at least the first.
template <class Out, class T>
MatmulRun<Out, T> leading_run(std::span<const MatmulProduct<Out, T>> products, int64_t m);

// Out = T or float. One to three products of the same m and k: q, k and v with an input each, or gate and up.
template <class Out, class T>
void matmul(CudaDevice& device, MatmulPlans& plans, std::span<const MatmulProduct<Out, T>> products, int64_t m,
            int64_t k);

// out += x * w^T, of products of which can_multiply_onto() says so: those of 16 bits that cuBLASLt computes. It may
// round the product before it adds (on an H100 it does). False when it has no algorithm after all; then outs hold
// nothing of use.
template <class T>
bool can_multiply_onto(MatmulPlans& plans, std::span<const MatmulProduct<T, T>> products, int64_t m, int64_t k);
template <class T>
bool multiply_onto(CudaDevice& device, MatmulPlans& plans, std::span<const MatmulProduct<T, T>> products, int64_t m,
                   int64_t k);

template <class Out, class T>
void matmul(CudaDevice& device, MatmulPlans& plans, Out* out, const T* x, const T* w, int64_t m, int64_t n, int64_t k) {
    const MatmulProduct<Out, T> one{out, x, w, n};
    matmul(device, plans, std::span<const MatmulProduct<Out, T>>(&one, 1), m, k);
}

}  // namespace spartan
