// Packed rotations stream: a warp takes one item of 8 KB whatever the group, all 16 loads of a lane are in flight
// before pdl_wait(), and stay in registers while the warp walks the tile's rows 8 at a time, with the weights on the
// m16 side of mma.m16n8k16 and the rows on its n8 side. Four warps a block, four blocks an SM: 128 KB in flight. Inputs
// and outputs are permuted inside a group such that what a lane reads and writes of a row is contiguous.
#include "kernels/check.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/rotate.h"
#include "kernels/cuda/rotate_long.cuh"
#include "kernels/cuda/tiles.cuh"
#include "kernels/cuda/words.cuh"
#include "kernels/rounding.h"

namespace spartan {

namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps, kBlocksAnSm = 4;
constexpr int64_t kManyRows = 512;  // more of them take rotate_long.cuh

// All rows of a tile through one item: 16 MMA tiles, [part][m][k] with m over outputs and k over inputs.
template <class T, int G>
__device__ __forceinline__ void rotate_by_item(const uint4 (&w)[16], int item, int rows, int dim, const T* x, T* out,
                                               int lane) {
    constexpr int kOutputs = int(kPackedItem) / G, kM = (G < kOutputs ? G : kOutputs) / 16, kK = G / 16;
    constexpr int kGroups = 16 / (kM * kK);             // of an item
    constexpr int kAtOnce = kGroups < 4 ? kGroups : 4;  // groups that are loaded, multiplied and stored together
    constexpr int kLoads = kK == 1 ? 1 : kK / 2, kWords = kK == 1 ? 2 : 4;
    const int column = item * kOutputs, r = lane / 4, q = lane % 4;
    // Offsets of 32 bits, which cost half the registers of pointers.
    const uint32_t inputs = uint32_t((G > 64 ? column / G * G : column) + (kK == 1 ? 4 : 8) * q);
    const uint32_t outputs = uint32_t(column + r * 2 * kM);
#pragma unroll 1
    for (int row = 0; row < rows; row += 8) {
        const int in = row + r, first = row + 2 * q, second = first + 1;  // the row this lane feeds, the two it gets
#pragma unroll
        for (int g0 = 0; g0 < kGroups; g0 += kAtOnce) {
            uint32_t b[kAtOnce][kLoads][kWords] = {}, y0[kAtOnce][kM] = {}, y1[kAtOnce][kM] = {};
#pragma unroll
            for (int g = 0; g < kAtOnce; ++g) {
                const int skip = (g0 + g) * G;
                if (kGroups > 1 && column + skip >= dim) continue;  // padding of the last item
#pragma unroll
                for (int i = 0; i < kLoads; ++i)
                    if (in < rows) load_words(b[g][i], x + (inputs + uint32_t(in * dim + skip + 32 * i)));
                if (first < rows) load_words(y0[g], x + (outputs + uint32_t(first * dim + skip)));
                if (second < rows) load_words(y1[g], x + (outputs + uint32_t(second * dim + skip)));
            }
#pragma unroll
            for (int g = 0; g < kAtOnce; ++g) {
                float c[kM][4];
#pragma unroll
                for (int m = 0; m < kM; ++m) {
                    c[m][0] = low_of<T>(y0[g][m]);
                    c[m][2] = high_of<T>(y0[g][m]);
                    c[m][1] = low_of<T>(y1[g][m]);
                    c[m][3] = high_of<T>(y1[g][m]);
                }
#pragma unroll
                for (int k = 0; k < kK; ++k)
#pragma unroll
                    for (int m = 0; m < kM; ++m)
                        mma<T>(c[m], w[((g0 + g) * kM + m) * kK + k], b[g][k / 2][k % 2 * 2],
                               b[g][k / 2][k % 2 * 2 + 1]);
#pragma unroll
                for (int m = 0; m < kM; ++m) {
                    y0[g][m] = pack<T>(c[m][0], c[m][2]);
                    y1[g][m] = pack<T>(c[m][1], c[m][3]);
                }
            }
#pragma unroll
            for (int g = 0; g < kAtOnce; ++g) {
                const int skip = (g0 + g) * G;
                if (kGroups > 1 && column + skip >= dim) continue;
                if (first < rows) store_words(out + (outputs + uint32_t(first * dim + skip)), y0[g]);
                if (second < rows) store_words(out + (outputs + uint32_t(second * dim + skip)), y1[g]);
            }
        }
    }
}

// `count` units of 16 bytes, by all blocks in x.
__device__ __forceinline__ void copy_units(uint4* out, const uint4* x, int count) {
    constexpr int kAtOnce = 4;
    const int step = int(gridDim.x) * kThreads;
    for (int i = int(blockIdx.x) * kThreads + int(threadIdx.x); i < count; i += kAtOnce * step) {
        uint4 v[kAtOnce];
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k)
            if (i + k * step < count) v[k] = x[i + k * step];
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k)
            if (i + k * step < count) out[i + k * step] = v[k];
    }
}

