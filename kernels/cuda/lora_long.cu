// The shrink reads a tile's rows of x once for up to 96 ranks of all projections together, k after k through shared
// memory; all blocks of a tile run side by side, so that x comes from memory once. Two groups of four warps take slabs
// of k in turn, each with a pipeline of its own, so that one computes while the other waits at its barrier.
//
// The expand is a stream through out: a block keeps its columns of B in registers and walks down the rows of many
// tiles, with eight steps of 8 rows of out and of inner sums on their way to shared memory. The pipeline does not drain
// between tiles, and B is read again only where the adapter or the columns change.
//
// GPUs of compute capability 9.0 have kernels of their own for most of this: lora_shrink_hopper.cu and
// lora_expand_hopper.cu.
#include "kernels/cuda/lora_long.h"

#include "kernels/check.h"
#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/lora_parts.cuh"
#include "kernels/cuda/tiles.cuh"
#include "kernels/cuda/words.cuh"

#include <optional>

namespace spartan {

namespace {

// ---- shrink

constexpr int kHalfThreads = 128, kShrinkThreads = 2 * kHalfThreads;
constexpr int kStageK = 64, kUnits = kStageK / 8;  // units of 16 bytes in a row of a stage
constexpr int kSlabSteps = kLoraSlab / kStageK, kChunkSteps = kLoraChunk / kStageK;
constexpr int kWarpOctets = kTileRows / 8 / 2;  // of rows: two warps of a half share them

// Two warps beside each other take kPieces times 16 ranks each.
template <int kPieces>
struct ShrinkShape {
    static constexpr int kBlockPieces = 2 * kPieces;
    static constexpr int kStageUnits = (kTileRows + kBlockPieces * kLoraRanks) * kUnits;
    static constexpr int kStages = kPieces == 1 ? 3 : 4;
    static constexpr int kRingUnits = kStages * kStageUnits;                // of a half
    static constexpr int kSumUnits = kPieces * kWarpOctets * kHalfThreads;  // a half's sums
    static constexpr int kSumsRow = kBlockPieces * kLoraRanks + 4;  // floats; so padded, warps' stores meet all banks
    static constexpr int kBytes = (2 * kRingUnits + 2 * kSumUnits) * 16;
    static constexpr int kResident = kPieces == 1 ? 2 : 1;
    static_assert(kTileRows * kSumsRow * 4 <= kRingUnits * 16);
};

// A unit of a stage's row. Those of odd rows are swapped by halves so that 8 lanes reading 4 neighbouring units of 2
// rows meet all banks once.
__device__ __forceinline__ int unit_at(int row, int unit) { return row * kUnits + (unit ^ (row % 2 * 4)); }

__device__ __forceinline__ void sync_half(int half) {
    asm volatile("bar.sync %0, %1;" ::"r"(1 + half), "n"(kHalfThreads) : "memory");
}

template <int kPieces>
using WarpSums = float[kPieces][kWarpOctets][4];

__device__ __forceinline__ float4 operator+(const float4& a, const float4& b) {
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

// What a warp makes of a stage. kAll: it has kPieces pieces and kWarpOctets octets of rows, else fewer.
template <class T, int kPieces, bool kAll>
__device__ __forceinline__ void multiply(WarpSums<kPieces>& c, const uint4* stage, int x_row, int a_row, int pieces,
                                         int octets) {
    const int lane = int(threadIdx.x) % 32, r = lane / 4, q = lane % 4;
#pragma unroll
    for (int i = 0; i < kStageK / 32; ++i) {
        uint4 a[kPieces][2];
#pragma unroll
        for (int j = 0; j < kPieces; ++j)
#pragma unroll
            for (int high = 0; high < 2; ++high)
                a[j][high] = stage[unit_at(a_row + kLoraRanks * j + 8 * high + r, 4 * i + q)];
#pragma unroll
        for (int t = 0; t < kWarpOctets; ++t) {
            if (!kAll && t >= octets) break;
            const uint4 x = stage[unit_at(x_row + 8 * t + r, 4 * i + q)];
#pragma unroll
            for (int j = 0; j < kPieces; ++j)
                if (kAll || j < pieces) mma_32<T>(c[j][t], a[j][0], a[j][1], x);
        }
    }
}

// Grid: [pieces, ShrinkShape::kBlockPieces at a time][tile].
template <class T, int kPieces>
__global__ void __launch_bounds__(kShrinkThreads, ShrinkShape<kPieces>::kResident)
    shrink_kernel(LoraMiddle mid, const T* x, const CudaTile* tiles, int first_part, int in) {
    using Shape = ShrinkShape<kPieces>;
    extern __shared__ uint4 shared[];  // [half][stage][row of x, of A][unit], what half 1 gives half 0, the sum
    __shared__ LoraPiece<T> pieces[Shape::kBlockPieces];
    pdl_trigger();
    const CudaTile tile = tiles[blockIdx.y];
    const int thread = int(threadIdx.x) % kHalfThreads, half = int(threadIdx.x) / kHalfThreads;
    if (threadIdx.x < Shape::kBlockPieces)
        pieces[threadIdx.x] = LoraPiece<T>::of(tile, first_part, mid.num_projections,
                                               int(blockIdx.x) * Shape::kBlockPieces + int(threadIdx.x), in);
    __syncthreads();
    if (!pieces[0].a) return pdl_wait();

    const int load_row = thread / kUnits, load_unit = thread % kUnits;  // 16 rows at a time
    const T* a[Shape::kBlockPieces];
    int num_pieces = 0;
#pragma unroll
    for (int j = 0; j < Shape::kBlockPieces; ++j) {
        const LoraPiece<T> piece = pieces[j];
        a[j] = load_row < piece.ranks ? piece.a + int64_t(load_row) * in + 8 * load_unit : nullptr;
        num_pieces += piece.a ? 1 : 0;
    }
    x += (tile.row_begin + load_row) * int64_t(in) + 8 * load_unit;
    uint4* const ring = shared + half * Shape::kRingUnits;
    // Steps of 64 k, of the slabs half, half + 2, ...
    const auto k_of = [&](int step) {
        return (half + step / kSlabSteps * 2) * kLoraSlab + step % kSlabSteps * kStageK;
    };
    const auto request_a = [&](int step) {
        uint4* const stage = ring + step % Shape::kStages * Shape::kStageUnits;
        const int k = k_of(step);
        if (k >= in) return;
#pragma unroll
        for (int j = 0; j < Shape::kBlockPieces; ++j) {
            const bool wanted = a[j] && k + 8 * load_unit < in;
            copy_async<16>(stage + unit_at(kTileRows + kLoraRanks * j + load_row, load_unit), wanted ? a[j] + k : x,
                           wanted);
        }
    };
    const auto request_x = [&](int step) {
        uint4* const stage = ring + step % Shape::kStages * Shape::kStageUnits;
        const int k = k_of(step);
        if (k >= in) return;
#pragma unroll
        for (int row = 0; row < kTileRows; row += 16) {
            const bool wanted = row + load_row < tile.rows && k + 8 * load_unit < in;
            if (row < tile.rows)
                copy_async<16>(stage + unit_at(row + load_row, load_unit), wanted ? x + row * int64_t(in) + k : x,
                               wanted);
        }
    };
    for (int step = 0; step < Shape::kStages - 1; ++step) request_a(step);
    pdl_wait();
    for (int step = 0; step < Shape::kStages - 1; ++step) {
        request_x(step);
        end_copy_group();
    }

    const int lane = thread % 32, warp = thread / 32, piece = warp % 2 * kPieces, octet = warp / 2 * kWarpOctets;
    const int own_pieces = min(num_pieces - piece, kPieces), octets = (tile.rows + 7) / 8 - octet;
    const bool all = own_pieces == kPieces && octets >= kWarpOctets;
    WarpSums<kPieces> chunk = {};
    // A lane's own, each as [piece][octet].
    float4* const given = reinterpret_cast<float4*>(shared + 2 * Shape::kRingUnits) + thread;
    float4* const sum = given + Shape::kSumUnits;
    const int slabs = (in + kLoraSlab - 1) / kLoraSlab;
    int step = 0;
#pragma unroll 1
    for (int slab = half; slab - half < slabs; slab += 2) {
        WarpSums<kPieces> slab_sum = {};
        const int steps = min(kSlabSteps, (in - slab * kLoraSlab + kStageK - 1) / kStageK);
#pragma unroll 1
        for (int i = 0; i < steps; ++i, ++step) {
            wait_for_copies<Shape::kStages - 2>();
            sync_half(half);  // this stage is here for all, and all are done with the one that is overwritten next
            request_a(step + Shape::kStages - 1);
            request_x(step + Shape::kStages - 1);
            end_copy_group();
            const uint4* const stage = ring + step % Shape::kStages * Shape::kStageUnits;
            const int x_row = 8 * octet, a_row = kTileRows + kLoraRanks * piece;
            if (all)
                multiply<T, kPieces, true>(chunk, stage, x_row, a_row, own_pieces, octets);
            else if (own_pieces > 0)
                multiply<T, kPieces, false>(chunk, stage, x_row, a_row, own_pieces, octets);
            if (i % kChunkSteps == kChunkSteps - 1 || i == steps - 1) take(slab_sum, chunk);
        }
        const auto of_slab = [&](int j, int t) {
            return make_float4(slab_sum[j][t][0], slab_sum[j][t][1], slab_sum[j][t][2], slab_sum[j][t][3]);
        };
        __syncthreads();  // what was given before has been taken
        if (half == 1)
#pragma unroll
            for (int j = 0; j < kPieces; ++j)
#pragma unroll
                for (int t = 0; t < kWarpOctets; ++t) given[(j * kWarpOctets + t) * kHalfThreads] = of_slab(j, t);
        __syncthreads();
        if (half == 0)
#pragma unroll
            for (int j = 0; j < kPieces; ++j)
#pragma unroll
                for (int t = 0; t < kWarpOctets; ++t) {
                    const int at = (j * kWarpOctets + t) * kHalfThreads;
                    const float4 before = slab == 0 ? float4{} : sum[at], own = before + of_slab(j, t);
                    sum[at] = slab + 1 < slabs ? own + given[at] : own;
                }
    }

    // By row, four ranks at a time, through what were the stages.
    float* const sums = reinterpret_cast<float*>(shared);
    if (half == 0)
#pragma unroll
        for (int j = 0; j < kPieces; ++j)
#pragma unroll
            for (int t = 0; t < kWarpOctets; ++t) {
                const float4 v = sum[(j * kWarpOctets + t) * kHalfThreads];
                float* const to =
                    sums + (8 * (octet + t) + 2 * (lane % 4)) * Shape::kSumsRow + kLoraRanks * (piece + j) + lane / 4;
                to[0] = v.x;
                to[Shape::kSumsRow] = v.y;
                to[8] = v.z;
                to[Shape::kSumsRow + 8] = v.w;
            }
    __syncthreads();
    constexpr int kQuads = Shape::kBlockPieces * 4;
    for (int i = int(threadIdx.x); i < tile.rows * kQuads; i += kShrinkThreads) {
        const int row = i / kQuads, quad = i % kQuads;
        const LoraPiece<T>& of = pieces[quad / 4];
        if (of.a)
            mid.split_row(of.projection, tile.row_begin + row)[of.batch * 4 + quad % 4] =
                split_quad<T>(*reinterpret_cast<const float4*>(sums + row * Shape::kSumsRow + 4 * quad));
    }
}

template <class T, int kPieces>
void launch_shrink(CudaDevice& device, const LoraMiddle& mid, const T* x, const CudaTile* tiles, int num_tiles,
                   int first_part, int in, int64_t pieces) {
    using Shape = ShrinkShape<kPieces>;
    const auto kernel = shrink_kernel<T, kPieces>;
    CHECK_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kBytes));
    const dim3 grid(unsigned(divide_up(pieces, Shape::kBlockPieces)), unsigned(num_tiles));
    launch(device, kernel, grid, kShrinkThreads, Shape::kBytes, mid, x, tiles, first_part, in);
}

// How long a GPU takes that runs these blocks one after another, in some unit; nothing where it has no room for one.
template <int kPieces>
std::optional<int64_t> cost_of(const CudaDevice& device, int most_shared, int64_t pieces, int num_tiles) {
    using Shape = ShrinkShape<kPieces>;
    if (Shape::kBytes + 1024 > most_shared) return {};
    return divide_up(divide_up(pieces, Shape::kBlockPieces) * num_tiles, device.num_sms()) *
           (kPieces + 2);  // what a warp reads of shared memory for each MMA
}

// ---- expand

constexpr int kExpandWarps = 8, kExpandThreads = 32 * kExpandWarps;
constexpr int kPanel = kExpandWarps * kLoraColumns;  // columns of a block
constexpr int kExpandStages = 8;                     // steps of 8 rows that are here or on their way
constexpr int kMostUnits = 32;

// kBatches: of 16 ranks, that a warp holds of B.
template <int kBatches>
struct ExpandStage {
    uint4 out[kExpandWarps][2][32];
    uint4 inner[kBatches][32];
};

template <class T, int kBatches>
struct ExpandRun {
    using Stage = ExpandStage<kBatches>;
    Stage* const stages;
    const LoraUnit<T>* const units;
    const int count, quads_of_row;

    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32, r = lane / 4, q = lane % 4;
    const int own_column = warp * kLoraColumns + 8 * r;
    PieceOfB b[kBatches];
    const T* held = nullptr;  // whose B that is

