// shrink_long() by warpgroup products, on GPUs of compute capability 9.0.
//
//     CTA   a tile's rows, up to 192 ranks of all projections together, one slab of k. One warpgroup brings x and A
//           into a ring of stages, the other multiplies; two CTAs share a multiprocessor
//
// The slabs' sums go through the workspace to a kernel that adds them by rising k. Clusters whose CTAs give each other
// their sums spare that, but do not find room on all multiprocessors.
//
// The bits are those of mma_32() (lora_parts.cuh), whose two products of 32 k each take four k of every eight. A
// product here takes sixteen k that lie side by side, so the k are put into that order in shared memory by the threads
// that brought them. Copies of 8 bytes to their places would do it too, but come by way of the L1 cache: they are
// slower.
#include "kernels/check.h"
#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/lora_long.h"
#include "kernels/cuda/lora_parts.cuh"

#include <algorithm>

namespace spartan {

namespace {

constexpr int kMultiplying = 128, kBringing = 128, kThreads = kMultiplying + kBringing;
constexpr int kResident = 2;
constexpr int kStageK = 64, kSlabSteps = kLoraSlab / kStageK;
constexpr int kRowBytes = kStageK * 2;

// kProducts side by side of kColumns ranks.
template <int kProducts_, int kColumns_, int kStages_>
struct ShrinkShape {
    static constexpr int kProducts = kProducts_, kColumns = kColumns_, kStages = kStages_;
    static constexpr int kRanks = kProducts * kColumns, kPieces = kRanks / kLoraRanks;
    static constexpr int kBytesX = kTileRows * kRowBytes, kStageBytes = kBytesX + kRanks * kRowBytes;
    static constexpr int kRingBytes = kStages * kStageBytes, kSharedBytes = kRingBytes + kStages * 16;
    static_assert(kSharedBytes <= 112 * 1024);
};

template <class T, class Shape>
struct HopperShrink {
    // Of a thread that multiplies, that brings; on average what all have at the start.
    static constexpr int kRegisters = 216, kBringRegisters = 40;
    static constexpr int kChunkSteps = kLoraChunk / kStageK;
    static constexpr int kBatchBytes = 16 * kRowBytes;  // a thread brings a piece of every 16th row

    const LoraMiddle& mid;
    const CudaTile& tile;
    const LoraPiece<T>* const pieces;  // in shared memory
    std::byte* const shared;
    const int in, num_pieces;

    const int slab = int(blockIdx.x), first_k = slab * kLoraSlab;
    const int steps = min(kSlabSteps, (in - first_k + kStageK - 1) / kStageK);
    const uint32_t first_byte = shared_address(shared), full = first_byte + Shape::kRingBytes,
                   empty = full + Shape::kStages * 8;

    __device__ void init_barriers() const {
        if (threadIdx.x == 0)
            for (int s = 0; s < Shape::kStages; ++s) {
                init_barrier(full + s * 8, kBringing);
                init_barrier(empty + s * 8, kMultiplying / 32);
            }
    }

    __device__ __forceinline__ static uint4 load_shared(uint32_t address) {
        uint4 v;
        asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                     : "r"(address)
                     : "memory");
        return v;
    }
    __device__ __forceinline__ static void store_shared(uint32_t address, uint32_t low, uint32_t high) {
        asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(address), "r"(low), "r"(high) : "memory");
    }

