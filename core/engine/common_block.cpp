#include "core/engine/common_block.h"

#include "core/adapter/rotation.h"

#include <numeric>

namespace spartan {

std::vector<int32_t> factor_map(int64_t dim, int64_t b, int64_t factor) {
    std::vector<int32_t> map;
    map.reserve(size_t(dim));
    const int64_t superblock = int64_t(1) << factor;
    for (int64_t block = 0; block < dim / b; ++block) {
        const int64_t base = block / superblock * superblock * b;
        for (const int64_t feature : butterfly_features(b, factor, block)) map.push_back(int32_t(base + feature));
    }
    return map;
}

const int32_t* FactorMaps::of(int64_t dim, int64_t b, int64_t factor) {
    if (factor == 0) return nullptr;
    std::vector<int32_t>& map = maps_[{dim, b, factor}];
    if (map.empty()) map = factor_map(dim, b, factor);
    return map.data();
}

int64_t common_block_of(const Adapter& adapter) {
    int64_t common = 0;
    for (const AdapterPart& part : adapter.parts)
        if (part.factors >= 0) common = std::gcd(common, part.block_size);
    return common;
}

}  // namespace spartan
