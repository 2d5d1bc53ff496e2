#include "kernels/cpu/kept.h"

#include "kernels/check.h"
#include "kernels/cpu/simd/table.h"

namespace spartan {

namespace {

constexpr int kSide = int(kPanel);

// Moves a block's fields to its place in a group (Pack), or back.
template <bool Pack>
class BlockMover {
public:
    BlockMover(uint8_t* block, uint8_t* group, int output) : block_(block), group_(group + output) {
        halves_ = group + 2 * output;
    }

    void half(int in_block, int index) {
        for (int i = 0; i < 2; ++i) byte(block_[in_block + i], halves_[2 * kSide * index + i]);
    }
    // Byte `in_group` counts bytes of one output.
    void bytes(int in_block, int in_group, int count) {
        for (int i = 0; i < count; ++i) byte(block_[in_block + i], group_[(in_group + i) * kSide]);
    }
    void bits(int in_block, int block_shift, int in_group, int group_shift, int width) {
        uint8_t &a = block_[in_block], &b = group_[in_group * kSide];
        if (Pack)
            put(b, group_shift, width, a >> block_shift);
        else
            put(a, block_shift, width, b >> group_shift);
    }

private:
    static void byte(uint8_t& a, uint8_t& b) { (Pack ? b : a) = Pack ? a : b; }
    static void put(uint8_t& to, int shift, int width, int value) {
        const int mask = (1 << width) - 1;
        to = uint8_t((to & ~(mask << shift)) | (value & mask) << shift);
    }
    uint8_t *block_, *group_, *halves_;
};

template <bool Pack>
void move_q4_k(BlockMover<Pack> m) {
    m.half(0, 0);
    m.half(2, 1);
    m.bytes(4, 4, 12);
    for (int k = 0; k < 256; ++k) m.bits(16 + k / 64 * 32 + k % 32, k / 32 % 2 * 4, 16 + k / 2, k % 2 * 4, 4);
}

template <bool Pack>
void move_q6_k(BlockMover<Pack> m) {
    m.half(208, 0);
    m.bytes(192, 2, 16);
    for (int k = 0; k < 256; ++k) {
        const int half = k / 128, quarter = k / 32 % 4, l = k % 32;
        m.bits(half * 64 + quarter % 2 * 32 + l, quarter / 2 * 4, 18 + k / 2, k % 2 * 4, 4);
        m.bits(128 + half * 32 + l, quarter * 2, 146 + k / 4, k % 4 * 2, 2);
    }
}

template <bool Pack>
void move_simple(GgufType type, BlockMover<Pack> m) {
    const int halves = type == GgufType::q4_1 ? 2 : 1;
    for (int h = 0; h < halves; ++h) m.half(2 * h, h);
    if (type == GgufType::q8_0)
        m.bytes(2, 2, 32);
    else
        for (int k = 0; k < 32; ++k) m.bits(2 * halves + k % 16, k / 16 * 4, 2 * halves + k / 2, k % 2 * 4, 4);
}

template <bool Pack>
void move_block(GgufType type, uint8_t* block, uint8_t* group, int output) {
    CHECK(can_keep(type) && output >= 0 && output < kSide);
    const BlockMover<Pack> mover(block, group, output);
    if (type == GgufType::q4_k)
        move_q4_k(mover);
    else if (type == GgufType::q6_k)
        move_q6_k(mover);
    else
        move_simple(type, mover);
}

}  // namespace

bool can_keep(GgufType type) {
    switch (type) {
        case GgufType::q4_0:
        case GgufType::q4_1:
        case GgufType::q8_0:
        case GgufType::q4_k:
        case GgufType::q6_k:
            return true;
        default:
            return false;
    }
}

void pack_kept_block(GgufType type, const uint8_t* block, uint8_t* group, int output) {
    move_block<true>(type, const_cast<uint8_t*>(block), group, output);  // which only reads it
}

void unpack_kept_block(GgufType type, const uint8_t* group, int output, uint8_t* block) {
    move_block<false>(type, block, const_cast<uint8_t*>(group), output);
}

}  // namespace spartan
