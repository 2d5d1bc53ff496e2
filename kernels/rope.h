// Rotary position embedding (Su et al. 2021) in the "rotate half" pairing of Hugging Face: in each head, feature i <
// n/2 pairs with i + n/2, by angle position * inv_freq[i]:
//
//     a' = a cos - b sin,   b' = b cos + a sin
//
//     x          [num_tokens, num_heads * head_dim]  f32, in place
//     positions  [num_tokens]
//     inv_freq   [n/2], n <= head_dim (features from n on are left alone); angles in fp32 as the reference does
//     scale      cos and sin are multiplied by it (YaRN's attention factor)
#pragma once

#include "kernels/device.h"
#include "kernels/view.h"

#include <span>

namespace spartan {

void rope(CpuDevice&, View<float, 2> x, std::span<const int32_t> positions, std::span<const float> inv_freq,
          int64_t head_dim, float scale = 1);

}  // namespace spartan