    // 8 rows of a unit.
    struct Step {
        int unit = -1, row = 0;
    };
    __device__ void next_unit(Step& s) const {
        s.row = 0;
        do ++s.unit;
        while (s.unit < count && units[s.unit].rows == 0);
    }
    __device__ void advance(Step& s) const {
        s.row += 8;
        if (s.row >= units[s.unit].rows) next_unit(s);
    }

    __device__ void load_b(const LoraUnit<T>& u) {
        held = u.b_t;
        const T* p = u.b_t + 4 * q * int64_t(u.width) + own_column;
#pragma unroll
        for (int n = 0; n < kBatches; ++n)
            b[n].load(own_column < u.columns, p + n * kLoraRanks * int64_t(u.width), u.width,
                      u.rank - n * kLoraRanks - 4 * q);
#pragma unroll
        for (PieceOfB& piece : b) piece.arrange();
    }

    __device__ bool has(const LoraUnit<T>& u, int row) const { return row < u.rows && own_column < u.columns; }
    __device__ T* place(const LoraUnit<T>& u, int row) const { return u.out + (row * u.width + own_column); }

    __device__ void request(Stage& stage, Step& s) const {
        if (s.unit < count) {
            const LoraUnit<T>& u = units[s.unit];
#pragma unroll
            for (int i = 0; i < 2; ++i)
                if (const int row = s.row + 2 * q + i; has(u, row))
                    copy_async<16>(&stage.out[warp][i][lane], place(u, row));
            const int quad = int(threadIdx.x) % (4 * kBatches), row = int(threadIdx.x) / (4 * kBatches);
            if (row < 8 && s.row + row < u.rows && quad / 4 * kLoraRanks < u.rank)
                copy_async<16>(&stage.inner[quad / 4][row * 4 + quad % 4],
                               u.inner + ((s.row + row) * quads_of_row + quad));
            advance(s);
        }
        end_copy_group();
    }

