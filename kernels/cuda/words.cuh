// Activations as 32-bit words: N of them in one load or store, aligned to 4 N bytes. Written so that the compiler keeps
// all loads of a batch before what uses the first one.
#pragma once

#include <cstdint>

namespace spartan {

template <int N>
__device__ __forceinline__ void load_words(uint32_t (&words)[N], const void* p) {
    static_assert(N == 1 || N == 2 || N == 4);
    if constexpr (N == 4)
        asm volatile("ld.global.v4.u32 {%0,%1,%2,%3}, [%4];"
                     : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                     : "l"(p)
                     : "memory");
    else if constexpr (N == 2)
        asm volatile("ld.global.v2.u32 {%0,%1}, [%2];" : "=r"(words[0]), "=r"(words[1]) : "l"(p) : "memory");
    else
        asm volatile("ld.global.u32 %0, [%1];" : "=r"(words[0]) : "l"(p) : "memory");
}

template <int N>
__device__ __forceinline__ void store_words(void* p, const uint32_t (&words)[N]) {
    static_assert(N == 1 || N == 2 || N == 4);
    if constexpr (N == 4)
        asm volatile("st.global.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(p), "r"(words[0]), "r"(words[1]), "r"(words[2]),
                     "r"(words[3])
                     : "memory");
    else if constexpr (N == 2)
        asm volatile("st.global.v2.u32 [%0], {%1,%2};" ::"l"(p), "r"(words[0]), "r"(words[1]) : "memory");
    else
        asm volatile("st.global.u32 [%0], %1;" ::"l"(p), "r"(words[0]) : "memory");
}

}  // namespace spartan
