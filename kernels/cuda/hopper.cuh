// Instructions of compute capability 9.0a: barriers in shared memory that count bytes, the bulk copy engine, warpgroup
// products, and the shared memory of a cluster's other CTAs. Code for other GPUs traps: who launches it asks before.
#pragma once

#include "kernels/view.h"

#include <cstdint>

#include <cuda.h>

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SPARTAN_HOPPER(...) asm volatile(__VA_ARGS__)
#else
#define SPARTAN_HOPPER(...) asm volatile("trap;")
#endif

namespace spartan {

__device__ __forceinline__ uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

__device__ __forceinline__ void init_barrier(uint32_t barrier, uint32_t arrivals) {
    SPARTAN_HOPPER("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// Makes them known to the copy engine; a CTA's barrier behind it to the CTA.
__device__ __forceinline__ void publish_barriers() {
    SPARTAN_HOPPER("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void arrive(uint32_t barrier) {
    SPARTAN_HOPPER("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Arrives; the phase ends when so many bytes have come as well.
__device__ __forceinline__ void arrive_and_expect(uint32_t barrier, uint32_t bytes) {
    SPARTAN_HOPPER("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
// Returns when the phase of this parity has ended.
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

__device__ __forceinline__ void fetch_map(const CUtensorMap& map) {
    SPARTAN_HOPPER("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}
// The map's box with its first element at (column, row), to shared memory; what lies outside the matrix is zero.
__device__ __forceinline__ void copy_box(uint32_t to, const CUtensorMap& map, uint32_t barrier, int column, int row) {
    SPARTAN_HOPPER(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
            to),
        "l"(&map), "r"(column), "r"(row), "r"(barrier)
        : "memory");
}

// An operand's tile in shared memory: rows of 128 bytes of k, eight of them 1,024 bytes apart from the next eight,
// 16-byte pieces exchanged as the copy engine's 128-byte swizzle does it. `address` is of (row, k): row a multiple of
// 8 in memory aligned to 1,024 bytes, k a multiple of 16.
__device__ __forceinline__ uint64_t operand_at(uint32_t address) {
    constexpr uint64_t kSwizzle128 = uint64_t(1) << 62, kEightRows = uint64_t(1024 >> 4) << 32, kUnused = 1 << 16;
    return kSwizzle128 | kEightRows | kUnused | (address >> 4 & 0x3fff);
}

// Begins a group of products: sums and operands that the warps have written are there.
__device__ __forceinline__ void begin_products() { SPARTAN_HOPPER("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void end_products() { SPARTAN_HOPPER("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// All but the latest Pending groups are done.
template <int Pending>
__device__ __forceinline__ void wait_for_products() {
    SPARTAN_HOPPER("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

#define SPARTAN_SUMS_8(c, i)                                                                                    \
    "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), "+f"(c[i + 6]), \
        "+f"(c[i + 7])
#define SPARTAN_MULTIPLY_64(type)                                                                                \
    SPARTAN_HOPPER("wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type                                   \
                   " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19," \
                   " %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, %32, %33, 1, 1, 1, 0, 0;"      \
                   : SPARTAN_SUMS_8(c, 0), SPARTAN_SUMS_8(c, 8), SPARTAN_SUMS_8(c, 16), SPARTAN_SUMS_8(c, 24)    \
                   : "l"(a), "l"(b))
#define SPARTAN_MULTIPLY_96(type)                                                                                \
    SPARTAN_HOPPER("wgmma.mma_async.sync.aligned.m64n96k16.f32." type "." type                                   \
                   " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19," \
                   " %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37,"  \
                   " %38, %39, %40, %41, %42, %43, %44, %45, %46, %47}, %48, %49, 1, 1, 1, 0, 0;"                \
                   : SPARTAN_SUMS_8(c, 0), SPARTAN_SUMS_8(c, 8), SPARTAN_SUMS_8(c, 16), SPARTAN_SUMS_8(c, 24),   \
                     SPARTAN_SUMS_8(c, 32), SPARTAN_SUMS_8(c, 40)                                                \
                   : "l"(a), "l"(b))

// c [64 x N] += a [64 x 16] * b [N x 16]^T, T in, fp32 sums, by four warps; N = 64 or 96. Lane 4r + q of warp w holds,
// of columns 8j + 2q and 8j + 2q + 1: c[4j], c[4j + 1] (row 16w + r), c[4j + 2], c[4j + 3] (row 16w + r + 8). The same
// bits as mma.m16n8k16 gives for the same sixteen k, on an H100.
template <class T, int kSums>
__device__ __forceinline__ void multiply_add(float (&c)[kSums], uint64_t a, uint64_t b) {
    static_assert(is_16_bit<T> && (kSums == 32 || kSums == 48));
    if constexpr (kSums == 32 && std::is_same_v<T, bf16>) SPARTAN_MULTIPLY_64("bf16");
    if constexpr (kSums == 32 && std::is_same_v<T, f16>) SPARTAN_MULTIPLY_64("f16");
    if constexpr (kSums == 48 && std::is_same_v<T, bf16>) SPARTAN_MULTIPLY_96("bf16");
    if constexpr (kSums == 48 && std::is_same_v<T, f16>) SPARTAN_MULTIPLY_96("f16");
}
#undef SPARTAN_MULTIPLY_64
#undef SPARTAN_MULTIPLY_96
#undef SPARTAN_SUMS_8

// Waits for all threads of the cluster; what they wrote to shared memory before is seen behind it.
__device__ __forceinline__ void wait_for_cluster() {
    SPARTAN_HOPPER("barrier.cluster.arrive.release.aligned;" ::: "memory");
    SPARTAN_HOPPER("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// From the shared memory of the cluster's CTA `rank`, at this CTA's address.
__device__ __forceinline__ float4 load_of_cluster(uint32_t address, uint32_t rank) {
    float4 v = {};
    SPARTAN_HOPPER(
        "{\n"
        ".reg .b32 there;\n"
        "mapa.shared::cluster.u32 there, %4, %5;\n"
        "ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [there];\n"
        "}"
        : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
        : "r"(address), "r"(rank)
        : "memory");
    return v;
}

}  // namespace spartan
