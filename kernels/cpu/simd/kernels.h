// Everything over Vec, and the table of it. Included by each simd_*.cpp after its vec_*.h.
#pragma once

#include "kernels/cpu/simd/table.h"
// The order matters: each builds on those before it.
#include "kernels/cpu/simd/product.h"
//
#include "kernels/cpu/simd/kept.h"
#include "kernels/cpu/simd/matmul.h"
#include "kernels/cpu/simd/rows.h"
//
#include "kernels/cpu/simd/adapters.h"
#include "kernels/cpu/simd/attend.h"

namespace spartan {
namespace {

constexpr CpuKernels kKernels{
    .stream_rows_f32 = kTileRows,
    .stream_rows_bf16 = kTileRows,
    .prepared_bf16_size = Vec::kDotsPairs ? 2 : 4,
    .kept_depth = 64,
    .kept_rows = kKeptRows,
    .kept = kept_kernels,
    .matmul_f32 = matmul_block<StepF32>,
    .matmul_bf16 = matmul_block<StepBf16>,
    .prepare_bf16 = prepare_bf16,
    .rms_norm = rms_norm_row,
    .silu_mul = silu_mul_row,
    .gelu_mul = gelu_mul_row,
    .gelu_tanh_mul = gelu_tanh_mul_row,
    .add = add_row,
    .add_scaled = add_scaled_row,
    .scale = scale_row,
    .scale_bias = scale_bias_row,
    .cos_sin = cos_sin_row,
    .rope_head = rope_head_row,
    .rotate_f32 = rotate_block<float>,
    .rotate_bf16 = rotate_block<bf16>,
    .shrink_f32 = shrink_block<float>,
    .shrink_bf16 = shrink_block<bf16>,
    .expand_f32 = expand_block<float>,
    .expand_bf16 = expand_block<bf16>,
    .attend_f32 = attend_block<float>,
    .attend_bf16 = attend_block<bf16>,
    .round_bf16 = round_bf16_row,
    .block_maxima = block_maxima,
    .weigh_logits = weigh_logits_row,
    .peak_f32 = peak<StepF32>,
    .peak_bf16 = peak<StepBf16>,
    .read_memory = read_memory_sum,
};

}  // namespace
}  // namespace spartan
