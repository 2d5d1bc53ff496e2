// Kernels along one row.
#pragma once

namespace spartan {
namespace {

constexpr float kRoundToInteger =
    12582912.f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low mantissa bits

// e^x to about 2 units in the last place; x is held to [-87, 88]. NaN stays NaN.
SIMD F exp(F x) {
    x = Vec::min(Vec::set1(88.f), Vec::max(Vec::set1(-87.f), x));
    const F shifted = Vec::fma(x, Vec::set1(1.44269504f), Vec::set1(kRoundToInteger));
    const F n = Vec::sub(shifted, Vec::set1(kRoundToInteger));
    // ln 2 in two parts, the first with few enough bits that n times it is exact.
    const F r = Vec::fnma(n, Vec::set1(1.42860677e-6f), Vec::fnma(n, Vec::set1(0.693145751953125f), x));
    F p = Vec::set1(1.f / 5040);
    p = Vec::fma(p, r, Vec::set1(1.f / 720));
    p = Vec::fma(p, r, Vec::set1(1.f / 120));
    p = Vec::fma(p, r, Vec::set1(1.f / 24));
    p = Vec::fma(p, r, Vec::set1(1.f / 6));
    p = Vec::fma(p, r, Vec::set1(0.5f));
    p = Vec::fma(p, r, Vec::set1(1.f));
    p = Vec::fma(p, r, Vec::set1(1.f));
    return Vec::mul(p, Vec::power_of_2(shifted));
}

// f(load, store, i) for each vector of [0, n): `load(p)` and `store(p, v)` at offset i, partial in the last.
template <class Function>
SIMD void for_vectors(int64_t n, const Function& f) {
    constexpr int L = Vec::kLanes;
    int64_t i = 0;
    for (; i + L <= n; i += L)
        f(
            [](const float* p) __attribute__((always_inline)) { return Vec::load(p); },
            [](float* p, F v) __attribute__((always_inline)) { Vec::store(p, v); }, i);
    if (const int left = int(n - i); left > 0)
        f(
            [left](const float* p) __attribute__((always_inline)) { return Vec::load_partial(p, left); },
            [left](float* p, F v) __attribute__((always_inline)) { Vec::store_partial(p, v, left); }, i);
}

void rms_norm_row(float* out, const float* x, const float* weight, int64_t dim, float eps) {
    constexpr int L = Vec::kLanes;
    F sums[4] = {Vec::zero(), Vec::zero(), Vec::zero(), Vec::zero()};
    int64_t i = 0;
    for (; i + 4 * L <= dim; i += 4 * L)
        for (int j = 0; j < 4; ++j) {
            const F v = Vec::load(x + i + j * L);
            sums[j] = Vec::fma(v, v, sums[j]);
        }
    for (; i < dim; i += L) {
        const F v = Vec::load_partial(x + i, int(smaller64(L, dim - i)));
        sums[0] = Vec::fma(v, v, sums[0]);
    }
    const float square = Vec::sum(Vec::add(Vec::add(sums[0], sums[2]), Vec::add(sums[1], sums[3])));
    const F inverse = Vec::set1(1.f / __builtin_sqrtf(square / float(dim) + eps));
    for_vectors(
        dim, [&](auto load, auto store, int64_t at) __attribute__((always_inline)) {
            store(out + at, Vec::mul(Vec::mul(load(x + at), inverse), load(weight + at)));
        });
}

void silu_mul_row(float* out, const float* gate, const float* up, int64_t n) {
    for_vectors(
        n, [&](auto load, auto store, int64_t at) __attribute__((always_inline)) {
            const F g = load(gate + at);
            const F sigmoid_inverse = Vec::add(Vec::set1(1.f), exp(Vec::sub(Vec::zero(), g)));
            store(out + at, Vec::mul(Vec::div(g, sigmoid_inverse), load(up + at)));
        });
}

// gelu(v) = max(v, 0) - |v| / 2 * erfc(|v| / sqrt 2), erfc as in Abramowitz and Stegun 7.1.26 (error below 1.5e-7).
void gelu_mul_row(float* out, const float* gate, const float* up, int64_t n) {
    for_vectors(
        n, [&](auto load, auto store, int64_t at) __attribute__((always_inline)) {
            const F g = load(gate + at), size = Vec::max(Vec::sub(Vec::zero(), g), g);
            const F t = Vec::div(Vec::set1(1.f), Vec::fma(size, Vec::set1(0.3275911f * 0.70710678f), Vec::set1(1.f)));
            F p = Vec::set1(1.061405429f);
            p = Vec::fma(p, t, Vec::set1(-1.453152027f));
            p = Vec::fma(p, t, Vec::set1(1.421413741f));
            p = Vec::fma(p, t, Vec::set1(-0.284496736f));
            p = Vec::fma(p, t, Vec::set1(0.254829592f));
            const F tail = Vec::mul(Vec::mul(p, t), exp(Vec::mul(Vec::mul(g, g), Vec::set1(-0.5f))));
            const F value = Vec::fnma(Vec::mul(size, Vec::set1(0.5f)), tail, Vec::max(Vec::zero(), g));
            store(out + at, Vec::mul(value, load(up + at)));
        });
}

// gelu(v) in its tanh form = v / (1 + exp(-2 sqrt(2 / pi) (v + 0.044715 v^3))).
void gelu_tanh_mul_row(float* out, const float* gate, const float* up, int64_t n) {
    for_vectors(
        n, [&](auto load, auto store, int64_t at) __attribute__((always_inline)) {
            const F g = load(gate + at);
            const F cubic = Vec::fma(Vec::mul(g, g), Vec::set1(0.044715f), Vec::set1(1.f));
            const F inverse = Vec::add(Vec::set1(1.f), exp(Vec::mul(Vec::mul(g, cubic), Vec::set1(-1.5957691216f))));
            store(out + at, Vec::mul(Vec::div(g, inverse), load(up + at)));
        });
}

void add_row(float* out, const float* a, const float* b, int64_t n) {
    for_vectors(
        n, [&](auto load, auto store, int64_t at)
               __attribute__((always_inline)) { store(out + at, Vec::add(load(a + at), load(b + at))); });
}

void add_scaled_row(float* out, const float* a, const float* b, float scale, int64_t n) {
    for_vectors(
        n, [&](auto load, auto store, int64_t at) __attribute__((always_inline)) {
            store(out + at, Vec::add(load(a + at), Vec::mul(load(b + at), Vec::set1(scale))));
        });
}

void scale_row(float* out, const float* x, float scale, int64_t n) {
    for_vectors(
        n, [&](auto load, auto store, int64_t at)
               __attribute__((always_inline)) { store(out + at, Vec::mul(load(x + at), Vec::set1(scale))); });
}

void scale_bias_row(float* out, const float* gain, const float* bias, int64_t n) {
    for_vectors(
        n, [&](auto load, auto store, int64_t at) __attribute__((always_inline)) {
            F v = load(out + at);
            if (gain) v = Vec::mul(v, load(gain + at));
            if (bias) v = Vec::add(v, load(bias + at));
            store(out + at, v);
        });
}

// cos and sin of position * inv_freq, that product rounded to fp32 as the reference does. With fused multiply-adds,
// x - n pi/2 is exact to 1e-9 for |x| < 2^22; without, the library's functions stand in.
void cos_sin_row(float* cos, float* sin, float position, const float* inv_freq, int64_t half) {
    if constexpr (!Vec::kFusedMultiplyAdd) {
        for (int64_t i = 0; i < half; ++i) {
            cos[i] = __builtin_cosf(position * inv_freq[i]);
            sin[i] = __builtin_sinf(position * inv_freq[i]);
        }
    } else {
        for_vectors(
            half, [&](auto load, auto store, int64_t at) __attribute__((always_inline)) {
                const F x = Vec::mul(Vec::set1(position), load(inv_freq + at));
                const F shifted = Vec::fma(x, Vec::set1(0.636619772f), Vec::set1(kRoundToInteger));
                const F n = Vec::sub(shifted, Vec::set1(kRoundToInteger));
                const F r = Vec::fnma(n, Vec::set1(-4.37113900e-8f), Vec::fnma(n, Vec::set1(1.57079637f), x));
                const F r2 = Vec::mul(r, r);
                F s = Vec::set1(1.f / 362880);
                s = Vec::fma(s, r2, Vec::set1(-1.f / 5040));
                s = Vec::fma(s, r2, Vec::set1(1.f / 120));
                s = Vec::fma(s, r2, Vec::set1(-1.f / 6));
                s = Vec::fma(Vec::mul(s, r2), r, r);
                F c = Vec::set1(1.f / 40320);
                c = Vec::fma(c, r2, Vec::set1(-1.f / 720));
                c = Vec::fma(c, r2, Vec::set1(1.f / 24));
                c = Vec::fma(c, r2, Vec::set1(-0.5f));
                c = Vec::fma(c, r2, Vec::set1(1.f));
                store(cos + at, Vec::negate_by_bit_1(shifted, 1, Vec::select_odd(shifted, s, c)));
                store(sin + at, Vec::negate_by_bit_1(shifted, 0, Vec::select_odd(shifted, c, s)));
            });
    }
}

void rope_head_row(float* head, const float* cos, const float* sin, int64_t half) {
    for_vectors(
        half, [&](auto load, auto store, int64_t at) __attribute__((always_inline)) {
            const F a = load(head + at), b = load(head + half + at), c = load(cos + at), s = load(sin + at);
            store(head + at, Vec::sub(Vec::mul(a, c), Vec::mul(b, s)));
            store(head + half + at, Vec::add(Vec::mul(b, c), Vec::mul(a, s)));
        });
}

void round_bf16_row(bf16* out, const float* x, int64_t n) {
    constexpr int L = Vec::kLanes;
    int64_t i = 0;
    for (; i + L <= n; i += L) Vec::store(out + i, Vec::load(x + i));
    if (i < n) {
        bf16 tail[L];
        Vec::store(tail, Vec::load_partial(x + i, int(n - i)));
        for (int64_t j = i; j < n; ++j) out[j] = tail[j - i];
    }
}

// Maxima of whole blocks of 64 logits; true when one is NaN or +infinity.
bool block_maxima(float* maxima, const float* logits, int64_t blocks) {
    constexpr int L = Vec::kLanes;
    F bad = Vec::zero();
    for (int64_t b = 0; b < blocks; ++b, logits += 64) {
        F highest = Vec::set1(-__builtin_inff());
        for (int i = 0; i < 64; i += L) {
            const F v = Vec::load(logits + i);
            highest = Vec::max(highest, v);
            const F positive = Vec::max(Vec::zero(), v);  // v when that is NaN
            bad = Vec::add(bad, Vec::sub(positive, positive));
        }
        maxima[b] = Vec::maximum(highest);
    }
    return !(Vec::sum(bad) == 0);
}

constexpr float kExpCoefficients[] = {1.f / 720, 1.f / 120, 1.f / 24, 1.f / 6, 0.5f, 1.f, 1.f};

// 2^30 * exp((logit - max) / temperature), cut to an integer. Nothing fused: the same on every instruction set.
void weigh_logits_row(int32_t* weights, const float* logits, int64_t n, float max, float temperature) {
    constexpr int L = Vec::kLanes;
    const auto weigh = [&](F logit) __attribute__((always_inline)) {
        const F x = Vec::max(Vec::set1(-30.f), Vec::div(Vec::sub(logit, Vec::set1(max)), Vec::set1(temperature)));
        const F shifted = Vec::add(Vec::mul(x, Vec::set1(1.44269504f)), Vec::set1(kRoundToInteger));
        const F n_ln2 = Vec::sub(shifted, Vec::set1(kRoundToInteger));
        const F high = Vec::sub(x, Vec::mul(n_ln2, Vec::set1(0.693145751953125f)));
        const F r = Vec::sub(high, Vec::mul(n_ln2, Vec::set1(1.42860677e-6f)));
        F p = Vec::set1(1.f / 5040);
        for (const float c : kExpCoefficients) p = Vec::add(Vec::mul(p, r), Vec::set1(c));
        return Vec::mul(Vec::mul(p, Vec::power_of_2(shifted)), Vec::set1(0x1p30f));
    };
    int64_t i = 0;
    for (; i + L <= n; i += L) Vec::store_truncated(weights + i, weigh(Vec::load(logits + i)));
    if (i < n) {
        int32_t tail[L];
        Vec::store_truncated(tail, weigh(Vec::load_partial(logits + i, int(n - i))));
        for (int64_t j = i; j < n; ++j) weights[j] = tail[j - i];
    }
}

float read_memory_sum(const void* data, int64_t bytes) {
    constexpr int L = Vec::kLanes, kSums = 8;
    const auto* p = static_cast<const float*>(data);
    F sums[kSums];
    for (F& s : sums) s = Vec::zero();
    for (int64_t i = 0; i < bytes / 4; i += kSums * L) {
        __builtin_prefetch(p + i + 1024, 0, 3);
        __builtin_prefetch(p + i + 1024 + 16, 0, 3);
        for (int j = 0; j < kSums; ++j) sums[j] = Vec::add(sums[j], Vec::load(p + i + j * L));
    }
    for (int j = 1; j < kSums; ++j) sums[0] = Vec::add(sums[0], sums[j]);
    return Vec::sum(sums[0]);
}

}  // namespace
}  // namespace spartan
