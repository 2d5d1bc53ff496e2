// Decode attention: one row's query heads of one kv head against 256 keys, by tensor cores. The heads are the columns
// of a 16 x 8 product, so keys and values are its left operands and are used as they lie in memory:
//
//     scores^T [16 keys x 8 heads] = K [16 x D] · q^T [D x 8];     sums [D x 8] += V^T [D x 16] · p^T [16 x 8]
//
// A product does not care in which order k runs, nor which of its rows is which feature, as long as both sides agree:
// so each lane takes 16 bytes of K (8 features for two steps of k) and of V (8 features, one for each of its rows) in
// one piece, straight into registers. They are filled again as soon as they have been used, across the end of a piece
// of work, so that all of a piece (128 KB when D is 128) is on its way while the one before is finished.
#pragma once

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

// load_weights() of 8 bytes.
__device__ __forceinline__ uint2 load_narrow(const void* p) {
    uint2 v;
    asm volatile("ld.global.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p) : "memory");
    return v;
}

// atomicAdd(p, 1) by one thread that does not wait for the answer until it uses it.
__device__ __forceinline__ uint32_t count_up(uint32_t* p) {
    uint32_t before;
    asm volatile("atom.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(p) : "memory");
    return before;
}

// The same behind all that its block wrote before a barrier and before all that its block reads behind the next one.
__device__ __forceinline__ uint32_t count_up_in_order(uint32_t* p) {
    uint32_t before;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(p) : "memory");
    return before;
}

__device__ __forceinline__ uint32_t low_halves(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x5410); }
__device__ __forceinline__ uint32_t high_halves(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x7632); }
__device__ __forceinline__ uint32_t word(const uint4& v, int i) {
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}
__device__ __forceinline__ uint32_t word(const uint2& v, int i) { return i == 0 ? v.x : v.y; }

// How the query heads of one kv head are taken: `count` groups of at most 8 for all kv heads.
struct HeadGroups {
    int heads_of_kv, of_kv, size, count;
    HeadGroups(int64_t num_heads, int64_t kv_heads)
        : heads_of_kv(int(num_heads / kv_heads)),
          of_kv((heads_of_kv + 7) / 8),
          size((heads_of_kv + of_kv - 1) / of_kv),
          count(int(kv_heads) * of_kv) {}
};

template <class T>
struct DecodeArguments {
    T* out;
    const T *q, *pool;
    int heads, kv_heads, block_shift;  // 2^block_shift tokens a page
    HeadGroups groups;
    int64_t window;
    float scale;
    CudaBatchTables tables;
    uint32_t* turns;    // [2]: pieces of work that blocks have taken beyond their first two, blocks that are through
    uint32_t* arrived;  // [decode_items][head groups]: pieces of a row that are done
    float2* states;     // [decode_items][heads]: largest score in powers of two, and the sum of p over it
    float* sums;        // [decode_items][heads][D]
};

// A piece of work is cut into shares, each summed by itself: share i has stages i, i + Shares, … A warp takes shares
// warp, warp + Warps, … one after another, so that the bits depend on the number of shares, not on that of warps.
template <class T, int D, int Warps, int Shares>
struct Decode {
    static constexpr int kWarps = Warps, kThreads = 32 * kWarps, kShares = Shares;
    static constexpr int kBlocksOfSm = D > 64 && kWarps == 8 ? 1 : 2;
    static constexpr int kStageKeys = 16;
    static constexpr int kSlots = D <= 128 ? 2 : 1;                               // stages on their way
    static constexpr int kStagesOfShare = kMostSplitKeys / kStageKeys / kShares;  // at most: of a row's last piece
    static constexpr int kMostStages = kShares / kWarps * kStagesOfShare;         // of a warp
    static constexpr bool kKeepsQuery = D <= 128;                                 // in registers
    static constexpr int kWide = D / 64;          // pieces of V with 8 features a lane …
    static constexpr bool kNarrow = D % 64 != 0;  // … and one with 4
    static constexpr int kTiles = D / 16;
    static constexpr int kEightFeatures = 72;  // floats that 8 features of 8 heads take in shared memory, no bank twice
    static_assert(D % 32 == 0 && kShares % kWarps == 0 && kStagesOfShare * kShares * kStageKeys == kMostSplitKeys);