    // In lora.cu's order: 64 ranks at a time, which are then added up.
    __device__ void multiply(float (&c)[4][4], const Stage& stage, int rank) const {
#pragma unroll
        for (int n = 0; n < 4; ++n)
            if (n * kLoraRanks < rank) b[n].template multiply<T>(c, stage.inner[n][lane]);
        if constexpr (kBatches > 4) {
            if (rank <= 4 * kLoraRanks) return;
            float more[4][4] = {};
#pragma unroll
            for (int n = 4; n < kBatches; ++n)
                if (n * kLoraRanks < rank) b[n].template multiply<T>(more, stage.inner[n][lane]);
#pragma unroll
            for (int j = 0; j < 4; ++j)
#pragma unroll
                for (int e = 0; e < 4; ++e) c[j][e] += more[j][e];
        }
    }

    __device__ void store(const LoraUnit<T>& u, int first_row, const Stage& stage, const float (&c)[4][4]) const {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int row = first_row + 2 * q + i;
            if (!has(u, row)) continue;
            const uint4 old = stage.out[warp][i][lane];
            const uint32_t words[4] = {old.x, old.y, old.z, old.w};
            uint32_t sums[4];
#pragma unroll
            for (int j = 0; j < 4; ++j)
                sums[j] = pack<T>(fmaf(u.scale, c[j][i], low_of<T>(words[j])),
                                  fmaf(u.scale, c[j][i + 2], high_of<T>(words[j])));
            store_words(place(u, row), sums);
        }
    }

