// expand_long() by warpgroup products, on GPUs of compute capability 9.0: a stream through out. A CTA is a warpgroup
// with 128 columns of B in shared memory, or 256 where out is set, which walks down the rows of many tiles. A thread's
// pieces of out and of the inner sums come to places of its own in shared memory, tiles ahead, so that threads meet
// only where B changes.
//
// The rows are on the products' left side, 16 ranks their k. B's columns are put where a lane's sums are those of 8
// neighbouring columns.
#include "kernels/check.h"
#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/lora_long.h"
#include "kernels/cuda/lora_parts.cuh"
#include "kernels/cuda/words.cuh"

#include <algorithm>

namespace spartan {

namespace {

constexpr int kThreads = 128, kColumns = 128;  // of a product
constexpr int kTable = 16;                     // units that are known ahead, in a ring
constexpr int kRowOctets = kColumns / 32;      // of a row, that a lane has

constexpr int kRanks = kMostHopperRank, kBatches = kRanks / kLoraRanks;
constexpr int kColumnBytes = kRanks * 128;  // of 64 columns of B

// kSets: out is not looked at, and rows without a part become zeros. Without out in shared memory there is room for
// twice the columns, which read the inner sums half as often.
template <bool kSets>
struct ExpandShape {
    static constexpr int kProducts = kSets ? 2 : 1, kPanel = kProducts * kColumns;
    static constexpr int kStages = kSets ? 2 : 3;    // units that are here or on their way
    static constexpr int kResident = kSets ? 3 : 2;  // CTAs that share a multiprocessor
    static constexpr int kOctets = kSets ? 0 : kRowOctets;
    static constexpr int kBytesB = kPanel / 64 * kColumnBytes;
    static constexpr int kStageUnits = 2 * (kOctets + kBatches) * kThreads;  // of 16 bytes
    static constexpr int kRingBytes = kStages * kStageUnits * 16;
    static constexpr int kSharedBytes = kBytesB + kRingBytes + kTable * int(sizeof(LoraUnit<bf16>));
    static_assert(kTable / 4 >= kStages - 1 && kTable / 4 + kStages - 1 <= kTable / 2);
};

template <class T, bool kSets>
struct HopperExpand {
    using Shape = ExpandShape<kSets>;
    static constexpr int kPanel = Shape::kPanel, kStages = Shape::kStages, kStageUnits = Shape::kStageUnits;

    std::byte* const of_b;  // [64 columns][rank], operand_across_k()
    uint4* const stages;
    LoraUnit<T>* const table;
    const int count, quads_of_row;

    const int lane = int(threadIdx.x) % 32, r = lane / 4, q = lane % 4;
    const int own_row = int(threadIdx.x) / 32 * 16 + r;  // and the one 8 behind it

    // Of row own_row + 8 * half.
    __device__ uint4& out_place(uint4* stage, int half, int octet) const {
        return stage[(half * kRowOctets + octet) * kThreads + int(threadIdx.x)];
    }
    __device__ uint4& inner_place(uint4* stage, int half, int batch) const {
        return stage[(2 * Shape::kOctets + half * kBatches + batch) * kThreads + int(threadIdx.x)];
    }
    __device__ T* out_at(const LoraUnit<T>& u, int half) const {
        return u.out + (own_row + 8 * half) * int64_t(u.width) + 8 * q;
    }

    __device__ void request(int unit, uint4* stage) const {
        if (unit < count) {
            const LoraUnit<T>& u = table[unit % kTable];
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                if (own_row + 8 * half >= u.rows) continue;
                const T* const out = out_at(u, half);
#pragma unroll
                for (int i = 0; i < kRowOctets; ++i)
                    if (!kSets && 32 * i + 8 * q < u.columns) copy_async<16>(&out_place(stage, half, i), out + 32 * i);
                const uint4* const inner = u.inner + (own_row + 8 * half) * quads_of_row + q;
#pragma unroll
                for (int n = 0; n < kBatches; ++n)
                    if (n * kLoraRanks < u.rank) copy_async<16>(&inner_place(stage, half, n), inner + 4 * n);
            }
        }
        end_copy_group();
    }

