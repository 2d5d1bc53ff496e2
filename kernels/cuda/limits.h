// How fast this GPU is: what every share of a limit is a share of.
#pragma once

#include "kernels/bench.h"
#include "kernels/cuda/device.h"

namespace spartan {

// Reads and copies go over several times the L2 cache; bf16_flops is the best product of 8192 x 8192 matrices through
// cuBLASLt, f32_flops that of fused multiply-adds in registers. Takes some tenths of a second and up to 2 GB.
MachineLimits measure_limits(CudaDevice& device);

}  // namespace spartan
