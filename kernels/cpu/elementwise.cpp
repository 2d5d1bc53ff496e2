#include "kernels/elementwise.h"

#include "kernels/check.h"
#include "kernels/cpu/simd/table.h"

namespace spartan {

namespace {

constexpr int64_t kSiluGrain = 8 * 1024, kAddGrain = 32 * 1024;  // values worth waking a thread for

}  // namespace

void silu_mul(CpuDevice& device, View<float, 2> out, View<const float, 2> gate, View<const float, 2> up) {
    CHECK(out.shape == gate.shape && out.shape == up.shape);
    const auto kernel = kernels_for(device.isa()).silu_mul;
    device.parallel_for(out.shape[0] * out.shape[1], kSiluGrain, [&](int64_t begin, int64_t end, int) {
        kernel(out.data + begin, gate.data + begin, up.data + begin, end - begin);
    });
}

void add(CpuDevice& device, View<float, 2> out, View<const float, 2> a, View<const float, 2> b) {
    CHECK(out.shape == a.shape && out.shape == b.shape);
    const auto kernel = kernels_for(device.isa()).add;
    device.parallel_for(out.shape[0] * out.shape[1], kAddGrain, [&](int64_t begin, int64_t end, int) {
        kernel(out.data + begin, a.data + begin, b.data + begin, end - begin);
    });
}

}  // namespace spartan
