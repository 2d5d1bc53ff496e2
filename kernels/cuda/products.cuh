// What the kernels behind skinny.h have in common: their products as they see them, and the layout of an mma's sums.
#pragma once

#include "kernels/check.h"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/skinny.h"
#include "kernels/rounding.h"

#include <climits>

namespace spartan {

template <class Out, class T>
struct DeviceProduct {
    const T* w;
    const T* x;
    Out* out;
    int n, first_tile;  // of W, counted over all products
    bool paired;        // two neighbours of a row of out may be stored at once
};

// Up to kMostProducts whose tiles of W lie one behind the other; those that are not there begin at INT_MAX.
template <class Out, class T>
struct DeviceProducts {
    DeviceProduct<Out, T> of[kMostProducts];
    int tiles;

    __device__ __forceinline__ int index(int tile) const {
        return (tile >= of[1].first_tile ? 1 : 0) + (tile >= of[2].first_tile ? 1 : 0);
    }
    __device__ __forceinline__ const DeviceProduct<Out, T>& at(int tile) const { return of[index(tile)]; }
};

template <class Out, class T>
DeviceProducts<Out, T> device_products(std::span<const MatmulProduct<Out, T>> products, int64_t m, int64_t k,
                                       int tile_rows) {
    CHECK(products.size() <= kMostProducts && m >= 0 && m < INT_MAX / 2);
    CHECK(k >= kSkinnyBlock && k % kSkinnyBlock == 0 && k < INT_MAX / 128);
    DeviceProducts<Out, T> packed = {};
    int count = 0;
    for (const auto& p : products) {
        CHECK(p.n >= 0 && p.n < INT_MAX / 2);
        if (p.n == 0) continue;
        CHECK(aligned_to_16(p.x, p.w));
        const bool paired = p.n % 2 == 0 && is_aligned(p.out, 2 * sizeof(Out));
        packed.of[count++] = {p.w, p.x, p.out, int(p.n), packed.tiles, paired};
        packed.tiles += int(divide_up(p.n, tile_rows));
    }
    for (; count < kMostProducts; ++count) packed.of[count].first_tile = INT_MAX;
    CHECK(packed.tiles <= 65535);
    return packed;
}

// Of the 32 k whose eight values a lane has from 8q on (q = lane % 4): v.x, v.y hold four of the first sixteen, v.z,
// v.w four of the others, so that two products take sixteen neighbours each, as warpgroup products do.
__device__ __forceinline__ uint4 in_sixteens(uint4 v) {
    const bool low = threadIdx.x % 4 < 2;
    const uint32_t x = __shfl_xor_sync(~0u, low ? v.z : v.x, 2), y = __shfl_xor_sync(~0u, low ? v.w : v.y, 2);
    return low ? uint4{v.x, v.y, x, y} : uint4{x, y, v.z, v.w};
}

// Two neighbouring values of a row of out, of which the second may lie behind the row's end.
template <class Out, class T>
__device__ __forceinline__ void store_sums(const DeviceProduct<Out, T>& product, int64_t row, int column, float a,
                                           float b) {
    Out* const out = product.out + row * product.n + column;
    if (product.paired) {
        if constexpr (std::is_same_v<Out, float>)
            *reinterpret_cast<float2*>(out) = {a, b};
        else
            *reinterpret_cast<uint32_t*>(out) = pack<Out>(a, b);
        return;
    }
    out[0] = from_float<Out>(a);
    if (column + 1 < product.n) out[1] = from_float<Out>(b);
}

}  // namespace spartan
