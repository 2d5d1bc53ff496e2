// Eight floats: AVX2 with FMA. See vec_generic.h for what the operations mean.
#pragma once

#include "kernels/view.h"

#include <immintrin.h>

#include <cstdint>

#define SIMD static inline __attribute__((always_inline))

namespace spartan {
namespace {

struct Vec {
    typedef __m256 F;
    static constexpr int kLanes = 8;
    static constexpr int kAccumulators = 12;  // of 16 registers
    static constexpr bool kDotsPairs = false;
    static constexpr bool kFusedMultiplyAdd = true;

    SIMD F zero() { return _mm256_setzero_ps(); }
    SIMD F set1(float v) { return _mm256_set1_ps(v); }
    SIMD F load(const float* p) { return _mm256_loadu_ps(p); }
    SIMD F load(const bf16* p) { return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
    SIMD F load_partial(const float* p, int n) { return _mm256_maskload_ps(p, first_lanes(n)); }
    SIMD F load_partial(const bf16* p, int n) {
        alignas(16) bf16 v[8] = {};
        for (int i = 0; i < n; ++i) v[i] = p[i];
        return load(v);
    }
    SIMD void store(float* p, F v) { _mm256_storeu_ps(p, v); }
    SIMD void store_partial(float* p, F v, int n) { _mm256_maskstore_ps(p, first_lanes(n), v); }
    SIMD void store_truncated(int32_t* p, F v) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_cvttps_epi32(v));
    }
    SIMD void store(bf16* p, F v) {
        const __m256i high = _mm256_srli_epi32(_mm256_castps_si256(round_bf16(v)), 16);
        const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0x08);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
    }

    SIMD F pair_first(const bf16* p) { return _mm256_castsi256_ps(_mm256_slli_epi32(load_pairs(p), 16)); }
    SIMD F pair_second(const bf16* p) {
        return _mm256_castsi256_ps(_mm256_and_si256(load_pairs(p), _mm256_set1_epi32(int(0xffff0000u))));
    }
    SIMD void store_pairs(bf16* p, F even, F odd) {
        const __m256i low = _mm256_srli_epi32(_mm256_castps_si256(round_bf16(even)), 16);
        const __m256i pairs = _mm256_or_si256(low, _mm256_castps_si256(round_bf16(odd)));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), pairs);
    }
    SIMD void nibbles(const uint8_t* p, F& low, F& high) {
        const __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
        low = _mm256_cvtepi32_ps(_mm256_and_si256(bytes, _mm256_set1_epi32(15)));
        high = _mm256_cvtepi32_ps(_mm256_srli_epi32(bytes, 4));
    }
    SIMD F bits(const uint8_t* p, int shift, int mask) {
        const __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
        return _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(bytes, shift), _mm256_set1_epi32(mask)));
    }
    SIMD F signed_bytes(const uint8_t* p) {
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
    }
    SIMD F finite_halves(const uint8_t* p) {
        const __m256i h = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
        const __m256i magnitude = _mm256_slli_epi32(_mm256_and_si256(h, _mm256_set1_epi32(0x7fff)), 13);
        const __m256i sign = _mm256_slli_epi32(_mm256_and_si256(h, _mm256_set1_epi32(0x8000)), 16);
        return _mm256_or_ps(_mm256_mul_ps(_mm256_castsi256_ps(magnitude), _mm256_set1_ps(0x1p112f)),
                            _mm256_castsi256_ps(sign));
    }

    SIMD F add(F a, F b) { return _mm256_add_ps(a, b); }
    SIMD F sub(F a, F b) { return _mm256_sub_ps(a, b); }
    SIMD F mul(F a, F b) { return _mm256_mul_ps(a, b); }
    SIMD F div(F a, F b) { return _mm256_div_ps(a, b); }
    SIMD F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
    SIMD F fnma(F a, F b, F c) { return _mm256_fnmadd_ps(a, b, c); }
    SIMD F max(F a, F b) { return _mm256_max_ps(a, b); }
    SIMD F min(F a, F b) { return _mm256_min_ps(a, b); }
    SIMD float sum(F v) {
        const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
        const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
    }
    SIMD float maximum(F v) {
        const __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
        const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
    }
    SIMD float first(F v) { return _mm256_cvtss_f32(v); }
    SIMD F keep_first(F v, int n, F other) { return _mm256_blendv_ps(other, v, _mm256_castsi256_ps(first_lanes(n))); }
    SIMD F round_bf16(F v) {
        const __m256i bits = _mm256_castps_si256(v);
        const __m256i even = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
        const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), even);
        const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
        const __m256 kept = _mm256_blendv_ps(_mm256_castsi256_ps(rounded), _mm256_castsi256_ps(quiet),
                                             _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
        return _mm256_and_ps(kept, _mm256_castsi256_ps(_mm256_set1_epi32(int(0xffff0000u))));
    }
    SIMD F power_of_2(F t) {
        return _mm256_castsi256_ps(
            _mm256_add_epi32(_mm256_slli_epi32(_mm256_castps_si256(t), 23), _mm256_set1_epi32(0x3f800000)));
    }
    SIMD F select_odd(F t, F odd, F even) {
        return _mm256_blendv_ps(even, odd, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(t), 31)));
    }
    SIMD F negate_by_bit_1(F t, uint32_t offset, F v) {
        const __m256i n = _mm256_add_epi32(_mm256_castps_si256(t), _mm256_set1_epi32(int(offset)));
        const __m256i sign = _mm256_slli_epi32(_mm256_and_si256(n, _mm256_set1_epi32(2)), 30);
        return _mm256_xor_ps(v, _mm256_castsi256_ps(sign));
    }

private:
    SIMD __m256i first_lanes(int n) {
        return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    }
    SIMD __m256i load_pairs(const bf16* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
    SIMD F widen(__m128i v) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16)); }
};

}  // namespace
}  // namespace spartan
