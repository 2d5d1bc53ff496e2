// Prefill attention (FlashAttention-2, Dao 2023): 128 query rows of one head against blocks of keys, by tensor cores.
// As in attention_decode.cuh the operands' k runs in an order that gives each lane 16 bytes in one piece; here they
// come from shared memory that all warps fill together.
#pragma once

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/attention_decode.cuh"

namespace spartan {

struct PrefillArguments {
    bf16* out;
    const bf16 *q, *pool;
    int heads, kv_heads, block_shift;
    int64_t window;
    float scale;
    CudaBatchTables tables;
};

// Which piece of work, by falling length, a block does in each round: every other round runs backwards, so that no
// block gets all the longest.
__device__ __forceinline__ int work_of_round(int round) {
    const int block = int(round % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
    return round * int(gridDim.x) + block;
}

template <int D>
struct Prefill {
    static constexpr int kWarps = 4, kTilesOfWarp = D <= 128 ? 2 : 1;  // tiles of 16 rows
    static constexpr int kWarpRows = 16 * kTilesOfWarp, kRows = kWarps * kWarpRows;
    static constexpr int kParts = kQueryTile / kRows;  // blocks that share a plan's item
    static constexpr int kKeys = D <= 128 ? 64 : 32;   // of a block
    static constexpr int kSub = 32;                    // whose scores are held at a time
    static constexpr int kWide = D / 64;
    static constexpr bool kNarrow = D % 64 != 0;
    // Rows of 16-byte pieces. Where 8 of them fill the banks their order in a row changes from row to row, so that 8
    // lanes that read at a time meet all banks; elsewhere the length of a row does that.
    static constexpr int kPieces = D / 8;
    static constexpr int kKeyPitch = 2 * D, kValuePitch = kNarrow ? 2 * D + 16 : 2 * D;
    static constexpr int kBlockBytes = kKeys * (kKeyPitch + kValuePitch);
    static constexpr int kQueryBytes = kRows * 2 * D, kSharedBytes = kQueryBytes + 2 * kBlockBytes;
    HOST_DEVICE static constexpr int key_piece(int key, int piece) { return kNarrow ? piece : piece ^ (key % 2 * 4); }
    HOST_DEVICE static constexpr int value_piece(int key, int piece) {
        return kNarrow ? piece : piece ^ (key / 2 % 4 * 2);
    }

    const PrefillArguments& a;
    std::byte* shared;
    const int warp = int(threadIdx.x / 32), lane = int(threadIdx.x % 32), r = lane / 4, q = lane % 4;

    // Where this lane reads: key r, pieces 4b + q for even and odd b, less 128 bytes for every two b; and key 2q, piece
    // r. What is added are multiples of 8 keys, which the order of the pieces does not feel.
    const int key_offset[2] = {r * kKeyPitch + key_piece(r, q) * 16, r* kKeyPitch + key_piece(r, 4 + q) * 16};
    const int value_offset = 2 * q * kValuePitch + value_piece(2 * q, r) * 16;

    // Of the item at hand: rows [row, row + rows) of one head, the first at `position`.
    int64_t row = 0;
    int rows = 0, position = 0, head = 0, kv_head = 0;
    const int32_t* pages = nullptr;

    float sums[kTilesOfWarp][D / 8][4] = {};
    float maxima[kTilesOfWarp][2] = {}, totals[kTilesOfWarp][2] = {};  // of rows r and r + 8; maxima before the scale

    __device__ std::byte* block_at(int i) const { return shared + kQueryBytes + i % 2 * kBlockBytes; }
    __device__ int row_of_warp(int tile, int half) const { return warp * kWarpRows + tile * 16 + half * 8 + r; }
    // The left operand of step 2b + step, for this lane alone.
    __device__ uint4& query_at(int tile, int b, int step) const {
        return reinterpret_cast<uint4*>(shared)[(((warp * kTilesOfWarp + tile) * (D / 32) + b) * 2 + step) * 32 + lane];
    }

    __device__ void load_query() const {
#pragma unroll
        for (int tile = 0; tile < kTilesOfWarp; ++tile) {
            uint4 v[2][D / 32];
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int of_item = row_of_warp(tile, half);
                const bf16* from = a.q + ((row + of_item) * a.heads + head) * D + 8 * q;
#pragma unroll
                for (int b = 0; b < D / 32; ++b)
                    v[half][b] = of_item < rows ? *reinterpret_cast<const uint4*>(from + 32 * b) : uint4{};
            }
#pragma unroll
            for (int b = 0; b < D / 32; ++b) {
                query_at(tile, b, 0) = {v[0][b].x, v[1][b].x, v[0][b].y, v[1][b].y};
                query_at(tile, b, 1) = {v[0][b].z, v[1][b].z, v[0][b].w, v[1][b].w};
            }
        }
    }

    // Keys and values [first, first + kKeys); zeros from `end` on.
    __device__ void copy_block(int i, int first, int end) const {
        const int64_t half_page = (int64_t(a.kv_heads) << a.block_shift) * D;
        std::byte* keys = block_at(i);
        std::byte* values = keys + kKeys * kKeyPitch;
        constexpr int kCopies = (kKeys * kPieces + 32 * kWarps - 1) / (32 * kWarps);
        int32_t page[kCopies];
#pragma unroll
        for (int c = 0; c < kCopies; ++c) {
            const int key = first + (int(threadIdx.x) + c * 32 * kWarps) / kPieces;
            page[c] = pages[min(key, end - 1) >> a.block_shift];
        }
#pragma unroll
        for (int c = 0; c < kCopies; ++c) {
            const int at = int(threadIdx.x) + c * 32 * kWarps, key = at / kPieces, piece = at % kPieces;
            if (kKeys * kPieces % (32 * kWarps) != 0 && key >= kKeys) break;
            const int slot = (first + key) & ((1 << a.block_shift) - 1);
            const bf16* from = a.pool + 2 * half_page * page[c] + ((kv_head << a.block_shift) + slot) * D + 8 * piece;
            const bool wanted = first + key < end;
            copy_async<16>(keys + key * kKeyPitch + key_piece(key, piece) * 16, from, wanted);
            copy_async<16>(values + key * kValuePitch + value_piece(key, piece) * 16, from + half_page, wanted);
        }
    }

    __device__ static const uint4& piece_at(const std::byte* p) { return *reinterpret_cast<const uint4*>(p); }

    // Scores of kSub keys of a block, from its key `begin` on.
    __device__ void score(float (&scores)[kTilesOfWarp][kSub / 8][4], const std::byte* keys, int begin) const {
#pragma unroll
        for (auto& tile : scores)
#pragma unroll
            for (auto& four : tile)
#pragma unroll
                for (float& v : four) v = 0;
#pragma unroll
        for (int b = 0; b < D / 32; ++b) {
            uint4 k[kSub / 8];
#pragma unroll
            for (int n = 0; n < kSub / 8; ++n)
                k[n] = piece_at(keys + (begin + 8 * n) * kKeyPitch + b / 2 * 128 + key_offset[b % 2]);
#pragma unroll
            for (int step = 0; step < 2; ++step) {
                uint4 query[kTilesOfWarp];
#pragma unroll
                for (int tile = 0; tile < kTilesOfWarp; ++tile) query[tile] = query_at(tile, b, step);
#pragma unroll
                for (int n = 0; n < kSub / 8; ++n)
#pragma unroll
                    for (int tile = 0; tile < kTilesOfWarp; ++tile)
                        mma_bf16(scores[tile][n], query[tile], word(k[n], 2 * step), word(k[n], 2 * step + 1));
            }
        }
    }

    // Keys that a row does not see get minus infinity. `key`: of scores[..][0].
    __device__ void mask(float (&scores)[kTilesOfWarp][kSub / 8][4], int key) const {
#pragma unroll
        for (int tile = 0; tile < kTilesOfWarp; ++tile)
#pragma unroll
            for (int n = 0; n < kSub / 8; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int of_key = key + 8 * n + 2 * q + i % 2, of_row = position + row_of_warp(tile, i / 2);
                    if (of_key > of_row || (a.window > 0 && of_key <= of_row - a.window))
                        scores[tile][n][i] = -INFINITY;
                }
    }

    // Scores become weights relative to the largest so far, and what was summed is rescaled.
    __device__ void softmax(float (&scores)[kTilesOfWarp][kSub / 8][4]) {
        bool grows = false;
        float shrink[kTilesOfWarp][2];
#pragma unroll
        for (int tile = 0; tile < kTilesOfWarp; ++tile)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float highest = maxima[tile][half];
#pragma unroll
                for (auto& four : scores[tile]) highest = fmaxf(highest, fmaxf(four[2 * half], four[2 * half + 1]));
                highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 1));
                highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 2));
                const bool masked = highest == -INFINITY;  // all so far: weights 0
                const float base = masked ? 0 : highest * a.scale;
                grows |= highest != maxima[tile][half];
                // Exactly 1 where the largest stays, so that keys which a row does not see change no bit of it.
                shrink[tile][half] = masked ? 1 : exp2_fast((maxima[tile][half] - highest) * a.scale);
                maxima[tile][half] = highest;
                float total = 0;
