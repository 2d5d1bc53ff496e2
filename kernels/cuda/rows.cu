#include "kernels/cuda/rows.h"

#include "kernels/check.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numbers.cuh"
#include "kernels/rounding.h"

#include <algorithm>

namespace spartan {

namespace {

constexpr int kWide = 8;  // values that a thread takes at once where dim and alignment allow it; else 1

template <class T>
__device__ __forceinline__ void load(float (&v)[1], const T* p) {
    v[0] = to_float(*p);
}
__device__ __forceinline__ void load(float (&v)[kWide], const float* p) {
    const float4 a = reinterpret_cast<const float4*>(p)[0], b = reinterpret_cast<const float4*>(p)[1];
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
    v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}
template <class T>
__device__ __forceinline__ void load(float (&v)[kWide], const T* p) {
    const uint4 pairs = *reinterpret_cast<const uint4*>(p);
    v[0] = low_of<T>(pairs.x), v[1] = high_of<T>(pairs.x), v[2] = low_of<T>(pairs.y), v[3] = high_of<T>(pairs.y);
    v[4] = low_of<T>(pairs.z), v[5] = high_of<T>(pairs.z), v[6] = low_of<T>(pairs.w), v[7] = high_of<T>(pairs.w);
}

template <class T>
__device__ __forceinline__ void store(T* p, const float (&v)[1]) {
    *p = from_float<T>(v[0]);
}
__device__ __forceinline__ void store(float* p, const float (&v)[kWide]) {
    reinterpret_cast<float4*>(p)[0] = {v[0], v[1], v[2], v[3]};
    reinterpret_cast<float4*>(p)[1] = {v[4], v[5], v[6], v[7]};
}
template <class T>
__device__ __forceinline__ void store(T* p, const float (&v)[kWide]) {
    *reinterpret_cast<uint4*>(p) = {pack<T>(v[0], v[1]), pack<T>(v[2], v[3]), pack<T>(v[4], v[5]), pack<T>(v[6], v[7])};
}

// Which tile holds `row`; -1: none. All threads of the block call it, once in a kernel.
__device__ int tile_of(const RowTiles& tiles, int row) {
    __shared__ int found;
    if (tiles.count == 0) return -1;
    if (threadIdx.x == 0) found = -1;
    __syncthreads();
    for (int t = threadIdx.x; t < int(tiles.count); t += blockDim.x)
        if (row >= tiles.tiles[t].row_begin && row - tiles.tiles[t].row_begin < tiles.tiles[t].rows) found = t;
    __syncthreads();
    return found;
}

struct GainBias {
    const float *gain, *bias;  // null: none
};

__device__ GainBias gain_bias_of(const RowTiles& tiles, int tile, const OutputChange& change) {
    GainBias own{nullptr, change.bias};
    const CudaPart* const parts = tile < 0 || change.part < 0 ? nullptr : tiles.tiles[tile].parts;
    if (!parts) return own;
    own.gain = parts[change.part].gain;
    if (parts[change.part].bias) own.bias = parts[change.part].bias;
    return own;
}

// y = gain * y + bias, each step rounded as kernels/adapter_ops.h does.
template <int kWidth>
__device__ __forceinline__ void apply(float (&y)[kWidth], const GainBias& change, int column) {
    float v[kWidth];
    if (change.gain) {
        load(v, change.gain + column);
#pragma unroll
        for (int i = 0; i < kWidth; ++i) y[i] = __fmul_rn(y[i], v[i]);
    }
    if (change.bias) {
        load(v, change.bias + column);
#pragma unroll
        for (int i = 0; i < kWidth; ++i) y[i] = __fadd_rn(y[i], v[i]);
    }
}

// The same value in every thread; one order for a block size, which is a multiple of 32. Once in a kernel.
__device__ float block_sum(float v) {
    __shared__ float of_warp[32];
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = v;
    __syncthreads();
    return warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? of_warp[threadIdx.x % 32] : 0.f);
}

template <int kWidth, class T>
__global__ void gather(float* x, const T* table, const int32_t* ids, float multiplier, int dim) {
    pdl_trigger();
    pdl_wait();  // ids may be tokens that were just picked
    const int column = (blockIdx.x * blockDim.x + threadIdx.x) * kWidth;
    if (column >= dim) return;
    float v[kWidth];
    load(v, table + int64_t(ids[blockIdx.y]) * dim + column);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) v[i] = __fmul_rn(v[i], multiplier);
    store(x + int64_t(blockIdx.y) * dim + column, v);
}

