// Decode streams A and B once: a warp has 8 KB of them in flight before pdl_wait(), straight from row-major storage
// into registers as MMA operands, the weights on the m16 side and the tile's rows on the n8 side of mma.m16n8k16. The
// order of k inside a product is free, so a lane takes 8 neighbouring k (shrink) or columns (expand) as one 16-byte
// load, and in the expand ends up with 8 neighbouring outputs of two rows: it adds them to what it itself has
// requested, and nothing but the inner sums goes through other threads. Sums over more than a warp's share meet in
// shared memory, in the order of the warps; sums over slabs of k in the reader, in the order of the slabs.
//
// Batches of many rows take lora_long.cu.
#include "kernels/check.h"
#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/lora.h"
#include "kernels/cuda/lora_long.h"
#include "kernels/cuda/lora_parts.cuh"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/tiles.cuh"
#include "kernels/cuda/words.cuh"
#include "kernels/rounding.h"

namespace spartan {

namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps;
constexpr int kRanks = kLoraRanks, kColumns = kLoraColumns;
constexpr int kWarpK = kLoraChunk, kSlab = kLoraSlab;  // k that a warp, a block takes in the streaming shrink
static_assert(kSlab == kWarps * kWarpK);
constexpr int kFewRows = 8;         // of a tile, on average
constexpr int64_t kManyRows = 512;  // more of them take lora_long.h
constexpr int kMostFastRank = 512;  // larger ones are expanded plainly

__device__ __forceinline__ uint4 load_row_if(bool wanted, const void* p) {
    return wanted ? *reinterpret_cast<const uint4*>(p) : make_uint4(0, 0, 0, 0);
}

// i / n without a division, n being 1 to 3.
__device__ __forceinline__ int div_by_projections(unsigned i, int n) {
    return int(n == 1 ? i : n == 2 ? i / 2 : i / 3);
}

__device__ __forceinline__ int ceil_log2(int n) { return 32 - __clz(n - 1); }  // n >= 1

// ---- shrink: mid[slab][p][row][rank] = sum over the slab's k of a[rank][k] * x[row][k]

// A block: 16 ranks, one slab of k, all rows of a tile, 8 at a time. Grid: [slab][ranks][projection of a tile].
template <class T>
__global__ void __launch_bounds__(kThreads, 4)
    shrink_streaming(LoraMiddle mid, const T* x, const CudaTile* tiles, int first_part, int in) {
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
    if (base >= rank) return pdl_wait();
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

// A warp takes a rank and the tile's rows one by one. Ranks up to the next multiple of 16 are set to 0.
template <class T>
__global__ void __launch_bounds__(kThreads)
    shrink_plain(LoraMiddle mid, const T* x, const CudaTile* tiles, int first_part, int64_t in) {
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

// split_quad() of inner sums that are yet to be added up over the slabs. kAtOnce: slabs whose loads are in flight
// together.
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
    return split_quad<T>(m);
}

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
template <class T, int kPieces, int kBatches, bool kReloads, int kSlots, int kInner, bool kSplit>
struct Expand {
    static_assert(kPieces * kBatches == 4);
    static constexpr int kDepth = kSlots / (2 * kPieces);  // steps of 8 rows whose out is requested ahead
    static constexpr int kSlabsAtOnce = kSlots > 8 ? 2 : 4;

    ExpandShared<kSlots, kInner>& shared;
    const LoraMiddle& mid;
    const CudaTile& tile;
    const int p, rank, sharing_log2;

    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32, r = lane / 4, q = lane % 4;
    const int batches = (rank + kRanks - 1) / kRanks, sharing = 1 << sharing_log2, own = warp & (sharing - 1);
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
            const int64_t mid_row = tile.row_begin + 8 * step + row;
            shared.inner[(row / 8 * batches + quad / 4) * 32 + row % 8 * 4 + quad % 4] =
                kSplit ? mid.split_row(p, mid_row)[quad]
                       : inner_sums<T, kSlabsAtOnce>(mid.row(0, p, mid_row) + 4 * quad, mid.slab_step(), mid.slabs);
        }
    }
    __device__ uint4 inner_of(int step, int shared_from, int batch) const {
        return shared.inner[((step - shared_from) * batches + batch) * 32 + lane];
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
                            if (first + n < batches)
                                b[piece][n].template multiply<T>(c, inner_of(step, shared_from, first + n));
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
template <class T, int kSlots, int kInner, bool kSplit>
__global__ void __launch_bounds__(kThreads, 4) expand_streaming(const __grid_constant__ LoraOutputs<T> outputs,
                                                                LoraMiddle mid, const CudaTile* tiles, int first_part) {
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
        Expand<T, 4, 1, false, kSlots, kInner, kSplit>{shared, mid, tile, p, rank, 0}.run(out, b_t, scale, width);
    else if (rank <= 32)
        Expand<T, 2, 2, false, kSlots, kInner, kSplit>{shared, mid, tile, p, rank, 0}.run(out, b_t, scale, width);
    else if (rank <= 256)
        Expand<T, 1, 4, false, kSlots, kInner, kSplit>{shared, mid, tile, p, rank, rank <= 64 ? 0 : rank <= 128 ? 1 : 2}
            .run(out, b_t, scale, width);
    else
        Expand<T, 1, 4, true, kSlots, kInner, kSplit>{shared, mid, tile, p, rank, 2}.run(out, b_t, scale, width);
}

// kRows rows of one output column.
template <int kRows, class T>
__device__ __forceinline__ void expand_column(T* out, const T* b_t, const LoraMiddle& mid, int projection, int64_t row,
                                              int rank, float scale, int64_t width) {
    float sum[kRows] = {};
    for (int i = 0; i < rank; ++i) {
        const float w = to_float(b_t[i * width]);
#pragma unroll
        for (int k = 0; k < kRows; ++k) {
            float m = 0;
            for (int slab = 0; slab < mid.slabs; ++slab) m += mid.row(slab, projection, row + k)[i];
            sum[k] = fmaf(m, w, sum[k]);
        }
    }
#pragma unroll
    for (int k = 0; k < kRows; ++k) out[k * width] = from_float<T>(fmaf(scale, sum[k], to_float(out[k * width])));
}

template <class T>
__global__ void __launch_bounds__(kThreads) expand_plain(const __grid_constant__ LoraOutputs<T> outputs, LoraMiddle mid,
                                                         const CudaTile* tiles, int first_part) {
    pdl_trigger();
    const CudaTile tile = tiles[blockIdx.z];
    const int p = int(blockIdx.y);
    const CudaPart* part = part_of(tile, first_part + p);
    const auto* b_t = static_cast<const T*>(part ? part->b_t : nullptr);
    const int rank = b_t ? part->rank : 0;
    const float scale = b_t ? part->scale : 0;
    const int64_t width = outputs.width[p], column = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    pdl_wait();
    if (column >= width || rank == 0) return;
    T* out = outputs.out[p] + tile.row_begin * width + column;
    int row = 0;
    for (; row + 8 <= tile.rows; row += 8)
        expand_column<8>(out + row * width, b_t + column, mid, p, tile.row_begin + row, rank, scale, width);
    for (; row < tile.rows; ++row)
        expand_column<1>(out + row * width, b_t + column, mid, p, tile.row_begin + row, rank, scale, width);
}

// Whether all widths are multiples of 8.
template <class T>
bool has_octets(const LoraOutputs<T>& outputs, int num_projections) {
    return std::all_of(outputs.width, outputs.width + num_projections, [](int64_t width) { return width % 8 == 0; });
}

// Whether the batch takes lora_long.h.
template <class T>
bool takes_long(int64_t rows, int64_t in, bool octets, int max_rank) {
    return is_16_bit<T> && rows > kManyRows && in % 8 == 0 && octets && max_rank <= kMostFastRank;
}

}  // namespace

template <class T>
bool lora_sets(const CudaDevice& device, const LoraOutputs<T>& outputs, int num_tiles, int num_projections,
               int64_t rows, int64_t in, int max_rank) {
    return takes_long<T>(rows, in, has_octets(outputs, num_projections), max_rank) && max_rank <= kMostHopperRank &&
           takes_warpgroups(device, rows, num_tiles);
}
template bool lora_sets(const CudaDevice&, const LoraOutputs<float>&, int, int, int64_t, int64_t, int);
template bool lora_sets(const CudaDevice&, const LoraOutputs<bf16>&, int, int, int64_t, int64_t, int);
template bool lora_sets(const CudaDevice&, const LoraOutputs<f16>&, int, int, int64_t, int64_t, int);

template <class T>
void lora(CudaDevice& device, const LoraOutputs<T>& outputs, const T* x, const CudaTile* tiles, int num_tiles,
          int first_part, int num_projections, int64_t rows, int64_t in, int max_rank, float* workspace, bool sets) {
    CHECK(rows >= 0 && num_tiles >= 0 && num_tiles <= 65535 / kMaxLoraProjections && first_part >= 0 && max_rank >= 0);
    CHECK(num_projections >= 0 && num_projections <= kMaxLoraProjections);
    CHECK(in > 0 && in <= 1 << 24 && aligned_to_16(workspace));
    CHECK(!sets || lora_sets<T>(device, outputs, num_tiles, num_projections, rows, in, max_rank));
    const bool octets = has_octets(outputs, num_projections);
    int64_t widest = 0;
    for (int p = 0; p < num_projections; ++p) {
        CHECK(outputs.width[p] > 0 && outputs.width[p] <= 1 << 24 && outputs.out[p] != x);
        widest = std::max(widest, outputs.width[p]);
    }
    if (rows == 0 || num_tiles == 0 || num_projections == 0 || max_rank == 0) return;

    const int64_t blocks_of_ranks = divide_up(max_rank, kRanks);
    const bool shrink_fast = is_16_bit<T> && in % 8 == 0,
               expand_fast = is_16_bit<T> && octets && max_rank <= kMostFastRank;
    LoraMiddle mid;
    mid.data = workspace;
    mid.rows = rows;
    mid.num_projections = num_projections;
    mid.split = takes_long<T>(rows, in, octets, max_rank);
    mid.slabs = shrink_fast && !mid.split ? int(divide_up(in, kSlab)) : 1;
    mid.ranks = int(blocks_of_ranks) * kRanks;

    const auto plain_grid = [&](int64_t blocks) {
        return dim3(unsigned(blocks), unsigned(num_projections), unsigned(num_tiles));
    };
    if constexpr (is_16_bit<T>)
        if (shrink_fast) {
            CHECK(aligned_to_16(x));
            if (mid.split) {
                shrink_long<T>(device, mid, x, tiles, num_tiles, first_part, int(in), max_rank);
            } else {
                const dim3 turns = tile_grid(device, blocks_of_ranks, num_projections * mid.slabs, num_tiles, 4);
                const dim3 grid(unsigned(mid.slabs), turns.x, unsigned(num_projections * num_tiles));
                launch(device, shrink_streaming<T>, grid, kThreads, 0, mid, x, tiles, first_part, int(in));
            }
        }
    if (!shrink_fast)
        launch(device, shrink_plain<T>, plain_grid(divide_up(mid.ranks, kWarps)), kThreads, 0, mid, x, tiles,
               first_part, in);
    if constexpr (is_16_bit<T>)
        if (expand_fast) {
            for (int p = 0; p < num_projections; ++p) CHECK(aligned_to_16(outputs.out[p]));
            if (mid.split && max_rank <= kMostLongRank)
                return expand_long<T>(device, outputs, mid, tiles, num_tiles, first_part, max_rank, sets);
            const dim3 grid = tile_grid(device, divide_up(widest, columns_of_block(max_rank)), num_projections,
                                        num_tiles, 4, /*waves=*/16);
            const auto expand = mid.split                               ? expand_streaming<T, 16, 1024, true>
                                : rows >= int64_t(kFewRows) * num_tiles ? expand_streaming<T, 16, 1024, false>
                                                                        : expand_streaming<T, 8, 1024, false>;
            launch(device, expand, grid, kThreads, 0, outputs, mid, tiles, first_part);
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
