#include "kernels/cpu/kept.h"

#include "kernels/check.h"
#include "kernels/cpu/simd/table.h"

namespace spartan {

namespace {

// The fields of a block that come before its weights, two bytes each.
int halves_of(GgufType type) { return type == GgufType::q4_1 ? 2 : 1; }

// In a file, byte i of 4-bit weights holds k = i low and k = i + 16 high.
int nibble(const uint8_t* bytes, int k) { return k < 16 ? bytes[k] & 15 : bytes[k - 16] >> 4; }

}  // namespace

bool can_keep(GgufType type) { return type == GgufType::q4_0 || type == GgufType::q4_1 || type == GgufType::q8_0; }

void pack_kept_block(GgufType type, const uint8_t* block, uint8_t* group, int output) {
    CHECK(can_keep(type) && output >= 0 && output < kPanel);
    for (int h = 0; h < halves_of(type); ++h, block += 2, group += 2 * kPanel) {
        group[2 * output] = block[0];
        group[2 * output + 1] = block[1];
    }
    group += output;
    if (type == GgufType::q8_0)
        for (int k = 0; k < 32; ++k) group[k * kPanel] = block[k];
    else
        for (int k = 0; k < 32; k += 2) group[k / 2 * kPanel] = uint8_t(nibble(block, k) | nibble(block, k + 1) << 4);
}

void unpack_kept_block(GgufType type, const uint8_t* group, int output, uint8_t* block) {
    CHECK(can_keep(type) && output >= 0 && output < kPanel);
    for (int h = 0; h < halves_of(type); ++h, block += 2, group += 2 * kPanel) {
        block[0] = group[2 * output];
        block[1] = group[2 * output + 1];
    }
    group += output;
    if (type == GgufType::q8_0) {
        for (int k = 0; k < 32; ++k) block[k] = group[k * kPanel];
        return;
    }
    const auto at = [&](int k) { return group[k / 2 * kPanel] >> (k % 2 * 4) & 15; };
    for (int i = 0; i < 16; ++i) block[i] = uint8_t(at(i) | at(i + 16) << 4);
}

}  // namespace spartan
