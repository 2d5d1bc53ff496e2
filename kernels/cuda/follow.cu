#include "kernels/check.h"
#include "kernels/cuda/follow.h"

#include <cuda_runtime.h>

namespace spartan {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) follow_kernel(int32_t* ids, int64_t rows, const int32_t* tokens) {
    for (int64_t row = threadIdx.x; row < rows; row += kThreads)
        if (ids[row] < 0) ids[row] = max(tokens[-1 - ids[row]], 0);
}

}  // namespace

void follow(CudaDevice& device, int32_t* ids, int64_t rows, const int32_t* tokens) {
    CHECK(rows >= 0);
    follow_kernel<<<1, kThreads, 0, device.stream()>>>(ids, rows, tokens);
    CHECK_CUDA(cudaGetLastError());
}

}  // namespace spartan