__device__ __forceinline__ void load_item(uint4 (&w)[16], const char* items, int item, int lane) {
    const char* p = items + int64_t(item) * kPackedItem * 2 + lane * 16;
#pragma unroll
    for (int i = 0; i < 16; ++i) w[i] = load_weights(p + i * 512);
}

template <class T, int G, bool kLong>
__device__ __forceinline__ void rotate_rows(RotateRing* ring, const uint4 (&w)[16], int item, int rows, int dim,
                                            const T* x, T* out, int lane) {
    if constexpr (kLong && G >= 32) {
        asm volatile("" : "+r"(lane));  // else what all groups' addresses have of it is kept where registers are few
        LongRotation<T, G>{*ring, x, out, rows, dim, item * (int(kPackedItem) / G), lane}.run(w);
    } else
        rotate_by_item<T, G>(w, item, rows, dim, x, out, lane);
}

// Copies the rows of tiles without a rotation as well; dim is a multiple of 8. kLong: for batches of many rows, with
// the same bits.
template <class T, bool kLong>
__global__ void __launch_bounds__(kThreads, kBlocksAnSm)
    rotate_packed(T* out, const T* x, const CudaTile* tiles, int first_part, int64_t rows, int dim, Ahead ahead) {
    __shared__ RotateRing rings[kLong ? kWarps : 1];
    pdl_trigger();
    RotateRing* const ring = kLong ? &rings[threadIdx.x / 32] : nullptr;
    // The last CTAs ask, behind what they read themselves.
    const auto ask = [&] {
        const int all = int(gridDim.x * gridDim.y * gridDim.z), asking = min(all, kAheadBlocks);
        const int block = int((blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x);
        if (block >= all - asking) request_ahead(ahead, block - (all - asking), asking);
    };
    const CudaTile tile = tiles[blockIdx.z];
    const int p = int(blockIdx.y), lane = int(threadIdx.x) % 32;
    const CudaPart* part = part_of(tile, first_part + p);
    const auto* items = static_cast<const char*>(part ? part->rotation : nullptr);
    x += tile.row_begin * int64_t(dim);
    out += (p * rows + tile.row_begin) * dim;
    if (!items) {
        ask();
        pdl_wait();
        return copy_units(reinterpret_cast<uint4*>(out), reinterpret_cast<const uint4*>(x), tile.rows * (dim / 8));
    }
    const int group = part->rotation_packed ? part->group : 0;
    const int num_items = int((int64_t(dim) * group + kPackedItem - 1) / kPackedItem);
    int item = int(blockIdx.x) * kWarps + int(threadIdx.x) / 32;
    uint4 w[16];
    if (item < num_items) load_item(w, items, item, lane);
    ask();
    pdl_wait();
    if (item >= num_items) return;
#pragma unroll 1
    for (;;) {
        switch (group) {
            case 16:
                rotate_rows<T, 16, kLong>(ring, w, item, tile.rows, dim, x, out, lane);
                break;
            case 32:
                rotate_rows<T, 32, kLong>(ring, w, item, tile.rows, dim, x, out, lane);
                break;
            case 64:
                rotate_rows<T, 64, kLong>(ring, w, item, tile.rows, dim, x, out, lane);
                break;
            case 128:
                rotate_rows<T, 128, kLong>(ring, w, item, tile.rows, dim, x, out, lane);
                break;
            case 256:
                rotate_rows<T, 256, kLong>(ring, w, item, tile.rows, dim, x, out, lane);
                break;
        }
        item += int(gridDim.x) * kWarps;
        if (item >= num_items) break;
        load_item(w, items, item, lane);
    }
}

// kRows rows of one output column; r steps by `group` from one u to the next.
template <int kRows, class T>
__device__ __forceinline__ void rotate_column(T* out, const T* x, const T* r, int group, int64_t dim) {
    float sum[kRows] = {};
#pragma unroll 4
    for (int u = 0; u < group; ++u) {
        const float w = to_float(r[int64_t(u) * group]);
#pragma unroll
        for (int i = 0; i < kRows; ++i) sum[i] = fmaf(to_float(x[i * dim + u]), w, sum[i]);
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) out[i * dim] = from_float<T>(sum[i]);
}

// Rotations that are not packed; with `copies` also the rows of tiles without one. A thread takes one column.
template <class T>
__global__ void __launch_bounds__(kThreads)
    rotate_plain(T* out, const T* x, const CudaTile* tiles, int first_part, int64_t rows, int64_t dim, bool copies) {
    pdl_trigger();
    const CudaTile tile = tiles[blockIdx.z];
    const CudaPart* part = part_of(tile, first_part + int(blockIdx.y));
    const auto* rotation = static_cast<const T*>(part ? part->rotation : nullptr);
    const bool packed = rotation && part->rotation_packed;
    const int group = rotation ? part->group : 1;
    pdl_wait();
    const int64_t column = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (column >= dim || packed || (!rotation && !copies)) return;
    x += tile.row_begin * dim;
    out += (blockIdx.y * rows + tile.row_begin) * dim + column;
    if (!rotation) {
        for (int row = 0; row < tile.rows; ++row) out[row * dim] = x[row * dim + column];
        return;
    }
    const int64_t first = column / group * group;  // of the group's features
    const T* r = rotation + first * group + (column - first);
    int row = 0;
    for (; row + 8 <= tile.rows; row += 8) rotate_column<8>(out + row * dim, x + row * dim + first, r, group, dim);
    for (; row < tile.rows; ++row) rotate_column<1>(out + row * dim, x + row * dim + first, r, group, dim);
}

// 8 values that lie together: two columns' four inputs.
template <class T, class R>
__device__ __forceinline__ void pack_unit(T* packed, const R* r, int64_t dim, int group, int64_t i) {
    const PackedPlace place = packed_rotation_place(group, i * 8);
    const int64_t g = place.column / group, v = place.column % group;
    float d[2][4] = {};
    if (place.column < dim)
        for (int e = 0; e < 4; ++e)
            for (int h = 0; h < 2; ++h) {
                const int64_t u = place.u + e;
                d[h][e] = to_float(r[(g * group + u) * group + v + h]) - (u == v + h ? 1.f : 0.f);
            }
    reinterpret_cast<uint4*>(packed)[i] = make_uint4(pack<T>(d[0][0], d[0][1]), pack<T>(d[1][0], d[1][1]),
                                                     pack<T>(d[0][2], d[0][3]), pack<T>(d[1][2], d[1][3]));
}

constexpr int64_t kUnits = kPackedItem / 8;  // of an item

template <class T, class R>
__global__ void __launch_bounds__(kThreads)
    pack_rotation_kernel(T* packed, const R* r, int64_t dim, int group, int64_t count) {
    pdl_trigger();
    pdl_wait();
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (i < count) pack_unit(packed, r, dim, group, i);
}

template <class T>
__global__ void __launch_bounds__(kThreads) pack_rotations_kernel(const PackJob<T>* jobs) {
    pdl_trigger();
    pdl_wait();
    const PackJob<T> job = jobs[blockIdx.y];
    const int64_t count = packed_rotation_items(job.dim, job.group) * kUnits;
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (i < count) pack_unit(job.packed, job.r, job.dim, job.group, i);
}

}  // namespace

