// Decode streams A and B once: a warp has 8 KB of them in flight before pdl_wait(), straight from row-major storage
// into registers as MMA operands, the weights on the m16 side and the tile's rows on the n8 side of mma.m16n8k16. The
// order of k inside a product is free, so a lane takes 8 neighbouring k (shrink) or columns (expand) as one 16-byte
// load, and in the expand ends up with 8 neighbouring outputs of two rows: it adds them to what it itself has
// requested, and nothing but the inner sums goes through other threads. Sums over more than a warp's share meet in
// shared memory, in the order of the warps; sums over slabs of k in the reader, in the order of the slabs.
//
// Where many rows share an adapter (prefill) the shrink would read x once for every 16 ranks; there a second kernel
// takes 64 rows by 64 ranks of every projection at once, with both sides staged in shared memory.
#include "kernels/check.h"
#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/lora.h"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/tiles.cuh"
#include "kernels/cuda/words.cuh"

namespace spartan {

namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps;
constexpr int kRanks = 16;                            // of an MMA operand
constexpr int kWarpK = 256, kSlab = kWarps * kWarpK;  // k that a warp, a block takes in the streaming shrink
constexpr int kFewRows = 8;                           // up to these a tile counts as decode
constexpr int64_t kManyRows = 512;                    // from here on tiles of more than a few rows take the wide shrink
constexpr int kWideSlabs = 2;                         // of k there, or the streaming shrink's if that has fewer

// Where the inner sums lie: [slab][projection][row][ranks].
struct Middle {
    float* data = nullptr;
    int64_t rows = 0;
    int num_projections = 0, slabs = 0, ranks = 0;  // ranks: a multiple of 16
    bool wide = false;                              // tiles of more than kFewRows rows have wide_slabs()

