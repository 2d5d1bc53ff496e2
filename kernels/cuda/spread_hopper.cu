// spread_matmul(): the rows of W, and k where they are few, are cut so that every multiprocessor has one CTA and all
// of them read nearly as much of W. A warp of its own asks the bulk copy engine for tiles of W and x, a ring of them
// ahead, W's before the kernel in front has ended; two warpgroups multiply them out of shared memory.
//
//     CTA   all rows of x and a piece of k of `rows` (8 to 256) rows of W. Two CTAs whose pieces of k meet are a
//           cluster: each adds half of their sums, through shared memory
#include "kernels/cuda/hopper_tiles.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/products.cuh"
#include "kernels/cuda/tensor_map.h"
#include "kernels/rounding.h"

#include <algorithm>

namespace spartan {

namespace {

constexpr int kGroups = 2, kTilesOfGroup = 2, kTiles = kGroups * kTilesOfGroup;  // tiles of 64 rows of W
constexpr int kMultiplying = 128 * kGroups, kThreads = kMultiplying + 32;
constexpr int kMostRowsW = 64 * kTiles, kFewRowsW = 64;
constexpr int kMostStages = 12;
// More keeps the small kernels beside it from starting: 150 KB made steps of 96 rows 1 % faster than 200 or 120.
constexpr int kMostShared = 150 * 1024;
constexpr int kBarriers = 0, kBarrierBytes = 1024, kRing = kBarriers + kBarrierBytes;
constexpr int kTileBytes = 64 * kSkinnyBlock * 2;
constexpr int kBehindRing = kGroups * kTileBytes;  // what is multiplied though it did not come

template <class Out, class T>
struct SpreadArguments {
    CUtensorMap w[kMostProducts], x[kMostProducts];
    DeviceProducts<Out, T> products;
    int m, rows, pieces, blocks, stages;  // rows: of W, of a CTA; blocks: of k
};

// How W is cut: into CTAs of so many rows, whose k is cut into pieces.
struct Cut {
    int rows, pieces;
};

// As few waves of at most one CTA a multiprocessor as have room for all rows, and the fewest rows that need no more.
template <class Out, class T>
Cut cut_of(std::span<const MatmulProduct<Out, T>> products, int64_t k, int num_sms) {
    const auto rows_of = [&](int pieces) {
        const auto tiles = [&](int64_t rows) {
            int64_t sum = 0;
            for (const auto& p : products) sum += divide_up(p.n, rows);
            return sum;
        };
        for (int64_t waves = 1;; ++waves)
            for (int rows = 8; rows <= kMostRowsW; rows += 8)
                if (tiles(rows) * pieces <= waves * num_sms) return rows;
    };
    const int whole = rows_of(1);
    // Each CTA reads all of x: for few rows of W that were most of its work.
    if (whole >= kFewRowsW || k < 2 * kSkinnyBlock) return {whole, 1};
    return {rows_of(2), 2};
}

// Sums of a tile's rows r, r + 8 and columns 2q, 2q + 1 of 8 rows of x, as a lane has them.
template <class Out, class T>
__device__ __forceinline__ void store_eight(const SpreadArguments<Out, T>& a, const DeviceProduct<Out, T>& product,
                                            int n0, int n_end, int row_w, int row_x, const float4& v) {
    const int r = int(threadIdx.x) % 32 / 4, q = int(threadIdx.x) % 4;
    if constexpr (std::is_same_v<Out, float>) {
        const float values[2][2] = {{v.x, v.y}, {v.z, v.w}};
#pragma unroll
        for (int high = 0; high < 2; ++high)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int x = row_x + 2 * q + i, w = n0 + row_w + 8 * high + r;
                if (x < a.m && w < n_end) product.out[int64_t(x) * product.n + w] = values[high][i];
            }
    } else {
        const int x = row_x + r;
#pragma unroll
        for (int high = 0; high < 2; ++high) {
            const int w = n0 + row_w + 8 * high + 2 * q;
            const uint32_t pair = transposed(high ? pack<Out>(v.z, v.w) : pack<Out>(v.x, v.y));
            if (x < a.m && w < n_end) store_sums(product, x, w, low_of<Out>(pair), high_of<Out>(pair));
        }
    }
}

template <class Out, class T, int kRowsX>
__global__ void __launch_bounds__(kThreads, 1) spread(const __grid_constant__ SpreadArguments<Out, T> a) {
    constexpr int kBytesX = kRowsX * kSkinnyBlock * 2, kEights = kRowsX / 8;
    extern __shared__ __align__(1024) std::byte shared[];
    const int bytes_w = a.rows * kSkinnyBlock * 2, stage_bytes = bytes_w + kBytesX;
    const uint32_t full = shared_address(shared), empty = full + kMostStages * 8, ring = full + kRing;
    pdl_trigger();
    const int tile = int(blockIdx.x) / a.pieces, piece = int(blockIdx.x) % a.pieces;
    const int index = a.products.index(tile);
    const DeviceProduct<Out, T>& product = a.products.of[index];
    const int n0 = (tile - product.first_tile) * a.rows, n_end = min(n0 + a.rows, product.n);
    const int begin = a.blocks * piece / a.pieces, count = a.blocks * (piece + 1) / a.pieces - begin;
    const int tiles = (a.rows + 63) / 64;
    const int group = int(threadIdx.x) / 128, lane = int(threadIdx.x) % 128;
    if (threadIdx.x == kMultiplying) {
        for (int s = 0; s < a.stages; ++s) {
            init_barrier(full + s * 8, 1);
            init_barrier(empty + s * 8, kGroups);
        }
        publish_barriers();
    }
    __syncthreads();

    float sums[kTilesOfGroup][kRowsX / 2] = {};  // of tiles `group`, `group` + kGroups
    if (group == kGroups) {
        if (lane == 0) {
            const uint64_t policy = read_once();
            const auto ask_w = [&](int i, int s) {
                arrive_and_expect(full + s * 8, uint32_t(stage_bytes));
                copy_box(ring + s * stage_bytes, a.w[index], full + s * 8, (begin + i) * kSkinnyBlock, n0, policy);
            };
            const auto ask_x = [&](int i, int s) {
                copy_box(ring + s * stage_bytes + bytes_w, a.x[index], full + s * 8, (begin + i) * kSkinnyBlock, 0);
            };
            const int ahead = min(a.stages, count);
            for (int i = 0; i < ahead; ++i) ask_w(i, i);
            pdl_wait();
            for (int i = 0; i < ahead; ++i) ask_x(i, i);
            for (int i = ahead, s = 0, phase = 0; i < count; ++i) {
                wait_for(empty + s * 8, uint32_t(phase));
                ask_w(i, s);
                ask_x(i, s);
                if (++s == a.stages) s = 0, phase ^= 1;
            }
        }
        __syncwarp();
        pdl_wait();
    } else {
        pdl_wait();
        // Every group multiplies all its tiles, even one that nothing has come for: branches between warps would keep
        // the products from following one another.
        const auto multiply = [&](auto tiles_of_group) {
#pragma unroll 1
            for (int i = 0, s = 0, phase = 0; i < count; ++i) {
                wait_for(full + s * 8, uint32_t(phase));
                const uint32_t w = ring + s * stage_bytes + group * kTileBytes, x = ring + s * stage_bytes + bytes_w;
                begin_products();
#pragma unroll
                for (int k = 0; k < kSkinnyBlock; k += 16)
#pragma unroll
                    for (int t = 0; t < tiles_of_group; ++t)
                        add_product<T>(sums[t], operand_along_k(w + t * kGroups * kTileBytes + k * 2),
                                       operand_along_k(x + k * 2));
                end_products();
                wait_for_products<0>();
                if (lane == 0) arrive(empty + s * 8);
                __syncwarp();
                if (++s == a.stages) s = 0, phase ^= 1;
            }
        };
        if (tiles > kGroups)
            multiply(std::integral_constant<int, 2>());
        else
            multiply(std::integral_constant<int, 1>());
    }

    // [tile][eight rows of x][lane of the group]
    const auto sums_of = [&](int t, int j) {
        return make_float4(sums[t][4 * j], sums[t][4 * j + 1], sums[t][4 * j + 2], sums[t][4 * j + 3]);
    };
    const int row_w = lane / 32 * 16;
    if (a.pieces == 1) {
        if (group == kGroups) return;
#pragma unroll
        for (int t = 0; t < kTilesOfGroup; ++t)
            if (const int own = group + t * kGroups; own < tiles)
#pragma unroll
                for (int j = 0; j < kEights; ++j)
                    store_eight(a, product, n0, n_end, own * 64 + row_w, 8 * j, sums_of(t, j));
        return;
    }
    __syncthreads();  // nobody reads the ring any more
    if (group < kGroups) {
        float4* const to = reinterpret_cast<float4*>(shared + kRing) + lane;
#pragma unroll
        for (int t = 0; t < kTilesOfGroup; ++t)
            if (const int own = group + t * kGroups; own < tiles)
#pragma unroll
                for (int j = 0; j < kEights; ++j) to[(own * kEights + j) * 128] = sums_of(t, j);
    }
    wait_for_cluster();
    if (group < kGroups) {
        const int eights = tiles * kEights, end = eights * (piece + 1) / 2;
#pragma unroll 4
        for (int i = eights * piece / 2 + group; i < end; i += kGroups) {
            const uint32_t at = ring + uint32_t(i * 128 + lane) * 16;
            const float4 low = load_of_cluster(at, 0), high = load_of_cluster(at, 1);
            store_eight(a, product, n0, n_end, i / kEights * 64 + row_w, i % kEights * 8,
                        make_float4(low.x + high.x, low.y + high.y, low.z + high.z, low.w + high.w));
        }
    }
    wait_for_cluster();  // the other may still read this CTA's sums
}

template <int kRowsX, class Out, class T>
void launch_spread(CudaDevice& device, std::span<const MatmulProduct<Out, T>> products, int64_t m, int64_t k) {
    const Cut cut = cut_of(products, k, device.num_sms());
    SpreadArguments<Out, T> a = {};
    a.products = device_products<Out, T>(products, m, k, cut.rows);
    if (a.products.tiles == 0) return;
    for (int i = 0; i < kMostProducts && a.products.of[i].first_tile != INT_MAX; ++i) {
        a.w[i] = tensor_map(a.products.of[i].w, a.products.of[i].n, k, cut.rows);
        a.x[i] = tensor_map(a.products.of[i].x, m, k, kRowsX);
    }
    a.m = int(m), a.rows = cut.rows, a.pieces = cut.pieces, a.blocks = int(k / kSkinnyBlock);
    const int stage_bytes = (cut.rows + kRowsX) * kSkinnyBlock * 2;
    a.stages = std::min({kMostStages, (kMostShared - kRing - kBehindRing) / stage_bytes, a.blocks});
    const int sum_bytes = cut.pieces > 1 ? int(round_up(cut.rows, 64)) * kRowsX * 4 : 0;
    const int bytes = kRing + std::max(a.stages * stage_bytes + kBehindRing, sum_bytes);
    const auto kernel = spread<Out, T, kRowsX>;
    CHECK_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    launch_clusters(device, kernel, dim3(unsigned(a.products.tiles * cut.pieces)), cut.pieces, kThreads, size_t(bytes),
                    a);
}

}  // namespace

template <class Out, class T>
void spread_matmul(CudaDevice& device, std::span<const MatmulProduct<Out, T>> products, int64_t m, int64_t k) {
    CHECK(m <= kMostSpreadRows);
    if (m == 0) return;
    const auto launch = m <= 32   ? launch_spread<32, Out, T>
                        : m <= 64 ? launch_spread<64, Out, T>
                        : m <= 96 ? launch_spread<96, Out, T>
                                  : launch_spread<128, Out, T>;
    launch(device, products, m, k);
}

template void spread_matmul(CudaDevice&, std::span<const MatmulProduct<float, bf16>>, int64_t, int64_t);
template void spread_matmul(CudaDevice&, std::span<const MatmulProduct<bf16, bf16>>, int64_t, int64_t);
template void spread_matmul(CudaDevice&, std::span<const MatmulProduct<float, f16>>, int64_t, int64_t);
template void spread_matmul(CudaDevice&, std::span<const MatmulProduct<f16, f16>>, int64_t, int64_t);

}  // namespace spartan
