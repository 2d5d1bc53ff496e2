// What picking a token is made of, for CPUs and GPUs alike: integers, and floating-point operations that round once
// each in a fixed order, so that both pick the same token from the same logits (sample.h).
#pragma once

#include "kernels/philox.h"
#include "kernels/view.h"

#include <cstdint>
#include <cstring>

namespace spartan {

// Rises with the logit; equal logits (also -0 and +0) have equal keys.
HOST_DEVICE inline uint32_t key_of_logit(float logit) {
    uint32_t bits;
    memcpy(&bits, &logit, sizeof bits);
    if (bits == 0x80000000u) bits = 0;
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
HOST_DEVICE inline float logit_of_key(uint32_t key) {
    const uint32_t bits = key & 0x80000000u ? key & 0x7fffffffu : ~key;
    float logit;
    memcpy(&logit, &bits, sizeof logit);
    return logit;
}

// The least integer mass that is at least top_p of the whole.
HOST_DEVICE inline uint64_t top_p_target(uint64_t total, float top_p) {
    const double wanted = double(total) * double(top_p);
    const auto floor = uint64_t(wanted);
    const uint64_t target = floor + uint64_t(double(floor) < wanted);
    return target < 1 ? 1 : target > total ? total : target;
}

// Logits so light that all of `count` together weigh less than 1 - top_p cannot be in the set: the least weight of one
// that can.
HOST_DEVICE inline int32_t least_top_p_weight(uint64_t total, float top_p, int64_t count) {
    const double spare = double(total) * (1.0 - double(top_p)) / double(count);
    return spare < 1.0 ? 1 : spare > double(1 << 30) ? 1 << 30 : int32_t(spare);
}

HOST_DEVICE inline uint32_t random_24_bits(uint64_t seed, uint64_t position) {
    return philox4x32({uint32_t(position), uint32_t(position >> 32), 0, 0}, seed)[0] >> 8;
}

// The token drawn is the first, by rising id, up to which the weights sum to more than this.
HOST_DEVICE inline uint64_t draw_point(uint64_t total, uint32_t random) {
    return uint64_t(static_cast<unsigned __int128>(total) * random >> 24);
}

// 2^30 * exp((logit - max) / temperature), cut to an integer: one lane of weigh_logits (cpu/simd/rows.h), same bits.
HOST_DEVICE inline int32_t weigh_logit(float logit, float max, float temperature) {
#ifdef __CUDA_ARCH__  // by name, so that nothing is fused
    const auto add = [](float a, float b) { return __fadd_rn(a, b); };
    const auto sub = [](float a, float b) { return __fsub_rn(a, b); };
    const auto mul = [](float a, float b) { return __fmul_rn(a, b); };
    const auto div = [](float a, float b) { return __fdiv_rn(a, b); };
#else
    const auto add = [](float a, float b) { return a + b; };
    const auto sub = [](float a, float b) { return a - b; };
    const auto mul = [](float a, float b) { return a * b; };
    const auto div = [](float a, float b) { return a / b; };
#endif
    constexpr float kToInteger = 12582912.f;  // 1.5 * 2^23
    const float quotient = div(sub(logit, max), temperature);
    const float x = -30.f > quotient ? -30.f : quotient;
    const float shifted = add(mul(x, 1.44269504f), kToInteger);
    const float n = sub(shifted, kToInteger);
    const float r = sub(sub(x, mul(n, 0.693145751953125f)), mul(n, 1.42860677e-6f));
    float p = add(mul(1.f / 5040, r), 1.f / 720);
    p = add(mul(p, r), 1.f / 120);
    p = add(mul(p, r), 1.f / 24);
    p = add(mul(p, r), 1.f / 6);
    p = add(mul(p, r), 0.5f);
    p = add(mul(p, r), 1.f);
    p = add(mul(p, r), 1.f);
    uint32_t power;
    memcpy(&power, &shifted, sizeof power);
    power = (power << 23) + 0x3f800000u;
    float two_to_n;
    memcpy(&two_to_n, &power, sizeof two_to_n);
    return int32_t(mul(mul(p, two_to_n), 0x1p30f));
}

}  // namespace spartan
