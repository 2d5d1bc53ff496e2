// Weights of GGUF files as fp32. Formulas: ggml's block formats (docs/gguf.md of ggml), d and m in fp16:
//
//     Q4_0  18 bytes / 32:  w = d (q - 8)     low nibble of byte i is weight i, high nibble weight i + 16
//     Q4_1  20 bytes / 32:  w = d q + m       the same order
//     Q8_0  34 bytes / 32:  w = d q           q int8
//     F32, F16, BF16        one element is one block
#pragma once

#include <cstdint>

namespace spartan {

enum class GgufType : uint32_t { f32 = 0, f16 = 1, q4_0 = 2, q4_1 = 3, q8_0 = 8, bf16 = 30 };  // ggml's numbers

bool is_supported(GgufType type);       // false for any other number read from a file
const char* name_of(GgufType type);     // "Q4_1"; "?" when not supported
int64_t block_elements(GgufType type);  // weights in one block
int64_t block_bytes(GgufType type);

// Whether a PackedMatrix can keep blocks of this type (matmul.h).
bool can_keep(GgufType type);

// out[i] for i in [0, count). count is a multiple of block_elements(type); `blocks` may have any alignment. Exact: no
// rounding beyond the one multiplication (and addition) of the formula. Keeps no state: call it from several threads.
void dequantise_row(GgufType type, const void* blocks, int64_t count, float* out);

float f16_to_float(uint16_t bits);  // exact, subnormals, infinities and NaN included

}  // namespace spartan
