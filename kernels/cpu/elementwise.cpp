#include "kernels/elementwise.h"

#include "kernels/check.h"

#include <cmath>

namespace spartan {

void silu_mul(CpuDevice& device, View<float, 2> out, View<const float, 2> gate, View<const float, 2> up) {
    CHECK(out.shape == gate.shape && out.shape == up.shape);
    device.parallel_for(out.shape[0] * out.shape[1], 8192, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) out.data[i] = gate.data[i] / (1.f + std::exp(-gate.data[i])) * up.data[i];
    });
}

void add(CpuDevice& device, View<float, 2> out, View<const float, 2> a, View<const float, 2> b) {
    CHECK(out.shape == a.shape && out.shape == b.shape);
    device.parallel_for(out.shape[0] * out.shape[1], 32768, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) out.data[i] = a.data[i] + b.data[i];
    });
}

}  // namespace spartan
