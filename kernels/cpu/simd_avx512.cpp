#include "kernels/cpu/simd/vec_avx512.h"
//
#include "kernels/cpu/simd/kernels.h"

namespace spartan {

const CpuKernels kAvx512Kernels = kKernels;

}  // namespace spartan
