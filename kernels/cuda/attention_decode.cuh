// Decode attention: one row's query heads of one kv head against 256 keys, by tensor cores. The heads are the columns
// of a 16 x 8 product, so keys and values are its left operands and are used as they lie in memory:
//
//     scores^T [16 keys x 8 heads] = K [16 x D] · q^T [D x 8];     sums [D x 8] += V^T [D x 16] · p^T [16 x 8]
//
// A product does not care in which order k runs, nor which of its rows is which feature, as long as both sides agree:
// so each lane takes 16 bytes of K (8 features for two steps of k) and of V (8 features, one for each of its rows) in
// one piece. What a lane copies to shared memory it alone reads back, so there is no barrier before the warps' results
// are merged.
#pragma once

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numbers.cuh"

#include <cmath>

namespace spartan {

constexpr float kLog2E = 1.44269504f;

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Lane 4r + q holds elements 2q, 2q+1 of row r of an 8 x 8 matrix; after it, those of column r.
__device__ __forceinline__ uint32_t transpose_8x8(uint32_t pair) {
    uint32_t out;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(pair));
    return out;
}

__device__ __forceinline__ uint32_t low_halves(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x5410); }
__device__ __forceinline__ uint32_t high_halves(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x7632); }
__device__ __forceinline__ uint32_t word(const uint4& v, int i) {
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}
__device__ __forceinline__ uint32_t word(const uint2& v, int i) { return i == 0 ? v.x : v.y; }

