// Floats in the compiler's vector extension, four of them: the baseline of any processor (tests widen it). Multiply-add
// rounds twice here. One of three files that define `Vec`; the code over it is the same for all. Everything in them has
// internal linkage, so that no function compiled for a newer processor can stand in for one of another file.
#pragma once

#include "kernels/view.h"

#include <cstdint>

#ifndef SPARTAN_GENERIC_LANES
#define SPARTAN_GENERIC_LANES 4
#endif
#define SIMD static inline __attribute__((always_inline))

namespace spartan {
namespace {

struct Vec {
    static constexpr int kLanes = SPARTAN_GENERIC_LANES;
    typedef float F __attribute__((vector_size(4 * kLanes)));
    typedef uint32_t U __attribute__((vector_size(4 * kLanes)));
    typedef uint16_t H __attribute__((vector_size(2 * kLanes)));
    static constexpr int kAccumulators = 12;  // of 16 registers
    static constexpr bool kDotsPairs = false;
    static constexpr bool kFusedMultiplyAdd = false;

    SIMD F zero() { return F{}; }
    SIMD F set1(float v) { return v - F{}; }
    SIMD F load(const float* p) {
        F v;
        __builtin_memcpy(&v, p, sizeof v);
        return v;
    }
    SIMD F load(const bf16* p) {
        H h;
        __builtin_memcpy(&h, p, sizeof h);
        return F(__builtin_convertvector(h, U) << 16);
    }
    template <class T>
    SIMD F load_partial(const T* p, int n) {
        T v[kLanes] = {};
        for (int i = 0; i < n; ++i) v[i] = p[i];
        return load(v);
    }
    SIMD void store(float* p, F v) { __builtin_memcpy(p, &v, sizeof v); }
    SIMD void store_partial(float* p, F v, int n) {
        for (int i = 0; i < n; ++i) p[i] = v[i];
    }
    SIMD void store_truncated(int32_t* p, F v) {
        for (int i = 0; i < kLanes; ++i) p[i] = int32_t(v[i]);
    }
    SIMD void store(bf16* p, F v) {
        const H h = __builtin_convertvector(U(round_bf16(v)) >> 16, H);
        __builtin_memcpy(p, &h, sizeof h);
    }

    // Pairs of bf16, one below the other: the first of each pair, the second of each.
    SIMD F pair_first(const bf16* p) { return F(load_pairs(p) << 16); }
    SIMD F pair_second(const bf16* p) { return F(load_pairs(p) & 0xffff0000u); }
    // Rounds and stores `even` and `odd` side by side, as pairs.
    SIMD void store_pairs(bf16* p, F even, F odd) {
        const U pairs = U(round_bf16(even)) >> 16 | U(round_bf16(odd));
        __builtin_memcpy(p, &pairs, sizeof pairs);
    }
    // The low and the high halves of bytes, signed bytes, and finite halves of a float, as floats; all exact.
    SIMD void nibbles(const uint8_t* p, F& low, F& high) {
        for (int i = 0; i < kLanes; ++i) {
            low[i] = float(p[i] & 15);
            high[i] = float(p[i] >> 4);
        }
    }
    // (byte >> shift) & mask of each, as floats.
    SIMD F bits(const uint8_t* p, int shift, int mask) {
        F v{};
        for (int i = 0; i < kLanes; ++i) v[i] = float(p[i] >> shift & mask);
        return v;
    }
    SIMD F signed_bytes(const uint8_t* p) {
        F v{};
        for (int i = 0; i < kLanes; ++i) v[i] = float(int8_t(p[i]));
        return v;
    }
    SIMD F finite_halves(const uint8_t* p) {
        H h;
        __builtin_memcpy(&h, p, sizeof h);
        const U u = __builtin_convertvector(h, U);
        return F(U(F((u & 0x7fffu) << 13) * 0x1p112f) | (u & 0x8000u) << 16);
    }

    SIMD F add(F a, F b) { return a + b; }
    SIMD F sub(F a, F b) { return a - b; }
    SIMD F mul(F a, F b) { return a * b; }
    SIMD F div(F a, F b) { return a / b; }
    SIMD F fma(F a, F b, F c) { return a * b + c; }
    SIMD F fnma(F a, F b, F c) { return c - a * b; }
    // The second when either is NaN, as x86 has it.
    SIMD F max(F a, F b) { return a > b ? a : b; }
    SIMD F min(F a, F b) { return a < b ? a : b; }
    // Halves are added until one is left.
    SIMD float sum(F v) {
        for (int half = kLanes / 2; half > 0; half /= 2)
            for (int i = 0; i < half; ++i) v[i] += v[i + half];
        return v[0];
    }
    SIMD float maximum(F v) {
        for (int half = kLanes / 2; half > 0; half /= 2)
            for (int i = 0; i < half; ++i) v[i] = v[i] > v[i + half] ? v[i] : v[i + half];
        return v[0];
    }
    SIMD float first(F v) { return v[0]; }
    SIMD F keep_first(F v, int n, F other) {
        for (int i = n; i < kLanes; ++i) v[i] = other[i];
        return v;
    }
    // To the nearest bf16, ties to even; NaN stays NaN.
    SIMD F round_bf16(F v) {
        const U bits = U(v);
        const U rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u;
        return F((bits & 0x7fffffffu) > 0x7f800000u ? (bits | 0x400000u) & 0xffff0000u : rounded);
    }
    // `t` holds an integer n in its low mantissa bits (1.5 * 2^23 was added to it).
    SIMD F power_of_2(F t) { return F((U(t) << 23) + 0x3f800000u); }
    SIMD F select_odd(F t, F odd, F even) { return F((U(t) & 1u) != 0 ? U(odd) : U(even)); }
    // -v where bit 1 of n + offset is set.
    SIMD F negate_by_bit_1(F t, uint32_t offset, F v) { return F(U(v) ^ ((U(t) + offset) & 2u) << 30); }

private:
    SIMD U load_pairs(const bf16* p) {
        U v;
        __builtin_memcpy(&v, p, sizeof v);
        return v;
    }
};

}  // namespace
}  // namespace spartan
