// out may alias any input. SwiGLU (Shazeer 2020): out = silu(gate) * up, silu(v) = v / (1 + exp(-v)).
#pragma once

#include "kernels/device.h"
#include "kernels/view.h"

namespace spartan {

void silu_mul(CpuDevice&, View<float, 2> out, View<const float, 2> gate, View<const float, 2> up);
void add(CpuDevice&, View<float, 2> out, View<const float, 2> a, View<const float, 2> b);  // the residual

constexpr Cost silu_mul_cost(int64_t rows, int64_t dim) { return {.bytes = 12 * rows * dim, .flops = 20 * rows * dim}; }

}  // namespace spartan
