// The fast paths of attention(), by the type of its pages and the size of its heads: compiled once for each type,
// beside each other.
#pragma once

#include "kernels/check.h"
#include "kernels/cuda/attention_decode.cuh"
#include "kernels/cuda/attention_hopper.cuh"
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

template <int D, int Warps, int Shares, class T>
void launch_decode_by(CudaDevice& device, const DecodeArguments<T>& d, const AttentionBucket& bucket) {
    using Kernel = Decode<T, D, Warps, Shares>;
    launch_share(device, decode_kernel<T, D, Warps, Shares>, bucket.decode_items * d.groups.count, Kernel::kThreads, 0,
                 Kernel::kBlocksOfSm, d);
}
// Two blocks of four warps are the faster ones where there is work for all multiprocessors, one of eight is where each
// gets at most a piece: then it is all on its way at once. The bits are the same.
template <int D, class T>
void launch_decode(CudaDevice& device, const DecodeArguments<T>& d, const AttentionBucket& bucket) {
    if constexpr (D == 96 || D == 128) {
        const bool few = bucket.rows * d.groups.count * 2 <= device.num_sms();
        if (!few) return launch_decode_by<D, 4, 8>(device, d, bucket);
    }
    constexpr int kWarps = D <= 128 ? 8 : 4;  // what there is shared memory for
    launch_decode_by<D, kWarps, kWarps>(device, d, bucket);
}

// Of two kernels the one that this GPU and this build have, always the same one of them: their bits differ.
template <int D, class T>
void launch_prefill(CudaDevice& device, const PrefillArguments<T>& p, const AttentionBucket& bucket) {
    const int64_t most_work = bucket.prefill_items * p.heads;
    if constexpr (kHasHopperCode && (D == 64 || D == 128)) {
        if (runs_hopper_code(device.compute_capability())) {
            using Kernel = HopperPrefill<T, D>;
            return launch_share(device, prefill_hopper_kernel<T, D>, most_work, Kernel::kThreads, Kernel::kSharedBytes,
                                1, p);
        }
    }
    using Kernel = Prefill<T, D>;
    launch_share(device, prefill_kernel<T, D>, most_work * Kernel::kParts, 32 * Kernel::kWarps, Kernel::kSharedBytes, 2,
                 p);
}

template <int D, class T>
void launch_fast(CudaDevice& device, const DecodeArguments<T>& d, const AttentionBucket& bucket) {
    launch_decode<D>(device, d, bucket);
    const PrefillArguments<T> p{d.out, d.q, d.pool, d.heads, d.kv_heads, d.block_shift, d.window, d.scale, d.tables};
    launch_prefill<D>(device, p, bucket);
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