    // A thread brings one piece of 16 bytes of every 16th row of a stage: of four neighbouring rows eight threads
    // beside each other have the first, the next eight the third, so that their stores of arrange() meet all banks.
    __device__ void bring(const T* x) const {
        const int thread = int(threadIdx.x) % kBringing, piece = thread % 8;
        const int row = thread / 32 * 4 + thread / 8 % 2 * 2 + thread / 16 % 2;
        const int64_t own = row * int64_t(in) + 8 * piece, batch_of_rows = 16 * int64_t(in);
        x += tile.row_begin * int64_t(in) + own;
        bool all_ranks = num_pieces == Shape::kPieces;
        for (int j = 0; j < num_pieces; ++j) all_ranks = all_ranks && pieces[j].ranks >= kLoraRanks;
        // What lies behind `in` or a piece's ranks must be zero; rows and pieces that there are not stay as they are,
        // nobody asks for their sums.
        const auto request_a = [&](int slot, int k) {
            std::byte* to = shared + slot * Shape::kStageBytes + Shape::kBytesX + operand_offset(row, piece);
            const bool inside = k + 8 * piece < in;
            if (all_ranks) {
                constexpr int kAtOnce = 2;  // rows' addresses that are looked up together
#pragma unroll
                for (int j = 0; j < Shape::kPieces; j += kAtOnce) {
                    const T* a[kAtOnce];
#pragma unroll
                    for (int n = 0; n < kAtOnce; ++n) a[n] = pieces[j + n].a + (own + k);
#pragma unroll
                    for (int n = 0; n < kAtOnce; ++n) copy_async<16>(to + (j + n) * kBatchBytes, a[n], inside);
                }
            } else {
#pragma unroll 1
                for (int j = 0; j < num_pieces; ++j, to += kBatchBytes)
                    copy_async<16>(to, pieces[j].a + (own + k), inside && row < pieces[j].ranks);
            }
        };
        const auto request_x = [&](int slot, int k) {
            std::byte* to = shared + slot * Shape::kStageBytes + operand_offset(row, piece);
            const T* from = x + k;
            const bool inside = k + 8 * piece < in;
#pragma unroll
            for (int i = 0; i < kTileRows; i += 16, to += kBatchBytes, from += batch_of_rows)
                if (i < tile.rows) copy_async<16>(to, from, inside && i + row < tile.rows);
        };
        // From the order of k to that of the products, all that this warp has copied.
        const uint32_t own_piece = first_byte + operand_offset(row, piece);
        const int place = piece / 4 * 4 + piece % 4 / 2;  // of the piece's first half; the other's is 2 behind
        const uint32_t first_half = first_byte + operand_offset(row, place) + piece % 2 * 8,
                       second_half = first_byte + operand_offset(row, place + 2) + piece % 2 * 8;
        const auto arrange = [&](int slot) {
            constexpr int kAll = kTileRows / 16 + Shape::kPieces, kAtOnce = kAll % 4 == 0 ? 4 : 2;
            static_assert(kAll % kAtOnce == 0);
            const uint32_t stage = slot * Shape::kStageBytes;
            const int batches = kTileRows / 16 + num_pieces;
#pragma unroll
            for (int i = 0; i < kAll; i += kAtOnce) {
                if (i >= batches) break;
                uint4 v[kAtOnce];
#pragma unroll
                for (int n = 0; n < kAtOnce; ++n) v[n] = load_shared(own_piece + stage + (i + n) * kBatchBytes);
                __syncwarp();
#pragma unroll
                for (int n = 0; n < kAtOnce; ++n) {
                    store_shared(first_half + stage + (i + n) * kBatchBytes, v[n].x, v[n].y);
                    store_shared(second_half + stage + (i + n) * kBatchBytes, v[n].z, v[n].w);
                }
            }
            show_to_products();
            arrive(full + slot * 8);
        };

        constexpr int kAhead = Shape::kStages - 1;
        for (int i = 0; i < min(kAhead, steps); ++i) request_a(i, first_k + i * kStageK);
        pdl_wait();
        Ring<Shape::kStages> asked, here;
        for (int i = 0; i < kAhead; ++i) {
            if (i < steps) request_x(i, first_k + i * kStageK);
            end_copy_group();
            asked.next();
        }
#pragma unroll 1
        for (int i = 0; i < steps; ++i) {
            wait_for_copies<kAhead - 1>();
            arrange(here.slot);
            here.next();
            if (i + kAhead < steps) {
                const int k = first_k + (i + kAhead) * kStageK;
                wait_for(empty + asked.slot * 8, asked.phase ^ 1);
                request_a(asked.slot, k);
                request_x(asked.slot, k);
                asked.next();
            }
            end_copy_group();
        }
    }

