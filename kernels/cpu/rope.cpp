#include "kernels/rope.h"

#include "kernels/check.h"
#include "kernels/cpu/simd/table.h"

namespace spartan {

void rope(CpuDevice& device, View<float, 2> x, std::span<const int32_t> positions, std::span<const float> inv_freq,
          int64_t head_dim, float scale) {
    const int64_t half = int64_t(inv_freq.size());
    CHECK(x.shape[0] == int64_t(positions.size()));
    CHECK(head_dim > 0 && x.shape[1] % head_dim == 0 && 2 * half <= head_dim);
    constexpr int64_t kGrain = 16 * 1024;  // values worth waking a thread for
    const CpuKernels& kernels = kernels_for(device.isa());
    device.parallel_for(x.shape[0], kGrain / (x.shape[1] + 1) + 1, [&](int64_t begin, int64_t end, int thread) {
        auto* cos = static_cast<float*>(device.thread_scratch(thread, 2 * half * 4));
        float* sin = cos + half;
        for (int64_t t = begin; t < end; ++t) {
            kernels.cos_sin(cos, sin, float(positions[size_t(t)]), inv_freq.data(), half);
            if (scale != 1) kernels.scale(cos, cos, scale, 2 * half);  // sin lies behind cos
            for (float* head = x.row(t); head < x.row(t) + x.shape[1]; head += head_dim)
                kernels.rope_head(head, cos, sin, half);
        }
    });
}

}  // namespace spartan