    struct alignas(16) Shared {
        float sums[kShares][D / 8 * kEightFeatures];  // feature f of head h at f / 8 * kEightFeatures + f % 8 * 8 + h
        float weights[kWarps][kShares][8];            // [for which warp][of which share][head]
        float2 merged[kWarps][8];                     // [for which warp][head]
        float2 states[kShares][8];
        int next_work;
        bool is_last;
    };

    // An item for the heads of one group. stage_end 0: none, or the row sees none of its keys.
    struct Work {
        int row = 0, position = 0, first_key = 0;  // the row sees [first_key, position]
        int group = 0, where = 0;                  // `where`: kv head, head, number of heads
        int partial = 0;
        int stage_begin = 0, stage_end = 0;  // stages of 16 keys, counted from key 0
        int old_keys = 0;                    // that no kernel of this step writes
        int32_t pages[kMostStages] = {};     // of this warp's stages

        __device__ bool any() const { return stage_end > 0; }
        __device__ int kv_head() const { return where & 0xfff; }
        __device__ int head() const { return where >> 12 & 0xfff; }
        __device__ int heads() const { return where >> 24; }
        __device__ int last_piece() const { return decode_pieces(position + 1) - 1; }
        __device__ int piece_of(int key) const { return min(key / kSplitKeys, last_piece()); }
        __device__ int pieces() const { return last_piece() - piece_of(first_key) + 1; }  // that the row sees
        // The partial results of the first of them.
        __device__ int first_partial() const {
            return partial - piece_of(stage_begin * kStageKeys) + piece_of(first_key);
        }
    };
    struct Pieces {
        int row = 0, group = 0, head = 0, heads = 0, first_partial = 0, count = 0;
    };
    struct Stage {
        uint4 keys[2][D / 32];
        uint4 wide[4][kWide > 0 ? kWide : 1];
        uint2 narrow[4];
    };

