// What the kernels behind skinny.h have in common: their products as they see them, and the layout of an mma's sums.
#pragma once

#include "kernels/check.h"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/skinny.h"

#include <climits>

namespace spartan {

template <class Out>
struct DeviceProduct {
    const bf16* w;
    const bf16* x;
    Out* out;
    int n, first_tile;  // of blockIdx.y
    bool paired;        // two neighbours of a row of out may be stored at once
};

// Up to kMostProducts whose tiles of W lie one behind the other; those that are not there begin at INT_MAX.
template <class Out>
struct DeviceProducts {
    DeviceProduct<Out> of[kMostProducts];
    int tiles;

    __device__ __forceinline__ const DeviceProduct<Out>& at(int tile) const {
        return of[(tile >= of[1].first_tile ? 1 : 0) + (tile >= of[2].first_tile ? 1 : 0)];
    }
};

inline bool is_aligned(const void* p, size_t bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }

template <class Out>
DeviceProducts<Out> device_products(std::span<const MatmulProduct<Out, bf16>> products, int64_t m, int64_t k,
                                    int tile_rows) {
    CHECK(products.size() <= kMostProducts && m >= 0 && m < INT_MAX / 2);
    CHECK(k >= kSkinnyBlock && k % kSkinnyBlock == 0 && k < INT_MAX / 128);
    DeviceProducts<Out> packed = {};
    int count = 0;
    for (const auto& p : products) {
        CHECK(p.n >= 0 && p.n < INT_MAX / 2);
        if (p.n == 0) continue;
        CHECK(is_aligned(p.x, 16) && is_aligned(p.w, 16));
        const bool paired = p.n % 2 == 0 && is_aligned(p.out, 2 * sizeof(Out));
        packed.of[count++] = {p.w, p.x, p.out, int(p.n), packed.tiles, paired};
        packed.tiles += int((p.n + tile_rows - 1) / tile_rows);
    }
    for (; count < kMostProducts; ++count) packed.of[count].first_tile = INT_MAX;
    CHECK(packed.tiles <= 65535);
    return packed;
}

// Two neighbouring values of a row of out, of which the second may lie behind the row's end.
__device__ __forceinline__ void store_sums(const DeviceProduct<float>& product, int64_t row, int column, float a,
                                           float b) {
    float* const out = product.out + row * product.n + column;
    if (product.paired) {
        *reinterpret_cast<float2*>(out) = {a, b};
        return;
    }
    out[0] = a;
    if (column + 1 < product.n) out[1] = b;
}
__device__ __forceinline__ void store_sums(const DeviceProduct<bf16>& product, int64_t row, int column, float a,
                                           float b) {
    bf16* const out = product.out + row * product.n + column;
    if (product.paired) {
        *reinterpret_cast<uint32_t*>(out) = pack_bf16(a, b);
        return;
    }
    out[0] = to_bf16(a);
    if (column + 1 < product.n) out[1] = to_bf16(b);
}

}  // namespace spartan
