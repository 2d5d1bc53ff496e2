// Rotations folded where they are used. Of the skew halves of their blocks (kernels/skew.h) the device makes
//
//     Q = (I - S)(I + S)^-1 = 2 (I + S)^-1 - I                 each block [b][b]
//     R = F_(m-1) · … · F_0                                    each group [G][G], G = b·2^(m-1), rows meet F_(m-1)
//     first
//
// with F_i the butterfly factor of core/adapter/rotation.h: its block j mixes chunks k and k + 2^i of b/2 features of a
// superblock of b·2^i, k = j mod 2^i. Elimination needs no pivots, as the symmetric part of I + S is I. fp32
// throughout, or split so that a product keeps 21 bits or more (square.cuh), then one rounding: to R as
// kernels/adapter_ops.h has it, or to D = R - I in the packed order of rotate.h. Before it a value is off by at most
// 3e-6 (1 + s sqrt(b)), s the standard deviation of S: a thousandth of what rounding 1 to bf16 may cost.
//
// What is written depends on the values alone, not on how jobs are cut or launched.
#pragma once

#include "kernels/cuda/device.h"
#include "kernels/skew.h"

namespace spartan {

// Groups [first_group, first_group + groups) of one rotation.
struct FoldJob {
    const void* skew = nullptr;  // of the first of these groups; 16-byte aligned
    void* rotation = nullptr;    // T [dim / G][G][G], or packed; of the first group of all
    float* factors = nullptr;    // room for fold_scratch_bytes() of each of these groups; null where none is needed
    int32_t group = 0;           // G
    int32_t first_group = 0, groups = 0;
    bool half = false;    // skew in bf16, else in f32
    bool packed = false;  // T has 16 bits, and packs()
};

// What the jobs of a launch have in common. device_folds(block, factors).
struct FoldShape {
    int32_t block = 0, factors = 0;  // b, m
    int32_t most_groups = 0;         // of a job, at least
};

// Of one group.
int64_t fold_scratch_bytes(int64_t block, int64_t factors);

// `jobs` lie in device memory, `count` of them. most_blocks: thread blocks in one launch, at most, which then take
// turns; 0: one for every piece of work, each short.
template <class T>
void fold_rotations(CudaDevice&, const FoldJob* jobs, int count, const FoldShape& shape, int most_blocks = 0);

extern template void fold_rotations<float>(CudaDevice&, const FoldJob*, int, const FoldShape&, int);
extern template void fold_rotations<bf16>(CudaDevice&, const FoldJob*, int, const FoldShape&, int);
extern template void fold_rotations<f16>(CudaDevice&, const FoldJob*, int, const FoldShape&, int);

}  // namespace spartan
