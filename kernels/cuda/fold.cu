// Pairs of factors of blocks of 32, what adapters usually have, go through fold_pairs.cuh, and all blocks of 32 are
// inverted on the tensor cores (square.cuh). The rest is here.
//
// A warp inverts I + S of a block of up to 64 with its columns in registers: every step publishes the pivot's column in
// shared memory and moves the rows up by one register as it subtracts, so that the pivot is always at the first and no
// register is addressed by a number that is only known at run time. Then each warp takes four rows of a group at a time
// through the factors that are left. A row meets one half of one block in each superblock: the others' inputs are zero.
//
// The first factor is kept as Qᵀ, the rotation of -S, so that four rows lie side by side.
//
// Thread blocks are many and short: work that has to wait for their place does not wait for long.
#include "kernels/check.h"
#include "kernels/cuda/fold.h"
#include "kernels/cuda/fold_pairs.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/rotate.h"
#include "kernels/cuda/square.cuh"
#include "kernels/cuda/tiles.cuh"

#include <algorithm>

namespace spartan {

namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps, kLargeThreads = 512;
constexpr int64_t kMostShared = 96 << 10;  // of a thread block, on every GPU from compute capability 8.0 on
constexpr int kSliceRows = 64;             // of a group, that a block of product_of_groups takes

// Floats from one row of Q to the next: a multiple of 4, and such that rows 4 apart lie in different banks.
HOST_DEVICE constexpr int stride_of(int b) { return (b + 3) / 4 * 4 + 4; }
// Rows that go through the factors together: 4 where they cannot lie in two chunks.
HOST_DEVICE constexpr int rows_at_once(int b, int m) { return m == 1 ? (b % 4 == 0 ? 4 : 1) : (b % 8 == 0 ? 4 : 1); }
HOST_DEVICE constexpr int row_buffers(int m) { return m < 3 ? m - 1 : 2; }
// Groups that a thread block of fold_groups takes together, so that all its warps have a block of Q.
HOST_DEVICE constexpr int groups_at_once(int m) { return m == 1 ? kWarps : 1; }

// The blocks, by the registers that a column takes.
constexpr int padded_block(int b) { return b <= 8 ? 8 : b <= 16 ? 16 : b <= 32 ? 32 : 64; }

// Bytes of shared memory, in this order: Q of `groups` groups, two columns a warp, and its rows.
constexpr int64_t shared_bytes(int b, int m, int groups) {
    const int64_t q = int64_t(groups) * m * (1 << (m - 1)) * b * stride_of(b);
    const int64_t rows = int64_t(row_buffers(m)) * (b << (m - 1)) * rows_at_once(b, m);
    return 4 * (q + kWarps * (2 * padded_block(b) + rows));
}
constexpr bool in_one_kernel(int b, int m) { return b <= 64 && shared_bytes(b, m, groups_at_once(m)) <= kMostShared; }

// The columns lane, lane + 32 … of a matrix.
template <int B>
using Columns = float[(B + 31) / 32][B];

// a = a^-1; columns: two of the warp's own, B floats each.
template <int B>
__device__ __forceinline__ void invert(Columns<B>& a, float* columns, int lane) {
    constexpr int kColumns = (B + 31) / 32, kSteps = B < 32 ? B : 32;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
#pragma unroll 1
        for (int k = 0; k < kSteps; ++k) {
            auto* column = reinterpret_cast<float4*>(columns + k % 2 * B);
            if (lane == k) {
#pragma unroll
                for (int i = 0; i < B; i += 4)
                    column[i / 4] = make_float4(a[c][i], a[c][i + 1], a[c][i + 2], a[c][i + 3]);
            }
            __syncwarp();
            const float p = 1.f / column[0].x;
            // The pivot's own column becomes -f p = f - f (1 + p).
            float r[kColumns], last[kColumns];
#pragma unroll
            for (int d = 0; d < kColumns; ++d) {
                const bool own = d == c && lane == k;
                last[d] = own ? p : a[d][0] * p;
                r[d] = own ? 1.f + p : last[d];
            }
#pragma unroll
            for (int i = 0; i < B; i += 4) {
                const float4 f4 = column[i / 4];
                const float f[4] = {f4.x, f4.y, f4.z, f4.w};
#pragma unroll
                for (int j = i == 0 ? 1 : 0; j < 4; ++j)
#pragma unroll
                    for (int d = 0; d < kColumns; ++d) a[d][i + j - 1] = fmaf(-f[j], r[d], a[d][i + j]);
            }
#pragma unroll
            for (int d = 0; d < kColumns; ++d) a[d][B - 1] = last[d];
        }
    }
}

