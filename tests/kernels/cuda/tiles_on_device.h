// Batches cut into tiles, for the tests of kernels that read CudaTile tables.
#pragma once

#include "gpu_fixture.h"
#include "kernels/cuda/tables.h"

#include <memory>
#include <vector>

namespace spartan {

constexpr int kBase = -1;

// Rows that use one adapter; kBase: none.
struct TileSpec {
    int rows = 0, adapter = kBase;
};

// `count` tiles of `rows` rows on adapters dealt out in turn, with a base tile before every `base_every`th (0: none).
inline std::vector<TileSpec> tiles_in_turn(int count, int rows, int adapters, int base_every = 0) {
    std::vector<TileSpec> tiles;
    for (int i = 0; i < count; ++i) {
        if (base_every > 0 && i % base_every == 0) tiles.push_back({rows, kBase});
        tiles.push_back({rows, i % adapters});
    }
    return tiles;
}
inline int64_t rows_of(const std::vector<TileSpec>& tiles) {
    int64_t rows = 0;
    for (const TileSpec& t : tiles) rows += t.rows;
    return rows;
}

// The tiles as the kernels see them, with `empty` of no rows behind. parts[adapter] lie on the device.
inline DeviceArray<CudaTile> upload_tiles(const std::vector<TileSpec>& specs, const std::vector<CudaPart*>& parts,
                                          int empty) {
    std::vector<CudaTile> tiles;
    int32_t row = 0;
    for (const TileSpec& s : specs) {
        tiles.push_back({s.adapter < 0 ? nullptr : parts[size_t(s.adapter)], row, s.rows});
        row += s.rows;
    }
    for (int i = 0; i < empty; ++i) tiles.push_back({i % 2 == 0 || parts.empty() ? nullptr : parts[0], row, 0});
    return DeviceArray<CudaTile>(tiles);
}

// Bits of rows [begin, end) of an array [rows, width].
template <class T>
std::vector<T> rows_between(const std::vector<T>& values, int64_t begin, int64_t end, int64_t width) {
    return {values.begin() + begin * width, values.begin() + end * width};
}
template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

}  // namespace spartan