    const DecodeArguments<T>& a;
    Shared& shared;
    const int lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32);
    const int r = lane / 4, q = lane % 4;

    Stage stages[kSlots];
    uint4 query[kKeepsQuery ? D / 32 : 1];
    float sums[kTiles][4];
    float maxima[2], totals[2];  // of heads 2q and 2q + 1; totals of this lane's keys

    __device__ CudaAttentionItem item_of(int i, int end) const {
        return i < end ? a.tables.decode[i / a.groups.count] : CudaAttentionItem{};
    }
    // Piece of work i of [0, end), which is of this item. Reads tables only.
    __device__ Work take(const CudaAttentionItem& item, int i, int end) const {
        Work w;
        if (i >= end) return w;
        w.row = item.row;
        w.position = item.position;
        w.first_key = a.window > 0 && w.position >= a.window ? int(w.position - a.window + 1) : 0;
        w.group = i % a.groups.count;
        const int kv_head = w.group / a.groups.of_kv, of_kv = w.group % a.groups.of_kv * a.groups.size;
        const int heads = min(a.groups.size, a.groups.heads_of_kv - of_kv);
        w.where = kv_head | (kv_head * a.groups.heads_of_kv + of_kv) << 12 | heads << 24;
        w.partial = item.partial;
        w.old_keys = item.old_keys;
        const int piece = item.first / kSplitKeys;
        if (piece < w.piece_of(w.first_key)) return w;
        w.stage_begin = max(w.first_key, item.first) / kStageKeys;
        w.stage_end = (piece == w.last_piece() ? w.position : item.first + kSplitKeys - 1) / kStageKeys + 1;
        const int32_t* pages = a.tables.block_tables + item.table * a.tables.max_blocks;
#pragma unroll
        for (int n = 0; n < kMostStages; ++n)
            if (has(w, n)) w.pages[n] = pages[stage_of(w, n) * kStageKeys >> a.block_shift];
        return w;
    }

    // This warp's stage n of a piece of work. Which of them there are has gaps: a share need not have its last ones.
    __device__ int stage_of(const Work& w, int n) const {
        return w.stage_begin + warp + n / kStagesOfShare * kWarps + n % kStagesOfShare * kShares;
    }
    __device__ bool has(const Work& w, int n) const { return stage_of(w, n) < w.stage_end; }
    __device__ bool is_old(const Work& w, int n) const { return (stage_of(w, n) + 1) * kStageKeys <= w.old_keys; }

    __device__ int64_t half_page() const { return (int64_t(a.kv_heads) << a.block_shift) * D; }
    // Where a stage lies, and which of its keys the row sees, counted from its first.
    struct Place {
        const T* keys = nullptr;  // null: there is none
        int first_seen = 0, last_seen = 0;
    };
    __device__ Place place_of(const Work& w, int n, int page) const {
        const int first = stage_of(w, n) * kStageKeys, slot = first & ((1 << a.block_shift) - 1);
        return {a.pool + 2 * half_page() * page + ((w.kv_head() << a.block_shift) + slot) * D, w.first_key - first,
                w.position - first};
    }
    // Of the first stage from n on, slot + kSlots * i, that goes through a slot. `n` is known to the compiler wherever
    // this is called, and so are then all indices of pages, which stay in registers.
    __device__ __forceinline__ Place place_from(const Work& w, int slot, int n) const {
        int found = -1, page = 0;
#pragma unroll
        for (int i = kMostStages - 1; i >= 0; --i) {
            if (i % kSlots != slot || i < n || !has(w, i)) continue;
            found = i;
            page = w.pages[i];
        }
        return found < 0 ? Place{} : place_of(w, found, page);
    }
    // Of key i, or else of the nearest one that the row sees: it gets no weight, but must be a number.
    __device__ static int offset_of(const Place& p, int i) { return min(max(i, p.first_seen), p.last_seen) * D; }
    __device__ void load_keys(Stage& stage, const Place& p) const {
        if (!p.keys) return;
        const T* from = p.keys + 8 * q;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int key = offset_of(p, r + 8 * i);
#pragma unroll
            for (int b = 0; b < D / 32; ++b) stage.keys[i][b] = load_weights(from + key + 32 * b);
        }
    }
    __device__ void load_values(Stage& stage, const Place& p) const {
        if (!p.keys) return;
        const T* from = p.keys + half_page();
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int key = offset_of(p, 2 * q + i % 2 + i / 2 * 8);
#pragma unroll
            for (int b = 0; b < kWide; ++b) stage.wide[i][b] = load_weights(from + key + 64 * b + 8 * r);
            if constexpr (kNarrow) stage.narrow[i] = load_narrow(from + key + 64 * kWide + 4 * r);
        }
    }

    // The first stage of a piece of work that goes through a slot.
    __device__ void load_first(const Work& w, int slot) {
        const Place place = place_from(w, slot, 0);
        load_keys(stages[slot], place);
        load_values(stages[slot], place);
    }
    __device__ bool first_is_old(const Work& w, int slot) const {
        bool old = false;
#pragma unroll
        for (int n = kMostStages - 1; n >= 0; --n)
            if (n % kSlots == slot && has(w, n)) old = is_old(w, n);
        return old;
    }

    __device__ uint4 query_at(const Work& w, int b) const {
        const T* from = a.q + (int64_t(w.row) * a.heads + w.head() + r) * D + 32 * b + 8 * q;
        return r < w.heads() ? *reinterpret_cast<const uint4*>(from) : uint4{};
    }
    __device__ void load_query(const Work& w) {
        if constexpr (kKeepsQuery)
#pragma unroll
            for (int b = 0; b < D / 32; ++b) query[b] = query_at(w, b);
    }

    // scores[0], [1]: key r, heads 2q, 2q+1; scores[2], [3]: key r + 8, the same.
    __device__ void score(float (&scores)[4], const Stage& stage, const Work& w) const {
        float odd[4] = {};
#pragma unroll
        for (int b = 0; b < D / 32; ++b) {
            const uint4 low = stage.keys[0][b], high = stage.keys[1][b],
                        of_heads = kKeepsQuery ? query[b] : query_at(w, b);
            mma<T>(scores, {low.x, high.x, low.y, high.y}, of_heads.x, of_heads.y);
            mma<T>(odd, {low.z, high.z, low.w, high.w}, of_heads.z, of_heads.w);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) scores[i] += odd[i];
    }
    // Scores become weights relative to the largest so far, and what was summed is rescaled. Here and where results are
    // merged it is written out what is rounded: kernels of different numbers of warps give the same bits.
    __device__ void softmax(float (&scores)[4], const Work& w, int n) {
        const int key = stage_of(w, n) * kStageKeys + r;
        const bool see[2] = {w.first_key <= key && key <= w.position, w.first_key <= key + 8 && key + 8 <= w.position};
        bool grows = false;
        float shrink[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            scores[h] = see[0] ? __fmul_rn(scores[h], a.scale) : -INFINITY;
            scores[2 + h] = see[1] ? __fmul_rn(scores[2 + h], a.scale) : -INFINITY;
            float highest = fmaxf(maxima[h], fmaxf(scores[h], scores[2 + h]));
#pragma unroll
            for (int offset = 4; offset < 32; offset <<= 1)
                highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, offset));
            grows |= highest != maxima[h];
            shrink[h] = exp2_fast(maxima[h] - highest);
            maxima[h] = highest;
            scores[h] = exp2_fast(scores[h] - highest);
            scores[2 + h] = exp2_fast(scores[2 + h] - highest);
            totals[h] = fmaf(totals[h], shrink[h], scores[h] + scores[2 + h]);
        }
        if (!__any_sync(~0u, grows)) return;
