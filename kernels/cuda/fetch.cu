#include "kernels/check.h"
#include "kernels/cuda/fetch.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/words.cuh"
#include "kernels/rounding.h"

#include <algorithm>

namespace spartan {
namespace {

constexpr int kThreads = 256, kMostBlocks = 64;  // reads across the bus in flight, not bandwidth of the GPU, count

__global__ void __launch_bounds__(kThreads) fetch_kernel(uint4* to, const uint4* from, int64_t count) {
    pdl_wait();  // and no pdl_trigger(): see fetch.h
    for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < count; i += int64_t(gridDim.x) * kThreads)
        to[i] = from[i];
}

}  // namespace

void fetch(CudaDevice& device, void* to, const void* from, int64_t bytes) {
    CHECK(bytes >= 0 && bytes % 16 == 0 && aligned_to_16(to, from));
    const int64_t count = bytes / 16, blocks = std::min<int64_t>(divide_up(count, kThreads), kMostBlocks);
    launch(device, fetch_kernel, dim3(unsigned(blocks)), kThreads, 0, static_cast<uint4*>(to),
           static_cast<const uint4*>(from), count);
}

}  // namespace spartan