    using Sums = float[Shape::kProducts][Shape::kColumns / 2];

    template <int kProducts>
    __device__ __forceinline__ void multiply(Sums& chunk, uint64_t x, uint64_t a) const {
        begin_products();
#pragma unroll
        for (int k = 0; k < kStageK; k += 16)
#pragma unroll
            for (int n = 0; n < kProducts; ++n)
                add_product<T>(chunk[n], x + (k * 2 >> 4), a + (n * Shape::kColumns * kRowBytes + k * 2 >> 4));
        end_products();
        wait_for_products<0>();
#pragma unroll
        for (auto& of_product : chunk) hold(of_product);
    }

    __device__ void sum_up() const {
        const int thread = int(threadIdx.x), lane = thread % 32;
        const bool all = num_pieces > Shape::kColumns / kLoraRanks;
        Ring<Shape::kStages> ring;
        Sums sums = {};
#pragma unroll 1
        for (int left = steps; left > 0; left -= kChunkSteps) {
            Sums chunk = {};
#pragma unroll 1
            for (int i = min(left, kChunkSteps); i > 0; --i) {
                const uint32_t stage = first_byte + ring.slot * Shape::kStageBytes;
                const uint64_t x = operand_along_k(stage), a = operand_along_k(stage + Shape::kBytesX);
                wait_for(full + ring.slot * 8, ring.phase);
                if (all)
                    multiply<Shape::kProducts>(chunk, x, a);
                else
                    multiply<1>(chunk, x, a);
                __syncwarp();
                if (lane == 0) arrive(empty + ring.slot * 8);
                ring.next();
            }
#pragma unroll
            for (int n = 0; n < Shape::kProducts; ++n)
#pragma unroll
                for (int e = 0; e < Shape::kColumns / 2; ++e) sums[n][e] += chunk[n][e];
        }
        pdl_wait();
        const int row = thread / 32 * 16 + lane / 4;  // and the one 8 behind it
#pragma unroll
        for (int j = 0; j < Shape::kPieces; ++j) {
            if (j >= num_pieces) break;
            const auto& of_product = sums[j * kLoraRanks / Shape::kColumns];
            const int first = j * kLoraRanks % Shape::kColumns / 2;
            float* const to =
                mid.row(slab, pieces[j].projection, tile.row_begin + row) + pieces[j].batch * kLoraRanks + lane % 4 * 2;
#pragma unroll
            for (int e = 0; e < 8; e += 2)
                if (row + e / 2 % 2 * 8 < tile.rows)
                    *reinterpret_cast<float2*>(to + e / 2 % 2 * 8 * mid.ranks + e / 4 * 8) =
                        make_float2(of_product[first + e], of_product[first + e + 1]);
        }
    }
};

// Grid: [slab][pieces, kPieces at a time][tile].
template <class T, class Shape>
__global__ void __launch_bounds__(kThreads, kResident)
    shrink_hopper_kernel(LoraMiddle mid, const T* x, const CudaTile* tiles, int first_part, int in) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    extern __shared__ __align__(1024) std::byte shared[];  // the ring, its barriers
    __shared__ LoraPiece<T> pieces[Shape::kPieces];
    pdl_trigger();
    const CudaTile tile = tiles[blockIdx.z];
    bool has_piece = false;
    if (threadIdx.x < Shape::kPieces) {
        const LoraPiece<T> piece = LoraPiece<T>::of(tile, first_part, mid.num_projections,
                                                    int(blockIdx.y) * Shape::kPieces + int(threadIdx.x), in);
        pieces[threadIdx.x] = piece;
        has_piece = piece.a != nullptr;
    }
    const int num_pieces = __syncthreads_count(has_piece);
    if (num_pieces == 0) return pdl_wait();
    using Shrink = HopperShrink<T, Shape>;
    const Shrink shrink{mid, tile, pieces, shared, in, num_pieces};
    shrink.init_barriers();
    __syncthreads();
    if (threadIdx.x >= kMultiplying) {
        leave_registers<Shrink::kBringRegisters>();
        shrink.bring(x);
    } else {
        take_registers<Shrink::kRegisters>();
        shrink.sum_up();
    }
