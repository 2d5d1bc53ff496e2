// Decode streams A and B once: a warp has 8 KB (shrink) or 4 KB (expand) of them in flight before pdl_wait(), straight
// from row-major storage into registers as MMA operands, the weights on the m16 side and the tile's rows on the n8 side
// of mma.m16n8k16. The order of k inside a product is free, so a lane takes 8 neighbouring k (shrink) or columns
// (expand) as one 16-byte load. Sums over more than a warp's share meet in shared memory, in the order of the warps;
// sums over slabs of k in the reader, in the order of the slabs.
//
// Where many rows share an adapter (prefill) the shrink would read x once for every 16 ranks; there a second kernel
// takes 64 rows by 64 ranks through all of k with both sides staged in shared memory.
#include "kernels/check.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/lora.h"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/tiles.cuh"
#include "kernels/cuda/words.cuh"

#include <cuda_pipeline_primitives.h>

namespace spartan {

namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps;
constexpr int kRanks = 16;                            // of an MMA operand
constexpr int kWarpK = 256, kSlab = kWarps * kWarpK;  // k that a warp, a block takes in the streaming shrink
constexpr int kFewRows = 8;                           // up to these a tile counts as decode
constexpr int64_t kManyRows = 512;                    // from here on tiles of more than a few rows take the wide shrink

// Where the inner sums lie: [slab][projection][row][ranks].
struct Middle {
    float* data = nullptr;
    int64_t rows = 0;
    int num_projections = 0, slabs = 0, ranks = 0;  // ranks: a multiple of 16
    bool wide = false;                              // tiles of more than kFewRows rows have one slab