template <class T>
void rotate(CudaDevice& device, T* out, const T* x, const CudaTile* tiles, int num_tiles, int first_part,
            int num_projections, int64_t rows, int64_t dim, int max_group, bool any_plain, const Ahead& ahead) {
    CHECK(rows >= 0 && num_tiles >= 0 && num_projections >= 0 && first_part >= 0);
    CHECK(dim > 0 && dim <= 1 << 24 && out != x);
    CHECK(max_group >= 0 && max_group <= 256);
    if (rows == 0 || num_tiles == 0) return;
    const bool streams = is_16_bit<T> && dim % 16 == 0;
    CHECK(streams || max_group == 0);
    if constexpr (is_16_bit<T>)
        if (streams) {
            CHECK(aligned_to_16(out, x));
            // At least so many blocks that a row is copied in one turn.
            const int64_t blocks =
                std::max(divide_up(packed_rotation_items(dim, max_group), kWarps), divide_up(dim / 8, kThreads));
            launch(device, rows > kManyRows ? rotate_packed<T, true> : rotate_packed<T, false>,
                   tile_grid(device, blocks, num_projections, num_tiles, kBlocksAnSm), kThreads, 0, out, x, tiles,
                   first_part, rows, int(dim), ahead);
        }
    if (any_plain || !streams) {
        const dim3 grid(unsigned(divide_up(dim, kThreads)), unsigned(num_projections), unsigned(num_tiles));
        CHECK(num_tiles <= 65535);
        launch(device, rotate_plain<T>, grid, kThreads, 0, out, x, tiles, first_part, rows, dim, !streams);
    }
}

