#include "kernels/cuda/attention_fast.cuh"

namespace spartan {

template void launch_fast_attention(CudaDevice&, int64_t, const DecodeArguments<f16>&, const AttentionBucket&);

}  // namespace spartan
