// Prefill attention on compute capability 9.0 (after FlashAttention-3, Shah et al. 2024): two warpgroups with 64 query
// rows each take their products from shared memory, a third one fills it: queries, then keys and values in turn, in a
// ring that goes on from one piece of work to the next. A warpgroup weighs a block's scores while the products of the
// block before run.
#pragma once

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/attention_prefill.cuh"
#include "kernels/cuda/hopper.cuh"

namespace spartan {

// What the warpgroups are told of a piece of work: rows [row, row + rows) of one head, the first at `position`, against
// blocks of keys from key `begin` on.
struct alignas(16) HopperPrefillWork {
    int row = 0, rows = 0, position = 0, head = 0, begin = 0, blocks = 0;
};

template <class T, int D>
struct HopperPrefill {
    static constexpr int kGroups = 2, kThreads = 128 * (kGroups + 1), kRows = 64 * kGroups, kKeys = 128;
    static constexpr int kColumnBytes = 128 * kKeys, kTileBytes = D / 64 * kColumnBytes;  // of 128 rows
    static constexpr int kSlots = 6;                                                      // tiles of the ring
    static constexpr int kWorkAt = (1 + kSlots) * kTileBytes, kBarriersAt = kWorkAt + 64;
    static constexpr int kSharedBytes = kBarriersAt + (2 + 2 * kSlots) * 8;
    static constexpr int kProducerRegisters = 40, kRegisters = 232;  // together what 168 a thread are
    static_assert(kRows == kQueryTile && kKeys == kRows && D % 64 == 0 && sizeof(HopperPrefillWork) <= 64);
    static constexpr float kHeadroom = Prefill<T, D>::kHeadroom;

    const PrefillArguments<T>& a;
    std::byte* shared;
    const uint32_t first_byte = shared_address(shared);
    // Barriers: the query's and the slots' are full (each thread of the third warpgroup, and one for the work's words),
    // or empty (each warp of the others).
    const uint32_t query_full = first_byte + kBarriersAt, query_empty = query_full + 8, slots_full = query_full + 16,
                   slots_empty = slots_full + kSlots * 8;

    __device__ HopperPrefillWork& work() const { return *reinterpret_cast<HopperPrefillWork*>(shared + kWorkAt); }
    __device__ static constexpr int tile_at(int slot) { return (1 + slot) * kTileBytes; }

    __device__ void init_barriers() const {
        if (threadIdx.x != 0) return;
        init_barrier(query_full, 128 + 1);
        init_barrier(query_empty, 4 * kGroups);
        for (int i = 0; i < kSlots; ++i) {
            init_barrier(slots_full + i * 8, 128);
            init_barrier(slots_empty + i * 8, 4 * kGroups);
        }
    }

    // ---- the third warpgroup

    // A thread copies one piece of every kStep-th row of a tile.
    static constexpr int kPieces = D / 8, kStep = 128 / kPieces, kCopies = kKeys / kStep, kOfPage = 16 / kStep;
    static_assert(kStep % 8 == 0 && kOfPage > 0);  // rows 8 apart have their pieces in the same order
    const int own_row = int(threadIdx.x) % 128 / kPieces, own_piece = int(threadIdx.x) % kPieces;

