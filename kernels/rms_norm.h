// Root-mean-square layer norm (Zhang & Sennrich 2019), one row per token:
//
//     out[t] = x[t] / sqrt(mean(x[t]^2) + eps) * weight
//
//     out     [num_tokens, dim]  f32, may alias x
//     x       [num_tokens, dim]  f32
//     weight  [dim]              f32
//
// Sums in fp32 in one fixed order per row. num_tokens may be 0. Bandwidth-bound.
#pragma once

#include "kernels/device.h"
#include "kernels/view.h"

namespace spartan {

void rms_norm(CpuDevice&, View<float, 2> out, View<const float, 2> x, View<const float, 1> weight, float eps);

constexpr Cost rms_norm_cost(int64_t num_tokens, int64_t dim) {
    return {.bytes = (2 * num_tokens + 1) * dim * 4, .flops = 4 * num_tokens * dim};
}

}  // namespace spartan