// As below, of a block of 32.
template <class S>
__device__ __forceinline__ void square_by_warp(float* q, const S* skew, bool transposed, float* triangle, int lane) {
    fetch_triangle(triangle, skew, lane);
    Square square;
    rotation_of_triangle(square, triangle, transposed, lane);
#pragma unroll
    for (int a = 0; a < 4; ++a)
#pragma unroll
        for (int b = 0; b < 4; ++b)
            *reinterpret_cast<float2*>(q + (8 * a + lane / 4) * stride_of(kSquare) + 8 * b + lane % 4 * 2) =
                make_float2(square.at(a, b, 0), square.at(a, b, 1));
}

// q [b][stride_of(b)] = Q of one block, or Qᵀ; `triangle` is room of the warp's own in shared memory, and may be q.
template <int B, class S>
__device__ __forceinline__ void rotation_by_warp(float* q, const S* skew, int b, bool transposed, float* triangle,
                                                 float* columns, int lane) {
    constexpr int kColumns = (B + 31) / 32;
    if constexpr (B == kSquare)
        if (b == kSquare) return square_by_warp(q, skew, transposed, triangle, lane);
    fetch_skew(triangle, skew, int(skew_values(b)), lane);
    __syncwarp();
    Columns<B> a;
    const float sign = transposed ? -1.f : 1.f;
#pragma unroll
    for (int i = 0; i < B; ++i)
#pragma unroll
        for (int d = 0; d < kColumns; ++d) {
            const int j = lane + 32 * d;
            a[d][i] = i == j ? 1.f : 0.f;
            if (i != j && i < b && j < b)
                a[d][i] = i < j ? sign * triangle[skew_place(i, j, b)] : -sign * triangle[skew_place(j, i, b)];
        }
    __syncwarp();
    invert<B>(a, columns, lane);
#pragma unroll
    for (int i = 0; i < B; ++i)
#pragma unroll
        for (int d = 0; d < kColumns; ++d) {
            const int j = lane + 32 * d;
            if (i < b && j < b) q[i * stride_of(b) + j] = 2.f * a[d][i] - (i == j ? 1.f : 0.f);
        }
}

// The same value of R rows.
template <int R>
struct alignas(4 * R) Rows {
    float v[R];
};
template <int R>
__device__ __forceinline__ Rows<R> load_rows(const float* p) {
    return *reinterpret_cast<const Rows<R>*>(p);
}
template <int R>
__device__ __forceinline__ void store_rows(float* p, const Rows<R>& rows) {
    *reinterpret_cast<Rows<R>*>(p) = rows;
}

// Where R rows of a product lie: value v of all of them from `at + v * step` on.
struct RowView {
    const float* at = nullptr;
    int step = 0;
};

