// Values on their own, fp32; out may alias any input.
//
//     silu_mul       out = silu(gate) * up    silu(v) = v / (1 + exp(-v))                      (SwiGLU, Shazeer 2020)
//     gelu_mul       out = gelu(gate) * up    gelu(v) = v / 2 * (1 + erf(v / sqrt 2))          (GEGLU)
//     gelu_tanh_mul  out = gelu(gate) * up    gelu(v) = v / 2 * (1 + tanh(sqrt(2 / pi) (v + 0.044715 v^3)))
//     add            out = a + b              the residual
//     add_scaled     out = a + scale * b      the product rounded on its own
//     scale          out = scale * x
#pragma once

#include "kernels/device.h"
#include "kernels/view.h"

namespace spartan {

void silu_mul(CpuDevice&, View<float, 2> out, View<const float, 2> gate, View<const float, 2> up);
void gelu_mul(CpuDevice&, View<float, 2> out, View<const float, 2> gate, View<const float, 2> up);
void gelu_tanh_mul(CpuDevice&, View<float, 2> out, View<const float, 2> gate, View<const float, 2> up);
void add(CpuDevice&, View<float, 2> out, View<const float, 2> a, View<const float, 2> b);
void add_scaled(CpuDevice&, View<float, 2> out, View<const float, 2> a, View<const float, 2> b, float scale);
void scale(CpuDevice&, View<float, 2> out, View<const float, 2> x, float scale);

constexpr Cost silu_mul_cost(int64_t rows, int64_t dim) { return {.bytes = 12 * rows * dim, .flops = 20 * rows * dim}; }

}  // namespace spartan
