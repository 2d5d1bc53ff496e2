// What the kernels behind lora.h have in common: where the inner sums lie, and the operands of a warp's products. The
// order of k inside a product is free, so a lane takes 8 neighbouring k (shrink) or columns (expand) as one 16-byte
// load, straight from row-major storage; the weights are on the m16 side and the tile's rows on the n8 side of
// mma.m16n8k16. Warpgroup products have the rows on their left side and keep to the same order of k.
#pragma once

#include "kernels/cuda/lora.h"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/tiles.cuh"

namespace spartan {

constexpr int kLoraRanks = 16;  // of an MMA operand, a batch of ranks

// The order of a row's inner sums, whatever kernel makes them: one chain of MMAs over a chunk of k, then the chunks of
// a slab one after another, then the slabs.
constexpr int kLoraChunk = 256, kLoraSlab = 4 * kLoraChunk;

// Where the inner sums lie: [slab][projection][row][ranks], or, when `split`, already added up over the slabs,
// [projection][row][ranks / 4] of split_quad().
struct LoraMiddle {
    float* data = nullptr;
    int64_t rows = 0;
    int num_projections = 0, slabs = 0, ranks = 0;  // ranks: a multiple of 16
    bool split = false;

    __device__ __forceinline__ float* row(int slab, int projection, int64_t r) const {
        return data + slab * slab_step() + (projection * rows + r) * ranks;
    }
    __device__ __forceinline__ uint4* split_row(int projection, int64_t r) const {
        return reinterpret_cast<uint4*>(row(0, projection, r));
    }
    __device__ __forceinline__ int64_t slab_step() const { return num_projections * rows * ranks; }
};

// 16 ranks of a projection's A.
template <class T>
struct LoraPiece {
    const T* a;  // its first row; null: there is none
    int ranks;   // left from there on
    int projection, batch;

    // Number `index` of a tile's, projection by projection.
    __device__ static LoraPiece of(const CudaTile& tile, int first_part, int num_projections, int index, int in) {
        for (int p = 0; p < num_projections; ++p) {
            const CudaPart* part = part_of(tile, first_part + p);
            const auto* a = static_cast<const T*>(part ? part->a : nullptr);
            const int rank = a ? part->rank : 0, batches = (rank + kLoraRanks - 1) / kLoraRanks;
            if (index < batches) return {a + int64_t(index) * kLoraRanks * in, rank - index * kLoraRanks, p, index};
            index -= batches;
        }
        return {};
    }
};

__device__ __forceinline__ uint4 load_if(bool wanted, const void* p) {
    return wanted ? load_weights(p) : make_uint4(0, 0, 0, 0);
}

// 32 k of 16 weight rows times 32 k of 8 rows. Lane 4r + q holds k 8q .. 8q + 7 of weight rows r and r + 8, and of row
// r.
template <class T>
__device__ __forceinline__ void mma_32(float (&c)[4], const uint4& low, const uint4& high, const uint4& x) {
    mma<T>(c, make_uint4(low.x, high.x, low.y, high.y), x.x, x.y);
    mma<T>(c, make_uint4(low.z, high.z, low.w, high.w), x.z, x.w);
}

// Two T whose sum is v, for pairs of neighbouring k: to 16 bits (f16: 22, fewer below 1/4; 65504 at most).
struct SplitPair {
    uint32_t high = 0, low = 0;
};
template <class T>
__device__ __forceinline__ SplitPair split(float v0, float v1) {
    SplitPair s;
    s.high = pack<T>(v0, v1);
    s.low = pack<T>(v0 - low_of<T>(s.high), v1 - high_of<T>(s.high));
    return s;
}
// Four neighbouring ranks' inner sums of a row as a lane's share of the n8 side of an MMA: x, y their high parts, z, w
// the low ones.
template <class T>
__device__ __forceinline__ uint4 split_quad(const float4& m) {
    const SplitPair low_ranks = split<T>(m.x, m.y), high_ranks = split<T>(m.z, m.w);
    return make_uint4(low_ranks.high, high_ranks.high, low_ranks.low, high_ranks.low);
}

constexpr int kLoraColumns = 64;  // of a piece of B: 8 a lane

// 16 ranks by 64 columns of B; a lane has ranks 4q .. 4q + 3 of columns 8r .. 8r + 7.
struct PieceOfB {
    uint4 w[4];