// Rows u … u + R - 1 of a group's product. q: its blocks [m][2^(m-1)][b][stride], the last factor's transposed.
// buffers: row_buffers(m) of [G][R] of the warp's own.
template <int R>
__device__ __forceinline__ RowView multiply_rows(const float* q, int b, int m, int u, float* buffers, int lane) {
    const int stride = stride_of(b), size = b * stride, blocks = 1 << (m - 1), half = b / 2;
    const int chunk = m == 1 ? 0 : u / half, c = chunk % blocks;
    const int p = m == 1 ? u : chunk / blocks * half + u % half;  // of these rows, in block c of the last factor
    RowView in{q + ((m - 1) * blocks + c) * size + p, stride};
    int chunk_step = 1;  // from a superblock's input to the next one's, in chunks of `in`
    float* out = buffers;
    for (int i = m - 2; i >= 0; --i) {
        const int superblocks = 1 << (m - 1 - i), k = c % (1 << i), h = (c >> i) % 2;
        const int first = i == m - 2 ? 0 : c % (1 << (i + 1));
        if (i < m - 2) chunk_step = 1 << (i + 1);
        const float* factor = q + (i * blocks + k) * size + h * half * stride;
        for (int n = lane; n < superblocks * b; n += 32) {
            const int s = n / b, v = n - s * b;
            const float* x = in.at + (s * chunk_step + first) * half * in.step;
            const float* w = factor + (s << i) * size + v;
            Rows<R> sum = {};
#pragma unroll 8
            for (int t = 0; t < half; ++t) {
                const Rows<R> row = load_rows<R>(x + t * in.step);
                const float weight = w[t * stride];
#pragma unroll
                for (int r = 0; r < R; ++r) sum.v[r] = fmaf(row.v[r], weight, sum.v[r]);
            }
            const int upper = v >= half;
            const int feature = ((s << (i + 1)) + k + (upper << i)) * half + v - upper * half;
            store_rows<R>(out + feature * R, sum);
        }
        __syncwarp();
        in = {out, R};
        out = out == buffers ? buffers + (b << (m - 1)) * R : buffers;
    }
    return in;
}

template <int G, int R, class T>
__device__ __forceinline__ void store_packed(T* packed, int group, int u, const RowView& rows, int lane) {
    const int64_t first = int64_t(group) * G;
    if constexpr (R == 4) {
        for (int v = 2 * lane; v < G; v += 64) {
            const Rows<4> a = load_rows<4>(rows.at + v * rows.step), b = load_rows<4>(rows.at + (v + 1) * rows.step);
            float d[2][4];
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                d[0][e] = a.v[e] - (u + e == v ? 1.f : 0.f);
                d[1][e] = b.v[e] - (u + e == v + 1 ? 1.f : 0.f);
            }
            *reinterpret_cast<uint4*>(packed + packed_rotation_offset(G, first + v, u)) =
                make_uint4(pack<T>(d[0][0], d[0][1]), pack<T>(d[1][0], d[1][1]), pack<T>(d[0][2], d[0][3]),
                           pack<T>(d[1][2], d[1][3]));
        }
    } else {
        for (int v = lane; v < G; v += 32)
            packed[packed_rotation_offset(G, first + v, u)] =
                from_float<T>(rows.at[v * rows.step] - (u == v ? 1.f : 0.f));
    }
}

// Rows u … u + R - 1 of group `group` to where they are served from.
template <class T, int R>
__device__ __forceinline__ void store_group_rows(const FoldJob& job, int group, int u, const RowView& rows, int lane) {
    if constexpr (is_16_bit<T>) {
        auto* packed = static_cast<T*>(job.rotation);
        if (job.packed) {
            switch (job.group) {
                case 16:
                    return store_packed<16, R>(packed, group, u, rows, lane);
                case 32:
                    return store_packed<32, R>(packed, group, u, rows, lane);
                case 64:
                    return store_packed<64, R>(packed, group, u, rows, lane);
                case 128:
                    return store_packed<128, R>(packed, group, u, rows, lane);
                default:
                    return store_packed<256, R>(packed, group, u, rows, lane);
            }
        }
    }
    T* out = static_cast<T*>(job.rotation) + (int64_t(group) * job.group + u) * job.group;
    for (int v = lane; v < job.group; v += 32) {
        const Rows<R> values = load_rows<R>(rows.at + v * rows.step);
#pragma unroll
        for (int r = 0; r < R; ++r) out[r * job.group + v] = from_float<T>(values.v[r]);
    }
}

