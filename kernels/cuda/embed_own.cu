#include "kernels/check.h"
#include "kernels/cuda/embed_own.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/rotate.h"
#include "kernels/cuda/tiles.cuh"

namespace spartan {

namespace {

constexpr int kThreads = 128;

// The row of `token` in the adapter's embedding.
template <class T>
__device__ const T* looked_up(const CudaTable& table, const T* embedding, int32_t token, int64_t hidden) {
    int low = 0, high = table.token_rows ? table.num_tokens : 0;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (table.tokens[middle] < token)
            low = middle + 1;
        else
            high = middle;
    }
    if (table.token_rows && low < table.num_tokens && table.tokens[low] == token)
        return static_cast<const T*>(table.token_rows) + low * hidden;
    return (table.copy ? static_cast<const T*>(table.copy) : embedding) + token * hidden;
}

// One feature of rot(e).
template <class T>
__device__ float rotated(const CudaPart& part, const T* e, int64_t column) {
    if (!part.rotation) return to_float(e[column]);
    const auto* r = static_cast<const T*>(part.rotation);
    const int64_t group = part.group, first = column / group * group;
    float sum = part.rotation_packed ? to_float(e[column]) : 0;
    for (int64_t u = 0; u < group; ++u) {
        const int64_t at =
            part.rotation_packed ? packed_rotation_offset(group, column, u) : (first + u) * group + (column - first);
        sum = fmaf(to_float(e[first + u]), to_float(r[at]), sum);
    }
    return sum;
}

// A block makes one row.
template <class T>
__global__ void __launch_bounds__(kThreads)
    embed_own_kernel(float* x, const T* embedding, const int32_t* ids, const CudaTile* tiles,
                     const CudaTable* const* tables, int64_t hidden, float multiplier) {
    pdl_trigger();
    const CudaTile tile = tiles[blockIdx.y];
    const CudaTable* table = tables[blockIdx.y];
    pdl_wait();
    if (!table || int(blockIdx.x) >= tile.rows) return;
    const CudaPart& part = table->part;
    const int64_t row = tile.row_begin + int64_t(blockIdx.x);
    const int32_t token = ids[row];
    const T* e = looked_up(*table, embedding, token, hidden);
    const T* a = part.a ? static_cast<const T*>(part.a) + int64_t(token) * part.rank : nullptr;
    const auto* b_t = static_cast<const T*>(part.b_t);
    for (int64_t column = threadIdx.x; column < hidden; column += kThreads) {
        float v = rotated(part, e, column);
        if (a) {
            float sum = 0;
            for (int r = 0; r < part.rank; ++r) sum = fmaf(to_float(a[r]), to_float(b_t[r * hidden + column]), sum);
            v = fmaf(part.scale, sum, v);
        }
        v = fmaf(v, part.gain ? part.gain[column] : 1, part.bias ? part.bias[column] : 0);
        x[row * hidden + column] = multiplier * v;
    }
}

}  // namespace

template <class T>
void embed_own(CudaDevice& device, float* x, const T* embedding, const int32_t* ids, const CudaTile* tiles,
               const CudaTable* const* tables, int num_tiles, int64_t hidden, float multiplier) {
    CHECK(num_tiles >= 0 && num_tiles <= 65535 && hidden > 0);
    launch(device, embed_own_kernel<T>, dim3(kTileRows, unsigned(num_tiles)), kThreads, 0, x, embedding, ids, tiles,
           tables, hidden, multiplier);
}

template void embed_own<float>(CudaDevice&, float*, const float*, const int32_t*, const CudaTile*,
                               const CudaTable* const*, int, int64_t, float);
template void embed_own<bf16>(CudaDevice&, float*, const bf16*, const int32_t*, const CudaTile*,
                              const CudaTable* const*, int, int64_t, float);
template void embed_own<f16>(CudaDevice&, float*, const f16*, const int32_t*, const CudaTile*, const CudaTable* const*,
                             int, int64_t, float);

}  // namespace spartan