    __device__ __forceinline__ float* row(int slab, int projection, int64_t r) const {
        return data + slab * slab_step() + (projection * rows + r) * ranks;
    }
    __device__ __forceinline__ int64_t slab_step() const { return num_projections * rows * ranks; }
    __device__ __forceinline__ int slabs_of(const CudaTile& tile) const {
        return wide && tile.rows > kFewRows ? 1 : slabs;
    }
};

__device__ __forceinline__ uint4 load_if(bool wanted, const void* p) {
    return wanted ? load_weights(p) : make_uint4(0, 0, 0, 0);
}
__device__ __forceinline__ uint4 load_row_if(bool wanted, const bf16* p) {
    return wanted ? *reinterpret_cast<const uint4*>(p) : make_uint4(0, 0, 0, 0);
}

// i / n without a division, n being 1 to 3.
__device__ __forceinline__ int div_by_projections(unsigned i, int n) {
    return int(n == 1 ? i : n == 2 ? i / 2 : i / 3);
}

// 32 k of 16 weight rows times 32 k of 8 rows. Lane 4r + q holds k 8q .. 8q + 7 of weight rows r and r + 8, and of row
// r.
__device__ __forceinline__ void mma_32(float (&c)[4], const uint4& low, const uint4& high, const uint4& x) {
    mma_bf16(c, make_uint4(low.x, high.x, low.y, high.y), x.x, x.y);
    mma_bf16(c, make_uint4(low.z, high.z, low.w, high.w), x.z, x.w);
}

// ---- shrink: mid[slab][p][row][rank] = sum over the slab's k of a[rank][k] * x[row][k]

// A block: 16 ranks, one slab of k, all rows of a tile, 8 at a time. Grid: [slab][ranks][projection of a tile].
__global__ void __launch_bounds__(kThreads, 4)
    shrink_streaming(Middle mid, const bf16* x, const CudaTile* tiles, int first_part, int in) {
    __shared__ float partial[2][kWarps][kRanks * 8];
    pdl_trigger();
    const int tile_index = div_by_projections(blockIdx.z, mid.num_projections);
    const int p = int(blockIdx.z) - tile_index * mid.num_projections;
    const CudaTile tile = tiles[tile_index];
    const CudaPart* part = part_of(tile, first_part + p);
    const auto* a = static_cast<const bf16*>(part ? part->a : nullptr);
    const int rank = a ? part->rank : 0;
    const int slab = int(blockIdx.x), lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    const int r = lane / 4, q = lane % 4, k0 = slab * kSlab + warp * kWarpK + 8 * q;
    const int count = in - k0;            // of k from k0 on
    int base = int(blockIdx.y) * kRanks;  // the first of the ranks at hand
    if (base >= rank || (mid.wide && tile.rows > kFewRows)) return pdl_wait();
    x += (tile.row_begin + r) * int64_t(in) + k0;
    a += (base + r) * int64_t(in) + k0;
    const int64_t eight_rows = 8 * int64_t(in);
    const int out_rank = int(threadIdx.x) % kRanks, out_row = int(threadIdx.x) / kRanks;
    float* to = mid.row(slab, p, tile.row_begin + out_row) + base + out_rank;
    bool waited = false;
    int turn = 0;
#pragma unroll 1
    for (; base < rank; base += int(gridDim.y) * kRanks) {
        uint4 w[kWarpK / 32][2];
        const bf16* low = a;
        const bf16* high = a + eight_rows;
#pragma unroll
        for (int i = 0; i < kWarpK / 32; ++i) {
            w[i][0] = load_if(32 * i < count && base + r < rank, low + 32 * i);
            w[i][1] = load_if(32 * i < count && base + r + 8 < rank, high + 32 * i);
        }
        if (!waited) pdl_wait();
        waited = true;
        const bf16* row = x;
        float* sums = to;
#pragma unroll 1
        for (int t0 = 0; t0 < tile.rows; t0 += 8, turn ^= 1, row += eight_rows, sums += 8 * mid.ranks) {
            uint4 xs[kWarpK / 32];
#pragma unroll
            for (int i = 0; i < kWarpK / 32; ++i)
                xs[i] = load_row_if(t0 + r < tile.rows && 32 * i < count, row + 32 * i);
            float c[4] = {};
#pragma unroll
            for (int i = 0; i < kWarpK / 32; ++i) mma_32(c, w[i][0], w[i][1], xs[i]);
            float* mine = partial[turn][warp];  // [rank][row]
            *reinterpret_cast<float2*>(mine + r * 8 + 2 * q) = make_float2(c[0], c[1]);
            *reinterpret_cast<float2*>(mine + (r + 8) * 8 + 2 * q) = make_float2(c[2], c[3]);
            __syncthreads();  // one a turn is enough: the next turn writes the other half
            float sum = 0;
#pragma unroll
            for (int i = 0; i < kWarps; ++i) sum += partial[turn][i][out_rank * 8 + out_row];
            if (t0 + out_row < tile.rows) *sums = sum;
        }
        a += int(gridDim.y) * kRanks * int64_t(in);
        to += int(gridDim.y) * kRanks;
    }
}

constexpr int kStages = 3, kStageK = 64, kUnits = kStageK / 8;  // units of 16 bytes in a row of a stage

// One side of a stage: 64 rows of kStageK values, the units of odd rows swapped by halves so that 8 lanes reading 4
// neighbouring units of 2 rows meet all banks once.
struct Stage {
    uint4 units[64][kUnits];
    __device__ __forceinline__ uint4& at(int row, int unit) { return units[row][unit ^ (row % 2 * 4)]; }