// The product of `count` groups from group `first` of the job on, whose blocks lie at q, by all warps. Rows
// [row, row + rows) of each.
template <class T, int R>
__device__ __forceinline__ void multiply_groups(const FoldJob& job, int b, int m, const float* q, int first, int count,
                                                int row, int rows, float* buffers, int warp, int lane) {
    const int pieces = rows / R, of_group = m * (1 << (m - 1)) * b * stride_of(b);
    for (int n = warp; n < count * pieces; n += kWarps) {
        const int g = n / pieces, u = row + (n - g * pieces) * R;
        const RowView view = multiply_rows<R>(q + g * of_group, b, m, u, buffers, lane);
        store_group_rows<T, R>(job, job.first_group + first + g, u, view, lane);
        __syncwarp();
    }
}
template <class T>
__device__ __forceinline__ void multiply_groups(const FoldJob& job, int b, int m, const float* q, int first, int count,
                                                int row, int rows, float* buffers, int warp, int lane) {
    if (rows_at_once(b, m) == 4)
        multiply_groups<T, 4>(job, b, m, q, first, count, row, rows, buffers, warp, lane);
    else
        multiply_groups<T, 1>(job, b, m, q, first, count, row, rows, buffers, warp, lane);
}

template <int B>
__device__ __forceinline__ void rotation_of(const FoldJob& job, float* q, int64_t block, int b, bool transposed,
                                            float* triangle, float* columns, int lane) {
    const int64_t at = block * skew_values(b);
    if (job.half)
        rotation_by_warp<B>(q, static_cast<const bf16*>(job.skew) + at, b, transposed, triangle, columns, lane);
    else
        rotation_by_warp<B>(q, static_cast<const float*>(job.skew) + at, b, transposed, triangle, columns, lane);
}

// Small groups: everything stays in shared memory.
template <int B, class T>
__global__ void __launch_bounds__(kThreads) fold_groups(const FoldJob* jobs, FoldShape shape) {
    extern __shared__ __align__(16) std::byte shared[];
    pdl_trigger();
    pdl_wait();
    const FoldJob job = jobs[blockIdx.y];
    const int b = shape.block, m = shape.factors, warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    const int together = groups_at_once(m), in_factor = 1 << (m - 1), in_group = m * in_factor, stride = stride_of(b);
    auto* q = reinterpret_cast<float*>(shared);
    float* columns = q + together * in_group * b * stride + warp * 2 * B;
    float* buffers =
        q + together * in_group * b * stride + kWarps * 2 * B + warp * row_buffers(m) * job.group * rows_at_once(b, m);
    for (int first = int(blockIdx.x) * together; first < job.groups; first += int(gridDim.x) * together) {
        const int here = min(together, job.groups - first);
        for (int i = warp; i < here * in_group; i += kWarps) {
            float* to = q + i * b * stride;
            const bool transposed = i % in_group >= in_group - in_factor;
            rotation_of<B>(job, to, int64_t(first) * in_group + i, b, transposed, to, columns, lane);
        }
        __syncthreads();
        multiply_groups<T>(job, b, m, q, first, here, 0, job.group, buffers, warp, lane);
        __syncthreads();
    }
}

// Large groups: their blocks go through job.factors. A warp takes one.
template <int B>
__global__ void __launch_bounds__(kThreads) rotations_by_warps(const FoldJob* jobs, FoldShape shape) {
    __shared__ __align__(16) float triangles[kWarps][B * B / 2], columns[kWarps][2 * B];
    pdl_trigger();
    pdl_wait();
    const FoldJob job = jobs[blockIdx.y];
    const int b = shape.block, m = shape.factors, warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    const int in_factor = 1 << (m - 1), in_group = m * in_factor;
    for (int i = int(blockIdx.x) * kWarps + warp; i < job.groups * in_group; i += int(gridDim.x) * kWarps) {
        rotation_of<B>(job, job.factors + int64_t(i) * b * stride_of(b), i, b, i % in_group >= in_group - in_factor,
                       triangles[warp], columns[warp], lane);
        __syncwarp();
    }
}

__device__ __forceinline__ float skew_at(const FoldJob& job, int64_t i) {
    return job.half ? to_float(static_cast<const bf16*>(job.skew)[i]) : static_cast<const float*>(job.skew)[i];
}