#pragma unroll
        for (auto& tile : sums)
#pragma unroll
            for (int i = 0; i < 4; ++i) tile[i] *= shrink[i % 2];
    }

    // Tile j of a piece: rows r and r + 8 of the product are features 2j and 2j + 1 of those that lane 4r + q has.
    template <class Piece>
    __device__ void add_piece(float (*tiles)[4], const Piece (&v)[4], uint32_t p0, uint32_t p1) {
#pragma unroll
        for (int j = 0; j < int(sizeof(Piece) / 4); ++j) {
            const uint32_t v0 = word(v[0], j), v1 = word(v[1], j), v2 = word(v[2], j), v3 = word(v[3], j);
            mma<T>(tiles[j], {low_halves(v0, v1), high_halves(v0, v1), low_halves(v2, v3), high_halves(v2, v3)}, p0,
                   p1);
        }
    }
    __device__ void add_values(const Stage& stage, uint32_t p0, uint32_t p1) {
#pragma unroll
        for (int b = 0; b < kWide; ++b) {
            const uint4 v[4] = {stage.wide[0][b], stage.wide[1][b], stage.wide[2][b], stage.wide[3][b]};
            add_piece(sums + 4 * b, v, p0, p1);
        }
        if constexpr (kNarrow) add_piece(sums + 4 * kWide, stage.narrow, p0, p1);
    }
    // The feature in rows r of sums[tile]; the one in rows r + 8 is the next.
    __device__ int feature_of(int tile) const {
        return tile < 4 * kWide ? tile / 4 * 64 + 8 * r + tile % 4 * 2 : 64 * kWide + 4 * r + (tile - 4 * kWide) * 2;
    }

    __device__ void begin_share() {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            maxima[h] = -INFINITY;
            totals[h] = 0;
        }
#pragma unroll
        for (auto& tile : sums)
#pragma unroll
            for (float& v : tile) v = 0;
    }
    // This warp's stages of `now`; behind its last in a slot the first of `next` is requested. All shares but the last
    // are published.
    __device__ void attend(const Work& now, const Work& next) {
        begin_share();
#pragma unroll
        for (int n = 0; n < kMostStages; ++n) {
            if (n > 0 && n % kStagesOfShare == 0) {
                if (now.any()) publish(now, warp + (n / kStagesOfShare - 1) * kWarps);
                begin_share();
            }
            Place coming = place_from(now, n % kSlots, n + kSlots);
            if (!has(now, n) && (n >= kSlots || coming.keys)) continue;  // nothing was in the slot, or not this
            Stage& stage = stages[n % kSlots];
            if (!coming.keys) coming = place_from(next, n % kSlots, 0);
            float scores[4] = {};
            if (has(now, n)) score(scores, stage, now);
            load_keys(stage, coming);
            if (has(now, n)) {
                softmax(scores, now, n);
                add_values(stage, transposed(pack<T>(scores[0], scores[1])), transposed(pack<T>(scores[2], scores[3])));
            }
            load_values(stage, coming);
        }
        if (next.any()) load_query(next);
    }

    // A share's results to where all warps see them.
    __device__ void publish(const Work& w, int share) {
        float* to = shared.sums[share];
        if (2 * q < w.heads()) {
#pragma unroll
            for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const int feature = feature_of(tile) + i;
                    *reinterpret_cast<float2*>(to + feature / 8 * kEightFeatures + feature % 8 * 8 + 2 * q) = {
                        sums[tile][2 * i], sums[tile][2 * i + 1]};
                }
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) {
#pragma unroll
            for (int offset = 4; offset < 32; offset <<= 1) totals[h] += __shfl_xor_sync(~0u, totals[h], offset);
            if (r == 0) shared.states[share][2 * q + h] = {maxima[h], totals[h]};
        }
    }
    // What each share's results count for, and what they come to: each warp works it out for itself. `whole`: they are
    // all of the row, and the weights those of its values.
    __device__ void weigh_shares(bool whole) {
#pragma unroll
        for (int i = lane; i < 8 * kShares; i += 32) {
            const int of_share = i % kShares, head = i / kShares;
            const float2 state = shared.states[of_share][head];
            float highest = state.x;
#pragma unroll
            for (int offset = 1; offset < kShares; offset <<= 1)
                highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, offset));
            const float weight = exp2_fast(state.x - highest);
            float total = __fmul_rn(weight, state.y);