    // All threads; nobody reads the last B any more. Ranks and columns that there are not become zeros.
    __device__ void load_b(const LoraUnit<T>& u) const {
        constexpr int kOctets = kPanel / 8, kAtOnce = kThreads / kOctets, kLoads = 8;
        const int octet = int(threadIdx.x) % kOctets, first_rank = int(threadIdx.x) / kOctets;
        const T* from = u.b_t + first_rank * int64_t(u.width) + 8 * octet;
        // Lane q's sums of four neighbouring products of 8 columns are its 8 columns of 32.
        std::byte* const to = of_b + octet / 8 * kColumnBytes + octet % 4 * 4;
        const int first_piece = octet / 4 % 2 * 4;
        static_assert(kRanks % (kAtOnce * kLoads) == 0);
#pragma unroll 1
        for (int rank = first_rank; rank < kRanks; rank += kAtOnce * kLoads) {
            uint4 v[kLoads];
#pragma unroll
            for (int i = 0; i < kLoads; ++i, from += kAtOnce * int64_t(u.width))
                v[i] = load_if(8 * octet < u.columns && rank + i * kAtOnce < u.rank, from);
#pragma unroll
            for (int i = 0; i < kLoads; ++i) {
                // As split_quad() has a lane's four ranks.
                const int at = rank + i * kAtOnce, of_batch = at % kLoraRanks;
                const int k = at - of_batch + of_batch / 4 * 2 + of_batch % 2 + of_batch / 2 % 2 * 8;
                const uint32_t words[4] = {v[i].x, v[i].y, v[i].z, v[i].w};
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    *reinterpret_cast<uint32_t*>(to + operand_offset(k, first_piece + j)) = words[j];
            }
        }
        show_to_products();
    }

    using Inner = uint32_t[kBatches][2][4];  // those of this lane as operands
    __device__ void take_inner(Inner& a, uint4* stage, int rank) const {
#pragma unroll
        for (int n = 0; n < kBatches; ++n) {
            uint4 v[2];
#pragma unroll
            for (int half = 0; half < 2; ++half)
                v[half] = n * kLoraRanks < rank ? inner_place(stage, half, n) : make_uint4(0, 0, 0, 0);
            a[n][0][0] = v[0].x, a[n][0][1] = v[1].x, a[n][0][2] = v[0].y, a[n][0][3] = v[1].y;
            a[n][1][0] = v[0].z, a[n][1][1] = v[1].z, a[n][1][2] = v[0].w, a[n][1][3] = v[1].w;
        }
    }

    // c += in lora.cu's order, that of the ranks; those that there are not add zeros.
    __device__ void multiply(float (&c)[kColumns / 2], Inner& a, int product) const {
        const uint64_t b =
            operand_across_k(shared_address(of_b) + product * (kColumns / 64 * kColumnBytes), uint32_t(kColumnBytes));
        hold(c);
#pragma unroll
        for (int n = 0; n < kBatches; ++n)
#pragma unroll
            for (int low = 0; low < 2; ++low) hold(a[n][low]);
        begin_products();
#pragma unroll
        for (int n = 0; n < kBatches; ++n)
#pragma unroll
            for (int low = 0; low < 2; ++low)
                multiply_across_k<T>(c, a[n][low], b + uint64_t(n * kLoraRanks * 128 >> 4));
        end_products();
        wait_for_products<0>();
        hold(c);
    }

