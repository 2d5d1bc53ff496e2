// What the kernels over tiles share: grids of [pieces of work][projection][tile].
#pragma once

#include "kernels/check.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/tables.h"
#include "kernels/rounding.h"

#include <algorithm>

namespace spartan {

// What the tile's adapter does to the linear layer at hand; null: nothing, or the tile has no rows.
__device__ __forceinline__ const CudaPart* part_of(const CudaTile& tile, int index) {
    return tile.rows > 0 && tile.parts ? tile.parts + index : nullptr;
}

// A grid of `blocks` blocks for each projection of each tile, or fewer, which then take turns: `blocks` is what the
// largest adapter needs, and where that is far more than fills the GPU, blocks that find nothing to do would hold the
// places of those that do. `resident`: blocks an SM holds.
inline dim3 tile_grid(const CudaDevice& device, int64_t blocks, int num_projections, int num_tiles, int resident,
                      int waves = 8) {
    CHECK(num_tiles <= 65535 && num_projections <= 65535);
    const int64_t filling = int64_t(waves) * resident * device.num_sms();
    const int64_t turns = std::max<int64_t>(1, blocks * num_projections * num_tiles / filling);
    return dim3(unsigned(divide_up(blocks, turns)), unsigned(num_projections), unsigned(num_tiles));
}

}  // namespace spartan