    __device__ std::byte* own_place(int tile) const {
        return shared + tile + own_piece / 8 * kColumnBytes + operand_offset(own_row, own_piece % 8);
    }
    __device__ void copy_query(const HopperPrefillWork& w) const {
        std::byte* to = own_place(0);
        const int64_t row_elements = int64_t(a.heads) * D;
        const T* from = a.q + (int64_t(w.row) * a.heads + w.head) * D + own_piece * 8;
#pragma unroll
        for (int c = 0; c < kCopies; ++c) {
            const int row = own_row + c * kStep;
            copy_async<16>(to + c * kStep * 128, from + min(row, w.rows - 1) * row_elements, row < w.rows);
        }
    }
    __device__ void bring_query(const HopperPrefillWork& w, uint32_t phase) const {
        wait_for(query_empty, phase ^ 1);
        copy_query(w);
        arrive_behind_copies(query_full);
        if (threadIdx.x % 128 != 0) return;
        work() = w;
        arrive(query_full);
    }
    // Keys (or values, `offset` behind them) [first, first + kKeys); zeros for those outside [begin, end).
    __device__ void copy_tile(const T* of_head, int64_t offset, const int32_t* pages, int slot, int first, int begin,
                              int end) const {
        std::byte* to = own_place(tile_at(slot));
        const int64_t page_elements = (int64_t(2 * a.kv_heads) << a.block_shift) * D;
        int32_t page[kCopies / kOfPage];
#pragma unroll
        for (int c = 0; c < kCopies; c += kOfPage)
            page[c / kOfPage] = pages[min(max(first + own_row + c * kStep, begin), end - 1) >> a.block_shift];
#pragma unroll
        for (int c = 0; c < kCopies; c += kOfPage) {
            const int slot_of_page = (first + own_row + c * kStep) & ((1 << a.block_shift) - 1);
            const T* from = of_head + offset + page_elements * page[c / kOfPage] + slot_of_page * D;
#pragma unroll
            for (int n = 0; n < kOfPage; ++n) {
                const int key = first + own_row + (c + n) * kStep;
                copy_async<16>(to + (c + n) * kStep * 128, from + n * kStep * D, begin <= key && key < end);
            }
        }
    }

    __device__ void bring(const CudaAttentionItem& item, int head, Ring<kSlots>& ring, uint32_t query_phase) const {
        const CudaSequence s = a.tables.sequences[item.sequence];
        HopperPrefillWork w;
        w.row = item.row;
        w.rows = min(kRows, s.row_begin + s.rows - item.row);
        w.head = head;
        w.position = s.first_position + item.row - s.row_begin;
        const int seen = a.window > 0 && w.position >= a.window ? int(w.position - a.window + 1) : 0;
        const int end = w.position + w.rows;
        w.begin = seen / kKeys * kKeys;
        w.blocks = (end - w.begin + kKeys - 1) / kKeys;
        const int32_t* pages = a.tables.block_tables + s.table * a.tables.max_blocks;
        const int64_t half_page = (int64_t(a.kv_heads) << a.block_shift) * D;
        const T* of_head = a.pool + (int64_t(head / (a.heads / a.kv_heads)) << a.block_shift) * D + own_piece * 8;
        // Keys 0, keys 1, values 0, keys 2, values 1, …: as the others take them.
        const auto bring_tile = [&](int i) {
            const bool is_values = i == 2 * w.blocks - 1 || (i > 0 && i % 2 == 0);
            const int block = is_values ? (i - 1) / 2 : (i + 1) / 2;
            wait_for(slots_empty + ring.slot * 8, ring.phase ^ 1);
            copy_tile(of_head, is_values ? half_page : 0, pages, ring.slot, w.begin + block * kKeys, seen, end);
            arrive_behind_copies(slots_full + ring.slot * 8);
            ring.next();
        };
        bring_tile(0);  // first: there may be room for it already
        bring_query(w, query_phase);
#pragma unroll 1
        for (int i = 1; i < 2 * w.blocks; ++i) bring_tile(i);
    }

    // ---- the others

    const int group = __shfl_sync(~0u, int(threadIdx.x) / 128, 0);
    const int lane = int(threadIdx.x) % 32, r = lane / 4, q = lane % 4;
    const int own_first_row = int(threadIdx.x) / 32 * 16 + r;  // and the one 8 behind it

    float sums[D / 2];
    float maxima[2], totals[2];  // of those rows; maxima before the scale, totals of this lane's keys

