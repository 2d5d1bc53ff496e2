// Instructions of compute capability 9.0a: barriers in shared memory, warpgroup products, registers that warps hand to
// each other. Code for other GPUs may name them, but must not come to them.
#pragma once

#include "kernels/view.h"

#include <cstdint>
#include <type_traits>

#include <cuda_runtime.h>

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SPARTAN_HOPPER(...) asm volatile(__VA_ARGS__)
#else
#define SPARTAN_HOPPER(...) asm volatile("trap;")
#endif

namespace spartan {

// Whether this build has code for them, and a GPU of this compute capability runs it. Code for all others, plain 90
// among them, is a trap.
#if defined(SPARTAN_SM90A)
constexpr bool kHasHopperCode = true;
#else
constexpr bool kHasHopperCode = false;
#endif
constexpr bool runs_hopper_code(int compute_capability) { return kHasHopperCode && compute_capability == 90; }

__device__ __forceinline__ uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

__device__ __forceinline__ void init_barrier(uint32_t barrier, uint32_t arrivals) {
    SPARTAN_HOPPER("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void arrive(uint32_t barrier) {
    SPARTAN_HOPPER("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Arrives when all copies that this thread has begun (async_copy.cuh) are done; it does not wait for that.
__device__ __forceinline__ void arrive_behind_copies(uint32_t barrier) {
    SPARTAN_HOPPER("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}
// Returns when the phase of this parity has ended. At the start the one before the first, of parity 1, has.
__device__ __forceinline__ void wait_for(uint32_t barrier, uint32_t parity) {
    SPARTAN_HOPPER(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}" ::"r"(barrier),
        "r"(parity)
        : "memory");
}
// Shared memory that threads have written and this one has waited for may then be an operand of its products.
__device__ __forceinline__ void show_to_products() { SPARTAN_HOPPER("fence.proxy.async.shared::cta;" ::: "memory"); }

// How many registers a thread of this warpgroup has from here on; a multiple of 8.
template <int Registers>
__device__ __forceinline__ void take_registers() {
    SPARTAN_HOPPER("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers) : "memory");
}
template <int Registers>
__device__ __forceinline__ void leave_registers() {
    SPARTAN_HOPPER("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers) : "memory");
}

// Operands in shared memory are columns of 64 elements: rows of 128 bytes, the 16-byte pieces of row i in the order
// piece ^ i % 8, at an address that is a multiple of 1,024 for row 0.
HOST_DEVICE constexpr int operand_offset(int row, int piece) { return row * 128 + (piece ^ row % 8) * 16; }
// Its rows are rows of the product, its columns run along k: 16 of k from `address` on, in the order piece ^ 0.
HOST_DEVICE constexpr uint64_t operand_along_k(uint32_t address) {
    return uint64_t(1) << 62 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 16 | (address >> 4 & 0x3fff);
}
// Its rows are k, 16 of them from `address` on; its columns of 64 are columns of the product, `column_bytes` apart.
HOST_DEVICE constexpr uint64_t operand_across_k(uint32_t address, uint32_t column_bytes) {
    return uint64_t(1) << 62 | uint64_t(1024 >> 4) << 32 | uint64_t(column_bytes >> 4) << 16 | (address >> 4 & 0x3fff);
}

// Slots of shared memory that are filled and emptied in turn, and the parity that their barriers then wait for.
template <int kSlots>
struct Ring {
    int slot = 0;
    uint32_t phase = 0;
    __device__ __forceinline__ void next() {
        if (++slot < kSlots) return;
        slot = 0;
        phase ^= 1;
    }
};

// Begins a group of products: sums and operands in registers are as they shall be.
__device__ __forceinline__ void begin_products() { SPARTAN_HOPPER("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void end_products() { SPARTAN_HOPPER("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// All but the latest Pending groups are done.
template <int Pending>
__device__ __forceinline__ void wait_for_products() {
    SPARTAN_HOPPER("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}
// The compiler uses these values neither before nor across this place: they are a product's until then.
template <int N>
__device__ __forceinline__ void hold(float (&values)[N]) {
#pragma unroll
    for (float& v : values) asm volatile("" : "+f"(v)::"memory");
}
template <int N>
__device__ __forceinline__ void hold(uint32_t (&values)[N]) {
#pragma unroll
    for (uint32_t& v : values) asm volatile("" : "+r"(v)::"memory");
}

#define SPARTAN_16_REGISTERS "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define SPARTAN_32_REGISTERS \
    SPARTAN_16_REGISTERS ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define SPARTAN_48_REGISTERS \
    SPARTAN_32_REGISTERS ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define SPARTAN_64_REGISTERS \
    SPARTAN_48_REGISTERS ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define SPARTAN_8_SUMS(c, i)                                                                                    \
    "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), "+f"(c[i + 6]), \
        "+f"(c[i + 7])
#define SPARTAN_16_SUMS(c, i) SPARTAN_8_SUMS(c, i), SPARTAN_8_SUMS(c, i + 8)
#define SPARTAN_32_SUMS(c, i) SPARTAN_16_SUMS(c, i), SPARTAN_16_SUMS(c, i + 16)

// By four warps: c [64 x N] = a [64 x 16] * b [16 x N], N twice the number of c's elements, T in, fp32 sums. Lane 4r +
// q of warp w holds, of columns 8j + 2q and 8j + 2q + 1: c[4j], c[4j + 1] (row 16w + r), c[4j + 2], c[4j + 3] (row 16w
// + r + 8). a and b run along k.
template <class T>
__device__ __forceinline__ void multiply_along_k(float (&c)[64], uint64_t a, uint64_t b) {
    static_assert(is_16_bit<T>);
#define SPARTAN_PRODUCT(type)                                                                  \
    SPARTAN_HOPPER(                                                                            \
        "{\n.reg .pred adds;\nsetp.ne.b32 adds, 0, 0;\n"                                       \
        "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" SPARTAN_64_REGISTERS \
        "}, %64, %65, adds, 1, 1, 0, 0;\n}"                                                    \
        : SPARTAN_32_SUMS(c, 0), SPARTAN_32_SUMS(c, 32)                                        \
        : "l"(a), "l"(b))
    if constexpr (std::is_same_v<T, bf16>)
        SPARTAN_PRODUCT("bf16");
    else
        SPARTAN_PRODUCT("f16");
#undef SPARTAN_PRODUCT
}

// One product. `operands` are the places of `inputs` (in parentheses), then flags, signs and orders of k; the sums,
// last, take the first places.
#define SPARTAN_PRODUCT_OF(n, type, registers, operands, inputs, ...)                                               \
    SPARTAN_HOPPER("wgmma.mma_async.sync.aligned.m64n" n "k16.f32." type "." type " {" registers "}, " operands ";" \
                   : __VA_ARGS__                                                                                    \
                   : SPARTAN_INSIDE inputs)
#define SPARTAN_INSIDE(...) __VA_ARGS__
#define SPARTAN_PRODUCT(T, n, registers, operands, inputs, ...)                  \
    if constexpr (std::is_same_v<T, bf16>)                                       \
        SPARTAN_PRODUCT_OF(n, "bf16", registers, operands, inputs, __VA_ARGS__); \
    else                                                                         \
        SPARTAN_PRODUCT_OF(n, "f16", registers, operands, inputs, __VA_ARGS__)

// c [64 x N] += a [64 x 16] * b [16 x N], N = 32, 64, 96 or 128; otherwise as above. The same bits as
// mma.m16n8k16 gives for the same sixteen k, in whatever order (seen on an H100).
template <class T, int kSums>
__device__ __forceinline__ void add_product(float (&c)[kSums], uint64_t a, uint64_t b) {
    static_assert(is_16_bit<T> && (kSums == 16 || kSums == 32 || kSums == 48 || kSums == 64));
#define SPARTAN_ADD(n, registers, operands, ...) \
    SPARTAN_PRODUCT(T, n, registers, operands ", 1, 1, 1, 0, 0", ("l"(a), "l"(b)), __VA_ARGS__)
    if constexpr (kSums == 16) {
        SPARTAN_ADD("32", SPARTAN_16_REGISTERS, "%16, %17", SPARTAN_16_SUMS(c, 0));
    } else if constexpr (kSums == 32) {
        SPARTAN_ADD("64", SPARTAN_32_REGISTERS, "%32, %33", SPARTAN_32_SUMS(c, 0));
    } else if constexpr (kSums == 48) {
        SPARTAN_ADD("96", SPARTAN_48_REGISTERS, "%48, %49", SPARTAN_32_SUMS(c, 0), SPARTAN_16_SUMS(c, 32));
    } else {
        SPARTAN_ADD("128", SPARTAN_64_REGISTERS, "%64, %65", SPARTAN_32_SUMS(c, 0), SPARTAN_32_SUMS(c, 32));
    }
#undef SPARTAN_ADD
}

// c += a * b, N = 64 or 128, a in registers as mma() (numbers.cuh) has it for a warp's 16 rows; b across k.
template <class T, int kSums>
__device__ __forceinline__ void multiply_across_k(float (&c)[kSums], const uint32_t* a, uint64_t b) {
    static_assert(is_16_bit<T> && (kSums == 32 || kSums == 64));
#define SPARTAN_ADD(n, registers, operands, ...)                                                                    \
    SPARTAN_PRODUCT(T, n, registers, operands ", 1, 1, 1, 1", ("r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)), \
                    __VA_ARGS__)
    if constexpr (kSums == 32) {
        SPARTAN_ADD("64", SPARTAN_32_REGISTERS, "{%32, %33, %34, %35}, %36", SPARTAN_32_SUMS(c, 0));
    } else {
        SPARTAN_ADD("128", SPARTAN_64_REGISTERS, "{%64, %65, %66, %67}, %68", SPARTAN_32_SUMS(c, 0),
                    SPARTAN_32_SUMS(c, 32));
    }
#undef SPARTAN_ADD
}

#undef SPARTAN_PRODUCT
#undef SPARTAN_INSIDE
#undef SPARTAN_PRODUCT_OF
#undef SPARTAN_32_SUMS
#undef SPARTAN_16_SUMS
#undef SPARTAN_8_SUMS
#undef SPARTAN_64_REGISTERS
#undef SPARTAN_48_REGISTERS
#undef SPARTAN_32_REGISTERS
#undef SPARTAN_16_REGISTERS

}  // namespace spartan