template <class T, class R>
void pack_rotation(CudaDevice& device, T* packed, const R* r, int64_t dim, int64_t group) {
    CHECK(packs(dim, group, dtype_of<T>) && aligned_to_16(packed));
    CHECK(static_cast<const void*>(packed) != static_cast<const void*>(r));
    const int64_t count = packed_rotation_items(dim, group) * kUnits;
    launch(device, pack_rotation_kernel<T, R>, dim3(unsigned(divide_up(count, kThreads))), kThreads, 0, packed, r, dim,
           int(group), count);
}

template <class T>
void pack_rotations(CudaDevice& device, const PackJob<T>* jobs, int count, int64_t most_items) {
    CHECK(count >= 0 && count <= 65535 && most_items >= 0);
    const dim3 grid(unsigned(divide_up(most_items * kUnits, kThreads)), unsigned(count));
    launch(device, pack_rotations_kernel<T>, grid, kThreads, 0, jobs);
}

template void rotate<float>(CudaDevice&, float*, const float*, const CudaTile*, int, int, int, int64_t, int64_t, int,
                            bool, const Ahead&);
template void rotate<bf16>(CudaDevice&, bf16*, const bf16*, const CudaTile*, int, int, int, int64_t, int64_t, int, bool,
                           const Ahead&);
template void rotate<f16>(CudaDevice&, f16*, const f16*, const CudaTile*, int, int, int, int64_t, int64_t, int, bool,
                          const Ahead&);
template void pack_rotation(CudaDevice&, bf16*, const float*, int64_t, int64_t);
template void pack_rotation(CudaDevice&, bf16*, const bf16*, int64_t, int64_t);
template void pack_rotation(CudaDevice&, f16*, const float*, int64_t, int64_t);
template void pack_rotation(CudaDevice&, f16*, const f16*, int64_t, int64_t);
template void pack_rotations(CudaDevice&, const PackJob<bf16>*, int, int64_t);
template void pack_rotations(CudaDevice&, const PackJob<f16>*, int, int64_t);

}  // namespace spartan