    // The columns from `first` on.
    __device__ void store(const LoraUnit<T>& u, uint4* stage, const float (&c)[kColumns / 2], int first) const {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            if (own_row + 8 * half >= u.rows) continue;
            T* const out = out_at(u, half) + first;
#pragma unroll
            for (int i = 0; i < kRowOctets; ++i) {
                if (first + 32 * i + 8 * q >= u.columns) continue;
                const uint4 old = kSets ? uint4{} : out_place(stage, half, i);
                const uint32_t words[4] = {old.x, old.y, old.z, old.w};
                uint32_t sums[4];
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    const int at = 4 * (4 * i + j) + 2 * half;
                    sums[j] = pack<T>(fmaf(u.scale, c[at], low_of<T>(words[j])),
                                      fmaf(u.scale, c[at + 1], high_of<T>(words[j])));
                }
                store_words(out + 32 * i, sums);
            }
        }
    }

    // unit_of(i): number i of this CTA's.
    template <class UnitOf>
    __device__ void run(const UnitOf& unit_of) const {
        const auto enter = [&](int first, int units) {
            const int i = first + int(threadIdx.x);
            if (int(threadIdx.x) < units && i < count) table[i % kTable] = unit_of(i);
        };
        enter(0, kTable);
        __syncthreads();
        const T* held = nullptr;  // whose B is there
        if (table[0].b_t) {
            held = table[0].b_t;
            load_b(table[0]);
        }
        __syncthreads();
        pdl_wait();
#pragma unroll 1
        for (int i = 0; i < kStages - 1; ++i) request(i, stages + i * kStageUnits);
        int slot = 0;
#pragma unroll 1
        for (int now = 0; now < count; ++now) {
            if (now % (kTable / 4) == 0 && now >= kTable / 2) {
                __syncthreads();  // all are done with what is overwritten, or see what has been entered
                if (now % (kTable / 2) == 0) enter(now + kTable / 2, kTable / 2);
            }
            request(now + kStages - 1, stages + (slot == 0 ? kStages - 1 : slot - 1) * kStageUnits);
            const LoraUnit<T>& u = table[now % kTable];
            if (u.b_t && u.b_t != held) {
                held = u.b_t;
                __syncthreads();
                load_b(u);
                __syncthreads();
            }
            wait_for_copies<kStages - 1>();
            if (u.rows > 0) {
                uint4* const stage = stages + slot * kStageUnits;
                Inner inner;
                take_inner(inner, stage, u.rank);
#pragma unroll
                for (int product = 0; product < Shape::kProducts; ++product) {
                    float c[kColumns / 2] = {};
                    if (!kSets || u.b_t) multiply(c, inner, product);
                    store(u, stage, c, product * kColumns);
                }
            }
            slot = slot == kStages - 1 ? 0 : slot + 1;
        }
    }
};

// Every CTA takes as many units as the others, one behind the other.
template <class T, bool kSets>
__global__ void __launch_bounds__(kThreads, ExpandShape<kSets>::kResident)
    expand_hopper_kernel(const __grid_constant__ LoraOutputs<T> outputs, LoraMiddle mid, const CudaTile* tiles,
                         int num_tiles, int first_part, int64_t num_units) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    extern __shared__ __align__(1024) std::byte shared[];  // B, the stages, the table
    pdl_trigger();
    const int64_t begin = num_units * blockIdx.x / gridDim.x, end = num_units * (blockIdx.x + 1) / gridDim.x;
    using Shape = ExpandShape<kSets>;
    const HopperExpand<T, kSets> expand{shared, reinterpret_cast<uint4*>(shared + Shape::kBytesB),
                                        reinterpret_cast<LoraUnit<T>*>(shared + Shape::kBytesB + Shape::kRingBytes),
                                        int(end - begin), mid.ranks / 4};
    expand.run([&](int i) {
        return LoraUnit<T>::of(outputs, mid, tiles, num_tiles, first_part, Shape::kPanel, begin + i,
                               /*all_rows=*/kSets);
    });
#endif
}

template <class T, bool kSets>
void launch_expand(CudaDevice& device, const LoraOutputs<T>& outputs, const LoraMiddle& mid, const CudaTile* tiles,
                   int num_tiles, int first_part) {
    using Shape = ExpandShape<kSets>;
    const auto kernel = expand_hopper_kernel<T, kSets>;
    CHECK_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kSharedBytes));
    const int64_t panels = panels_of(outputs, mid.num_projections, Shape::kPanel), units = panels * num_tiles;
    const int64_t resident = Shape::kResident * int64_t(device.num_sms());
    // Where it leaves few of them idle, as many CTAs to each panel: then those of all panels are at the same rows at
    // the same time, and o's expand took 7 % less.
    const int64_t of_panel = resident / panels, blocks = of_panel >= 4 ? of_panel * panels : resident;
    launch(device, kernel, dim3(unsigned(std::min(units, blocks))), kThreads, Shape::kSharedBytes, outputs, mid, tiles,
           num_tiles, first_part, units);
}

}  // namespace

template <class T>
void expand_hopper(CudaDevice& device, const LoraOutputs<T>& outputs, const LoraMiddle& mid, const CudaTile* tiles,
                   int num_tiles, int first_part, bool sets) {
    const auto expand = sets ? launch_expand<T, true> : launch_expand<T, false>;
    expand(device, outputs, mid, tiles, num_tiles, first_part);
}

template void expand_hopper(CudaDevice&, const LoraOutputs<bf16>&, const LoraMiddle&, const CudaTile*, int, int, bool);
template void expand_hopper(CudaDevice&, const LoraOutputs<f16>&, const LoraMiddle&, const CudaTile*, int, int, bool);

}  // namespace spartan