// Which piece of work, by falling length, a block does in each round: every other round runs backwards, so that no
// block gets all the longest.
__device__ __forceinline__ int work_of_round(int round) {
    const int block = int(round % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
    return round * int(gridDim.x) + block;
}

// How the query heads of one kv head are taken: `count` groups of at most 8 for all kv heads.
struct HeadGroups {
    int heads_of_kv, of_kv, size, count;
    HOST_DEVICE HeadGroups(int64_t num_heads, int64_t kv_heads)
        : heads_of_kv(int(num_heads / kv_heads)),
          of_kv((heads_of_kv + 7) / 8),
          size((heads_of_kv + of_kv - 1) / of_kv),
          count(int(kv_heads) * of_kv) {}
};

struct DecodeArguments {
    bf16* out;
    const bf16 *q, *pool;
    int heads, kv_heads, block_shift;  // 2^block_shift tokens a page
    int64_t window;
    float scale;
    CudaBatchTables tables;
    uint32_t* arrived;  // [decode_items][head groups]: pieces of a row that are done
    float2* states;     // [decode_items][heads]: largest score in powers of two, and the sum of p over it
    float* sums;        // [decode_items][heads][D]
};

// kDeep: twice as many keys in flight for a block, for work that does not fill the GPU anyway.
template <int D, bool kDeep>
struct Decode {
    static constexpr int kWarps = 4, kStageKeys = 16;
    static constexpr int kStages = D <= 64 ? 4 : (D <= 128 ? 2 : 1) * (kDeep ? 2 : 1);  // in flight for each warp
    static constexpr int kWide = D / 64;          // pieces of V with 8 features a lane …
    static constexpr bool kNarrow = D % 64 != 0;  // … and one with 4
    static constexpr int kKeyBytes = 2 * (D / 32) * 512, kStageBytes = 2 * kKeyBytes;
    static constexpr int kSharedBytes = kWarps * kStages * kStageBytes;
    static constexpr int kTiles = D / 16;
    static_assert(D % 32 == 0 && kWarps * 8 * (D + 2) * 4 <= kSharedBytes);

    const DecodeArguments& a;
    std::byte* shared;  // [kSharedBytes]
    const int lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32);
    const int r = lane / 4, q = lane % 4;

    // Of the item at hand.
    CudaAttentionItem item;
    int position = 0, first_key = 0;  // the row sees [first_key, position]
    int group = 0, kv_head = 0, head = 0, heads = 0;
    int stage_begin = 0, stage_end = 0;  // stages of 16 keys, counted from key 0
    int32_t page_of_lane = 0;            // of stage item.first / 16 + lane
    int old_keys = 0;                    // that no kernel of this step writes
    int requested = 0, next_stage = 0;   // stages of this warp that are on their way, and the one after them

    uint4 query[D / 32] = {};
    float sums[kTiles][4] = {};
    float maxima[2] = {}, totals[2] = {};  // of heads 2q and 2q + 1; totals of this lane's keys

    __device__ std::byte* stage_at(int stage) const {
        return shared + (warp * kStages + (stage - stage_begin) / kWarps % kStages) * kStageBytes;
    }
    __device__ bool sees(int key) const { return first_key <= key && key <= position; }

    __device__ void copy_stage(int stage) const {
        const int32_t page = __shfl_sync(~0u, page_of_lane, stage - item.first / kStageKeys);
        const int key = stage * kStageKeys;
        const int64_t half_page = (int64_t(a.kv_heads) << a.block_shift) * D;
        const int slot = key & ((1 << a.block_shift) - 1);
        const bf16* keys = a.pool + 2 * half_page * page + ((kv_head << a.block_shift) + slot) * D;
        const bf16* values = keys + half_page;
        std::byte* to = stage_at(stage);
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int b = 0; b < D / 32; ++b)
                copy_async<16>(to + (i * (D / 32) + b) * 512 + lane * 16, keys + (r + 8 * i) * D + 32 * b + 8 * q,
                               sees(key + r + 8 * i));
        to += kKeyBytes;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int of_stage = 2 * q + i % 2 + i / 2 * 8;
            const bool wanted = sees(key + of_stage);
#pragma unroll
            for (int b = 0; b < kWide; ++b)
                copy_async<16>(to + (i * kWide + b) * 512 + lane * 16, values + of_stage * D + 64 * b + 8 * r, wanted);
            if constexpr (kNarrow)
                copy_async<8>(to + 4 * kWide * 512 + i * 256 + lane * 8, values + of_stage * D + 64 * kWide + 4 * r,
                              wanted);
        }
    }

    __device__ void attend_stage(int stage) {
        const std::byte* keys = stage_at(stage);
        float scores[4] = {};  // key r: heads 2q, 2q+1; key r + 8: the same
#pragma unroll
        for (int b = 0; b < D / 32; ++b) {
            const uint4 low = *reinterpret_cast<const uint4*>(keys + b * 512 + lane * 16);
            const uint4 high = *reinterpret_cast<const uint4*>(keys + (D / 32 + b) * 512 + lane * 16);
            mma_bf16(scores, {low.x, high.x, low.y, high.y}, query[b].x, query[b].y);
            mma_bf16(scores, {low.z, high.z, low.w, high.w}, query[b].z, query[b].w);
        }
        const int key = stage * kStageKeys + r;
        const bool see[2] = {sees(key), sees(key + 8)};
        bool grows = false;
        float shrink[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            scores[h] = see[0] ? scores[h] * a.scale : -INFINITY;
            scores[2 + h] = see[1] ? scores[2 + h] * a.scale : -INFINITY;
            float highest = fmaxf(maxima[h], fmaxf(scores[h], scores[2 + h]));
#pragma unroll
            for (int offset = 4; offset < 32; offset <<= 1)
                highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, offset));
            grows |= highest != maxima[h];
            shrink[h] = exp2_fast(maxima[h] - highest);
            maxima[h] = highest;
            scores[h] = exp2_fast(scores[h] - highest);
            scores[2 + h] = exp2_fast(scores[2 + h] - highest);
            totals[h] = totals[h] * shrink[h] + (scores[h] + scores[2 + h]);
        }
        if (__any_sync(~0u, grows)) {
#pragma unroll
            for (auto& tile : sums)
#pragma unroll
                for (int i = 0; i < 4; ++i) tile[i] *= shrink[i % 2];
        }
        add_values(keys + kKeyBytes, transpose_8x8(pack_bf16(scores[0], scores[1])),
                   transpose_8x8(pack_bf16(scores[2], scores[3])));
    }

    // Tile j of a piece: rows r and r + 8 of the product are features 2j and 2j + 1 of those that lane 4r + q has.
    template <class Piece>
    __device__ void add_piece(float (*tiles)[4], const Piece (&v)[4], uint32_t p0, uint32_t p1) {
#pragma unroll
        for (int j = 0; j < int(sizeof(Piece) / 4); ++j) {
            const uint32_t v0 = word(v[0], j), v1 = word(v[1], j), v2 = word(v[2], j), v3 = word(v[3], j);
            mma_bf16(tiles[j], {low_halves(v0, v1), high_halves(v0, v1), low_halves(v2, v3), high_halves(v2, v3)}, p0,
                     p1);
        }
    }
    __device__ void add_values(const std::byte* values, uint32_t p0, uint32_t p1) {
#pragma unroll
        for (int b = 0; b < kWide; ++b) {
            uint4 v[4];
#pragma unroll
            for (int i = 0; i < 4; ++i)
                v[i] = *reinterpret_cast<const uint4*>(values + (i * kWide + b) * 512 + lane * 16);
            add_piece(sums + 4 * b, v, p0, p1);
        }
        if constexpr (kNarrow) {
            uint2 v[4];
#pragma unroll
            for (int i = 0; i < 4; ++i)
                v[i] = *reinterpret_cast<const uint2*>(values + 4 * kWide * 512 + i * 256 + lane * 8);
            add_piece(sums + 4 * kWide, v, p0, p1);
        }
    }
    // The feature in rows r of sums[tile]; the one in rows r + 8 is the next.
    __device__ int feature_of(int tile) const {
        return tile < 4 * kWide ? tile / 4 * 64 + 8 * r + tile % 4 * 2 : 64 * kWide + 4 * r + (tile - 4 * kWide) * 2;
    }

    __device__ void request_next() {
        if (next_stage < stage_end) copy_stage(next_stage);
        end_copy_group();
        next_stage += kWarps;
        ++requested;
    }
    // The first stages, as far as they may be read before pdl_wait().
    __device__ void request_old() {
        while (requested < kStages && next_stage < stage_end && (next_stage + 1) * kStageKeys <= old_keys)
            request_next();
    }

    // This warp's stages of the item.
    __device__ void attend() {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            maxima[h] = -INFINITY;
            totals[h] = 0;
        }