    // Rows [0, count) of p, k0 and on; zeros beyond.
    __device__ __forceinline__ void request(const bf16* p, int count, int in, int k0) {
#pragma unroll
        for (int i = 0; i < 64 * kUnits / kThreads; ++i) {
            const int row = (i * kThreads + int(threadIdx.x)) / kUnits, unit = int(threadIdx.x) % kUnits;
            const bool wanted = row < count && k0 + unit * 8 < in;
            const bf16* from = wanted ? p + int64_t(row) * in + k0 + unit * 8 : p;
            __pipeline_memcpy_async(&at(row, unit), from, 16, wanted ? 0 : 16);
        }
    }
};

// A block: 64 ranks, 16 a warp, all of k, all rows of a tile of more than kFewRows.
__global__ void __launch_bounds__(kThreads, 3)
    shrink_wide(Middle mid, const bf16* x, const CudaTile* tiles, int first_part, int in) {
    __shared__ Stage as[kStages], xs[kStages];
    pdl_trigger();
    const CudaTile tile = tiles[blockIdx.z];
    const CudaPart* part = part_of(tile, first_part + int(blockIdx.y));
    const auto* a = static_cast<const bf16*>(part ? part->a : nullptr);
    const int rank = a ? part->rank : 0, steps = (in + kStageK - 1) / kStageK;
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32, r = lane / 4, q = lane % 4;
    pdl_wait();
    if (tile.rows <= kFewRows) return;
    x += tile.row_begin * int64_t(in);
#pragma unroll 1
    for (int base = int(blockIdx.x) * 64; base < rank; base += int(gridDim.x) * 64) {
        const bf16* rows_of_a = a + int64_t(base) * in;
        const auto request = [&](int step) {
            if (step < steps) {
                as[step % kStages].request(rows_of_a, rank - base, in, step * kStageK);
                xs[step % kStages].request(x, tile.rows, in, step * kStageK);
            }
            __pipeline_commit();
        };
        float c[kTileRows / 8][4] = {};
        for (int step = 0; step < kStages - 1; ++step) request(step);
#pragma unroll 1
        for (int step = 0; step < steps; ++step) {
            __pipeline_wait_prior(kStages - 2);
            __syncthreads();  // the stage is here for all, and all are done with the one that is overwritten next
            request(step + kStages - 1);
            Stage &sa = as[step % kStages], &sx = xs[step % kStages];
#pragma unroll 1
            for (int i = 0; i < kStageK / 32; ++i) {
                const uint4 low = sa.at(16 * warp + r, 4 * i + q), high = sa.at(16 * warp + r + 8, 4 * i + q);
#pragma unroll
                for (int t = 0; t < kTileRows / 8; ++t) mma_32(c[t], low, high, sx.at(8 * t + r, 4 * i + q));
            }
        }
        const int first = base + 16 * warp;
#pragma unroll
        for (int t = 0; t < kTileRows / 8; ++t)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int row = 8 * t + 2 * q + i % 2;
                if (row < tile.rows && first < rank)
                    mid.row(0, int(blockIdx.y), tile.row_begin + row)[first + r + i / 2 * 8] = c[t][i];
            }
        __syncthreads();  // the next turn's requests overwrite the stages
    }
}

// A warp takes a rank and the tile's rows one by one. Ranks up to the next multiple of 16 are set to 0.
template <class T>
__global__ void __launch_bounds__(kThreads)
    shrink_plain(Middle mid, const T* x, const CudaTile* tiles, int first_part, int64_t in) {
    pdl_trigger();
    const CudaTile tile = tiles[blockIdx.z];
    const CudaPart* part = part_of(tile, first_part + int(blockIdx.y));
    const auto* a = static_cast<const T*>(part ? part->a : nullptr);
    const int rank = a ? part->rank : 0, lane = int(threadIdx.x) % 32;
    pdl_wait();
    x += tile.row_begin * in;
    const int ranks = (rank + kRanks - 1) / kRanks * kRanks;
    for (int i = int(blockIdx.x) * kWarps + int(threadIdx.x) / 32; i < ranks; i += int(gridDim.x) * kWarps)
        for (int row = 0; row < tile.rows; ++row) {
            float sum = 0;
            if (i < rank)
                for (int64_t k = lane; k < in; k += 32)
                    sum = fmaf(to_float(a[i * in + k]), to_float(x[row * in + k]), sum);
            sum = warp_sum(sum);
            if (lane == 0) mid.row(0, int(blockIdx.y), tile.row_begin + row)[i] = sum;
        }
}

// ---- expand: out[p][row][n] += scale * sum over r of b_t[r][n] * (sum over slabs of mid[slab][p][row][r])

constexpr int kWarpColumns = 128, kOctets = kWarpColumns / 8;
constexpr int kPadded = kWarpColumns + 4;

// Two bf16 whose sum is v to 16 bits or more, for pairs of neighbouring k.
struct SplitPair {
    uint32_t high = 0, low = 0;
};
__device__ __forceinline__ SplitPair split(float v0, float v1) {
    SplitPair s;
    s.high = pack_bf16(v0, v1);
    s.low = pack_bf16(v0 - bf16_low(s.high), v1 - bf16_high(s.high));
    return s;
}

// A lane's share of 16 ranks by 128 columns of B: ranks 4q .. 4q + 3, columns 8r .. 8r + 7 of each 64.
struct ColumnsOfB {
    uint4 w[kWarpColumns / 64][4];