template <class T>
struct NormArguments {
    T* out;
    const float* x;
    float* sum;      // x + multiplier * delta, which is x again; null: nothing is added
    const T* delta;  // null with it
    const int32_t* row_index;
    const float* weight;
    TileNorms norms;
    OutputChange change;
    float multiplier, eps;
    int dim, rows;
    Ahead ahead;
};

// What one thread has of a row, wherever that is kept: adds, and gives the squares of the sum.
template <bool kAdd, int kWidth, class T>
__device__ __forceinline__ float read_row(float (&x)[kWidth], const NormArguments<T>& a, int64_t row, int column,
                                          const GainBias& change, float squares) {
    load(x, a.x + row * a.dim + column);
    if constexpr (kAdd) {
        float delta[kWidth];
        load(delta, a.delta + row * a.dim + column);
        apply(delta, change, column);
#pragma unroll
        for (int i = 0; i < kWidth; ++i) x[i] = __fadd_rn(x[i], __fmul_rn(a.multiplier, delta[i]));
        store(a.sum + row * a.dim + column, x);
    }
#pragma unroll
    for (int i = 0; i < kWidth; ++i) squares = fmaf(x[i], x[i], squares);
    return squares;
}

template <int kWidth>
__device__ __forceinline__ void normalise(float (&x)[kWidth], float inverse, const float (&weight)[kWidth]) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) x[i] = __fmul_rn(__fmul_rn(x[i], inverse), weight[i]);
}

// One CTA a row. kChunks: pieces of kWide values that a thread keeps in registers; 0: any dim, the row is read twice.
template <bool kAdd, int kChunks, class T>
__global__ void __launch_bounds__(1024) norm_rows(const __grid_constant__ NormArguments<T> a) {
    pdl_trigger();
    if (int(blockIdx.x) >= a.rows) {
        request_ahead(a.ahead, int(blockIdx.x) - a.rows, int(gridDim.x) - a.rows);
        return pdl_wait();
    }
    const int64_t row = a.row_index ? a.row_index[blockIdx.x] : int(blockIdx.x);
    const int tile = tile_of(a.norms.tiles, int(row));
    const float* const own = tile >= 0 && a.norms.own ? a.norms.own[tile] : nullptr;
    const float* const weight = own ? own : a.weight;
    const GainBias change = gain_bias_of(a.norms.tiles, tile, a.change);
    T* const out = a.out + int64_t(blockIdx.x) * a.dim;
    const auto inverse_of = [&](float squares) { return 1.f / sqrtf(block_sum(squares) / float(a.dim) + a.eps); };
    float squares = 0;
    if constexpr (kChunks == 0) {
        pdl_wait();
        float x[1], w[1];
        for (int column = threadIdx.x; column < a.dim; column += blockDim.x)
            squares = read_row<kAdd>(x, a, row, column, change, squares);
        const float inverse = inverse_of(squares);
        const float* const sums = kAdd ? a.sum : a.x;
        for (int column = threadIdx.x; column < a.dim; column += blockDim.x) {
            load(x, sums + row * a.dim + column);
            load(w, weight + column);
            normalise(x, inverse, w);
            store(out + column, x);
        }
    } else {
        float x[kChunks][kWide], w[kChunks][kWide];
        const auto column_of = [](int chunk) { return int(chunk * blockDim.x + threadIdx.x) * kWide; };
#pragma unroll
        for (int c = 0; c < kChunks; ++c)
            if (column_of(c) < a.dim) load(w[c], weight + column_of(c));
        pdl_wait();
#pragma unroll
        for (int c = 0; c < kChunks; ++c)
            if (column_of(c) < a.dim) squares = read_row<kAdd>(x[c], a, row, column_of(c), change, squares);
        const float inverse = inverse_of(squares);
#pragma unroll
        for (int c = 0; c < kChunks; ++c) {
            if (column_of(c) >= a.dim) continue;
            normalise(x[c], inverse, w[c]);
            store(out + column_of(c), x[c]);
        }
    }
}

