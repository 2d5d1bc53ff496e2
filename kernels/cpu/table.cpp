#include "kernels/cpu/simd/table.h"

namespace spartan {

const CpuKernels& kernels_for([[maybe_unused]] CpuIsa isa) {
#if defined(__x86_64__)
    switch (isa) {
        case CpuIsa::generic:
            return kGenericKernels;
        case CpuIsa::avx2:
            return kAvx2Kernels;
        case CpuIsa::avx512:
            return kAvx512Kernels;
        case CpuIsa::avx512_bf16:
            return kAvx512Bf16Kernels;
        case CpuIsa::avx512_amx:
            return kAvx512AmxKernels;
    }
#endif
    return kGenericKernels;
}

int64_t attend_scratch_floats(int64_t queries, int64_t head_dim, int64_t block_tokens) {
    return queries * (2 * head_dim + (block_tokens + 15) / 16 * 16 + 2);
}

}  // namespace spartan
