// Picks one token from one row of logits. Greedy when temperature is 0: the largest logit, ties to the lower id.
// Otherwise: divide by temperature, keep the top_k largest (0: all), then the smallest set of most probable tokens
// whose probabilities sum to at least top_p, and draw with Philox4x32-10 keyed by (seed, position) (Salmon et al.
// 2011). Uses only +, *, fma, comparisons and integers (its own exp polynomial) with one fixed reduction tree, so a GPU
// can pick the same token from the same logits and seed. Ties in sorting go to the lower id.
#pragma once

#include "kernels/device.h"

#include <cstdint>
#include <span>

namespace spartan {

struct SampleParams {
    float temperature = 0;  // >= 0; 0 is greedy
    float top_p = 1;        // (0, 1]
    int32_t top_k = 0;      // >= 0; 0 keeps all
    uint64_t seed = 0;
};

// Returns -1 when a logit is NaN or +infinity: the caller ends that request with an error instead of guessing.
int32_t sample(CpuDevice&, std::span<const float> logits, const SampleParams&, int64_t position);

// The random stream itself: uniform in [0, 1) with 24 bits, for tests and for the generators of synthetic workloads.
float philox_uniform(uint64_t seed, uint64_t position);

}  // namespace spartan