    __device__ void wait_for_slot(const Ring<kSlots>& ring) const { wait_for(slots_full + ring.slot * 8, ring.phase); }
    __device__ void release(uint32_t barrier) const {
        __syncwarp();
        if (lane == 0) arrive(barrier);
    }
    __device__ void ask_for_scores(float (&scores)[kKeys / 2], int slot) const {
        const uint32_t query = first_byte + group * 64 * 128, keys = first_byte + tile_at(slot);
        begin_products();
#pragma unroll
        for (int k = 0; k < D / 16; ++k) {
            const uint32_t at = k / 4 * kColumnBytes + k % 4 * 32;
            const uint64_t of_query = operand_along_k(query + at), of_keys = operand_along_k(keys + at);
            if (k == 0)
                multiply_along_k<T>(scores, of_query, of_keys);
            else
                add_product<T>(scores, of_query, of_keys);
        }
        end_products();
    }
    __device__ void ask_for_sums(const uint32_t (&weights)[kKeys / 4], int slot) {
        const uint32_t values = first_byte + tile_at(slot);
        begin_products();
#pragma unroll
        for (int k = 0; k < kKeys / 16; ++k)
            multiply_across_k<T>(sums, weights + 4 * k, operand_across_k(values + k * 16 * 128, kColumnBytes));
        end_products();
    }

    // Keys that a row does not see get minus infinity. `position`: of the group's first row.
    __device__ void mask(float (&scores)[kKeys / 2], int first, int position) const {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int of_row = position + own_first_row - group * 64 + half * 8;
            const int seen = a.window > 0 && of_row >= a.window ? int(of_row - a.window + 1) : 0;
            const int offset = first + 2 * q - seen, count = of_row - seen + 1;
#pragma unroll
            for (int i = 2 * half; i < kKeys / 2; i += 4) {
                if (unsigned(offset + i / 4 * 8) >= unsigned(count)) scores[i] = -INFINITY;
                if (unsigned(offset + i / 4 * 8 + 1) >= unsigned(count)) scores[i + 1] = -INFINITY;
            }
        }
    }
    // Scores become weights as Prefill::softmax says. Returns whether what was summed shrinks, in any row of the warp.
    __device__ bool weigh(float (&scores)[kKeys / 2], float (&shrink)[2]) {
        bool grows = false;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float highest = scores[2 * half], other = scores[2 * half + 1];
#pragma unroll
            for (int i = 4; i < kKeys / 2; i += 4) {
                highest = fmaxf(highest, scores[i + 2 * half]);
                other = fmaxf(other, scores[i + 2 * half + 1]);
            }
            highest = fmaxf(highest, other);
            highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 1));
            highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 2));
            float& largest = maxima[half];
            shrink[half] = 1;  // exactly where it stays, so that keys which a row does not see change no bit of it
            if (highest > largest && (highest - largest) * a.scale > kHeadroom) {
                shrink[half] = exp2_fast((largest - highest) * a.scale);
                largest = highest;
                grows = true;
            }
            const float base = largest == -INFINITY ? 0 : largest * a.scale;  // all masked so far: weights 0
            float total = 0, of_odd = 0;
#pragma unroll
            for (int i = 2 * half; i < kKeys / 2; i += 4) {
                scores[i] = exp2_fast(fmaf(scores[i], a.scale, -base));
                scores[i + 1] = exp2_fast(fmaf(scores[i + 1], a.scale, -base));
                total += scores[i];
                of_odd += scores[i + 1];
            }
            totals[half] = totals[half] * shrink[half] + (total + of_odd);
        }
        // Asks for the totals, which are never below 0, so that the compiler puts all of this before what follows.
        return __any_sync(~0u, grows || !(totals[0] >= 0 && totals[1] >= 0));
    }
    // The left operand of the values' products: 16 keys are two of the scores' products.
    __device__ static void pack_weights(uint32_t (&weights)[kKeys / 4], const float (&scores)[kKeys / 2]) {
#pragma unroll
        for (int i = 0; i < kKeys / 4; ++i) weights[i] = pack<T>(scores[2 * i], scores[2 * i + 1]);
    }

    __device__ void attend(const HopperPrefillWork& w, Ring<kSlots>& ring) {
        const int position = w.position + group * 64;  // of this group's first row
        float scores[kKeys / 2], shrink[2];
        uint32_t weights[kKeys / 4];
        const auto mask_block = [&](int block) {
            const int first = w.begin + block * kKeys;
            if (first + kKeys - 1 > position || (a.window > 0 && first <= position + 63 - a.window))
                mask(scores, first, position);
        };
#pragma unroll
        for (float& v : sums) v = 0;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            maxima[half] = -INFINITY;
            totals[half] = 0;
        }
        wait_for_slot(ring);
        show_to_products();
        ask_for_scores(scores, ring.slot);
        wait_for_products<0>();
        hold(scores);
        release(slots_empty + ring.slot * 8);
        ring.next();
        if (w.blocks == 1) release(query_empty);
        mask_block(0);
        weigh(scores, shrink);
        pack_weights(weights, scores);