    // `ranks` and `columns` are left of b_t [.., width] from p on.
    __device__ __forceinline__ void load(const bf16* p, int64_t width, int ranks, int columns) {
#pragma unroll
        for (int e = 0; e < 4; ++e, p += width)
#pragma unroll
            for (int u = 0; u < kWarpColumns / 64; ++u) w[u][e] = load_if(e < ranks && 64 * u < columns, p + 64 * u);
    }
    // The operand whose 16 outputs are columns 8r + 2j (its row r) and 8r + 2j + 1 (its row r + 8).
    __device__ __forceinline__ uint4 operand(int u, int j) const {
        const auto word = [&](int e) {
            return j == 0 ? w[u][e].x : j == 1 ? w[u][e].y : j == 2 ? w[u][e].z : w[u][e].w;
        };
        return make_uint4(__byte_perm(word(0), word(1), 0x5410), __byte_perm(word(0), word(1), 0x7632),
                          __byte_perm(word(2), word(3), 0x5410), __byte_perm(word(2), word(3), 0x7632));
    }
};

// out + scale * the sums of `warps` warps, 8 columns.
__device__ __forceinline__ void add_scaled_octet(uint32_t (&out)[4], float scale, const float* partial, int warps) {
    float sum[8] = {};
#pragma unroll 1
    for (int i = 0; i < warps; ++i, partial += 8 * kPadded) {
        const float4 s0 = reinterpret_cast<const float4*>(partial)[0], s1 = reinterpret_cast<const float4*>(partial)[1];
        const float s[8] = {s0.x, s0.y, s0.z, s0.w, s1.x, s1.y, s1.z, s1.w};
#pragma unroll
        for (int k = 0; k < 8; ++k) sum[k] += s[k];
    }
#pragma unroll
    for (int k = 0; k < 4; ++k)
        out[k] = pack_bf16(fmaf(scale, sum[2 * k], bf16_low(out[k])), fmaf(scale, sum[2 * k + 1], bf16_high(out[k])));
}

