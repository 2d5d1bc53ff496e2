// Weights of GGUF files as fp32. Formulas: ggml's block formats (docs/gguf.md of ggml), d and m in fp16:
//
//     Q4_0  18 bytes / 32:  w = d (q - 8)     low nibble of byte i is weight i, high nibble weight i + 16
//     Q4_1  20 bytes / 32:  w = d q + m       the same order
//     Q5_0  22 bytes / 32:  w = d (q - 16)    as Q4_0, the fifth bits in 32 bits before the nibbles
//     Q5_1  24 bytes / 32:  w = d q + m       the same
//     Q8_0  34 bytes / 32:  w = d q           q int8
//     Q2_K  84 bytes / 256, Q3_K 110, Q4_K 144, Q5_K 176, Q6_K 210: groups of 16 (Q4_K, Q5_K: 32) weights,
//           w = d s q - dmin m   (Q2_K, Q4_K, Q5_K: s and m of 4 or 6 bits)
//           w = d s q            (Q3_K: s and q signed, 6 and 3 bits; Q6_K: s int8, q signed, 6 bits)
//     F32, F16, BF16        one element is one block
#pragma once

#include <cstdint>

namespace spartan {

enum class GgufType : uint32_t {  // ggml's numbers
    f32 = 0,
    f16 = 1,
    q4_0 = 2,
    q4_1 = 3,
    q5_0 = 6,
    q5_1 = 7,
    q8_0 = 8,
    q2_k = 10,
    q3_k = 11,
    q4_k = 12,
    q5_k = 13,
    q6_k = 14,
    bf16 = 30
};
constexpr const char* kGgufTypeNames = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K or Q6_K";

bool is_supported(GgufType type);       // false for any other number read from a file
const char* name_of(GgufType type);     // "Q4_1"; "?" when not supported
int64_t block_elements(GgufType type);  // weights in one block
int64_t block_bytes(GgufType type);

// Whether a PackedMatrix can keep blocks of this type (matmul.h).
bool can_keep(GgufType type);

// out[i] for i in [0, count). count is a multiple of block_elements(type); `blocks` may have any alignment. Exact: no
// rounding beyond that of the formula in fp32, from left to right. Keeps no state: call it from several threads.
void dequantise_row(GgufType type, const void* blocks, int64_t count, float* out);

}  // namespace spartan
