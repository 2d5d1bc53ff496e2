// More instructions of compute capability 9.0a: the bulk copy engine, and the shared memory of a cluster's other CTAs.
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

// How long the L2 cache shall keep what is read once.
__device__ __forceinline__ uint64_t read_once() {
    uint64_t policy = 0;
    SPARTAN_HOPPER("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}
__device__ __forceinline__ void copy_box(uint32_t to, const CUtensorMap& map, uint32_t barrier, int column, int row,
                                         uint64_t policy) {
    SPARTAN_HOPPER(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], "
        "[%1, {%2, %3}], [%4], %5;" ::"r"(to),
        "l"(&map), "r"(column), "r"(row), "r"(barrier), "l"(policy)
        : "memory");
}

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
