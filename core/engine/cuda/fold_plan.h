// How the skew halves of an adapter go to the device: in pieces that are folded one after another.
#pragma once

#include "core/adapter/adapter.h"
#include "kernels/cuda/fold.h"

#include <vector>

namespace spartan {

// Jobs [first, first + count) of the plan, of one geometry.
struct FoldRun {
    int first = 0, count = 0;
    FoldShape shape;
};

// Bytes [begin, begin + bytes) of Adapter::skew.
struct FoldPiece {
    int64_t begin = 0, bytes = 0, scratch_bytes = 0;
    std::vector<FoldRun> runs;
};

struct FoldPlan {
    std::vector<FoldJob> jobs;  // skew and factors: offsets into their piece's bytes and scratch, as pointers from null
    std::vector<FoldPiece> pieces;
};

// `data`: where the adapter will lie. Without `packing`, or where a rotation has no packed form, R lies as it is.
FoldPlan plan_folds(const Adapter& adapter, std::byte* data, bool packing, int64_t piece_bytes, int64_t scratch_bytes);

// Whether a rotation of this geometry is served packed, in the bytes that it takes as it is.
bool is_served_packed(int64_t in, int64_t group, DType dtype);

}  // namespace spartan
