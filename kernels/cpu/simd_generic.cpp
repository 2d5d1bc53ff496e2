#include "kernels/cpu/simd/vec_generic.h"
//
#include "kernels/cpu/simd/kernels.h"

namespace spartan {

const CpuKernels kGenericKernels = kKernels;

}  // namespace spartan
