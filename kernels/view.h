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

// What weights, adapters and KV are stored in. f16 is read from files, never computed in on a CPU.
enum class DType : uint8_t { f32, bf16, f16 };

constexpr int64_t size_of(DType t) { return t == DType::f32 ? 4 : 2; }
constexpr const char* name_of(DType t) { return t == DType::f32 ? "f32" : t == DType::bf16 ? "bf16" : "f16"; }

struct bf16 {  // same layout as __nv_bfloat16
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

template <class T>
HOST_DEVICE inline T from_float(float f) {
    if constexpr (std::is_same_v<T, float>)
        return f;
    else
        return to_bf16(f);
}

template <class T>
constexpr DType dtype_of = std::is_same_v<T, float> ? DType::f32 : DType::bf16;

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