// A block: `sharing` warps share 128 columns, taking 16 ranks each in turn; a small rank leaves warps to take the next
// 128 columns. All rows of a tile, 8 at a time.
__global__ void __launch_bounds__(kThreads, 4) expand_streaming(const __grid_constant__ LoraOutputs<bf16> outputs,
                                                                Middle mid, const CudaTile* tiles, int first_part) {
    __shared__ float partial[kWarps][8][kPadded];
    pdl_trigger();
    const CudaTile tile = tiles[blockIdx.z];
    const int p = int(blockIdx.y);
    const CudaPart* part = part_of(tile, first_part + p);
    const auto* b_t = static_cast<const bf16*>(part ? part->b_t : nullptr);
    const int rank = b_t ? part->rank : 0, slabs = mid.slabs_of(tile);
    const float scale = b_t ? part->scale : 0;
    const int width = int(outputs.width[p]);
    const int batches = (rank + kRanks - 1) / kRanks;  // of 16 ranks
    const int sharing_log2 = batches <= 1 ? 0 : batches == 2 ? 1 : 2;
    const int sharing = 1 << sharing_log2;      // warps on the same columns: depends on the rank alone
    const int pieces = kWarps >> sharing_log2;  // of 128 columns, at a time
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32, r = lane / 4, q = lane % 4;
    const int own_batch = warp & (sharing - 1), own_rank = own_batch * kRanks + 4 * q;
    const int out_row = int(threadIdx.x) / kOctets, octet = int(threadIdx.x) % kOctets * 8;
    const bool resident = batches <= sharing;  // a warp needs one batch only, which then stays in registers
    int column = int(blockIdx.x) * pieces * kWarpColumns;
    if (batches == 0 || column >= width) return pdl_wait();
    bool waited = false;
#pragma unroll 1
    for (; column < width; column += int(gridDim.x) * pieces * kWarpColumns) {
        const int own_column = column + (warp >> sharing_log2) * kWarpColumns + 8 * r;
        const bf16* own_b = b_t + int64_t(own_rank) * width + own_column;
        ColumnsOfB b;
        b.load(own_b, width, rank - own_rank, width - own_column);
        if (!waited) pdl_wait();
        waited = true;
        // The octets of out that this thread adds to: of each piece one.
        bf16* to = outputs.out[p] + (tile.row_begin + out_row) * int64_t(width) + column + octet;
        const float* own_mid = mid.row(0, p, tile.row_begin + r) + own_rank;
#pragma unroll 1
        for (int t0 = 0; t0 < tile.rows; t0 += 8, to += 8 * int64_t(width), own_mid += 8 * mid.ranks) {
            uint32_t sums[kWarps][4] = {};
            bool mine[kWarps];
#pragma unroll
            for (int i = 0; i < kWarps; ++i) {
                mine[i] = i < pieces && t0 + out_row < tile.rows && column + octet + i * kWarpColumns < width;
                if (mine[i]) load_words(sums[i], to + i * kWarpColumns);
            }
            float c[kWarpColumns / 64][4][4] = {};
#pragma unroll 1
            for (int batch = own_batch; batch < batches; batch += sharing) {
                const int skip = (batch - own_batch) * kRanks;
                if (skip > 0 || (t0 > 0 && !resident))
                    b.load(own_b + int64_t(skip) * width, width, rank - own_rank - skip, width - own_column);
                float4 m = {};
                if (t0 + r < tile.rows) {
                    const float* from = own_mid + skip;
#pragma unroll 2
                    for (int slab = 0; slab < slabs; ++slab, from += mid.slab_step()) {
                        const float4 s = *reinterpret_cast<const float4*>(from);
                        m = make_float4(m.x + s.x, m.y + s.y, m.z + s.z, m.w + s.w);
                    }
                }
                const SplitPair m01 = split(m.x, m.y), m23 = split(m.z, m.w);
#pragma unroll
                for (int u = 0; u < kWarpColumns / 64; ++u)
#pragma unroll
                    for (int j = 0; j < 4; ++j) {
                        const uint4 operand = b.operand(u, j);
                        mma_bf16(c[u][j], operand, m01.high, m23.high);
                        mma_bf16(c[u][j], operand, m01.low, m23.low);
                    }
            }
#pragma unroll
            for (int u = 0; u < kWarpColumns / 64; ++u)
#pragma unroll
                for (int i = 0; i < 2; ++i) {  // rows 2q and 2q + 1
                    auto* of_row = reinterpret_cast<float4*>(&partial[warp][2 * q + i][64 * u + 8 * r]);
                    of_row[0] = make_float4(c[u][0][i], c[u][0][i + 2], c[u][1][i], c[u][1][i + 2]);
                    of_row[1] = make_float4(c[u][2][i], c[u][2][i + 2], c[u][3][i], c[u][3][i + 2]);
                }
            __syncthreads();
#pragma unroll
            for (int i = 0; i < kWarps; ++i)
                if (mine[i]) {
                    add_scaled_octet(sums[i], scale, &partial[i * sharing][out_row][octet], sharing);
                    store_words(to + i * kWarpColumns, sums[i]);
                }
            __syncthreads();
        }
    }
}

// kRows rows of one output column.
template <int kRows, class T>
__device__ __forceinline__ void expand_column(T* out, const T* b_t, const Middle& mid, int slabs, int projection,
                                              int64_t row, int rank, float scale, int64_t width) {
    float sum[kRows] = {};
    for (int i = 0; i < rank; ++i) {
        const float w = to_float(b_t[i * width]);
#pragma unroll
        for (int k = 0; k < kRows; ++k) {
            float m = 0;
            for (int slab = 0; slab < slabs; ++slab) m += mid.row(slab, projection, row + k)[i];
            sum[k] = fmaf(m, w, sum[k]);
        }
    }
#pragma unroll
    for (int k = 0; k < kRows; ++k) out[k * width] = from_float<T>(fmaf(scale, sum[k], to_float(out[k * width])));
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    expand_plain(const __grid_constant__ LoraOutputs<T> outputs, Middle mid, const CudaTile* tiles, int first_part) {
    pdl_trigger();
    const CudaTile tile = tiles[blockIdx.z];
    const int p = int(blockIdx.y);
    const CudaPart* part = part_of(tile, first_part + p);
    const auto* b_t = static_cast<const T*>(part ? part->b_t : nullptr);
    const int rank = b_t ? part->rank : 0, slabs = mid.slabs_of(tile);
    const float scale = b_t ? part->scale : 0;
    const int64_t width = outputs.width[p], column = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    pdl_wait();
    if (column >= width || rank == 0) return;
    T* out = outputs.out[p] + tile.row_begin * width + column;
    int row = 0;
    for (; row + 8 <= tile.rows; row += 8)
        expand_column<8>(out + row * width, b_t + column, mid, slabs, p, tile.row_begin + row, rank, scale, width);
    for (; row < tile.rows; ++row)
        expand_column<1>(out + row * width, b_t + column, mid, slabs, p, tile.row_begin + row, rank, scale, width);
}

}  // namespace

