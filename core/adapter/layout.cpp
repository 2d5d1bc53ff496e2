#include "core/adapter/layout.h"

#include "core/adapter/rotation.h"
#include "kernels/check.h"

#include <algorithm>
#include <numeric>
#include <set>

namespace spartan {
namespace {

BlockLayout empty_layout(int64_t dim, int64_t cell) {
    CHECK(dim > 0 && cell > 0);
    BlockLayout layout{.dim = dim, .cell = cell, .tiles = (dim + cell - 1) / cell, .useful = {}};
    layout.useful.assign(size_t(layout.tiles * layout.tiles), 0.0f);
    return layout;
}

// Counts the entries [row, row + size) x [column, column + size) into the tiles they touch.
void add_square(BlockLayout& layout, int64_t row, int64_t column, int64_t size) {
    const int64_t c = layout.cell;
    const auto overlap = [c, size](int64_t tile, int64_t first) {
        return std::min((tile + 1) * c, first + size) - std::max(tile * c, first);
    };
    const auto area = float(c * c);
    for (int64_t i = row / c; i * c < row + size; ++i)
        for (int64_t j = column / c; j * c < column + size; ++j)
            layout.useful[size_t(i * layout.tiles + j)] += float(overlap(i, row) * overlap(j, column)) / area;
}

void add_peft_block(BlockLayout& layout, int64_t b, int64_t factor, int64_t block) {
    const int64_t half = b / 2, stride = int64_t(1) << factor;
    const int64_t base = block / stride * stride * b + block % stride * half;
    for (const int64_t row : {base, base + stride * half})
        for (const int64_t column : {base, base + stride * half}) add_square(layout, row, column, half);
}

void add_paper_block(BlockLayout& layout, int64_t b, int64_t factor, int64_t block) {
    const int64_t stride = int64_t(1) << (factor - 1);
    add_square(layout, block * b, block * b, b);
    add_square(layout, block * b, (block ^ stride) * b, b);
}

}  // namespace

int64_t BlockLayout::nonzero_tiles() const {
    return std::count_if(useful.begin(), useful.end(), [](float share) { return share > 0; });
}

double BlockLayout::density() const { return tiles ? double(nonzero_tiles()) / double(tiles * tiles) : 0; }

double BlockLayout::useful_share() const {
    const int64_t count = nonzero_tiles();
    return count ? std::accumulate(useful.begin(), useful.end(), 0.0) / double(count) : 0;
}

BlockLayout factor_layout(int64_t dim, int64_t b, int64_t factor, int64_t cell, BlockConvention convention) {
    CHECK(b > 0 && dim % b == 0 && factor >= 0 && factor < 40);
    CHECK(factor == 0 || (dim / b) % (int64_t(1) << factor) == 0);
    CHECK(factor == 0 || convention != BlockConvention::peft || b % 2 == 0);
    BlockLayout layout = empty_layout(dim, cell);
    for (int64_t block = 0; block < dim / b; ++block) {
        if (factor == 0 || convention == BlockConvention::mapped)
            add_square(layout, block * b, block * b, b);
        else if (convention == BlockConvention::peft)
            add_peft_block(layout, b, factor, block);
        else
            add_paper_block(layout, b, factor, block);
    }
    return layout;
}

BlockLayout folded_layout(int64_t dim, int64_t group, int64_t cell) { return factor_layout(dim, group, 0, cell); }

BlockLayout union_layout(const std::vector<BlockLayout>& layouts) {
    if (layouts.empty()) return {};
    BlockLayout all = empty_layout(layouts[0].dim, layouts[0].cell);
    for (const BlockLayout& layout : layouts) {
        CHECK(layout.dim == all.dim && layout.cell == all.cell);
        for (size_t i = 0; i < all.useful.size(); ++i) all.useful[i] += layout.useful[i] / float(layouts.size());
    }
    return all;
}

int64_t common_block_size(const std::vector<int64_t>& block_sizes) {
    return std::accumulate(block_sizes.begin(), block_sizes.end(), int64_t(0),
                           [](int64_t a, int64_t b) { return std::gcd(a, b); });
}

std::vector<int64_t> block_sizes(const Adapter& adapter) {
    std::set<int64_t> sizes;
    for (const AdapterPart& part : adapter.parts)
        if (part.rotates()) sizes.insert(part.block_size);
    return {sizes.begin(), sizes.end()};
}

}  // namespace spartan
