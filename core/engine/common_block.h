// What the strategy `common_block` needs besides its product: the common block size of a batch and the index maps of
// butterfly factors.
#pragma once

#include "core/adapter/adapter.h"

#include <cstdint>
#include <map>
#include <tuple>
#include <vector>

namespace spartan {

// The features that factor `factor` of blocks of b mixes, block by block: [dim], a permutation. Factor 0 keeps their
// order.
std::vector<int32_t> factor_map(int64_t dim, int64_t b, int64_t factor);

// Each map once; they stay where they are.
class FactorMaps {
public:
    // Null for factor 0.
    const int32_t* of(int64_t dim, int64_t b, int64_t factor);

private:
    std::map<std::tuple<int64_t, int64_t, int64_t>, std::vector<int32_t>> maps_;
};

// The largest size that divides every block of the adapter's factors; 0 when it has none.
int64_t common_block_of(const Adapter& adapter);

// Calls visit(offset, count, block) for every run of `count` blocks that the adapter's factors hold, each once: parts
// of a fused module share theirs. Offsets are the same in the blob and in what they are batched into.
template <class Visit>
void for_each_factor_run(const Adapter& adapter, const Visit& visit) {
    std::vector<int64_t> seen;
    for (const AdapterPart& part : adapter.parts) {
        if (part.factors < 0) continue;
        bool known = false;
        for (const int64_t offset : seen) known |= offset == part.factors;
        if (known) continue;
        seen.push_back(part.factors);
        if (seen.size() > 3) seen.erase(seen.begin());  // those that share follow each other
        visit(part.factors, part.num_factors * (part.in / part.block_size), part.block_size);
    }
}

}  // namespace spartan
