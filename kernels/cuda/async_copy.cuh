// Copies from global to shared memory that run beside the computation (from compute capability 8.0). A thread sees its
// own copies after wait_for_copies(); other threads see them after a barrier behind that.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

namespace spartan {

// `Bytes` (4, 8 or 16) from `from` to `to`, both aligned to that; zeros, and nothing is read, when !wanted.
template <int Bytes>
__device__ __forceinline__ void copy_async(void* to, const void* from, bool wanted = true) {
    const auto shared = uint32_t(__cvta_generic_to_shared(to));
    const auto global = __cvta_generic_to_global(from);
    const int read = wanted ? Bytes : 0;
    if constexpr (Bytes == 16)  // past the L1 cache
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(read) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared), "l"(global), "n"(Bytes), "r"(read)
                     : "memory");
}

// Ends a group of copies; wait_for_copies<N>() returns when all but this thread's latest N groups are done.
__device__ __forceinline__ void end_copy_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int Pending>
__device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

}  // namespace spartan