    __device__ void run(bool& waited) {
        Step asked, now;
        next_unit(now);
        if (now.unit < count) load_b(units[now.unit]);
        asked = now;
        if (!waited) pdl_wait();
        waited = true;
        for (int i = 0; i < kExpandStages - 1; ++i) request(stages[i], asked);
#pragma unroll 1
        for (int i = 0; now.unit < count; ++i) {
            const LoraUnit<T>& u = units[now.unit];
            if (u.b_t != held) load_b(u);
            wait_for_copies<kExpandStages - 2>();
            __syncthreads();  // this stage is here for all, and all are done with the one that is overwritten next
            request(stages[(i + kExpandStages - 1) % kExpandStages], asked);
            const Stage& stage = stages[i % kExpandStages];
            float c[4][4] = {};
            multiply(c, stage, u.rank);
            store(u, now.row, stage, c);
            advance(now);
        }
    }
};

// Every block takes as many units as the others, one behind the other.
template <class T, int kBatches>
__global__ void __launch_bounds__(kExpandThreads, kBatches <= 4 ? 2 : 1)
    expand_kernel(const __grid_constant__ LoraOutputs<T> outputs, LoraMiddle mid, const CudaTile* tiles, int num_tiles,
                  int first_part, int64_t num_units) {
    using Run = ExpandRun<T, kBatches>;
    extern __shared__ uint4 shared[];
    __shared__ LoraUnit<T> units[kMostUnits];
    pdl_trigger();
    const int64_t begin = num_units * blockIdx.x / gridDim.x, end = num_units * (blockIdx.x + 1) / gridDim.x;
    bool waited = false;
#pragma unroll 1
    for (int64_t first = begin; first < end; first += kMostUnits) {
        const int count = int(min(end - first, int64_t(kMostUnits)));
        __syncthreads();  // all are done with the last ones
        if (int(threadIdx.x) < count)
            units[threadIdx.x] =
                LoraUnit<T>::of(outputs, mid, tiles, num_tiles, first_part, kPanel, first + int64_t(threadIdx.x));
        __syncthreads();
        Run{reinterpret_cast<typename Run::Stage*>(shared), units, count, mid.ranks / 4}.run(waited);
    }
    if (!waited) pdl_wait();
}