template <int kWidth, class T>
__global__ void add(float* x, const T* delta, float multiplier, int dim, RowTiles tiles, OutputChange output_change) {
    pdl_trigger();
    const GainBias change = gain_bias_of(tiles, tile_of(tiles, blockIdx.y), output_change);
    pdl_wait();
    const int column = (blockIdx.x * blockDim.x + threadIdx.x) * kWidth;
    if (column >= dim) return;
    const int64_t at = int64_t(blockIdx.y) * dim + column;
    float v[kWidth], d[kWidth];
    load(v, x + at);
    load(d, delta + at);
    apply(d, change, column);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) v[i] = __fadd_rn(v[i], __fmul_rn(multiplier, d[i]));
    store(x + at, v);
}

template <int kWidth>
__global__ void scale_values(float* x, float factor, int64_t count) {
    pdl_trigger();
    pdl_wait();
    const int64_t at = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * kWidth;
    if (at >= count) return;
    float v[kWidth];
    load(v, x + at);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) v[i] = __fmul_rn(v[i], factor);
    store(x + at, v);
}

template <GateKind kKind>
__device__ __forceinline__ float activate(float v) {
    if constexpr (kKind == GateKind::silu) return v / (1.f + expf(-v));
    if constexpr (kKind == GateKind::gelu) return 0.5f * v * (1.f + erff(v * 0.70710678f));
    return v / (1.f + expf(-1.5957691216f * (v * fmaf(v * v, 0.044715f, 1.f))));  // gelu_tanh, its tanh as a quotient
}

template <GateKind kKind, int kWidth, class T>
__global__ void gate_rows(T* out, const T* gate, const T* up, int dim, int rows, RowTiles tiles,
                          OutputChange gate_output, OutputChange up_output, Ahead ahead) {
    pdl_trigger();
    if (int(blockIdx.y) >= rows) {
        const int first = rows * int(gridDim.x);
        request_ahead(ahead, int(blockIdx.y * gridDim.x + blockIdx.x) - first, int(gridDim.y * gridDim.x) - first);
        return pdl_wait();
    }
    const int tile = tile_of(tiles, blockIdx.y);
    const GainBias gate_change = gain_bias_of(tiles, tile, gate_output);
    const GainBias up_change = gain_bias_of(tiles, tile, up_output);
    pdl_wait();
    const int column = (blockIdx.x * blockDim.x + threadIdx.x) * kWidth;
    if (column >= dim) return;
    const int64_t at = int64_t(blockIdx.y) * dim + column;
    float g[kWidth], u[kWidth];
    load(g, gate + at);
    load(u, up + at);
    apply(g, gate_change, column);
    apply(u, up_change, column);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) g[i] = __fmul_rn(activate<kKind>(g[i]), u[i]);
    store(out + at, g);
}

void check_shape(int64_t rows, int64_t dim) { CHECK(rows >= 0 && rows <= 65535 && dim >= 1 && dim <= 1 << 24); }

// As many threads as the values of a row need, at most `most`.
int threads_for(int64_t dim, int width, int most) {
    return int(std::clamp<int64_t>(divide_up(dim, 32 * width) * 32, 32, most));
}

