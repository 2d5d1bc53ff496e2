#include "kernels/rms_norm.h"

#include "kernels/check.h"
#include "kernels/cpu/simd/table.h"

namespace spartan {

void rms_norm(CpuDevice& device, View<float, 2> out, View<const float, 2> x, View<const float, 1> weight, float eps) {
    CHECK(out.shape == x.shape && weight.shape[0] == x.shape[1]);
    constexpr int64_t kGrain = 24 * 1024;  // values worth waking a thread for
    const int64_t dim = x.shape[1];
    const auto kernel = kernels_for(device.isa()).rms_norm;
    device.parallel_for(x.shape[0], kGrain / (dim + 1) + 1, [&](int64_t begin, int64_t end, int) {
        for (int64_t t = begin; t < end; ++t) kernel(out.row(t), x.row(t), weight.data, dim, eps);
    });
}

}  // namespace spartan