    __device__ __forceinline__ float* row(int slab, int projection, int64_t r) const {
        return data + slab * slab_step() + (projection * rows + r) * ranks;
    }
    __device__ __forceinline__ int64_t slab_step() const { return num_projections * rows * ranks; }
    __device__ __forceinline__ int slabs_of(const CudaTile& tile) const {
        return wide && tile.rows > kFewRows ? wide_slabs() : slabs;
    }
    __host__ __device__ __forceinline__ int wide_slabs() const { return slabs < kWideSlabs ? slabs : kWideSlabs; }
};

__device__ __forceinline__ uint4 load_if(bool wanted, const void* p) {
    return wanted ? load_weights(p) : make_uint4(0, 0, 0, 0);
}
__device__ __forceinline__ uint4 load_row_if(bool wanted, const void* p) {
    return wanted ? *reinterpret_cast<const uint4*>(p) : make_uint4(0, 0, 0, 0);
}

// i / n without a division, n being 1 to 3.
__device__ __forceinline__ int div_by_projections(unsigned i, int n) {
    return int(n == 1 ? i : n == 2 ? i / 2 : i / 3);
}

__device__ __forceinline__ int ceil_log2(int n) { return 32 - __clz(n - 1); }  // n >= 1

// 32 k of 16 weight rows times 32 k of 8 rows. Lane 4r + q holds k 8q .. 8q + 7 of weight rows r and r + 8, and of row
// r.
template <class T>
__device__ __forceinline__ void mma_32(float (&c)[4], const uint4& low, const uint4& high, const uint4& x) {
    mma<T>(c, make_uint4(low.x, high.x, low.y, high.y), x.x, x.y);
    mma<T>(c, make_uint4(low.z, high.z, low.w, high.w), x.z, x.w);
}

// ---- shrink: mid[slab][p][row][rank] = sum over the slab's k of a[rank][k] * x[row][k]

// A block: 16 ranks, one slab of k, all rows of a tile, 8 at a time. Grid: [slab][ranks][projection of a tile].
template <class T>
__global__ void __launch_bounds__(kThreads, 4)
    shrink_streaming(Middle mid, const T* x, const CudaTile* tiles, int first_part, int in) {
    __shared__ float partial[2][kWarps][kRanks * 8];
    pdl_trigger();
    const int tile_index = div_by_projections(blockIdx.z, mid.num_projections);
    const int p = int(blockIdx.z) - tile_index * mid.num_projections;
    const CudaTile tile = tiles[tile_index];
    const CudaPart* part = part_of(tile, first_part + p);
    const auto* a = static_cast<const T*>(part ? part->a : nullptr);
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
        const T* low = a;
        const T* high = a + eight_rows;
#pragma unroll
        for (int i = 0; i < kWarpK / 32; ++i) {
            w[i][0] = load_if(32 * i < count && base + r < rank, low + 32 * i);
            w[i][1] = load_if(32 * i < count && base + r + 8 < rank, high + 32 * i);
        }
        if (!waited) pdl_wait();
        waited = true;
        const T* row = x;
        float* sums = to;
#pragma unroll 1
        for (int t0 = 0; t0 < tile.rows; t0 += 8, turn ^= 1, row += eight_rows, sums += 8 * mid.ranks) {
            uint4 xs[kWarpK / 32];
#pragma unroll
            for (int i = 0; i < kWarpK / 32; ++i)
                xs[i] = load_row_if(t0 + r < tile.rows && 32 * i < count, row + 32 * i);
            float c[4] = {};
#pragma unroll
            for (int i = 0; i < kWarpK / 32; ++i) mma_32<T>(c, w[i][0], w[i][1], xs[i]);
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
constexpr int kStageRanks = 64;

// One side of a stage: 64 rows of kStageK values, the units of odd rows swapped by halves so that 8 lanes reading 4
// neighbouring units of 2 rows meet all banks once.
struct Stage {
    uint4 units[64][kUnits];
    __device__ __forceinline__ uint4& at(int row, int unit) { return units[row][unit ^ (row % 2 * 4)]; }

    // Rows [0, count) of p, k0 and on; zeros beyond. By `threads` threads, a multiple of 8, of which this is `thread`.
    template <class T>
    __device__ __forceinline__ void request(const T* p, int count, int in, int k0, int thread, int threads) {
        const int unit = thread % kUnits;
        const bool inside = k0 + unit * 8 < in;
        for (int row = thread / kUnits; row < 64; row += threads / kUnits) {
            const bool wanted = inside && row < count;
            copy_async<16>(&at(row, unit), wanted ? p + int64_t(row) * in + k0 + unit * 8 : p, wanted);
        }
    }
};

constexpr int wide_shared_bytes(int num_projections) { return kStages * (1 + num_projections) * int(sizeof(Stage)); }

// A block: one slab of k, all rows of a tile of more than kFewRows, 64 ranks of every projection: four warps each, with
// 16 ranks a warp. Grid: [64 ranks][slab][tile].
template <class T>
__global__ void __launch_bounds__(kThreads* kMaxLoraProjections, 1)
    shrink_wide(Middle mid, const T* x, const CudaTile* tiles, int first_part, int in) {
    extern __shared__ __align__(16) std::byte shared[];
    auto* stages = reinterpret_cast<Stage*>(shared);  // [kStages][x, A of each projection]
    pdl_trigger();
    const CudaTile tile = tiles[blockIdx.z];
    const int thread = int(threadIdx.x), p = thread / kThreads, lane = thread % 32, r = lane / 4, q = lane % 4;
    const T* a = nullptr;
    int rank = 0, largest = 0;
    for (int i = 0; i < mid.num_projections; ++i) {
        const CudaPart* part = part_of(tile, first_part + i);
        const auto* of_part = static_cast<const T*>(part ? part->a : nullptr);
        const int of_rank = of_part ? part->rank : 0;
        largest = max(largest, of_rank);
        if (i == p) a = of_part, rank = of_rank;
    }
    const int all_steps = (in + kStageK - 1) / kStageK, a_slab = (all_steps + mid.wide_slabs() - 1) / mid.wide_slabs();
    const int slab = int(blockIdx.y), begin = min(slab * a_slab, all_steps), steps = min(a_slab, all_steps - begin);
    pdl_wait();
    if (tile.rows <= kFewRows) return;
    x += tile.row_begin * int64_t(in);
#pragma unroll 1
    for (int base = int(blockIdx.x) * kStageRanks; base < largest; base += int(gridDim.x) * kStageRanks) {
        const int own_rank = base + thread % kThreads / 32 * kRanks;  // the first of this warp's
        const auto stage = [&](int step, int side) -> Stage& {
            return stages[step % kStages * (1 + mid.num_projections) + side];
        };
        const auto request = [&](int step) {
            if (step < steps) {
                const int k0 = (begin + step) * kStageK;
                stage(step, 0).request(x, tile.rows, in, k0, thread, int(blockDim.x));
                if (base < rank)
                    stage(step, 1 + p)
                        .request(a + int64_t(base) * in, rank - base, in, k0, thread % kThreads, kThreads);
            }
            end_copy_group();
        };
        float c[kTileRows / 8][4] = {};
        for (int step = 0; step < kStages - 1; ++step) request(step);
#pragma unroll 1
        for (int step = 0; step < steps; ++step) {
            wait_for_copies<kStages - 2>();
            __syncthreads();  // the stage is here for all, and all are done with the one that is overwritten next
            request(step + kStages - 1);
            if (own_rank >= rank) continue;
            Stage &sx = stage(step, 0), &sa = stage(step, 1 + p);
            const int low_rank = own_rank - base + r;
#pragma unroll 1
            for (int i = 0; i < kStageK / 32; ++i) {
                const uint4 low = sa.at(low_rank, 4 * i + q), high = sa.at(low_rank + 8, 4 * i + q);
#pragma unroll
                for (int t = 0; t < kTileRows / 8; ++t)
                    if (8 * t < tile.rows) mma_32<T>(c[t], low, high, sx.at(8 * t + r, 4 * i + q));
            }
        }
#pragma unroll
        for (int t = 0; t < kTileRows / 8; ++t)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int row = 8 * t + 2 * q + i % 2;
                if (row < tile.rows && own_rank < rank)
                    mid.row(slab, p, tile.row_begin + row)[own_rank + r + i / 2 * 8] = c[t][i];
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

constexpr int kColumns = 64;        // of a piece of B: 8 a lane
constexpr int kMostFastRank = 512;  // larger ones are expanded plainly

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

// Four neighbouring ranks' inner sums of a row, added up over the slabs, as a lane's share of the n8 side of an MMA: x,
// y their high parts, z, w the low ones. kAtOnce: slabs whose loads are in flight together.
template <class T, int kAtOnce>
__device__ __forceinline__ uint4 inner_sums(const float* from, int64_t slab_step, int slabs) {
    float4 m = {};
#pragma unroll 1
    for (; slabs > 0; slabs -= kAtOnce, from += kAtOnce * slab_step) {
        float4 s[kAtOnce];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i)
            s[i] = i < slabs ? *reinterpret_cast<const float4*>(from + i * slab_step) : float4{};
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) m = make_float4(m.x + s[i].x, m.y + s[i].y, m.z + s[i].z, m.w + s[i].w);
    }
    const SplitPair low_ranks = split<T>(m.x, m.y), high_ranks = split<T>(m.z, m.w);
    return make_uint4(low_ranks.high, high_ranks.high, low_ranks.low, high_ranks.low);
}

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

private:
    __device__ __forceinline__ static uint4 operand(uint32_t v0, uint32_t v1, uint32_t v2, uint32_t v3) {
        return make_uint4(__byte_perm(v0, v1, 0x5410), __byte_perm(v0, v1, 0x7632), __byte_perm(v2, v3, 0x5410),
                          __byte_perm(v2, v3, 0x7632));
    }
};

// kSlots: units of 16 bytes of out that a lane has requested ahead. kInner: units for inner sums, [8 rows][16
// ranks][lane].
template <int kSlots, int kInner>
struct ExpandShared {
    static_assert(kInner >= kMostFastRank / kRanks * 32);
    uint4 slots[kWarps][kSlots][32];
    uint4 inner[kInner];
};

// What a block does for a tile: a warp takes kBatches times 16 ranks of kPieces times 64 columns; where that is not all
// ranks, 2 or 4 warps share the columns, which warp 0 of them adds to out. That depends on the rank alone, as does the
// order of all sums. kReloads: for ranks that are too many for that, of which a warp then takes one share after
// another.
template <class T, int kPieces, int kBatches, bool kReloads, int kSlots, int kInner>
struct Expand {
    static_assert(kPieces * kBatches == 4);
    static constexpr int kDepth = kSlots / (2 * kPieces);  // steps of 8 rows whose out is requested ahead
    static constexpr int kSlabsAtOnce = kSlots > 8 ? 2 : 4;

    ExpandShared<kSlots, kInner>& shared;
    const Middle& mid;
    const CudaTile& tile;
    const int p, rank, sharing_log2;

    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32, r = lane / 4, q = lane % 4;
    const int batches = (rank + kRanks - 1) / kRanks, sharing = 1 << sharing_log2, own = warp & (sharing - 1);
    const int slabs = mid.slabs_of(tile);
    const int quads_log2 = 2 + ceil_log2(batches);            // of the power of two that holds 4 * batches
    const int inner_steps = kInner / 32 >> (quads_log2 - 2);  // whose inner sums there is room for: at least one
    PieceOfB b[kPieces][kBatches];

    __device__ int columns_of_block() const { return (kWarps >> sharing_log2) * kPieces * kColumns; }

    // Of this warp's ranks from batch `first` on; columns: left of those from b_t on.
    __device__ void load_b(const T* b_t, int64_t width, int columns, int first) {
        b_t += (first * kRanks + 4 * q) * width;
#pragma unroll
        for (int n = 0; n < kBatches; ++n, b_t += kRanks * width)
#pragma unroll
            for (int piece = 0; piece < kPieces; ++piece)
                b[piece][n].load(piece * kColumns < columns, b_t + piece * kColumns, width,
                                 rank - (first + n) * kRanks - 4 * q);
    }
    __device__ void arrange_b() {
#pragma unroll
        for (auto& of_piece : b)
#pragma unroll
            for (PieceOfB& piece : of_piece) piece.arrange();
    }

    // The inner sums of the rows from `step` on that there is room for, by all threads.
    __device__ void share_inner_sums(int step) {
        const int rows = min(tile.rows - 8 * step, 8 * inner_steps);
#pragma unroll(kSlots > 8 ? 2 : 1)
        for (int i = int(threadIdx.x); i < rows << quads_log2; i += kThreads) {
            const int row = i >> quads_log2, quad = i & ((1 << quads_log2) - 1);
            if (quad >= 4 * batches) continue;
            const float* from = mid.row(0, p, tile.row_begin + 8 * step + row) + 4 * quad;
            shared.inner[(row / 8 * batches + quad / 4) * 32 + row % 8 * 4 + quad % 4] =
                inner_sums<T, kSlabsAtOnce>(from, mid.slab_step(), slabs);
        }
    }
    __device__ uint4 inner_of(int step, int shared_from, int batch) const {
        return shared.inner[((step - shared_from) * batches + batch) * 32 + lane];
    }

    __device__ static void multiply(float (&c)[4][4], const PieceOfB& of_b, const uint4& m) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            mma<T>(c[j], of_b.w[j], m.x, m.y);
            mma<T>(c[j], of_b.w[j], m.z, m.w);
        }
    }

