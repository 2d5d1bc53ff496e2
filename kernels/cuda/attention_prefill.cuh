// Prefill attention (FlashAttention-2, Dao 2023): 128 query rows of one head against blocks of keys, by tensor cores.
// For the scores k runs in an order that gives each lane 16 bytes in one piece, as in attention_decode.cuh; here keys
// and values come from shared memory that all warps fill together.
#pragma once

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/attention_decode.cuh"

#include <bit>

namespace spartan {

template <class T>
struct PrefillArguments {
    T* out;
    const T *q, *pool;
    int heads, kv_heads, block_shift;
    int64_t window;
    float scale;
    CudaBatchTables tables;
};

// Four 8 x 8 matrices of 16-bit elements from shared memory, transposed: lane 8 m + i gives the address of row i of
// matrix m; lane 4r + q gets elements (2q, r) and (2q + 1, r) of each.
__device__ __forceinline__ uint4 load_transposed(const void* row) {
    uint4 v;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(uint32_t(__cvta_generic_to_shared(row)))
                 : "memory");
    return v;
}

// Which piece of work, by falling length, a block does in each round: every other round runs backwards, so that no
// block gets all the longest.
__device__ __forceinline__ int work_of_round(int round) {
    const int block = int(round % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
    return round * int(gridDim.x) + block;
}

template <class T, int D>
struct Prefill {
    static constexpr int kWarps = 4, kTilesOfWarp = D <= 128 ? 2 : 1;  // tiles of 16 rows
    static constexpr int kWarpRows = 16 * kTilesOfWarp, kRows = kWarps * kWarpRows;
    static constexpr int kParts = kQueryTile / kRows;  // blocks that share a plan's item
    static constexpr int kKeys = D <= 128 ? 64 : 32;   // of a block
    static constexpr int kSub = 32;                    // whose scores are held at a time
    // Rows of 16-byte pieces. Where 8 of them fill the banks their order in a row changes from row to row, so that 8
    // lanes that read at a time meet all banks; elsewhere the length of a row does that.
    static constexpr bool kOdd = D % 64 != 0;
    static constexpr int kPieces = D / 8;
    static constexpr int kKeyPitch = 2 * D, kValuePitch = kOdd ? 2 * D + 16 : 2 * D;
    static constexpr int kBlockBytes = kKeys * (kKeyPitch + kValuePitch);
    static constexpr int kQueryBytes = kRows * 2 * D, kSharedBytes = kQueryBytes + 2 * kBlockBytes;
    HOST_DEVICE static constexpr int key_piece(int key, int piece) { return kOdd ? piece : piece ^ (key % 2 * 4); }
    HOST_DEVICE static constexpr int value_piece(int key, int piece) { return kOdd ? piece : piece ^ key % 8; }
    // How far, in powers of two, weights may rise over 1 before what was summed is rescaled.
    static constexpr float kHeadroom = 8;

    const PrefillArguments<T>& a;
    std::byte* shared;
    const int warp = int(threadIdx.x / 32), lane = int(threadIdx.x % 32), r = lane / 4, q = lane % 4;

    // Where this lane reads: key r, pieces 4b + q for even and odd b, less 128 bytes for every two b. Multiples of 8
    // keys, which the order of the pieces does not feel, are added.
    const int key_offset[2] = {r * kKeyPitch + key_piece(r, q) * 16, r* kKeyPitch + key_piece(r, 4 + q) * 16};

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
                const T* from = a.q + ((row + of_item) * a.heads + head) * D + 8 * q;
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

    // Keys and values [first, first + kKeys); zeros from `end` on. A thread copies the same piece of every kStep-th
    // key.
    __device__ void copy_block(int i, int first, int end) const {
        constexpr int kThreads = 32 * kWarps, kStep = int(std::bit_floor(unsigned(kThreads / kPieces))),
                      kCopies = kKeys / kStep;
        static_assert(kKeys % kStep == 0 && (16 % kStep == 0 || kStep % 16 == 0));
        constexpr int kOfPage = kStep < 16 ? 16 / kStep : 1;  // copies that are sure to be of one page
        if (kStep * kPieces != kThreads && int(threadIdx.x) >= kStep * kPieces) return;
        const int64_t half_page = (int64_t(a.kv_heads) << a.block_shift) * D;
        const int own_key = int(threadIdx.x) / kPieces, piece = int(threadIdx.x) % kPieces;
        std::byte* keys = block_at(i) + own_key * kKeyPitch;
        std::byte* values = block_at(i) + kKeys * kKeyPitch + own_key * kValuePitch;
        const T* of_head = a.pool + (int64_t(kv_head) << a.block_shift) * D + 8 * piece;
        int32_t page[kCopies / kOfPage];
#pragma unroll
        for (int c = 0; c < kCopies; c += kOfPage)
            page[c / kOfPage] = pages[min(first + own_key + c * kStep, end - 1) >> a.block_shift];
#pragma unroll
        for (int c = 0; c < kCopies; c += kOfPage) {
            const int slot = (first + own_key + c * kStep) & ((1 << a.block_shift) - 1);
            const T* from = of_head + 2 * half_page * page[c / kOfPage] + slot * D;
            const T* values_from = from + half_page;
#pragma unroll
            for (int n = 0; n < kOfPage; ++n) {
                const int key = own_key + (c + n) * kStep;  // of the block
                const bool wanted = first + key < end;
                copy_async<16>(keys + (c + n) * kStep * kKeyPitch + key_piece(key, piece) * 16, from + n * kStep * D,
                               wanted);
                copy_async<16>(values + (c + n) * kStep * kValuePitch + value_piece(key, piece) * 16,
                               values_from + n * kStep * D, wanted);
            }
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
                        mma<T>(scores[tile][n], query[tile], word(k[n], 2 * step), word(k[n], 2 * step + 1));
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

    // Scores become weights relative to the largest so far, or to an earlier one that is not much smaller; only when
    // they would rise far over 1 what was summed is rescaled. A row decides for itself: its bits do not depend on the
    // rows beside it.
    __device__ void softmax(float (&scores)[kTilesOfWarp][kSub / 8][4]) {
        bool grows = false;
        float shrink[kTilesOfWarp][2];
#pragma unroll
        for (int tile = 0; tile < kTilesOfWarp; ++tile)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float highest = scores[tile][0][2 * half];
#pragma unroll
                for (auto& four : scores[tile]) highest = fmaxf(highest, fmaxf(four[2 * half], four[2 * half + 1]));
                highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 1));
                highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 2));
                float& largest = maxima[tile][half];
                // Exactly 1 where it stays, so that keys which a row does not see change no bit of it.
                shrink[tile][half] = 1;
                if (highest > largest && (highest - largest) * a.scale > kHeadroom) {
                    shrink[tile][half] = exp2_fast((largest - highest) * a.scale);
                    largest = highest;
                    grows = true;
                }
                const float base = largest == -INFINITY ? 0 : largest * a.scale;  // all masked so far: weights 0
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

    __device__ void add_values(const float (&weights)[kTilesOfWarp][kSub / 8][4], const std::byte* values, int begin) {
        const int row_of_lane = lane % 16;  // key of the two matrices that a lane points into, and which piece of two
        const std::byte* rows_of_lane = values + (begin + row_of_lane) * kValuePitch;
#pragma unroll
        for (int k = 0; k < kSub / 16; ++k) {
            uint4 p[kTilesOfWarp];
#pragma unroll
            for (int tile = 0; tile < kTilesOfWarp; ++tile) {
                const auto& low = weights[tile][2 * k];
                const auto& high = weights[tile][2 * k + 1];
                p[tile] = {pack<T>(low[0], low[1]), pack<T>(low[2], low[3]), pack<T>(high[0], high[1]),
                           pack<T>(high[2], high[3])};
            }
#pragma unroll
            for (int n = 0; n < D / 16; ++n) {
                const int piece = value_piece(row_of_lane, 2 * n + lane / 16);
                const uint4 v = load_transposed(rows_of_lane + 16 * k * kValuePitch + 16 * piece);
#pragma unroll
                for (int tile = 0; tile < kTilesOfWarp; ++tile) {
                    mma<T>(sums[tile][2 * n], p[tile], v.x, v.y);
                    mma<T>(sums[tile][2 * n + 1], p[tile], v.z, v.w);
                }
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

    // Lane 4r + q has, of rows r and r + 8, features 2q and 2q + 1 of every 8. Lanes q and q ^ 1 swap, so that each
    // writes 4 in one piece: the even one of the first 8 of 16, the odd one of the others.
    __device__ void write() const {
        const bool odd = q % 2 != 0;
#pragma unroll
        for (int tile = 0; tile < kTilesOfWarp; ++tile)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float total = totals[tile][half];
                total += __shfl_xor_sync(~0u, total, 1);
                total += __shfl_xor_sync(~0u, total, 2);
                const float inverse = 1 / total;
                const int of_item = row_of_warp(tile, half);
                T* to = a.out + ((row + of_item) * a.heads + head) * D + (odd ? 8 : 0) + q / 2 * 4;
#pragma unroll
                for (int n = 0; n < D / 16; ++n) {
                    const auto pair = [&](int product) {
                        return pack<T>(sums[tile][product][2 * half] * inverse,
                                       sums[tile][product][2 * half + 1] * inverse);
                    };
                    const uint32_t first = pair(2 * n), second = pair(2 * n + 1);
                    const uint32_t other = __shfl_xor_sync(~0u, odd ? first : second, 1);
                    if (of_item < rows)
                        *reinterpret_cast<uint2*>(to + 16 * n) = odd ? uint2{other, second} : uint2{first, other};
                }
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
        __syncthreads();  // all are through with the item before
        copy_block(0, begin, end);
        end_copy_group();
        load_query();
        for (int i = 0; i < blocks; ++i) {
            wait_for_copies<0>();
            __syncthreads();  // block i is there, and all are through with block i - 1
            if (i + 1 < blocks) copy_block(i + 1, begin + (i + 1) * kKeys, end);
            end_copy_group();
            attend_block(i, begin + i * kKeys);
        }
        write();
    }
};

template <class T, int D>
__global__ void __launch_bounds__(32 * Prefill<T, D>::kWarps, 2)
    prefill_kernel(const __grid_constant__ PrefillArguments<T> a) {
    extern __shared__ __align__(16) std::byte shared[];
    pdl_trigger();
    const int pieces = a.heads * Prefill<T, D>::kParts, work = a.tables.item_counts[1] * pieces;
    Prefill<T, D> prefill{a, shared};
    pdl_wait();
    for (int round = 0; round * int(gridDim.x) < work; ++round)
        if (const int i = work_of_round(round); i < work)
            prefill.run(a.tables.prefill[i / pieces], i % a.heads, i % pieces / a.heads);
}

}  // namespace spartan
