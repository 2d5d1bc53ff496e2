// The adapter parts of the one formula that all adapter kinds fold into, over rows grouped by adapter:
//
//     y = gain * ( W · rot(x) + scale · B (A x) ) + bias
//
// rotate():      rot(x): per group g of G features, out[g·G + v] = sum over u of x[g·G + u] * R[g][u][v]
// lora():        out[n] += scale * sum over r of b_t[r][n] * (sum over k of a[r][k] * x[k])
// scale_bias():  out[n] = out[n] * gain[n] + bias[n]
// embedding_lora(): out[n] += scale * sum over r of b_t[r][n] * a_t[id of the row][r], the lookup's low-rank part
//
// Segments are disjoint, in rising row order; rows outside every segment are left alone by lora() and scale_bias() and
// copied by rotate(). Accumulates in fp32; a row's result depends on its own row and adapter only (bitwise).
// Sources: BOFT (Liu et al. 2023), OFT (Qiu et al. 2023), LoRA (Hu et al. 2021), DoRA (Liu et al. 2024).
#pragma once

#include "kernels/device.h"
#include "kernels/view.h"

#include <span>
#include <vector>

namespace spartan {

template <class T>
struct RotateSegment {
    int64_t row_begin = 0, row_end = 0;
    const T* blocks = nullptr;  // [dim / group][group u][group v]; null: copy
    int64_t group = 0;          // divides dim
};

template <class T>
struct LoraSegment {
    int64_t row_begin = 0, row_end = 0;
    const T* a = nullptr;    // [rank, in]
    const T* b_t = nullptr;  // [rank, out]: B transposed, so that both are read in one pass
    int64_t rank = 0;
    float scale = 1;
};

template <class T>
struct EmbeddingLoraSegment {
    int64_t row_begin = 0, row_end = 0;
    const T* a_t = nullptr;  // [vocab, rank]
    const T* b_t = nullptr;  // [rank, out]
    int64_t vocab = 0, rank = 0;
    float scale = 1;
};

struct ScaleBiasSegment {
    int64_t row_begin = 0, row_end = 0;
    const float* gain = nullptr;  // [dim]; null: 1
    const float* bias = nullptr;  // [dim]; null: 0
};

// out and x [num_rows, dim] must not alias.
template <class T>
void rotate(CpuDevice&, View<float, 2> out, View<const float, 2> x, std::span<const RotateSegment<T>> segments);
// out [num_rows, out_dim] is added to; x [num_rows, in_dim].
template <class T>
void lora(CpuDevice&, View<float, 2> out, View<const float, 2> x, std::span<const LoraSegment<T>> segments);
void scale_bias(CpuDevice&, View<float, 2> out, std::span<const ScaleBiasSegment> segments);

// out [num_rows, dim] is added to; ids [num_rows], each below its segment's vocab.
template <class T>
void embedding_lora(CpuDevice&, View<float, 2> out, std::span<const int32_t> ids,
                    std::span<const EmbeddingLoraSegment<T>> segments);

extern template void embedding_lora<float>(CpuDevice&, View<float, 2>, std::span<const int32_t>,
                                           std::span<const EmbeddingLoraSegment<float>>);
extern template void embedding_lora<bf16>(CpuDevice&, View<float, 2>, std::span<const int32_t>,
                                          std::span<const EmbeddingLoraSegment<bf16>>);
extern template void rotate<float>(CpuDevice&, View<float, 2>, View<const float, 2>,
                                   std::span<const RotateSegment<float>>);
extern template void rotate<bf16>(CpuDevice&, View<float, 2>, View<const float, 2>,
                                  std::span<const RotateSegment<bf16>>);
extern template void lora<float>(CpuDevice&, View<float, 2>, View<const float, 2>, std::span<const LoraSegment<float>>);
extern template void lora<bf16>(CpuDevice&, View<float, 2>, View<const float, 2>, std::span<const LoraSegment<bf16>>);

template <class T>
constexpr Cost rotate_cost(int64_t rows, int64_t distinct_adapters, int64_t dim, int64_t group) {
    return {.bytes = distinct_adapters * dim * group * int64_t(sizeof(T)) + 8 * rows * dim,
            .flops = 2 * rows * dim * group};
}
template <class T>
constexpr Cost lora_cost(int64_t rows, int64_t distinct_adapters, int64_t in, int64_t out, int64_t rank) {
    return {.bytes = distinct_adapters * rank * (in + out) * int64_t(sizeof(T)) + 4 * rows * (in + 2 * out),
            .flops = 2 * rows * rank * (in + out)};
}

}  // namespace spartan