    // Sums of the warps that share columns, in their order, to the first of them. Those of out have no slots in use.
    __device__ void gather(float (&c)[4][4]) {
        if (own > 0)
#pragma unroll
            for (int j = 0; j < 4; ++j)
                shared.slots[warp][j][lane] = make_uint4(__float_as_uint(c[j][0]), __float_as_uint(c[j][1]),
                                                         __float_as_uint(c[j][2]), __float_as_uint(c[j][3]));
        __syncthreads();
        if (own == 0)
            for (int i = 1; i < sharing; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    const uint4 v = shared.slots[warp + i][j][lane];
                    c[j][0] += __uint_as_float(v.x);
                    c[j][1] += __uint_as_float(v.y);
                    c[j][2] += __uint_as_float(v.z);
                    c[j][3] += __uint_as_float(v.w);
                }
        __syncthreads();
    }

    __device__ void run(T* out, const T* b_t, float scale, int width) {
        if (int(blockIdx.x) * columns_of_block() >= width) return pdl_wait();
        const int steps = (tile.rows + 7) / 8;
        const int first_column = (warp >> sharing_log2) * kPieces * kColumns + 8 * r;
        bool waited = false;
        int shared_from = -1;  // the first step whose inner sums are shared
#pragma unroll 1
        for (int column = int(blockIdx.x) * columns_of_block(); column < width;
             column += int(gridDim.x) * columns_of_block()) {
            const int own_column = column + first_column;
            const int columns = width - own_column;
            load_b(b_t + own_column, width, columns, own * kBatches);
            if (!waited) pdl_wait();
            waited = true;
            T* const to = out + (tile.row_begin + 2 * q) * int64_t(width) + own_column;
            const auto has = [&](int step, int piece, int i) {
                return own == 0 && 8 * step + 2 * q + i < tile.rows && piece * kColumns < columns;
            };
            const auto slot = [&](int step, int piece, int i) -> uint4& {
                return shared.slots[warp][(step % kDepth * kPieces + piece) * 2 + i][lane];
            };
            const auto place = [&](int step, int piece, int i) {
                return to + (8 * step + i) * int64_t(width) + piece * kColumns;
            };
            const auto request = [&](int step) {
                if (step < steps)
#pragma unroll
                    for (int piece = 0; piece < kPieces; ++piece)
#pragma unroll
                        for (int i = 0; i < 2; ++i)
                            if (has(step, piece, i)) copy_async<16>(&slot(step, piece, i), place(step, piece, i));
                end_copy_group();
            };
#pragma unroll 1
            for (int step = 0; step < kDepth; ++step) request(step);
#pragma unroll 1
            for (int step = 0; step < steps; ++step) {
                const bool outside = step < shared_from || step >= shared_from + inner_steps;
                if (shared_from < 0 || outside) {
                    if (shared_from >= 0) __syncthreads();  // all are done with the last ones
                    share_inner_sums(step);
                    __syncthreads();
                    shared_from = step;
                }
                if (step == 0) arrange_b();
#pragma unroll
                for (int piece = 0; piece < kPieces; ++piece) {
                    float c[4][4] = {};
                    for (int first = own * kBatches; first < batches; first += sharing * kBatches) {
                        if (kReloads && (step > 0 || first > own * kBatches)) {
                            load_b(b_t + own_column, width, columns, first);
                            arrange_b();
                        }
#pragma unroll
                        for (int n = 0; n < kBatches; ++n)
                            if (first + n < batches) multiply(c, b[piece][n], inner_of(step, shared_from, first + n));
                        if (!kReloads) break;
                    }
                    if (kPieces == 1 && sharing > 1) gather(c);
                    if (piece == 0) wait_for_copies<kDepth - 1>();
#pragma unroll
                    for (int i = 0; i < 2; ++i) {  // rows 2q and 2q + 1
                        if (!has(step, piece, i)) continue;
                        const uint4 old = slot(step, piece, i);
                        const uint32_t words[4] = {old.x, old.y, old.z, old.w};
                        uint32_t sums[4];
#pragma unroll
                        for (int j = 0; j < 4; ++j)
                            sums[j] = pack<T>(fmaf(scale, c[j][i], low_of<T>(words[j])),
                                              fmaf(scale, c[j][i + 2], high_of<T>(words[j])));
                        store_words(place(step, piece, i), sums);
                    }
                }
                request(step + kDepth);
            }
        }
    }
};

