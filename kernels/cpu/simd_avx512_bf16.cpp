#include "kernels/cpu/simd/vec_avx512.h"
//
#include "kernels/cpu/simd/kernels.h"

namespace spartan {

const CpuKernels kAvx512Bf16Kernels = kKernels;

}  // namespace spartan
