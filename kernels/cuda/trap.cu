#include "kernels/cuda/trap.h"

#include "kernels/cuda/launch.cuh"

#include <cstdint>

namespace spartan {
namespace {

__global__ void trap_kernel() { __trap(); }

__device__ uint64_t nanoseconds() {
    uint64_t t;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t));
    return t;
}

__global__ void stall_kernel(uint64_t ns) {
    const uint64_t begin = nanoseconds();
    while (nanoseconds() - begin < ns) __nanosleep(1'000'000);
}

}  // namespace

void trap(CudaDevice& device) { launch(device, trap_kernel, dim3(1), 32, 0); }

void stall(CudaDevice& device, int seconds) {
    launch(device, stall_kernel, dim3(1), 1, 0, uint64_t(seconds) * 1'000'000'000);
}

}  // namespace spartan
