#include "kernels/adapter_ops.h"

#include "kernels/check.h"

#include <algorithm>

namespace spartan {

namespace {

template <class Segment>
void check_segments(std::span<const Segment> segments, int64_t rows) {
    int64_t end = 0;
    for (const Segment& s : segments) {
        CHECK(s.row_begin >= end && s.row_end >= s.row_begin && s.row_end <= rows);
        end = s.row_end;
    }
}

}  // namespace

template <class T>
void rotate(CpuDevice& device, View<float, 2> out, View<const float, 2> x, std::span<const RotateSegment<T>> segments) {
    CHECK(out.shape == x.shape);
    check_segments(segments, x.shape[0]);
    const int64_t dim = x.shape[1];
    std::copy(x.data, x.data + x.shape[0] * dim, out.data);
    device.parallel_items(int64_t(segments.size()), [&](int64_t i, int) {
        const RotateSegment<T>& s = segments[size_t(i)];
        if (!s.blocks) return;
        CHECK(s.group > 0 && dim % s.group == 0);
        for (int64_t row = s.row_begin; row < s.row_end; ++row)
            for (int64_t g = 0; g < dim; g += s.group)
                for (int64_t v = 0; v < s.group; ++v) {
                    float sum = 0;
                    for (int64_t u = 0; u < s.group; ++u)
                        sum += x.row(row)[g + u] * to_float(s.blocks[(g + u) * s.group + v]);
                    out.row(row)[g + v] = sum;
                }
    });
}

template <class T>
void lora(CpuDevice& device, View<float, 2> out, View<const float, 2> x, std::span<const LoraSegment<T>> segments) {
    CHECK(out.shape[0] == x.shape[0]);
    check_segments(segments, x.shape[0]);
    const int64_t in_dim = x.shape[1], out_dim = out.shape[1];
    device.parallel_items(int64_t(segments.size()), [&](int64_t i, int) {
        const LoraSegment<T>& s = segments[size_t(i)];
        for (int64_t row = s.row_begin; row < s.row_end; ++row)
            for (int64_t r = 0; r < s.rank; ++r) {
                float sum = 0;
                for (int64_t k = 0; k < in_dim; ++k) sum += x.row(row)[k] * to_float(s.a[r * in_dim + k]);
                sum *= s.scale;
                for (int64_t n = 0; n < out_dim; ++n) out.row(row)[n] += sum * to_float(s.b_t[r * out_dim + n]);
            }
    });
}

void scale_bias(CpuDevice& device, View<float, 2> out, std::span<const ScaleBiasSegment> segments) {
    check_segments(segments, out.shape[0]);
    const int64_t dim = out.shape[1];
    device.parallel_items(int64_t(segments.size()), [&](int64_t i, int) {
        const ScaleBiasSegment& s = segments[size_t(i)];
        for (int64_t row = s.row_begin; row < s.row_end; ++row)
            for (int64_t n = 0; n < dim; ++n)
                out.row(row)[n] = out.row(row)[n] * (s.gain ? s.gain[n] : 1.f) + (s.bias ? s.bias[n] : 0.f);
    });
}

template void rotate<float>(CpuDevice&, View<float, 2>, View<const float, 2>, std::span<const RotateSegment<float>>);
template void rotate<bf16>(CpuDevice&, View<float, 2>, View<const float, 2>, std::span<const RotateSegment<bf16>>);
template void lora<float>(CpuDevice&, View<float, 2>, View<const float, 2>, std::span<const LoraSegment<float>>);
template void lora<bf16>(CpuDevice&, View<float, 2>, View<const float, 2>, std::span<const LoraSegment<bf16>>);

}  // namespace spartan