template <class T>
void lora(CudaDevice& device, const LoraOutputs<T>& outputs, const T* x, const CudaTile* tiles, int num_tiles,
          int first_part, int num_projections, int64_t rows, int64_t in, int max_rank, float* workspace,
          bool batch_invariant) {
    CHECK(rows >= 0 && num_tiles >= 0 && num_tiles <= 65535 / kMaxLoraProjections && first_part >= 0 && max_rank >= 0);
    CHECK(num_projections >= 0 && num_projections <= kMaxLoraProjections);
    CHECK(in > 0 && in <= 1 << 24 && aligned_to_16(workspace));
    int64_t widest = 0;
    bool octets = true;  // all widths are multiples of 8
    for (int p = 0; p < num_projections; ++p) {
        CHECK(outputs.width[p] > 0 && outputs.width[p] <= 1 << 24 && outputs.out[p] != x);
        widest = std::max(widest, outputs.width[p]);
        octets = octets && outputs.width[p] % 8 == 0;
    }
    if (rows == 0 || num_tiles == 0 || num_projections == 0 || max_rank == 0) return;

    const int64_t blocks_of_ranks = divide_up(max_rank, kRanks);
    const bool shrink_fast = std::is_same_v<T, bf16> && in % 8 == 0, expand_fast = std::is_same_v<T, bf16> && octets;
    Middle mid;
    mid.data = workspace;
    mid.rows = rows;
    mid.num_projections = num_projections;
    mid.slabs = shrink_fast ? int(divide_up(in, kSlab)) : 1;
    mid.ranks = int(blocks_of_ranks) * kRanks;
    mid.wide = shrink_fast && rows > kManyRows && !batch_invariant;

    const auto plain_grid = [&](int64_t blocks) {
        return dim3(unsigned(blocks), unsigned(num_projections), unsigned(num_tiles));
    };
    if constexpr (std::is_same_v<T, bf16>)
        if (shrink_fast) {
            CHECK(aligned_to_16(x));
            const dim3 turns = tile_grid(device, blocks_of_ranks, num_projections * mid.slabs, num_tiles, 4);
            const dim3 grid(unsigned(mid.slabs), turns.x, unsigned(num_projections * num_tiles));
            launch(device, shrink_streaming, grid, kThreads, 0, mid, x, tiles, first_part, int(in));
            if (mid.wide)
                launch(device, shrink_wide, plain_grid(divide_up(max_rank, 64)), kThreads, 0, mid, x, tiles, first_part,
                       int(in));
        }
    if (!shrink_fast)
        launch(device, shrink_plain<T>, plain_grid(divide_up(mid.ranks, kWarps)), kThreads, 0, mid, x, tiles,
               first_part, in);
    if constexpr (std::is_same_v<T, bf16>)
        if (expand_fast) {
            for (int p = 0; p < num_projections; ++p) CHECK(aligned_to_16(outputs.out[p]));
            const dim3 grid =
                tile_grid(device, divide_up(widest, kWarpColumns), num_projections, num_tiles, 4, /*waves=*/16);
            launch(device, expand_streaming, grid, kThreads, 0, outputs, mid, tiles, first_part);
        }
    if (!expand_fast)
        launch(device, expand_plain<T>, plain_grid(divide_up(widest, kThreads)), kThreads, 0, outputs, mid, tiles,
               first_part);
}

template void lora<float>(CudaDevice&, const LoraOutputs<float>&, const float*, const CudaTile*, int, int, int, int64_t,
                          int64_t, int, float*, bool);
template void lora<bf16>(CudaDevice&, const LoraOutputs<bf16>&, const bf16*, const CudaTile*, int, int, int, int64_t,
                         int64_t, int, float*, bool);

}  // namespace spartan
