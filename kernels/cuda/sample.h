// Picks one token a row, the same one as sample() on a CPU (kernels/sample.h) from the same logits and parameters:
// weights are integers, and what is not is rounded the same way (sample_arithmetic.h).
//
//     tokens  [rows]          token id; -1 when a logit is NaN or +infinity, or none is above -infinity. Rows whose
//                             `sample` is 0 are left alone
//     logits  [rows, vocab]   float, 0 <= vocab <= 2^30; must not alias tokens
//     params  [rows]          in device memory, complete before the step
//
// One block of threads a row. It reads the logits once when greedy, else 2 to 4 times, all but the first from the L2
// cache; up to 12 times where more than some hundreds of logits are as good as the last that counts.
#pragma once

#include "kernels/cuda/device.h"

namespace spartan {

struct alignas(16) CudaSampleParams {
    uint64_t seed = 0;
    int64_t position = 0;   // index that the token gets in its sequence
    float temperature = 0;  // as SampleParams; the caller has checked them
    float top_p = 1;
    int32_t top_k = 0;
    int32_t sample = 0;  // 0: no token is wanted of this row
};

void sample(CudaDevice&, int32_t* tokens, View<const float, 2> logits, const CudaSampleParams* params);

}  // namespace spartan