#pragma unroll
            for (int offset = 1; offset < kShares; offset <<= 1) total += __shfl_xor_sync(~0u, total, offset);
            shared.weights[warp][of_share][head] = whole ? weight / total : weight;
            if (of_share == 0) shared.merged[warp][head] = {highest, total};
        }
        __syncwarp();
    }
    // Merges the shares' results: the row's, or those of one of its pieces.
    __device__ void merge_shares(const Work& w) {
        const int head = w.head(), heads = w.heads();
        const bool whole = w.pieces() == 1;
        weigh_shares(whole);
        for (int i = int(threadIdx.x); i < 2 * D; i += kThreads) {
            const int feature = i / 2, begin = i % 2 * 4;  // heads [begin, begin + 4)
            if (begin >= heads) continue;
            const int at = feature / 8 * kEightFeatures + feature % 8 * 8 + begin;
            float merged[4] = {};
#pragma unroll
            for (int n = 0; n < kShares; ++n) {
                const auto sum = *reinterpret_cast<const float4*>(shared.sums[n] + at);
                const auto weight = *reinterpret_cast<const float4*>(shared.weights[warp][n] + begin);
                merged[0] = fmaf(weight.x, sum.x, merged[0]);
                merged[1] = fmaf(weight.y, sum.y, merged[1]);
                merged[2] = fmaf(weight.z, sum.z, merged[2]);
                merged[3] = fmaf(weight.w, sum.w, merged[3]);
            }
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                if (begin + j >= heads) continue;
                if (whole) {
                    a.out[(int64_t(w.row) * a.heads + head + begin + j) * D + feature] = from_float<T>(merged[j]);
                    continue;
                }
                const int64_t slot = int64_t(w.partial) * a.heads + head + begin + j;
                a.sums[slot * D + feature] = merged[j];
                if (feature == 0) a.states[slot] = shared.merged[warp][begin + j];
            }
        }
    }

    // Thread 0, when all threads have written theirs: whether this block is the last of the row's pieces. If so, the
    // block sees behind its next barrier what the others wrote.
    __device__ bool arrive_last(const Pieces& p) const {
        uint32_t* arrived = a.arrived + int64_t(p.first_partial) * a.groups.count + p.group;
        const bool is_last = count_up_in_order(arrived) == uint32_t(p.count - 1);
        if (is_last) *arrived = 0;  // for the next call
        return is_last;
    }
    // The row's pieces, in their order. AtOnce: how many are on their way at a time.
    template <int AtOnce>
    __device__ void merge_pieces(const Pieces& p) const {
        constexpr int kFours = D / 4;
        for (int i = int(threadIdx.x); i < p.heads * kFours; i += kThreads) {
            const int64_t slot = int64_t(p.first_partial) * a.heads + p.head + i / kFours;
            const float2* states = a.states + slot;
            const auto* piece_sums = reinterpret_cast<const float4*>(a.sums + slot * D) + i % kFours;
            float highest = -INFINITY, total = 0;
            float4 sum = {};
            for (int begin = 0; begin < p.count; begin += AtOnce) {
                float2 state[AtOnce];
                float4 of_piece[AtOnce];
#pragma unroll
                for (int n = 0; n < AtOnce; ++n) {
                    const int64_t piece = min(begin + n, p.count - 1);
                    state[n] = __ldcg(states + piece * a.heads);
                    of_piece[n] = __ldcg(piece_sums + piece * a.heads * kFours);
                    if (begin + n >= p.count) state[n].x = -INFINITY;  // counts for nothing
                }
#pragma unroll
                for (int n = 0; n < AtOnce; ++n) {
                    const float now = fmaxf(highest, state[n].x);
                    const float shrink = exp2_fast(highest - now), weight = exp2_fast(state[n].x - now);
                    highest = now;
                    total = fmaf(weight, state[n].y, total * shrink);
                    sum.x = fmaf(weight, of_piece[n].x, sum.x * shrink);
                    sum.y = fmaf(weight, of_piece[n].y, sum.y * shrink);
                    sum.z = fmaf(weight, of_piece[n].z, sum.z * shrink);
                    sum.w = fmaf(weight, of_piece[n].w, sum.w * shrink);
                }
            }
            const float inverse = 1 / total;
            T* to = a.out + (int64_t(p.row) * a.heads + p.head + i / kFours) * D + i % kFours * 4;
            *reinterpret_cast<uint2*>(to) = {pack<T>(sum.x * inverse, sum.y * inverse),
                                             pack<T>(sum.z * inverse, sum.w * inverse)};
        }
    }

    // Ends a piece of work; `waiting` are the pieces of the one before, whose arrival this one's time has hidden.
    // Passes on thread 0's `number` to all, and gives that piece of work.
    __device__ Work finish(const Work& w, int& number, int end, Pieces& waiting) {
        if (w.any()) publish(w, warp + kShares - kWarps);
        if (threadIdx.x == 0) shared.next_work = number;
        __syncthreads();
        number = shared.next_work;
        const CudaAttentionItem item = item_of(number, end);  // on its way while the shares' results are merged
        if (waiting.count > 0 && shared.is_last) merge_pieces<8>(waiting);
        if (w.any()) merge_shares(w);
        __syncthreads();
        waiting = {};
        if (w.any() && w.pieces() > 1) {
            waiting = {w.row, w.group, w.head(), w.heads(), w.first_partial(), w.pieces()};
            if (threadIdx.x == 0) shared.is_last = arrive_last(waiting);
        }
        return take(item, number, end);
    }

    // Of `blocks`, so many that all have equally many of `end` pieces, where that leaves out but a few: pieces are
    // mostly as long as one another, and while a last one is worked on alone memory idles.
    __device__ static int busy_blocks(int end, int blocks) {
        const int rounds = max((end + blocks - 1) / blocks, 1), busy = (end + rounds - 1) / rounds;
        return busy >= blocks - blocks / 8 ? busy : blocks;
    }

    // Blocks take the work by falling length: two pieces each whose number they know, then who is free.
    __device__ void run() {
        const int end = a.tables.item_counts[0] * a.groups.count, blocks = busy_blocks(end, int(gridDim.x));
        if (int(blockIdx.x) >= blocks) return pdl_wait();
        int i = int(blockIdx.x), j = 2 * blocks - 1 - i;
        Work now = take(item_of(i, end), i, end);
        bool early[kSlots];
#pragma unroll
        for (int slot = 0; slot < kSlots; ++slot) {
            early[slot] = first_is_old(now, slot);
            if (early[slot]) load_first(now, slot);
        }
        pdl_wait();
#pragma unroll
        for (int slot = 0; slot < kSlots; ++slot)
            if (!early[slot]) load_first(now, slot);
        if (now.any()) load_query(now);
        Work next = take(item_of(j, end), j, end);
        Pieces waiting;
        while (i < end) {
            int number = end;
            if (threadIdx.x == 0 && end > 2 * blocks && j < end) number = 2 * blocks + int(count_up(a.turns));
            attend(now, next);
            const Work after = finish(now, number, end, waiting);
            i = j;
            j = number;
            now = next;
            next = after;
        }
        __syncthreads();
        if (waiting.count > 0 && shared.is_last) merge_pieces<16>(waiting);
        if (threadIdx.x == 0 && end > 2 * blocks && atomicAdd(a.turns + 1, 1u) == uint32_t(blocks - 1))
            a.turns[0] = a.turns[1] = 0;  // for the next call
    }
};

template <class T, int D, int Warps, int Shares>
__global__ void __launch_bounds__(Decode<T, D, Warps, Shares>::kThreads, Decode<T, D, Warps, Shares>::kBlocksOfSm)
    decode_kernel(const __grid_constant__ DecodeArguments<T> a) {
    __shared__ typename Decode<T, D, Warps, Shares>::Shared shared;
    pdl_trigger();
    Decode<T, D, Warps, Shares> decode{a, shared};
    decode.run();
}

}  // namespace spartan