// Blocks that no warp's registers hold: a thread block takes one, in shared memory or, where that is too small, where
// it is wanted.
__global__ void __launch_bounds__(kLargeThreads)
    rotations_by_blocks(const FoldJob* jobs, FoldShape shape, bool in_shared) {
    extern __shared__ __align__(16) std::byte shared[];
    pdl_trigger();
    pdl_wait();
    const FoldJob job = jobs[blockIdx.y];
    const int b = shape.block, m = shape.factors, thread = int(threadIdx.x), warp = thread / 32, lane = thread % 32;
    const int in_factor = 1 << (m - 1), in_group = m * in_factor, stride = stride_of(b);
    constexpr int kAllWarps = kLargeThreads / 32;
    auto* column = reinterpret_cast<float*>(shared);
    float* row = column + b;
    for (int n = int(blockIdx.x); n < job.groups * in_group; n += int(gridDim.x)) {
        float* to = job.factors + int64_t(n) * b * stride;
        float* a = in_shared ? row + b : to;
        const float sign = n % in_group >= in_group - in_factor ? -1.f : 1.f;
        const int64_t triangle = n * skew_values(b);
        for (int i = warp; i < b; i += kAllWarps)
            for (int j = lane; j < b; j += 32) {
                const float s = i == j ? 0.f : skew_at(job, triangle + skew_place(min(i, j), max(i, j), b));
                a[i * stride + j] = i == j ? 1.f : i < j ? sign * s : -sign * s;
            }
        __syncthreads();
        for (int k = 0; k < b; ++k) {
            const float p = 1.f / a[k * stride + k];
            for (int i = thread; i < b; i += kLargeThreads) {
                column[i] = a[i * stride + k];
                row[i] = a[k * stride + i] * p;
            }
            __syncthreads();
            for (int i = warp; i < b; i += kAllWarps) {
                const float f = column[i];
                for (int j = lane; j < b; j += 32) {
                    float& value = a[i * stride + j];
                    if (i == k)
                        value = j == k ? p : row[j];
                    else
                        value = j == k ? -f * p : fmaf(-f, row[j], value);
                }
            }
            __syncthreads();
        }
        for (int i = warp; i < b; i += kAllWarps)
            for (int j = lane; j < b; j += 32) to[i * stride + j] = 2.f * a[i * stride + j] - (i == j ? 1.f : 0.f);
        __syncthreads();
    }
}

// Of blocks that lie in job.factors. A thread block takes kSliceRows rows of a group.
template <class T>
__global__ void __launch_bounds__(kThreads) product_of_groups(const FoldJob* jobs, FoldShape shape) {
    extern __shared__ __align__(16) std::byte shared[];
    pdl_trigger();
    pdl_wait();
    const FoldJob job = jobs[blockIdx.y];
    const int b = shape.block, m = shape.factors, warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    const int slices = (job.group + kSliceRows - 1) / kSliceRows;
    const int64_t of_group = int64_t(m) * (1 << (m - 1)) * b * stride_of(b);
    float* buffers = reinterpret_cast<float*>(shared) + warp * row_buffers(m) * job.group * rows_at_once(b, m);
    for (int n = int(blockIdx.x); n < job.groups * slices; n += int(gridDim.x)) {
        const int g = n / slices, row = (n - g * slices) * kSliceRows;
        multiply_groups<T>(job, b, m, job.factors + g * of_group, g, 1, row, min(kSliceRows, job.group - row), buffers,
                           warp, lane);
    }
}

struct Grid {
    int count = 0, most_blocks = 0;
    // `pieces` of work for the largest of `count` jobs.
    dim3 of(int64_t pieces) const {
        const int64_t most = most_blocks > 0 ? std::max(1, most_blocks / std::max(count, 1)) : pieces;
        return dim3(unsigned(std::min(pieces, most)), unsigned(count));
    }
};

template <int B, class T>
void fold_small(CudaDevice& device, const FoldJob* jobs, const FoldShape& shape, const Grid& grid) {
    const int together = groups_at_once(shape.factors);
    const int64_t bytes = shared_bytes(shape.block, shape.factors, together);
    CHECK_CUDA(cudaFuncSetAttribute(fold_groups<B, T>, cudaFuncAttributeMaxDynamicSharedMemorySize, int(kMostShared)));
    launch(device, fold_groups<B, T>, grid.of(divide_up(shape.most_groups, together)), kThreads, size_t(bytes), jobs,
           shape);
}