#pragma unroll
                for (auto& four : scores[tile])
#pragma unroll
                    for (int i = 2 * half; i < 2 * half + 2; ++i) {
                        four[i] = exp2_fast(fmaf(four[i], a.scale, -base));
                        total += four[i];
                    }
                totals[tile][half] = totals[tile][half] * shrink[tile][half] + total;
            }
        if (!__any_sync(~0u, grows)) return;
#pragma unroll
        for (int tile = 0; tile < kTilesOfWarp; ++tile)
#pragma unroll
            for (auto& four : sums[tile])
#pragma unroll
                for (int i = 0; i < 4; ++i) four[i] *= shrink[tile][i / 2];
    }

    // Column n of product 2j + h of a piece is feature 2j + h of those that lanes 4n + q have.
    template <int First, class Piece>
    __device__ void add_piece(const uint4 (&p)[kTilesOfWarp], const Piece (&v)[4]) {
#pragma unroll
        for (int j = 0; j < int(sizeof(Piece) / 4); ++j) {
            const uint32_t v0 = word(v[0], j), v1 = word(v[1], j), v2 = word(v[2], j), v3 = word(v[3], j);
#pragma unroll
            for (int tile = 0; tile < kTilesOfWarp; ++tile) {
                mma_bf16(sums[tile][First + 2 * j], p[tile], low_halves(v0, v1), low_halves(v2, v3));
                mma_bf16(sums[tile][First + 2 * j + 1], p[tile], high_halves(v0, v1), high_halves(v2, v3));
            }
        }
    }
    template <int Wide>
    __device__ void add_wide(const uint4 (&p)[kTilesOfWarp], const std::byte* values, int begin) {
        if constexpr (Wide < kWide) {
            uint4 v[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                v[i] = piece_at(values + (begin + i % 2 + i / 2 * 8) * kValuePitch + 128 * Wide + value_offset);
            }
            add_piece<8 * Wide>(p, v);
            add_wide<Wide + 1>(p, values, begin);
        }
    }
    __device__ void add_values(const float (&weights)[kTilesOfWarp][kSub / 8][4], const std::byte* values, int begin) {
#pragma unroll
        for (int k = 0; k < kSub / 16; ++k) {
            uint4 p[kTilesOfWarp];
#pragma unroll
            for (int tile = 0; tile < kTilesOfWarp; ++tile) {
                const auto& low = weights[tile][2 * k];
                const auto& high = weights[tile][2 * k + 1];
                p[tile] = {pack_bf16(low[0], low[1]), pack_bf16(low[2], low[3]), pack_bf16(high[0], high[1]),
                           pack_bf16(high[2], high[3])};
            }
            add_wide<0>(p, values, begin + 16 * k);
            if constexpr (kNarrow) {
                uint2 v[4];
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int key = begin + 16 * k + 2 * q + i % 2 + i / 2 * 8;
                    v[i] = *reinterpret_cast<const uint2*>(values + key * kValuePitch + 128 * kWide + 8 * r);
                }
                add_piece<8 * kWide>(p, v);
            }
        }
    }

    __device__ void attend_block(int i, int first) {
        const int first_row = position + warp * kWarpRows;  // this warp's rows' positions
        const int last_row = min(first_row + kWarpRows, position + rows) - 1;
        const std::byte* keys = block_at(i);
        for (int begin = 0; begin < kKeys; begin += kSub) {
            const int key = first + begin;
            if (first_row > last_row || key > last_row) return;
            if (a.window > 0 && key + kSub - 1 <= first_row - a.window) continue;
            float scores[kTilesOfWarp][kSub / 8][4];
            score(scores, keys, begin);
            if (key + kSub - 1 > first_row || (a.window > 0 && key <= last_row - a.window)) mask(scores, key);
            softmax(scores);
            add_values(scores, keys + kKeys * kKeyPitch, begin);
        }
    }

    // Lane 4r + q has, of rows r and r + 8, features 16q to 16q + 15 of each 64, or 8q to 8q + 7 of the last 32.
    __device__ void write() const {
#pragma unroll
        for (int tile = 0; tile < kTilesOfWarp; ++tile)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float total = totals[tile][half];
                total += __shfl_xor_sync(~0u, total, 1);
                total += __shfl_xor_sync(~0u, total, 2);
                const float inverse = 1 / total;
                const int of_item = row_of_warp(tile, half);
                if (of_item >= rows) continue;
                bf16* to = a.out + ((row + of_item) * a.heads + head) * D;
                const auto pair = [&](int product, int column) {
                    return pack_bf16(sums[tile][product][2 * half + column] * inverse,
                                     sums[tile][product + 1][2 * half + column] * inverse);
                };
#pragma unroll
                for (int b = 0; b < kWide; ++b)
#pragma unroll
                    for (int column = 0; column < 2; ++column)
                        *reinterpret_cast<uint4*>(to + 64 * b + 16 * q + 8 * column) = {
                            pair(8 * b, column), pair(8 * b + 2, column), pair(8 * b + 4, column),
                            pair(8 * b + 6, column)};
                if constexpr (kNarrow)
                    *reinterpret_cast<uint4*>(to + 64 * kWide + 8 * q) = {pair(8 * kWide, 0), pair(8 * kWide + 2, 0),
                                                                          pair(8 * kWide, 1), pair(8 * kWide + 2, 1)};
            }
    }

    __device__ void run(const CudaAttentionItem& item, int of_head, int part) {
        const CudaSequence s = a.tables.sequences[item.sequence];
        row = item.row + part * kRows;
        rows = min(kRows, int(s.row_begin + s.rows - row));
        if (rows <= 0) return;
        head = of_head;
        kv_head = head / (a.heads / a.kv_heads);
        position = s.first_position + int(row - s.row_begin);
        pages = a.tables.block_tables + s.table * a.tables.max_blocks;
#pragma unroll
        for (int tile = 0; tile < kTilesOfWarp; ++tile) {
#pragma unroll
            for (auto& four : sums[tile])
#pragma unroll
                for (float& v : four) v = 0;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                maxima[tile][half] = -INFINITY;
                totals[tile][half] = 0;
            }
        }
        const int seen = a.window > 0 && position >= a.window ? int(position - a.window + 1) : 0;
        const int begin = seen / kKeys * kKeys, end = position + rows, blocks = (end - begin + kKeys - 1) / kKeys;
        copy_block(0, begin, end);
        end_copy_group();
        load_query();
        for (int i = 0; i < blocks; ++i) {
            if (i + 1 < blocks) copy_block(i + 1, begin + (i + 1) * kKeys, end);
            end_copy_group();
            wait_for_copies<1>();
            __syncthreads();
            attend_block(i, begin + i * kKeys);
            __syncthreads();  // the block may be filled again
        }
        write();
    }
};

template <int D>
__global__ void __launch_bounds__(32 * Prefill<D>::kWarps, 2)
    prefill_kernel(const __grid_constant__ PrefillArguments a) {
    extern __shared__ __align__(16) std::byte shared[];
    pdl_trigger();
    const int pieces = a.heads * Prefill<D>::kParts, work = a.tables.item_counts[1] * pieces;
    Prefill<D> prefill{a, shared};
    pdl_wait();
    for (int round = 0; round * int(gridDim.x) < work; ++round)
        if (const int i = work_of_round(round); i < work)
            prefill.run(a.tables.prefill[i / pieces], i % a.heads, i % pieces / a.heads);
}

}  // namespace spartan