    // `ranks` are left of b_t [.., width] from p on.
    template <class T>
    __device__ __forceinline__ void load(bool wanted, const T* p, int64_t width, int ranks) {
#pragma unroll
        for (int e = 0; e < 4; ++e) w[e] = load_if(wanted && e < ranks, p + e * width);
    }
    // From a word for each rank to operands: the outputs of w[j] are columns 8r + 2j (its row r) and 8r + 2j + 1 (its
    // row r + 8).
    __device__ __forceinline__ void arrange() {
        const uint4 v[4] = {w[0], w[1], w[2], w[3]};
        w[0] = operand(v[0].x, v[1].x, v[2].x, v[3].x);
        w[1] = operand(v[0].y, v[1].y, v[2].y, v[3].y);
        w[2] = operand(v[0].z, v[1].z, v[2].z, v[3].z);
        w[3] = operand(v[0].w, v[1].w, v[2].w, v[3].w);
    }
    // c[j] += what w[j] makes of 8 rows' split inner sums.
    template <class T>
    __device__ __forceinline__ void multiply(float (&c)[4][4], const uint4& inner) const {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            mma<T>(c[j], w[j], inner.x, inner.y);
            mma<T>(c[j], w[j], inner.z, inner.w);
        }
    }

private:
    __device__ __forceinline__ static uint4 operand(uint32_t v0, uint32_t v1, uint32_t v2, uint32_t v3) {
        return make_uint4(__byte_perm(v0, v1, 0x5410), __byte_perm(v0, v1, 0x7632), __byte_perm(v2, v3, 0x5410),
                          __byte_perm(v2, v3, 0x7632));
    }
};

// A tile's rows of a panel of neighbouring columns, a piece of the expand's work; no rows: nothing is to be done there.
template <class T>
struct LoraUnit {
    const T* b_t = nullptr;  // of the panel's first column
    T* out = nullptr;
    const uint4* inner = nullptr;  // [rows][quads of LoraMiddle]
    int width = 0, columns = 0;    // columns: of the panel and behind it
    int rows = 0, rank = 0;
    float scale = 0;

    // Units lie panel by panel, each over all tiles. all_rows: those without a part as well.
    __device__ static LoraUnit of(const LoraOutputs<T>& outputs, const LoraMiddle& mid, const CudaTile* tiles,
                                  int num_tiles, int first_part, int panel_columns, int64_t index,
                                  bool all_rows = false) {
        const auto panels = [&](int p) { return int((outputs.width[p] + panel_columns - 1) / panel_columns); };
        int panel = int(index / num_tiles), p = 0;
        const CudaTile tile = tiles[index % num_tiles];
        while (panel >= panels(p)) panel -= panels(p++);
        const CudaPart* part = part_of(tile, first_part + p);
        LoraUnit u;
        const auto* b_t = static_cast<const T*>(part ? part->b_t : nullptr);
        if (b_t) {
            u.rank = part->rank;
            u.scale = part->scale;
        }
        u.rows = u.rank > 0 || all_rows ? tile.rows : 0;
        u.width = int(outputs.width[p]);
        u.columns = u.width - panel * panel_columns;
        u.b_t = u.rank > 0 ? b_t + panel * panel_columns : nullptr;
        u.out = outputs.out[p] + tile.row_begin * int64_t(u.width) + panel * panel_columns;
        u.inner = mid.split_row(p, tile.row_begin);
        return u;
    }
};

template <class T>
int64_t panels_of(const LoraOutputs<T>& outputs, int num_projections, int panel_columns) {
    int64_t panels = 0;
    for (int p = 0; p < num_projections; ++p) panels += divide_up(outputs.width[p], panel_columns);
    return panels;
}

}  // namespace spartan
