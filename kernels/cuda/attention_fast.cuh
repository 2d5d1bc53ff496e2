// The fast paths of attention(), by the type of its pages and the size of its heads: compiled once for each type,
// beside each other.
#pragma once

#include "kernels/check.h"
#include "kernels/cuda/attention_decode.cuh"
#include "kernels/cuda/attention_prefill.cuh"
#include "kernels/cuda/launch.cuh"

#include <algorithm>

namespace spartan {

namespace {

// Lets a kernel have that much dynamic shared memory, and as many blocks on a multiprocessor as fit then.
void allow_shared(const void* kernel, int bytes) {
    CHECK_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    CHECK_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100));
}

// So many blocks that the GPU is full; each takes its share of the work, however much of it a batch brings.
template <class Arguments>
void launch_share(CudaDevice& device, void (*kernel)(Arguments), int64_t most_work, int block, int shared_bytes,
                  int blocks_of_sm, const Arguments& arguments) {
    if (most_work == 0) return;
    CHECK(most_work < int64_t(1) << 31);
    if (shared_bytes > 0) allow_shared(reinterpret_cast<const void*>(kernel), shared_bytes);
    const int64_t blocks = std::min(most_work, int64_t(blocks_of_sm) * device.num_sms());
    launch(device, kernel, dim3(unsigned(blocks)), block, size_t(shared_bytes), arguments);
}

template <int D, class T>
void launch_fast(CudaDevice& device, const DecodeArguments<T>& d, const AttentionBucket& bucket) {
    using Kernel = Decode<T, D>;
    launch_share(device, decode_kernel<T, D>, bucket.decode_items * d.groups.count, Kernel::kThreads, 0,
                 Kernel::kBlocksOfSm, d);
    const PrefillArguments<T> p{d.out, d.q, d.pool, d.heads, d.kv_heads, d.block_shift, d.window, d.scale, d.tables};
    launch_share(device, prefill_kernel<T, D>, bucket.prefill_items * d.heads * Prefill<T, D>::kParts,
                 32 * Prefill<T, D>::kWarps, Prefill<T, D>::kSharedBytes, 2, p);
}

}  // namespace

template <class T>
void launch_fast_attention(CudaDevice& device, int64_t head_dim, const DecodeArguments<T>& d,
                           const AttentionBucket& bucket) {
    switch (head_dim) {
        case 32:
            return launch_fast<32>(device, d, bucket);
        case 64:
            return launch_fast<64>(device, d, bucket);
        case 96:
            return launch_fast<96>(device, d, bucket);
        case 128:
            return launch_fast<128>(device, d, bucket);
        case 256:
            return launch_fast<256>(device, d, bucket);
        default:
            CHECK(false);
    }
}

}  // namespace spartan
