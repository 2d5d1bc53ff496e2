// The block structure of butterfly adapters, for views: which tiles of a factor hold anything, and how full they are.
#pragma once

#include "core/adapter/adapter.h"

#include <cstdint>
#include <vector>

namespace spartan {

// How factors i >= 1 interleave their blocks. Factor 0 is block-diagonal with b x b blocks in both.
//     peft    chunk k of b/2 features is paired with chunk k + 2^i: d·b entries in every factor. This is what adapters
//             hold.
//     paper   whole b x b blocks: block p meets block q when both lie in one group of 2^i blocks and p ≡ q mod
//     2^(i-1), as
//             the block butterfly component B^b(d, 2^i) of the SpartanServe paper (section 3) draws it: 2·d·b entries.
//     mapped  PEFT's factors in their own order, into which the strategy common_block maps the features: blocks of b on
//             the diagonal.
enum class BlockConvention : uint8_t { peft, paper, mapped };

// A dim x dim 0/1 matrix seen through tiles of cell x cell; the last row and column of tiles may be cut.
struct BlockLayout {
    int64_t dim = 0, cell = 1;
    int64_t tiles = 0;          // per side: ceil(dim / cell)
    std::vector<float> useful;  // [tiles, tiles] non-zero entries of a tile / cell²; 0: an empty tile

    bool at(int64_t row, int64_t column) const { return useful[size_t(row * tiles + column)] > 0; }
    int64_t nonzero_tiles() const;
    double density() const;       // non-zero tiles / all tiles
    double useful_share() const;  // mean of `useful` over the non-zero tiles; 0 when there are none
};

// 0 < b, b divides dim; for factor i >= 1 b is even (peft) and b·2^i divides dim. cell >= 1.
BlockLayout factor_layout(int64_t dim, int64_t b, int64_t factor, int64_t cell,
                          BlockConvention convention = BlockConvention::peft);

// The folded rotation: dense group x group blocks on the diagonal.
BlockLayout folded_layout(int64_t dim, int64_t group, int64_t cell);

// Several adapters under one boolean layout: a tile is non-zero when it is in any of them. `useful` is the mean over
// the layouts that are counted, absent ones (an adapter without this factor) left out by the caller. Same dim and cell.
BlockLayout union_layout(const std::vector<BlockLayout>& layouts);

// The paper's common block: the largest size that divides all of them (their gcd); 0 for none.
int64_t common_block_size(const std::vector<int64_t>& block_sizes);

// The block sizes of an adapter's rotations, each once, rising; empty for LoRA.
std::vector<int64_t> block_sizes(const Adapter& adapter);

}  // namespace spartan