// Of kernels that give each thread `width` values of row blockIdx.y.
struct Flat {
    dim3 grid;
    int block;

    Flat(int64_t rows, int64_t dim, int width) : block(threads_for(dim, width, 256)) {
        grid = dim3(unsigned(divide_up(dim, int64_t(block) * width)), unsigned(rows));
    }
};

template <bool kAdd, class T>
void launch_norm(CudaDevice& device, const NormArguments<T>& a, int64_t rows) {
    const bool wide = a.dim % kWide == 0 && aligned_to_16(a.out, a.x, a.delta, a.weight, a.change.bias);
    constexpr int kOneChunk = 1024 * kWide;  // as many values as a CTA's threads have in one chunk each
    const auto run = [&](auto kernel, int block) {
        if (rows > 0)
            launch(device, kernel, dim3(unsigned(rows + (a.ahead.bytes > 0 ? kAheadBlocks : 0))), block, 0, a);
    };
    if (wide && a.dim <= kOneChunk)
        run(norm_rows<kAdd, 1, T>, threads_for(a.dim, kWide, 1024));
    else if (wide && a.dim <= 2 * kOneChunk)
        run(norm_rows<kAdd, 2, T>, 1024);
    else
        run(norm_rows<kAdd, 0, T>, threads_for(a.dim, 1, 1024));
}

template <GateKind kKind, class T>
void launch_gate(CudaDevice& device, T* out, const T* gate, const T* up, int64_t rows, int64_t dim,
                 const RowTiles& tiles, const OutputChange& gate_change, const OutputChange& up_change,
                 const Ahead& ahead) {
    if (rows == 0) return;
    const auto run = [&](auto kernel, int width) {
        Flat shape(rows, dim, width);
        if (ahead.bytes > 0) shape.grid.y += unsigned(divide_up(kAheadBlocks, shape.grid.x));
        launch(device, kernel, shape.grid, shape.block, 0, out, gate, up, int(dim), int(rows), tiles, gate_change,
               up_change, ahead);
    };
    if (dim % kWide == 0 && aligned_to_16(out, gate, up, gate_change.bias, up_change.bias))
        run(gate_rows<kKind, kWide, T>, kWide);
    else
        run(gate_rows<kKind, 1, T>, 1);
}

}  // namespace

template <class T>
void gather_rows(CudaDevice& device, float* x, const T* table, const int32_t* ids, float multiplier, int64_t rows,
                 int64_t dim) {
    check_shape(rows, dim);
    const auto run = [&](auto kernel, int width) {
        const Flat shape(rows, dim, width);
        launch(device, kernel, shape.grid, shape.block, 0, x, table, ids, multiplier, int(dim));
    };
    if (dim % kWide == 0 && aligned_to_16(x, table))
        run(gather<kWide, T>, kWide);
    else
        run(gather<1, T>, 1);
}

template <class T>
void rms_norm(CudaDevice& device, T* out, const float* x, const float* weight, float eps, int64_t rows, int64_t dim,
              const TileNorms& norms, const Ahead& ahead) {
    rms_norm_of_rows(device, out, x, nullptr, weight, eps, rows, dim, norms, ahead);
}

template <class T>
void rms_norm_of_rows(CudaDevice& device, T* out, const float* x, const int32_t* row_index, const float* weight,
                      float eps, int64_t rows, int64_t dim, const TileNorms& norms, const Ahead& ahead) {
    check_shape(rows, dim);
    launch_norm<false, T>(device,
                          {out,
                           x,
                           nullptr,
                           nullptr,
                           row_index,
                           weight,
                           norms.own ? norms : TileNorms{},
                           {},
                           1,
                           eps,
                           int(dim),
                           int(rows),
                           ahead},
                          rows);
}

