#include "core/run/random.h"

#include <cmath>
#include <numbers>

namespace spartan {

uint64_t RandomStream::bits() {
    if (used_ == 2) {
        const auto r = philox4x32(
            {uint32_t(index_), uint32_t(index_ >> 32), repeat_, uint32_t(purpose_) << 16 | (block_++ & 0xffffu)},
            seed_);
        words_ = {uint64_t(r[0]) << 32 | r[1], uint64_t(r[2]) << 32 | r[3]};
        used_ = 0;
    }
    return words_[size_t(used_++)];
}

double RandomStream::uniform() { return double(bits() >> 11) * 0x1p-53; }

double RandomStream::uniform_open() { return (double(bits() >> 12) + 0.5) * 0x1p-52; }

uint64_t RandomStream::below(uint64_t n) {
    const uint64_t limit = UINT64_MAX - (UINT64_MAX % n + 1) % n;  // the last value of the last whole multiple of n
    for (;;) {
        const uint64_t v = bits();
        if (v <= limit) return v % n;
    }
}

double RandomStream::normal() {
    const double radius = std::sqrt(-2 * std::log(uniform_open()));
    return radius * std::cos(2 * std::numbers::pi * uniform());
}

double RandomStream::gamma(double shape) {
    if (shape < 1) {
        const double boost = std::pow(uniform_open(), 1 / shape);
        return gamma(shape + 1) * boost;
    }
    const double d = shape - 1.0 / 3, c = 1 / std::sqrt(9 * d);
    for (;;) {
        const double x = normal(), t = 1 + c * x;
        if (t <= 0) continue;
        const double v = t * t * t;
        if (std::log(uniform_open()) < 0.5 * x * x + d - d * v + d * std::log(v)) return d * v;
    }
}

}  // namespace spartan
