#include "kernels/cuda/attention_fast.cuh"

namespace spartan {

template void launch_fast_attention(CudaDevice&, int64_t, const DecodeArguments<bf16>&, const AttentionBucket&);

}  // namespace spartan
