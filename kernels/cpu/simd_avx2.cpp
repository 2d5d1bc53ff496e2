#include "kernels/cpu/simd/vec_avx2.h"
//
#include "kernels/cpu/simd/kernels.h"

namespace spartan {

const CpuKernels kAvx2Kernels = kKernels;

}  // namespace spartan
