#include "kernels/check.h"
#include "kernels/cuda/head.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numbers.cuh"

namespace spartan {
namespace {

constexpr int kThreads = 256;
constexpr int kLogitsOfBlock = 2048;
constexpr int kMostRank = 1024;

__device__ const CudaTable* table_of(const HeadTables& t, int64_t i) {
    const int32_t tile = t.rows[t.head_rows[i]].tile;
    return tile < 0 ? nullptr : t.tables[tile];
}

// One block a row.
template <class T>
__global__ void __launch_bounds__(kThreads) rotate_heads_kernel(T* out, const T* x, HeadTables tables, int64_t hidden) {
    pdl_trigger();
    pdl_wait();
    const int64_t i = blockIdx.x;
    const CudaTable* table = table_of(tables, i);
    const T* in = x + i * hidden;
    const auto* r = table ? static_cast<const T*>(table->part.rotation) : nullptr;
    const int64_t group = r ? table->part.group : 1;
    for (int64_t column = threadIdx.x; column < hidden; column += kThreads) {
        if (!r) {
            out[i * hidden + column] = in[column];
            continue;
        }
        const int64_t first = column / group * group;
        float sum = 0;
        for (int64_t u = 0; u < group; ++u)
            sum = fmaf(to_float(in[first + u]), to_float(r[first * group + u * group + column - first]), sum);
        out[i * hidden + column] = from_float<T>(sum);
    }
}

template <class T>
__device__ float dot(const T* a, const T* b, int64_t n) {  // by one warp, the same value in every lane
    float sum = 0;
    for (int64_t k = threadIdx.x % 32; k < n; k += 32) sum = fmaf(to_float(a[k]), to_float(b[k]), sum);
    return warp_sum(sum);
}

// A block takes kLogitsOfBlock logits of a row.
template <class T>
__global__ void __launch_bounds__(kThreads)
    change_kernel(float* logits, const T* x, HeadTables tables, int64_t hidden, int64_t vocab) {
    __shared__ float low_rank[kMostRank];
    pdl_trigger();
    pdl_wait();
    const int64_t i = blockIdx.y, begin = int64_t(blockIdx.x) * kLogitsOfBlock;
    const CudaTable* table = table_of(tables, i);
    if (!table) return;
    const CudaPart& part = table->part;
    const auto* a = static_cast<const T*>(part.a);
    const auto* b_t = static_cast<const T*>(part.b_t);
    const int rank = a ? part.rank : 0;
    for (int r = int(threadIdx.x / 32); r < rank; r += kThreads / 32) {
        const float sum = dot(a + r * hidden, x + i * hidden, hidden);
        if (threadIdx.x % 32 == 0) low_rank[r] = sum;
    }
    __syncthreads();
    const int64_t end = begin + kLogitsOfBlock < vocab ? begin + kLogitsOfBlock : vocab;
    for (int64_t n = begin + threadIdx.x; n < end; n += kThreads) {
        float y = logits[i * vocab + n];
        float sum = 0;
        for (int r = 0; r < rank; ++r) sum = fmaf(to_float(b_t[r * vocab + n]), low_rank[r], sum);
        y = fmaf(part.scale, sum, y);
        if (part.gain) y *= part.gain[n];
        if (part.bias) y += part.bias[n];
        logits[i * vocab + n] = y;
    }
}

// One warp a token that has a row of its own.
template <class T>
__global__ void __launch_bounds__(kThreads)
    own_tokens_kernel(float* logits, const T* x, HeadTables tables, int64_t hidden, int64_t vocab) {
    pdl_trigger();
    pdl_wait();
    const int64_t i = blockIdx.y;
    const CudaTable* table = table_of(tables, i);
    if (!table || !table->token_rows) return;
    const auto* rows = static_cast<const T*>(table->token_rows);
    const int warps = int(gridDim.x) * (kThreads / 32);
    for (int t = int(blockIdx.x) * (kThreads / 32) + int(threadIdx.x / 32); t < table->num_tokens; t += warps) {
        const float sum = dot(rows + t * hidden, x + i * hidden, hidden);
        if (threadIdx.x % 32 == 0) logits[i * vocab + table->tokens[t]] = sum;
    }
}

}  // namespace

template <class T>
void rotate_heads(CudaDevice& device, T* out, const T* x, const HeadTables& tables, int64_t count, int64_t hidden) {
    CHECK(out != x);
    launch(device, rotate_heads_kernel<T>, dim3(unsigned(count)), kThreads, 0, out, x, tables, hidden);
}

template <class T>
void change_logits(CudaDevice& device, float* logits, const T* x, const HeadTables& tables, int64_t count,
                   int64_t hidden, int64_t vocab) {
    const auto blocks = unsigned((vocab + kLogitsOfBlock - 1) / kLogitsOfBlock);
    launch(device, change_kernel<T>, dim3(blocks, unsigned(count)), kThreads, 0, logits, x, tables, hidden, vocab);
    launch(device, own_tokens_kernel<T>, dim3(8, unsigned(count)), kThreads, 0, logits, x, tables, hidden, vocab);
}

template void rotate_heads<float>(CudaDevice&, float*, const float*, const HeadTables&, int64_t, int64_t);
template void rotate_heads<bf16>(CudaDevice&, bf16*, const bf16*, const HeadTables&, int64_t, int64_t);
template void rotate_heads<f16>(CudaDevice&, f16*, const f16*, const HeadTables&, int64_t, int64_t);
template void change_logits<float>(CudaDevice&, float*, const float*, const HeadTables&, int64_t, int64_t, int64_t);
template void change_logits<bf16>(CudaDevice&, float*, const bf16*, const HeadTables&, int64_t, int64_t, int64_t);
template void change_logits<f16>(CudaDevice&, float*, const f16*, const HeadTables&, int64_t, int64_t, int64_t);

}  // namespace spartan