template <class T>
void fold_in_pairs(CudaDevice& device, const FoldJob* jobs, const FoldShape& shape, const Grid& grid) {
    launch(device, fold_pairs<T>, grid.of(shape.most_groups), kPairThreads, 0, jobs);
}

template <int B>
void rotate_by_warps(CudaDevice& device, const FoldJob* jobs, const FoldShape& shape, const Grid& grid,
                     int64_t blocks) {
    launch(device, rotations_by_warps<B>, grid.of(divide_up(blocks, kWarps)), kThreads, 0, jobs, shape);
}

template <class T>
void fold_large(CudaDevice& device, const FoldJob* jobs, const FoldShape& shape, const Grid& grid) {
    const int b = shape.block, m = shape.factors;
    const int64_t blocks = int64_t(shape.most_groups) * m * (1 << (m - 1));
    if (b <= 64) {
        if (b <= 8)
            rotate_by_warps<8>(device, jobs, shape, grid, blocks);
        else if (b <= 16)
            rotate_by_warps<16>(device, jobs, shape, grid, blocks);
        else if (b <= 32)
            rotate_by_warps<32>(device, jobs, shape, grid, blocks);
        else
            rotate_by_warps<64>(device, jobs, shape, grid, blocks);
    } else {
        const int64_t vectors = 4 * 2 * b, bytes = vectors + int64_t(4) * b * stride_of(b);
        const bool in_shared = bytes <= kMostShared;
        CHECK_CUDA(
            cudaFuncSetAttribute(rotations_by_blocks, cudaFuncAttributeMaxDynamicSharedMemorySize, int(kMostShared)));
        launch(device, rotations_by_blocks, grid.of(blocks), kLargeThreads, size_t(in_shared ? bytes : vectors), jobs,
               shape, in_shared);
    }
    const int64_t group = int64_t(b) << (m - 1),
                  buffers = int64_t(kWarps) * row_buffers(m) * group * 4 * rows_at_once(b, m);
    CHECK(buffers <= kMostShared);
    CHECK_CUDA(
        cudaFuncSetAttribute(product_of_groups<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, int(kMostShared)));
    launch(device, product_of_groups<T>, grid.of(shape.most_groups * divide_up(group, kSliceRows)), kThreads,
           size_t(buffers), jobs, shape);
}

}  // namespace

int64_t fold_scratch_bytes(int64_t block, int64_t factors) {
    if (in_one_kernel(int(block), int(factors))) return 0;
    return 4 * factors * (int64_t(1) << (factors - 1)) * block * stride_of(int(block));
}

template <class T>
void fold_rotations(CudaDevice& device, const FoldJob* jobs, int count, const FoldShape& shape, int most_blocks) {
    CHECK(device_folds(shape.block, shape.factors) && shape.most_groups >= 0 && most_blocks >= 0);
    CHECK(count >= 0 && count <= 65535);
    const Grid grid{count, most_blocks};
    const int b = shape.block;
    if (!in_one_kernel(b, shape.factors)) return fold_large<T>(device, jobs, shape, grid);
    if (b <= 8) return fold_small<8, T>(device, jobs, shape, grid);
    if (b <= 16) return fold_small<16, T>(device, jobs, shape, grid);
    if (b == kSquare && shape.factors == 2) return fold_in_pairs<T>(device, jobs, shape, grid);
    if (b <= 32) return fold_small<32, T>(device, jobs, shape, grid);
    fold_small<64, T>(device, jobs, shape, grid);
}

template void fold_rotations<float>(CudaDevice&, const FoldJob*, int, const FoldShape&, int);
template void fold_rotations<bf16>(CudaDevice&, const FoldJob*, int, const FoldShape&, int);
template void fold_rotations<f16>(CudaDevice&, const FoldJob*, int, const FoldShape&, int);

}  // namespace spartan