// Columns that a block takes at a time where no rank is larger than this.
constexpr int columns_of_block(int max_rank) {
    return max_rank <= 16 ? 1024 : max_rank <= 32 ? 512 : max_rank <= 64 ? 256 : max_rank <= 128 ? 128 : 64;
}

// Grid: [columns][projection][tile].
template <class T, int kSlots, int kInner>
__global__ void __launch_bounds__(kThreads, 4) expand_streaming(const __grid_constant__ LoraOutputs<T> outputs,
                                                                Middle mid, const CudaTile* tiles, int first_part) {
    __shared__ ExpandShared<kSlots, kInner> shared;
    pdl_trigger();
    const CudaTile tile = tiles[blockIdx.z];
    const int p = int(blockIdx.y);
    const CudaPart* part = part_of(tile, first_part + p);
    const T* b_t = nullptr;
    int rank = 0;
    float scale = 0;
    if (part) {  // all at once, and not one after the other
        b_t = static_cast<const T*>(part->b_t);
        rank = part->rank;
        scale = part->scale;
    }
    if (!b_t || rank == 0) return pdl_wait();
    T* out = outputs.out[p];
    const int width = int(outputs.width[p]);
    if (rank <= 16)
        Expand<T, 4, 1, false, kSlots, kInner>{shared, mid, tile, p, rank, 0}.run(out, b_t, scale, width);
    else if (rank <= 32)
        Expand<T, 2, 2, false, kSlots, kInner>{shared, mid, tile, p, rank, 0}.run(out, b_t, scale, width);
    else if (rank <= 256)
        Expand<T, 1, 4, false, kSlots, kInner>{shared, mid, tile, p, rank, rank <= 64 ? 0 : rank <= 128 ? 1 : 2}.run(
            out, b_t, scale, width);
    else
        Expand<T, 1, 4, true, kSlots, kInner>{shared, mid, tile, p, rank, 2}.run(out, b_t, scale, width);
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
    const bool shrink_fast = is_16_bit<T> && in % 8 == 0,
               expand_fast = is_16_bit<T> && octets && max_rank <= kMostFastRank;
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
    if constexpr (is_16_bit<T>)
        if (shrink_fast) {
            CHECK(aligned_to_16(x));
            const dim3 turns = tile_grid(device, blocks_of_ranks, num_projections * mid.slabs, num_tiles, 4);
            const dim3 grid(unsigned(mid.slabs), turns.x, unsigned(num_projections * num_tiles));
            launch(device, shrink_streaming<T>, grid, kThreads, 0, mid, x, tiles, first_part, int(in));
            if (mid.wide) {
                const int shared_bytes = wide_shared_bytes(num_projections);
                CHECK_CUDA(cudaFuncSetAttribute(shrink_wide<T>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                wide_shared_bytes(kMaxLoraProjections)));
                const dim3 wide_grid(unsigned(divide_up(max_rank, kStageRanks)), unsigned(mid.wide_slabs()),
                                     unsigned(num_tiles));
                launch(device, shrink_wide<T>, wide_grid, kThreads * num_projections, size_t(shared_bytes), mid, x,
                       tiles, first_part, int(in));
            }
        }
    if (!shrink_fast)
        launch(device, shrink_plain<T>, plain_grid(divide_up(mid.ranks, kWarps)), kThreads, 0, mid, x, tiles,
               first_part, in);
    if constexpr (is_16_bit<T>)
        if (expand_fast) {
            for (int p = 0; p < num_projections; ++p) CHECK(aligned_to_16(outputs.out[p]));
            const dim3 grid = tile_grid(device, divide_up(widest, columns_of_block(max_rank)), num_projections,
                                        num_tiles, 4, /*waves=*/16);
            const bool many = rows > kManyRows || rows >= int64_t(kFewRows) * num_tiles;  // the same bits either way
            launch(device, many ? expand_streaming<T, 16, 1024> : expand_streaming<T, 8, 1024>, grid, kThreads, 0,
                   outputs, mid, tiles, first_part);
        }
    if (!expand_fast)
        launch(device, expand_plain<T>, plain_grid(divide_up(widest, kThreads)), kThreads, 0, outputs, mid, tiles,
               first_part);
}

template void lora<float>(CudaDevice&, const LoraOutputs<float>&, const float*, const CudaTile*, int, int, int, int64_t,
                          int64_t, int, float*, bool);
template void lora<bf16>(CudaDevice&, const LoraOutputs<bf16>&, const bf16*, const CudaTile*, int, int, int, int64_t,
                         int64_t, int, float*, bool);
template void lora<f16>(CudaDevice&, const LoraOutputs<f16>&, const f16*, const CudaTile*, int, int, int, int64_t,
                        int64_t, int, float*, bool);

}  // namespace spartan
