// More instructions of compute capability 9.0a: the bulk copy engine, products of tiles that it has brought, and the
// shared memory of a cluster's other CTAs.
#pragma once

#include "kernels/cuda/hopper.cuh"

#include <cuda.h>

namespace spartan {

// Makes barriers known to the copy engine; a CTA's barrier behind it to the CTA.
__device__ __forceinline__ void publish_barriers() {
    SPARTAN_HOPPER("fence.mbarrier_init.release.cluster;" ::: "memory");
}
// Arrives; the phase ends when so many bytes have come as well.
__device__ __forceinline__ void arrive_and_expect(uint32_t barrier, uint32_t bytes) {
    SPARTAN_HOPPER("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void fetch_map(const CUtensorMap& map) {
    SPARTAN_HOPPER("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}
// The map's box with its first element at (column, row), to shared memory; what lies outside the matrix is zero. A box
// of 64 elements a row with the 128-byte swizzle is an operand_along_k().
__device__ __forceinline__ void copy_box(uint32_t to, const CUtensorMap& map, uint32_t barrier, int column, int row) {
    SPARTAN_HOPPER(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
            to),
        "l"(&map), "r"(column), "r"(row), "r"(barrier)
        : "memory");
}

#define SPARTAN_8_SUMS(c, i)                                                                                    \
    "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), "+f"(c[i + 6]), \
        "+f"(c[i + 7])
#define SPARTAN_64_COLUMNS(type)                                                                                 \
    SPARTAN_HOPPER("wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type                                   \
                   " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19," \
                   " %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, %32, %33, 1, 1, 1, 0, 0;"      \
                   : SPARTAN_8_SUMS(c, 0), SPARTAN_8_SUMS(c, 8), SPARTAN_8_SUMS(c, 16), SPARTAN_8_SUMS(c, 24)    \
                   : "l"(a), "l"(b))
#define SPARTAN_96_COLUMNS(type)                                                                                 \
    SPARTAN_HOPPER("wgmma.mma_async.sync.aligned.m64n96k16.f32." type "." type                                   \
                   " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19," \
                   " %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37,"  \
                   " %38, %39, %40, %41, %42, %43, %44, %45, %46, %47}, %48, %49, 1, 1, 1, 0, 0;"                \
                   : SPARTAN_8_SUMS(c, 0), SPARTAN_8_SUMS(c, 8), SPARTAN_8_SUMS(c, 16), SPARTAN_8_SUMS(c, 24),   \
                     SPARTAN_8_SUMS(c, 32), SPARTAN_8_SUMS(c, 40)                                                \
                   : "l"(a), "l"(b))

// c [64 x 64 or 96] += a [64 x 16] * b [16 x 64 or 96], both along k; as multiply_along_k(). The same bits as
// mma.m16n8k16 gives for the same sixteen k, in whatever order (seen on an H100).
template <class T, int kSums>
__device__ __forceinline__ void add_product(float (&c)[kSums], uint64_t a, uint64_t b) {
    static_assert(is_16_bit<T> && (kSums == 32 || kSums == 48));
    if constexpr (kSums == 32 && std::is_same_v<T, bf16>) SPARTAN_64_COLUMNS("bf16");
    if constexpr (kSums == 32 && std::is_same_v<T, f16>) SPARTAN_64_COLUMNS("f16");
    if constexpr (kSums == 48 && std::is_same_v<T, bf16>) SPARTAN_96_COLUMNS("bf16");
    if constexpr (kSums == 48 && std::is_same_v<T, f16>) SPARTAN_96_COLUMNS("f16");
}
#undef SPARTAN_64_COLUMNS
#undef SPARTAN_96_COLUMNS
#undef SPARTAN_8_SUMS

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
