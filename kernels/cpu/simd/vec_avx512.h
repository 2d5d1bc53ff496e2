// Sixteen floats: AVX-512 (F, BW, VL, DQ), and its bf16 dot product where the compiler is told of it. See vec_generic.h
// for what the operations mean.
#pragma once

#include "kernels/view.h"

#include <immintrin.h>

#include <cstdint>

#define SIMD static inline __attribute__((always_inline))

namespace spartan {
namespace {

struct Vec {
    typedef __m512 F;
    static constexpr int kLanes = 16;
    static constexpr int kAccumulators = 24;  // of 32 registers
    static constexpr bool kFusedMultiplyAdd = true;

    SIMD F zero() { return _mm512_setzero_ps(); }
    SIMD F set1(float v) { return _mm512_set1_ps(v); }
    SIMD F load(const float* p) { return _mm512_loadu_ps(p); }
    SIMD F load(const bf16* p) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
    SIMD F load_partial(const float* p, int n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
    SIMD F load_partial(const bf16* p, int n) { return widen(_mm256_maskz_loadu_epi16(first_lanes(n), p)); }
    SIMD void store(float* p, F v) { _mm512_storeu_ps(p, v); }
    SIMD void store_partial(float* p, F v, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), v); }
    SIMD void store_truncated(int32_t* p, F v) { _mm512_storeu_si512(p, _mm512_cvttps_epi32(v)); }
    SIMD void store(bf16* p, F v) {
        const __m512i high = _mm512_srli_epi32(_mm512_castps_si512(round_bf16(v)), 16);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(high));
    }

    SIMD F pair_first(const bf16* p) { return _mm512_castsi512_ps(_mm512_slli_epi32(load_pairs(p), 16)); }
    SIMD F pair_second(const bf16* p) {
        return _mm512_castsi512_ps(_mm512_and_si512(load_pairs(p), _mm512_set1_epi32(int(0xffff0000u))));
    }
#if defined(__AVX512BF16__)
    static constexpr bool kDotsPairs = true;
    // c + the sum of the products of `x`'s one pair with each of 16 pairs at `w`.
    SIMD F dot_pairs(const uint32_t* x, const bf16* w, F c) {
        return _mm512_dpbf16_ps(c, __m512bh(_mm512_set1_epi32(int(*x))), __m512bh(load_pairs(w)));
    }
#else
    static constexpr bool kDotsPairs = false;
#endif
#if defined(__AVX512BF16__)
    // The instruction rounds as round_bf16() does but for subnormals, which kept weights never are, and NaN.
    SIMD void store_pairs(bf16* p, F even, F odd) {
        const __m512i side_by_side = _mm512_setr_epi32(
            0x00100000, 0x00110001, 0x00120002, 0x00130003, 0x00140004, 0x00150005, 0x00160006, 0x00170007, 0x00180008,
            0x00190009, 0x001a000a, 0x001b000b, 0x001c000c, 0x001d000d, 0x001e000e, 0x001f000f);
        const __m512i halves = __m512i(_mm512_cvtne2ps_pbh(odd, even));
        _mm512_storeu_si512(p, _mm512_permutexvar_epi16(side_by_side, halves));
    }
#else
    SIMD void store_pairs(bf16* p, F even, F odd) {
        const __m512i low = _mm512_srli_epi32(_mm512_castps_si512(round_bf16(even)), 16);
        _mm512_storeu_si512(p, _mm512_or_si512(low, _mm512_castps_si512(round_bf16(odd))));
    }
#endif
    SIMD void nibbles(const uint8_t* p, F& low, F& high) {
        const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
        low = _mm512_cvtepi32_ps(_mm512_and_si512(bytes, _mm512_set1_epi32(15)));
        high = _mm512_cvtepi32_ps(_mm512_srli_epi32(bytes, 4));
    }
    SIMD F bits(const uint8_t* p, int shift, int mask) {
        const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
        return _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(bytes, uint32_t(shift)), _mm512_set1_epi32(mask)));
    }
    SIMD F signed_bytes(const uint8_t* p) {
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
    }
    SIMD F finite_halves(const uint8_t* p) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    }

    SIMD F add(F a, F b) { return _mm512_add_ps(a, b); }
    SIMD F sub(F a, F b) { return _mm512_sub_ps(a, b); }
    SIMD F mul(F a, F b) { return _mm512_mul_ps(a, b); }
    SIMD F div(F a, F b) { return _mm512_div_ps(a, b); }
    SIMD F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
    SIMD F fnma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }
    SIMD F max(F a, F b) { return _mm512_max_ps(a, b); }
    SIMD F min(F a, F b) { return _mm512_min_ps(a, b); }
    SIMD float sum(F v) {
        const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
        const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
    }
    SIMD float maximum(F v) {
        const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
        const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
    }
    SIMD float first(F v) { return _mm512_cvtss_f32(v); }
    SIMD F keep_first(F v, int n, F other) { return _mm512_mask_mov_ps(other, first_lanes(n), v); }
    SIMD F round_bf16(F v) {
        const __m512i bits = _mm512_castps_si512(v);
        const __m512i even = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
        const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), even);
        const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
        const __m512i kept = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), quiet);
        return _mm512_castsi512_ps(_mm512_and_si512(kept, _mm512_set1_epi32(int(0xffff0000u))));
    }
    SIMD F power_of_2(F t) {
        return _mm512_castsi512_ps(
            _mm512_add_epi32(_mm512_slli_epi32(_mm512_castps_si512(t), 23), _mm512_set1_epi32(0x3f800000)));
    }
    SIMD F select_odd(F t, F odd, F even) {
        return _mm512_mask_mov_ps(even, _mm512_test_epi32_mask(_mm512_castps_si512(t), _mm512_set1_epi32(1)), odd);
    }
    SIMD F negate_by_bit_1(F t, uint32_t offset, F v) {
        const __m512i n = _mm512_add_epi32(_mm512_castps_si512(t), _mm512_set1_epi32(int(offset)));
        const __m512i sign = _mm512_slli_epi32(_mm512_and_si512(n, _mm512_set1_epi32(2)), 30);
        return _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(v), sign));
    }

private:
    SIMD __mmask16 first_lanes(int n) { return n >= 16 ? __mmask16(0xffff) : __mmask16((1u << n) - 1u); }
    SIMD __m512i load_pairs(const bf16* p) { return _mm512_loadu_si512(p); }
    SIMD F widen(__m256i v) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16)); }
};

}  // namespace
}  // namespace spartan
