// What the adapter kernels read from device memory, so that a captured graph serves whichever adapters a batch brings:
// a batch's rows cut into tiles, and for each adapter one CudaPart for every linear layer it may change.
#pragma once

#include <cstdint>

namespace spartan {

struct CudaFactors;  // block_sparse.h

// How an adapter changes one linear layer: y = gain * (W · rot(x) + scale · B (A x)) + bias. Null: absent.
struct alignas(16) CudaPart {
    const void* rotation = nullptr;  // T; as `rotation_packed` says
    const void* a = nullptr;         // T [rank, in]
    const void* b_t = nullptr;       // T [rank, out]
    const float* gain = nullptr;     // [out]
    const float* bias = nullptr;     // [out]: replaces the base's
    int32_t group = 0;               // features that a rotation group spans
    int32_t rank = 0;
    float scale = 1;
    int32_t rotation_packed = 0;  // 1: the layout of pack_rotation() (rotate.h); 0: R as [in / group][group][group]
    const CudaFactors* factors = nullptr;  // in place of a rotation (the strategy common_block)
};

// Rows [row_begin, row_begin + rows) use the adapter whose parts these are. Tiles cover all rows of a batch in rising
// order; those behind the last, up to the number a graph was captured for, have no rows.
struct alignas(16) CudaTile {
    const CudaPart* parts = nullptr;  // [layer * 7 + projection]; null: the base
    int32_t row_begin = 0, rows = 0;
};
constexpr int kTileRows = 64;  // the most rows of a tile

// How an adapter changes the embedding: x = gain * (rot(row of the token) + scale · B A[:, token]) + bias, where
// `part.a` lies as T [vocab, rank]. Null: absent.
struct alignas(16) CudaTable {
    CudaPart part;
    const void* copy = nullptr;        // T [vocab, hidden], row-major: replaces the base's rows
    const int32_t* tokens = nullptr;   // [num_tokens], rising: whose rows come from …
    const void* token_rows = nullptr;  // … T [num_tokens, hidden], row-major
    int32_t num_tokens = 0;
};

}  // namespace spartan