#pragma unroll
        for (auto& tile : sums)
#pragma unroll
            for (float& v : tile) v = 0;
        while (requested < kStages) request_next();
#pragma unroll
        for (int b = 0; b < D / 32; ++b)
            query[b] = r < heads ? *reinterpret_cast<const uint4*>(a.q + (int64_t(item.row) * a.heads + head + r) * D +
                                                                   32 * b + 8 * q)
                                 : uint4{};
        for (int stage = stage_begin + warp; stage < stage_end; stage += kWarps) {
            wait_for_copies<kStages - 1>();
            attend_stage(stage);
            request_next();
        }
        wait_for_copies<0>();
#pragma unroll
        for (float& total : totals)
#pragma unroll
            for (int offset = 4; offset < 32; offset <<= 1) total += __shfl_xor_sync(~0u, total, offset);
    }

    // Merges the warps' results in their order; `store(head, feature, sum, largest, total)` gets each, of heads 0 to
    // heads - 1.
    template <class Store>
    __device__ void merge_warps(const Store& store) const {
        auto* all_sums = reinterpret_cast<float*>(shared);                    // [kWarps][8][D]
        auto* states = reinterpret_cast<float2*>(all_sums + kWarps * 8 * D);  // [kWarps][8]
        __syncthreads();                                                      // all are done with their stages
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            if (2 * q + h >= heads) continue;
            float* to = all_sums + (warp * 8 + 2 * q + h) * D;
#pragma unroll
            for (int tile = 0; tile < kTiles; ++tile)
                *reinterpret_cast<float2*>(to + feature_of(tile)) = {sums[tile][h], sums[tile][2 + h]};
            if (r == 0) states[warp * 8 + 2 * q + h] = {maxima[h], totals[h]};
        }
        __syncthreads();
        for (int i = int(threadIdx.x); i < heads * D; i += 32 * kWarps) {
            const int h = i / D, feature = i % D;
            float highest = -INFINITY, total = 0, sum = 0;
#pragma unroll
            for (int w = 0; w < kWarps; ++w) highest = fmaxf(highest, states[w * 8 + h].x);
#pragma unroll
            for (int w = 0; w < kWarps; ++w) {
                const float weight = exp2_fast(states[w * 8 + h].x - highest);
                total += weight * states[w * 8 + h].y;
                sum += weight * all_sums[(w * 8 + h) * D + feature];
            }
            store(h, feature, sum, highest, total);
        }
        __syncthreads();  // the stages may be filled again
    }

    __device__ void write(int h, int feature, float value) const {
        a.out[(int64_t(item.row) * a.heads + head + h) * D + feature] = from_float<bf16>(value);
    }

    // Whether this block is the last of the row's `pieces` for these heads. If so, it sees what the others wrote.
    __device__ bool arrive_last(uint32_t* arrived, int pieces) const {
        __threadfence();
        const auto last = reinterpret_cast<volatile int*>(shared);
        __syncthreads();
        if (threadIdx.x == 0) {
            const bool is_last = atomicAdd(arrived, 1u) == uint32_t(pieces - 1);
            if (is_last) *arrived = 0;  // for the next call
            *last = is_last;
        }
        __syncthreads();
        const bool is_last = *last != 0;
        __syncthreads();
        __threadfence();
        return is_last;
    }

    // Merges the pieces [slot, slot + pieces) in their order.
    __device__ void merge_pieces(int64_t slot, int pieces) const {
        for (int i = int(threadIdx.x); i < heads * D; i += 32 * kWarps) {
            const int h = i / D, feature = i % D;
            const float2* states = a.states + slot * a.heads + head + h;
            const float* piece_sums = a.sums + (slot * a.heads + head + h) * D + feature;
            float highest = -INFINITY, total = 0, sum = 0;
#pragma unroll 4
            for (int p = 0; p < pieces; ++p) highest = fmaxf(highest, __ldcg(&states[int64_t(p) * a.heads].x));
#pragma unroll 4
            for (int p = 0; p < pieces; ++p) {
                const float2 state = __ldcg(states + int64_t(p) * a.heads);
                const float weight = exp2_fast(state.x - highest);
                total += weight * state.y;
                sum += weight * __ldcg(piece_sums + int64_t(p) * a.heads * D);
            }
            write(h, feature, sum / total);
        }
    }

    // Takes an item and one of its head groups; false if the row sees none of its keys. Reads tables only.
    __device__ bool take(int work, const HeadGroups& groups) {
        item = a.tables.decode[work / groups.count];
        const CudaSequence s = a.tables.sequences[item.sequence];
        position = s.first_position + item.row - s.row_begin;
        old_keys = s.first_position;
        first_key = a.window > 0 && position >= a.window ? int(position - a.window + 1) : 0;
        if (item.first / kSplitKeys < first_key / kSplitKeys) return false;
        group = work % groups.count;
        kv_head = group / groups.of_kv;
        const int of_kv = group % groups.of_kv * groups.size;
        head = kv_head * groups.heads_of_kv + of_kv;
        heads = min(groups.size, groups.heads_of_kv - of_kv);
        stage_begin = max(first_key, item.first) / kStageKeys;
        stage_end = min(position, item.first + kSplitKeys - 1) / kStageKeys + 1;
        const int stage_of_lane = min(item.first / kStageKeys + lane, stage_end - 1);
        const int32_t* pages = a.tables.block_tables + s.table * a.tables.max_blocks;
        page_of_lane = pages[stage_of_lane * kStageKeys >> a.block_shift];
        next_stage = stage_begin + warp;
        requested = 0;
        return true;
    }

    __device__ void run(const HeadGroups& groups) {
        attend();

        const int piece = item.first / kSplitKeys, first_piece = first_key / kSplitKeys;
        const int pieces = position / kSplitKeys - first_piece + 1;
        if (pieces == 1)
            return merge_warps(
                [&](int h, int feature, float sum, float, float total) { write(h, feature, sum / total); });
        merge_warps([&](int h, int feature, float sum, float highest, float total) {
            const int64_t at = int64_t(item.partial) * a.heads + head + h;
            a.sums[at * D + feature] = sum;
            if (feature == 0) a.states[at] = {highest, total};
        });
        const int64_t slot = item.partial - piece + first_piece;
        if (arrive_last(a.arrived + slot * groups.count + group, pieces)) merge_pieces(slot, pieces);
    }
};

template <int D, bool kDeep>
__global__ void __launch_bounds__(32 * Decode<D, kDeep>::kWarps, kDeep ? 1 : 3)
    decode_kernel(const __grid_constant__ DecodeArguments a) {
    extern __shared__ __align__(16) std::byte shared[];
    pdl_trigger();
    const HeadGroups groups(a.heads, a.kv_heads);
    const int work = a.tables.item_counts[0] * groups.count;
    Decode<D, kDeep> decode{a, shared};
    int i = work_of_round(0);
    bool taken = i < work && decode.take(i, groups);
    if (taken) decode.request_old();
    pdl_wait();
    for (int round = 1;; ++round) {
        if (taken) decode.run(groups);
        if (round * int(gridDim.x) >= work) return;
        i = work_of_round(round);
        taken = i < work && decode.take(i, groups);
    }
}

}  // namespace spartan
