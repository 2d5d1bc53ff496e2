#include "kernels/cuda/bench_data.h"
#include "kernels/cuda/launch.cuh"

namespace spartan {

namespace {

template <class T>
__global__ void fill_kernel(T* to, int64_t count, uint32_t seed, float amplitude) {
    pdl_trigger();
    pdl_wait();
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += int64_t(gridDim.x) * blockDim.x)
        to[i] = from_float<T>(random_value(i, seed, amplitude));
}

}  // namespace

void fill_random(CudaDevice& device, float* to, int64_t count, uint32_t seed, float amplitude) {
    launch(device, fill_kernel<float>, dim3(2048), 256, 0, to, count, seed, amplitude);
}
void fill_random(CudaDevice& device, bf16* to, int64_t count, uint32_t seed, float amplitude) {
    launch(device, fill_kernel<bf16>, dim3(2048), 256, 0, to, count, seed, amplitude);
}

}  // namespace spartan
