// How a PackedMatrix keeps a file's quantised blocks. For each panel of 16 outputs and each block of k there is a group
// of exactly the 16 blocks' bytes, in which what is used together lies side by side:
//
//     Q4_0   d [16] f16 | pairs of k [16] of [16] bytes, the even k in the low half, the odd one in the high
//     Q4_1   d [16] f16 | m [16] f16 | the same pairs
//     Q8_0   d [16] f16 | k [32] of [16] int8
//     Q4_K   d [16] f16 | dmin [16] f16 | the file's 12 bytes of scales and minima [12] of [16] | pairs [128] of [16]
//     Q6_K   d [16] f16 | scales [16] of [16] int8 | pairs [128] of [16], the low four bits |
//            fours of k [64] of [16] bytes, the high two bits of each, the first lowest
#pragma once

#include "kernels/dequantise.h"

#include <cstdint>

namespace spartan {

// One output's block, as it lies in a file, into its place in a group; and back.
void pack_kept_block(GgufType type, const uint8_t* block, uint8_t* group, int output);
void unpack_kept_block(GgufType type, const uint8_t* group, int output, uint8_t* block);

}  // namespace spartan
