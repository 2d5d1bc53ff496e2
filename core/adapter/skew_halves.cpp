#include "core/adapter/skew_halves.h"

#include "kernels/check.h"
#include "kernels/skew.h"

#include <cmath>
#include <cstring>

namespace spartan {
namespace {

// |dQ| is at most 2 |dS|, as |(I + S)^-1| is at most 1. Rounding to bf16 moves a block of norm sqrt(b) by about 0.4 of
// 2^-9 of that.
constexpr double kMostMoved = 1. / 1024;

}  // namespace

void SkewHalves::put(int64_t place, const Matrix& s, int64_t b) {
    CHECK(place >= 0 && place + skew_values(b) <= int64_t(values_.size()));
    float* to = &values_[size_t(place)];
    double moved = 0;
    bool large = false;
    for (int64_t i = 0; i < b; ++i)
        for (int64_t j = i + 1; j < b; ++j, ++to) {
            *to = float(s[size_t(i * b + j)]);
            const double lost = double(to_float(to_bf16(*to))) - s[size_t(i * b + j)];
            moved += 2 * lost * lost;  // both halves
            large = large || !(std::abs(*to) <= float(kMostSkew));
        }
    if (large) too_large_ = true;
    if (!(2 * std::sqrt(moved) <= kMostMoved * std::sqrt(double(b)))) needs_f32_ = true;
}

void SkewHalves::hand_over(Adapter& adapter) {
    const bool half = adapter.dtype == DType::bf16 && !needs_f32_.load();
    adapter.skew_dtype = half ? DType::bf16 : DType::f32;
    adapter.skew.resize(values_.size() * size_t(size_of(adapter.skew_dtype)));
    if (half)
        for (size_t i = 0; i < values_.size(); ++i) {
            const bf16 v = to_bf16(values_[i]);
            std::memcpy(adapter.skew.data() + i * sizeof v, &v, sizeof v);
        }
    else if (!values_.empty())
        std::memcpy(adapter.skew.data(), values_.data(), adapter.skew.size());
    values_ = {};
}

Matrix skew_of(const Adapter& adapter, int64_t place, int64_t b) {
    std::vector<float> upper(size_t(b * (b - 1) / 2));
    const int64_t size = size_of(adapter.skew_dtype);
    CHECK(place >= 0 && (place + skew_values(b)) * size <= int64_t(adapter.skew.size()));
    for (size_t i = 0; i < upper.size(); ++i) {
        const std::byte* from = adapter.skew.data() + (place + int64_t(i)) * size;
        if (adapter.skew_dtype == DType::f32) {
            std::memcpy(&upper[i], from, sizeof(float));
            continue;
        }
        bf16 v;
        std::memcpy(&v, from, sizeof v);
        upper[i] = to_float(v);
    }
    return oft_skew(upper.data(), b);
}

}  // namespace spartan
