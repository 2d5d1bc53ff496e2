#include "kernels/rms_norm.h"

#include "kernels/check.h"

#include <cmath>

namespace spartan {

void rms_norm(CpuDevice& device, View<float, 2> out, View<const float, 2> x, View<const float, 1> weight, float eps) {
    CHECK(out.shape == x.shape && weight.shape[0] == x.shape[1]);
    const int64_t dim = x.shape[1];
    device.parallel_for(x.shape[0], 32, [&](int64_t begin, int64_t end, int) {
        for (int64_t t = begin; t < end; ++t) {
            float sum = 0;
            for (int64_t i = 0; i < dim; ++i) sum += x.row(t)[i] * x.row(t)[i];
            const float inverse = 1.f / std::sqrt(sum / float(dim) + eps);
            for (int64_t i = 0; i < dim; ++i) out.row(t)[i] = x.row(t)[i] * inverse * weight.data[i];
        }
    });
}

}  // namespace spartan
