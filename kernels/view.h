// A non-owning, row-major, contiguous array of known rank, and the storage types of its elements. Shapes are in
// elements.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <type_traits>

#ifdef __CUDACC__
#define HOST_DEVICE __host__ __device__
#else
#define HOST_DEVICE
#endif

namespace spartan {

// What weights, adapters and KV are stored in, and products' factors rounded to. CPUs have no kernels for f16.
enum class DType : uint8_t { f32, bf16, f16 };

constexpr int64_t size_of(DType t) { return t == DType::f32 ? 4 : 2; }
constexpr const char* name_of(DType t) { return t == DType::f32 ? "f32" : t == DType::bf16 ? "bf16" : "f16"; }

struct bf16 {  // same layout as __nv_bfloat16
    uint16_t bits;
};
struct f16 {  // IEEE 754 binary16, same layout as __half
    uint16_t bits;
};

HOST_DEVICE inline float to_float(float v) { return v; }
HOST_DEVICE inline float to_float(bf16 v) {
    const uint32_t bits = uint32_t(v.bits) << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

// Rounds to nearest even; NaN stays NaN.
HOST_DEVICE inline bf16 to_bf16(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {uint16_t(bits >> 16 | 0x40u)};
    return {uint16_t((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

// Exact, subnormals, infinities and NaN included. Without branches, so that loops over it become vector code: exponent
// and mantissa, shifted to where a float keeps them, name a value 2^112 too small (exact, as a subnormal float at the
// least). Infinity and NaN need all exponent bits.
HOST_DEVICE inline float to_float(f16 v) {
    float f;
#ifdef __CUDA_ARCH__
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v.bits));
#else
    uint32_t bits = uint32_t(v.bits & 0x7fffu) << 13;
    memcpy(&f, &bits, sizeof f);
    f *= 0x1p112f;
    memcpy(&bits, &f, sizeof bits);
    bits |= ((v.bits & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u) | uint32_t(v.bits & 0x8000u) << 16;
    memcpy(&f, &bits, sizeof f);
#endif
    return f;
}

// Rounds to nearest even; from 65520 on to infinity. NaN stays NaN.
HOST_DEVICE inline f16 to_f16(float f) {
#ifdef __CUDA_ARCH__
    f16 v;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(v.bits) : "f"(f));
    return v;
#else
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return {uint16_t(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu))};
    if (magnitude >= 0x477ff000u) return {uint16_t(sign | 0x7c00u)};
    if (magnitude < 0x38800000u) {  // below 2^-14, multiples of 2^-24: the last bit of what lies from 0.5 on
        memcpy(&f, &magnitude, sizeof f);
        f += 0.5f;
        memcpy(&bits, &f, sizeof bits);
        return {uint16_t(sign | (bits - 0x3f000000u))};
    }
    return {uint16_t(sign | ((magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13))};
#endif
}

template <class T>
HOST_DEVICE inline T from_float(float f) {
    if constexpr (std::is_same_v<T, float>)
        return f;
    else if constexpr (std::is_same_v<T, bf16>)
        return to_bf16(f);
    else
        return to_f16(f);
}

template <class T>
constexpr bool is_16_bit = std::is_same_v<T, bf16> || std::is_same_v<T, f16>;

template <class T>
constexpr DType dtype_of = std::is_same_v<T, float>  ? DType::f32
                           : std::is_same_v<T, bf16> ? DType::bf16
                                                     : DType::f16;

// function(T()) of the T that `dtype` names.
template <class Function>
decltype(auto) with_type(DType dtype, const Function& function) {
    if (dtype == DType::f32) return function(float());
    if (dtype == DType::bf16) return function(bf16());
    return function(f16());
}

template <class T, int Rank>
struct View {
    T* data = nullptr;
    std::array<int64_t, Rank> shape{};

    template <class U>
    requires std::is_same_v<U, const T>
    operator View<U, Rank>() const { return {data, shape}; }
    T* row(int64_t i) const requires(Rank == 2) { return data + i * shape[1]; }
};

}  // namespace spartan