template <class T, int kBatches>
void launch_expand(CudaDevice& device, const LoraOutputs<T>& outputs, const LoraMiddle& mid, const CudaTile* tiles,
                   int num_tiles, int first_part) {
    const int64_t units = panels_of(outputs, mid.num_projections, kPanel) * num_tiles;
    constexpr int kShared = kExpandStages * int(sizeof(ExpandStage<kBatches>));
    const auto kernel = expand_kernel<T, kBatches>;
    CHECK_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared));
    const int64_t resident = (kBatches <= 4 ? 2 : 1) * int64_t(device.num_sms());
    launch(device, kernel, dim3(unsigned(std::min(units, resident))), kExpandThreads, kShared, outputs, mid, tiles,
           num_tiles, first_part, units);
}

}  // namespace

bool takes_warpgroups(const CudaDevice& device, int64_t rows, int num_tiles) {
    return runs_hopper_code(device.compute_capability()) && 2 * rows >= int64_t(kTileRows) * num_tiles;
}

template <class T>
void shrink_long(CudaDevice& device, const LoraMiddle& mid, const T* x, const CudaTile* tiles, int num_tiles,
                 int first_part, int in, int max_rank) {
    CHECK(mid.split && in % 8 == 0 && num_tiles <= 65535);
    if (takes_warpgroups(device, mid.rows, num_tiles))
        return shrink_hopper(device, mid, x, tiles, num_tiles, first_part, in, max_rank);
    int most_shared = 0;
    CHECK_CUDA(cudaDeviceGetAttribute(&most_shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device.ordinal()));
    const int64_t pieces = divide_up(max_rank, kLoraRanks) * mid.num_projections;
    const auto two = cost_of<2>(device, most_shared, pieces, num_tiles),
               three = cost_of<3>(device, most_shared, pieces, num_tiles);
    const auto shrink = three && *three <= *two ? launch_shrink<T, 3> : two ? launch_shrink<T, 2> : launch_shrink<T, 1>;
    shrink(device, mid, x, tiles, num_tiles, first_part, in, pieces);
}

template <class T>
void expand_long(CudaDevice& device, const LoraOutputs<T>& outputs, const LoraMiddle& mid, const CudaTile* tiles,
                 int num_tiles, int first_part, int max_rank, bool sets) {
    CHECK(mid.split && max_rank <= kMostLongRank);
    if (takes_warpgroups(device, mid.rows, num_tiles) && max_rank <= kMostHopperRank)
        return expand_hopper(device, outputs, mid, tiles, num_tiles, first_part, sets);
    CHECK(!sets);
    const auto expand = max_rank <= 64 ? launch_expand<T, 4> : launch_expand<T, 8>;
    expand(device, outputs, mid, tiles, num_tiles, first_part);
}

template void shrink_long(CudaDevice&, const LoraMiddle&, const bf16*, const CudaTile*, int, int, int, int);
template void shrink_long(CudaDevice&, const LoraMiddle&, const f16*, const CudaTile*, int, int, int, int);
template void expand_long(CudaDevice&, const LoraOutputs<bf16>&, const LoraMiddle&, const CudaTile*, int, int, int,
                          bool);
template void expand_long(CudaDevice&, const LoraOutputs<f16>&, const LoraMiddle&, const CudaTile*, int, int, int,
                          bool);

}  // namespace spartan