#endif
}

// From the slabs' sums to split_quad()s, which take the first slab's places. Grid: [share of the
// rows][projection][tile].
constexpr int kAddThreads = 128, kAddShares = 8;
template <class T>
__global__ void __launch_bounds__(kAddThreads)
    add_slabs_kernel(LoraMiddle mid, const CudaTile* tiles, int first_part, int slabs) {
    pdl_trigger();
    const CudaTile tile = tiles[blockIdx.z];
    const int p = int(blockIdx.y), share = int(blockIdx.x);
    const CudaPart* part = part_of(tile, first_part + p);
    const int rank = part && part->a ? part->rank : 0, quads = (rank + kLoraRanks - 1) / kLoraRanks * 4;
    pdl_wait();
    const int begin = tile.rows * share / kAddShares, end = tile.rows * (share + 1) / kAddShares;
    for (int i = int(threadIdx.x); i < (end - begin) * quads; i += kAddThreads) {
        const int64_t row = tile.row_begin + begin + i / quads;
        const int quad = i % quads;
        float4 sum = {};
#pragma unroll 4
        for (int slab = 0; slab < slabs; ++slab) {
            const float4 v = *reinterpret_cast<const float4*>(mid.row(slab, p, row) + 4 * quad);
            sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
        }
        mid.split_row(p, row)[quad] = split_quad<T>(sum);
    }
}

template <class T, class Shape>
void launch_shrink(CudaDevice& device, const LoraMiddle& mid, const T* x, const CudaTile* tiles, int num_tiles,
                   int first_part, int in, int64_t pieces) {
    const auto kernel = shrink_hopper_kernel<T, Shape>;
    CHECK_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kSharedBytes));
    const auto slabs = unsigned(divide_up(in, kLoraSlab));
    const dim3 grid(slabs, unsigned(divide_up(pieces, Shape::kPieces)), unsigned(num_tiles));
    launch(device, kernel, grid, kThreads, Shape::kSharedBytes, mid, x, tiles, first_part, in);
    const dim3 add_grid(kAddShares, unsigned(mid.num_projections), unsigned(num_tiles));
    launch(device, add_slabs_kernel<T>, add_grid, kAddThreads, 0, mid, tiles, first_part, int(slabs));
}

// What is read of x and A.
template <class Shape>
int64_t cost_of(int64_t pieces) {
    return divide_up(pieces, Shape::kPieces) * (kTileRows + Shape::kRanks);
}

}  // namespace

template <class T>
void shrink_hopper(CudaDevice& device, const LoraMiddle& mid, const T* x, const CudaTile* tiles, int num_tiles,
                   int first_part, int in, int max_rank) {
    const int64_t pieces = divide_up(max_rank, kLoraRanks) * mid.num_projections;
    using Few = ShrinkShape<1, 64, 6>;
    using Some = ShrinkShape<1, 96, 5>;
    using Many = ShrinkShape<2, 64, 4>;
    using Most = ShrinkShape<2, 96, 3>;
    const int64_t least =
        std::min({cost_of<Few>(pieces), cost_of<Some>(pieces), cost_of<Many>(pieces), cost_of<Most>(pieces)});
    const auto shrink = cost_of<Few>(pieces) == least    ? launch_shrink<T, Few>
                        : cost_of<Some>(pieces) == least ? launch_shrink<T, Some>
                        : cost_of<Many>(pieces) == least ? launch_shrink<T, Many>
                                                         : launch_shrink<T, Most>;
    shrink(device, mid, x, tiles, num_tiles, first_part, in, pieces);
}

template void shrink_hopper(CudaDevice&, const LoraMiddle&, const bf16*, const CudaTile*, int, int, int, int);
template void shrink_hopper(CudaDevice&, const LoraMiddle&, const f16*, const CudaTile*, int, int, int, int);

}  // namespace spartan
