// How close the CUDA kernels come to what this GPU allows (kernels/bench.h): the shapes of Llama 2 7B, every case first
// checked against sums in double precision.
#pragma once

#include "kernels/bench.h"
#include "kernels/cuda/device.h"

namespace spartan {

// Of all cases those whose name contains `only`. Polls `cancelled` between cases and returns what it has by then. Takes
// less than 8 GB of device memory. Throws DeviceError.
std::vector<GpuKernelTiming> bench_kernels(CudaDevice& device, const MachineLimits& limits, const std::string& only,
                                           const std::function<bool()>& cancelled);

}  // namespace spartan
