#include "kernels/rope.h"

#include "kernels/check.h"

#include <cmath>

namespace spartan {

void rope(CpuDevice& device, View<float, 2> x, std::span<const int32_t> positions, std::span<const float> inv_freq,
          int64_t head_dim) {
    const int64_t half = int64_t(inv_freq.size());
    CHECK(x.shape[0] == int64_t(positions.size()));
    CHECK(head_dim > 0 && x.shape[1] % head_dim == 0 && 2 * half <= head_dim);
    device.parallel_for(x.shape[0], 16, [&](int64_t begin, int64_t end, int) {
        for (int64_t t = begin; t < end; ++t)
            for (int64_t i = 0; i < half; ++i) {
                const float angle = float(positions[size_t(t)]) * inv_freq[size_t(i)];
                const float c = std::cos(angle), s = std::sin(angle);
                for (float* head = x.row(t); head < x.row(t) + x.shape[1]; head += head_dim) {
                    const float a = head[i], b = head[i + half];
                    head[i] = a * c - b * s;
                    head[i + half] = b * c + a * s;
                }
            }
    });
}

}  // namespace spartan