template <class T>
void add_rms_norm(CudaDevice& device, T* out, float* x, const T* delta, float multiplier, const float* weight,
                  float eps, int64_t rows, int64_t dim, const TileNorms& norms, const OutputChange& change,
                  const Ahead& ahead) {
    check_shape(rows, dim);
    const TileNorms used = norms.own || change.part >= 0 ? norms : TileNorms{};
    launch_norm<true, T>(
        device, {out, x, x, delta, nullptr, weight, used, change, multiplier, eps, int(dim), int(rows), ahead}, rows);
}

template <class T>
void add_rows(CudaDevice& device, float* x, const T* delta, float multiplier, int64_t rows, int64_t dim,
              const RowTiles& tiles, const OutputChange& change) {
    check_shape(rows, dim);
    const RowTiles used = change.part >= 0 ? tiles : RowTiles{};
    const auto run = [&](auto kernel, int width) {
        const Flat shape(rows, dim, width);
        launch(device, kernel, shape.grid, shape.block, 0, x, delta, multiplier, int(dim), used, change);
    };
    if (dim % kWide == 0 && aligned_to_16(x, delta, change.bias))
        run(add<kWide, T>, kWide);
    else
        run(add<1, T>, 1);
}

void scale(CudaDevice& device, float* x, float factor, int64_t count) {
    constexpr int kBlock = 256;
    CHECK(count >= 0 && count < int64_t(kBlock) << 31);
    const auto run = [&](auto kernel, int width) {
        launch(device, kernel, dim3(unsigned(divide_up(count, kBlock * width))), kBlock, 0, x, factor, count);
    };
    if (count % kWide == 0 && aligned_to_16(x))
        run(scale_values<kWide>, kWide);
    else
        run(scale_values<1>, 1);
}

template <class T>
void gate_mul(CudaDevice& device, T* out, const T* gate, const T* up, GateKind kind, int64_t rows, int64_t dim,
              const RowTiles& tiles, const OutputChange& gate_change, const OutputChange& up_change,
              const Ahead& ahead) {
    check_shape(rows, dim);
    const RowTiles used = gate_change.part >= 0 || up_change.part >= 0 ? tiles : RowTiles{};
    switch (kind) {
        case GateKind::silu:
            return launch_gate<GateKind::silu>(device, out, gate, up, rows, dim, used, gate_change, up_change, ahead);
        case GateKind::gelu:
            return launch_gate<GateKind::gelu>(device, out, gate, up, rows, dim, used, gate_change, up_change, ahead);
        case GateKind::gelu_tanh:
            return launch_gate<GateKind::gelu_tanh>(device, out, gate, up, rows, dim, used, gate_change, up_change,
                                                    ahead);
    }
}

#define INSTANTIATE(T)                                                                                             \
    template void gather_rows(CudaDevice&, float*, const T*, const int32_t*, float, int64_t, int64_t);             \
    template void rms_norm(CudaDevice&, T*, const float*, const float*, float, int64_t, int64_t, const TileNorms&, \
                           const Ahead&);                                                                          \
    template void rms_norm_of_rows(CudaDevice&, T*, const float*, const int32_t*, const float*, float, int64_t,    \
                                   int64_t, const TileNorms&, const Ahead&);                                       \
    template void add_rows(CudaDevice&, float*, const T*, float, int64_t, int64_t, const RowTiles&,                \
                           const OutputChange&);                                                                   \
    template void add_rms_norm(CudaDevice&, T*, float*, const T*, float, const float*, float, int64_t, int64_t,    \
                               const TileNorms&, const OutputChange&, const Ahead&);                               \
    template void gate_mul(CudaDevice&, T*, const T*, const T*, GateKind, int64_t, int64_t, const RowTiles&,       \
                           const OutputChange&, const OutputChange&, const Ahead&);
INSTANTIATE(float)
INSTANTIATE(bf16)
INSTANTIATE(f16)
#undef INSTANTIATE

}  // namespace spartan
