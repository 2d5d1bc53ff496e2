#include "kernels/elementwise.h"

#include "kernels/check.h"
#include "kernels/cpu/simd/table.h"

namespace spartan {

namespace {

constexpr int64_t kGateGrain = 8 * 1024, kAddGrain = 32 * 1024;  // values worth waking a thread for

using GateKernel = void (*)(float* out, const float* gate, const float* up, int64_t n);

void gated(CpuDevice& device, GateKernel kernel, View<float, 2> out, View<const float, 2> gate,
           View<const float, 2> up) {
    CHECK(out.shape == gate.shape && out.shape == up.shape);
    device.parallel_for(out.shape[0] * out.shape[1], kGateGrain, [&](int64_t begin, int64_t end, int) {
        kernel(out.data + begin, gate.data + begin, up.data + begin, end - begin);
    });
}

}  // namespace

void silu_mul(CpuDevice& device, View<float, 2> out, View<const float, 2> gate, View<const float, 2> up) {
    gated(device, kernels_for(device.isa()).silu_mul, out, gate, up);
}

void gelu_mul(CpuDevice& device, View<float, 2> out, View<const float, 2> gate, View<const float, 2> up) {
    gated(device, kernels_for(device.isa()).gelu_mul, out, gate, up);
}

void gelu_tanh_mul(CpuDevice& device, View<float, 2> out, View<const float, 2> gate, View<const float, 2> up) {
    gated(device, kernels_for(device.isa()).gelu_tanh_mul, out, gate, up);
}

void add(CpuDevice& device, View<float, 2> out, View<const float, 2> a, View<const float, 2> b) {
    CHECK(out.shape == a.shape && out.shape == b.shape);
    const auto kernel = kernels_for(device.isa()).add;
    device.parallel_for(out.shape[0] * out.shape[1], kAddGrain, [&](int64_t begin, int64_t end, int) {
        kernel(out.data + begin, a.data + begin, b.data + begin, end - begin);
    });
}

void add_scaled(CpuDevice& device, View<float, 2> out, View<const float, 2> a, View<const float, 2> b, float scale) {
    CHECK(out.shape == a.shape && out.shape == b.shape);
    const auto kernel = kernels_for(device.isa()).add_scaled;
    device.parallel_for(out.shape[0] * out.shape[1], kAddGrain, [&](int64_t begin, int64_t end, int) {
        kernel(out.data + begin, a.data + begin, b.data + begin, scale, end - begin);
    });
}

void scale(CpuDevice& device, View<float, 2> out, View<const float, 2> x, float scale) {
    CHECK(out.shape == x.shape);
    const auto kernel = kernels_for(device.isa()).scale;
    device.parallel_for(out.shape[0] * out.shape[1], kAddGrain, [&](int64_t begin, int64_t end, int) {
        kernel(out.data + begin, x.data + begin, scale, end - begin);
    });
}

}  // namespace spartan
