// How fast this GPU is: what every share of a limit is a share of.
#pragma once

#include "kernels/bench.h"
#include "kernels/cuda/device.h"

namespace spartan {

// Reads and copies go over many times the L2 cache; read_bytes_per_s is the best of reading in order and in
// pieces of 1.5 MB that jump about, by loads like the kernels'; bf16_flops is the best product of 8192 x 8192 matrices
// through cuBLASLt, f32_flops that of fused multiply-adds in registers. Takes some tenths of a second and up to 4 GB.
MachineLimits measure_limits(CudaDevice& device);

}  // namespace spartan