#pragma unroll 1
        for (int block = 1; block < w.blocks; ++block) {
            const int keys = ring.slot;
            wait_for_slot(ring);
            ring.next();
            wait_for_slot(ring);
            show_to_products();
            ask_for_scores(scores, keys);
            ask_for_sums(weights, ring.slot);
            wait_for_products<1>();
            hold(scores);
            release(slots_empty + keys * 8);
            if (block == w.blocks - 1) release(query_empty);
            mask_block(block);
            const bool shrinks = weigh(scores, shrink);
            hold(scores);
            if (shrinks) {
                wait_for_products<0>();
                hold(sums);
#pragma unroll
                for (int i = 0; i < D / 2; ++i) sums[i] *= shrink[i % 4 / 2];
            }
            wait_for_products<0>();
            hold(sums);
            release(slots_empty + ring.slot * 8);
            ring.next();
            pack_weights(weights, scores);
        }
        wait_for_slot(ring);
        show_to_products();
        ask_for_sums(weights, ring.slot);
        wait_for_products<0>();
        hold(sums);
        release(slots_empty + ring.slot * 8);
        ring.next();
        write(w);
    }

    // As Prefill::write().
    __device__ void write(const HopperPrefillWork& w) const {
        const bool odd = q % 2 != 0;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float total = totals[half];
            total += __shfl_xor_sync(~0u, total, 1);
            total += __shfl_xor_sync(~0u, total, 2);
            const float inverse = 1 / total;
            const int row = own_first_row + half * 8;
            T* to = a.out + (int64_t(w.row + row) * a.heads + w.head) * D + (odd ? 8 : 0) + q / 2 * 4;
#pragma unroll
            for (int n = 0; n < D / 16; ++n) {
                const auto pair = [&](int product) {
                    return pack<T>(sums[4 * product + 2 * half] * inverse, sums[4 * product + 2 * half + 1] * inverse);
                };
                const uint32_t first = pair(2 * n), second = pair(2 * n + 1);
                const uint32_t other = __shfl_xor_sync(~0u, odd ? first : second, 1);
                if (row < w.rows)
                    *reinterpret_cast<uint2*>(to + 16 * n) = odd ? uint2{other, second} : uint2{first, other};
            }
        }
    }

    __device__ void run() {
        const int pieces = a.tables.item_counts[1] * a.heads;
        Ring<kSlots> ring;
        uint32_t query_phase = 0;
        if (threadIdx.x >= 128 * kGroups) {
            leave_registers<kProducerRegisters>();
            for (int round = 0; round * int(gridDim.x) < pieces; ++round) {
                const int i = work_of_round(round);
                if (i >= pieces) continue;
                bring(a.tables.prefill[i / a.heads], i % a.heads, ring, query_phase);
                query_phase ^= 1;
            }
            end_copy_group();
            wait_for_copies<0>();  // a thread ends after its copies
        } else {
            take_registers<kRegisters>();
            for (int round = 0; round * int(gridDim.x) < pieces; ++round) {
                if (work_of_round(round) >= pieces) continue;
                wait_for(query_full, query_phase);
                query_phase ^= 1;
                const HopperPrefillWork w = work();  // a copy: the next one's words come as soon as the query's do
                attend(w, ring);
            }
        }
    }
};

template <class T, int D>
__global__ void __launch_bounds__(HopperPrefill<T, D>::kThreads, 1)
    prefill_hopper_kernel(const __grid_constant__ PrefillArguments<T> a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    extern __shared__ __align__(1024) std::byte tiles[];
    pdl_trigger();
    HopperPrefill<T, D> prefill{a, tiles};
    prefill.init_barriers();
    __syncthreads();
    pdl_wait();
    prefill.run();
#endif
}

}  // namespace spartan
