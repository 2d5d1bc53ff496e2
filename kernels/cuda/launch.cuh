// How every CUDA kernel here is launched, and the rule that makes overlapping launches safe: a kernel calls
// pdl_trigger() first, may then read what no kernel of a step writes (weights, adapters, tables), and calls pdl_wait()
// in every thread before it touches anything else, writes anything or ends.
#pragma once

#include "kernels/cuda/device.h"

#include <cuda_runtime.h>

namespace spartan {

// Lets the next kernel's blocks start as soon as there is room for them.
__device__ __forceinline__ void pdl_trigger() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Returns once every kernel before this one has ended and its writes are visible.
__device__ __forceinline__ void pdl_wait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Requests `bytes` from p on into the L2 cache; both multiples of 16.
__device__ __forceinline__ void prefetch_to_l2(const void* p, int bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(p), "r"(bytes) : "memory");
#endif
}

// Requests share `part` of `parts`; every thread of the CTA calls it.
__device__ __forceinline__ void request_ahead(const Ahead& ahead, int part, int parts) {
    constexpr int64_t kPiece = 4096;
    const int64_t share = (ahead.bytes / 16 + parts - 1) / parts * 16, begin = part * share;
    const int64_t end = min(begin + share, ahead.bytes / 16 * 16);
    for (int64_t at = begin + threadIdx.x * kPiece; at < end; at += blockDim.x * kPiece)
        prefetch_to_l2(static_cast<const char*>(ahead.data) + at, int(min(kPiece, end - at)));
}
// CTAs that only ask, behind those of a kernel that has too few to ask quickly.
constexpr int kAheadBlocks = 66;

// Launches on the device's stream; throws DeviceError. An empty grid launches nothing. launch_clusters: each `cluster`
// neighbours along x are one thread block cluster (compute capability 9.0).
template <class... Parameters, class... Arguments>
void launch_clusters(CudaDevice& device, void (*kernel)(Parameters...), dim3 grid, int cluster, int block,
                     size_t shared_bytes, Arguments... arguments) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3(unsigned(block));
    config.dynamicSmemBytes = shared_bytes;
    config.stream = device.stream();
    cudaLaunchAttribute attributes[2] = {};
    config.attrs = attributes;
    if (device.overlaps_launches()) {
        attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attributes[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
    }
    if (cluster > 1) {
        attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
        attributes[config.numAttrs++].val.clusterDim = {unsigned(cluster), 1, 1};
    }
    CHECK_CUDA(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
}
template <class... Parameters, class... Arguments>
void launch(CudaDevice& device, void (*kernel)(Parameters...), dim3 grid, int block, size_t shared_bytes,
            Arguments... arguments) {
    launch_clusters(device, kernel, grid, 1, block, shared_bytes, arguments...);
}

}  // namespace spartan
