#include "kernels/check.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numbers.cuh"

namespace spartan {

namespace {

constexpr int kWarps = 8, kHeadsOfWarp = 4;

template <class T>
struct StoreArguments {
    T *pool, *q;
    const T *k, *v;
    int heads, kv_heads, head_dim, block_tokens;
    int64_t max_blocks;
    QkvSteps steps;
    CudaBatchTables tables;
};

// One head of one row: pairs (first, second) of features, pair i in lane i % 32. The first rotated / 2 pairs are
// (i, i + rotated / 2), those behind them neighbours.
template <int Slots>
struct HeadPairs {
    float first[Slots], second[Slots];

    __device__ static int first_at(int pair, int half) { return pair < half ? pair : 2 * pair; }
    __device__ static int second_at(int pair, int half) { return pair < half ? pair + half : 2 * pair + 1; }
};

// Gain and bias of q, k and v for the rows of one tile.
struct Projections {
    const float *gain[3], *bias[3];

    template <class Arguments>
    __device__ Projections(const Arguments& a, const CudaRow& row)
        : gain{}, bias{a.steps.bias_q, a.steps.bias_k, a.steps.bias_v} {
        const CudaPart* parts = row.tile < 0 ? nullptr : a.tables.tiles[row.tile].parts;
        if (!parts) return;
        const int32_t index[3] = {a.steps.part_q, a.steps.part_k, a.steps.part_v};
#pragma unroll
        for (int i = 0; i < 3; ++i) {
            if (index[i] < 0) continue;
            gain[i] = parts[index[i]].gain;
            if (const float* own = parts[index[i]].bias) bias[i] = own;
        }
    }
};

template <class T, int Slots>
__global__ void __launch_bounds__(32 * kWarps) store_kernel(const __grid_constant__ StoreArguments<T> a) {
    pdl_trigger();
    using Head = HeadPairs<Slots>;
    const int lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32);
    const int first_head = (int(blockIdx.y) * kWarps + warp) * kHeadsOfWarp, all_heads = a.heads + 2 * a.kv_heads;
    const int64_t row = blockIdx.x;
    const CudaRow at = a.tables.rows[row];
    if (at.sequence < 0 || first_head >= all_heads) return pdl_wait();

    const int pairs = a.head_dim / 2, half = a.steps.inv_freq ? int(a.steps.rotated / 2) : 0;
    float cosine[Slots], sine[Slots];
#pragma unroll
    for (int i = 0; i < Slots; ++i) {
        const int pair = lane + 32 * i;
        cosine[i] = 1;
        sine[i] = 0;
        if (pair >= half) continue;
        sincosf(__fmul_rn(float(at.position), a.steps.inv_freq[pair]), &sine[i], &cosine[i]);
        cosine[i] *= a.steps.rope_scale;
        sine[i] *= a.steps.rope_scale;
    }
    const Projections projections(a, at);
    const int32_t table = a.tables.sequences[at.sequence].table;
    const int32_t page = a.tables.block_tables[table * a.max_blocks + at.position / a.block_tokens];
    const int64_t half_page = int64_t(a.kv_heads) * a.block_tokens * a.head_dim;
    pdl_wait();

    Head x[kHeadsOfWarp];
#pragma unroll
    for (int h = 0; h < kHeadsOfWarp; ++h) {  // all loads first
        const int head = first_head + h;
        if (head >= all_heads) break;
        const T* from = head < a.heads ? a.q + (row * a.heads + head) * a.head_dim
                        : head < a.heads + a.kv_heads
                            ? a.k + (row * a.kv_heads + head - a.heads) * a.head_dim
                            : a.v + (row * a.kv_heads + head - a.heads - a.kv_heads) * a.head_dim;
#pragma unroll
        for (int i = 0; i < Slots; ++i) {
            const int pair = lane + 32 * i;
            const bool used = pair < pairs;
            x[h].first[i] = used ? to_float(from[Head::first_at(pair, half)]) : 0;
            x[h].second[i] = used ? to_float(from[Head::second_at(pair, half)]) : 0;
        }
    }
#pragma unroll
    for (int h = 0; h < kHeadsOfWarp; ++h) {
        const int head = first_head + h;
        if (head >= all_heads) break;
        const int kind = head < a.heads ? 0 : head < a.heads + a.kv_heads ? 1 : 2;  // q, k, v
        const int of_kind = head - (kind == 0 ? 0 : kind == 1 ? a.heads : a.heads + a.kv_heads);
        const float* gain = kind == 0 ? projections.gain[0] : kind == 1 ? projections.gain[1] : projections.gain[2];
        const float* bias = kind == 0 ? projections.bias[0] : kind == 1 ? projections.bias[1] : projections.bias[2];
        const float* norm = kind == 0 ? a.steps.norm_q : kind == 1 ? a.steps.norm_k : nullptr;
        const float* const* own = kind == 0 ? a.steps.own_norm_q : a.steps.own_norm_k;
        if (norm && own && at.tile >= 0 && own[at.tile]) norm = own[at.tile];

        float squares = 0;
#pragma unroll
        for (int i = 0; i < Slots; ++i) {
            const int pair = lane + 32 * i;
            if (pair >= pairs) continue;
            const int feature = of_kind * a.head_dim;
            const int first = feature + Head::first_at(pair, half), second = feature + Head::second_at(pair, half);
            if (gain) {
                x[h].first[i] *= gain[first];
                x[h].second[i] *= gain[second];
            }
            if (bias) {
                x[h].first[i] += bias[first];
                x[h].second[i] += bias[second];
            }
            squares = fmaf(x[h].first[i], x[h].first[i], fmaf(x[h].second[i], x[h].second[i], squares));
        }
        const float inverse = norm ? 1 / sqrtf(warp_sum(squares) / float(a.head_dim) + a.steps.norm_eps) : 1;
        const int64_t slot = (int64_t(of_kind) * a.block_tokens + at.position % a.block_tokens) * a.head_dim;
        T* to = kind == 0 ? a.q + (row * a.heads + of_kind) * a.head_dim
                          : a.pool + (2 * int64_t(page) + kind - 1) * half_page + slot;
#pragma unroll
        for (int i = 0; i < Slots; ++i) {
            const int pair = lane + 32 * i;
            if (pair >= pairs) continue;
            const int first = Head::first_at(pair, half), second = Head::second_at(pair, half);
            float u = x[h].first[i], v = x[h].second[i];
            if (norm) {
                u = u * inverse * norm[first];
                v = v * inverse * norm[second];
            }
            const bool rotates = kind < 2 && pair < half;
            to[first] = from_float<T>(rotates ? u * cosine[i] - v * sine[i] : u);
            to[second] = from_float<T>(rotates ? v * cosine[i] + u * sine[i] : v);
        }
    }
}

}  // namespace

template <class T>
void store_qkv(CudaDevice& device, T* pool, const KvLayout& l, View<T, 2> q, View<const T, 2> k, View<const T, 2> v,
               const QkvSteps& steps, const CudaBatchTables& tables) {
    const int64_t rows = q.shape[0], all_heads = l.num_heads + 2 * l.kv_heads;
    CHECK(l.kv_heads > 0 && l.num_heads % l.kv_heads == 0 && l.block_tokens > 0);
    CHECK(l.head_dim > 0 && l.head_dim % 2 == 0 && l.head_dim <= 256);
    CHECK(q.shape[1] == l.num_heads * l.head_dim && k.shape == v.shape);
    CHECK(k.shape[0] == rows && k.shape[1] == l.kv_heads * l.head_dim);
    CHECK(!steps.inv_freq || (steps.rotated % 2 == 0 && steps.rotated >= 0 && steps.rotated <= l.head_dim));
    const StoreArguments<T> arguments{.pool = pool,
                                      .q = q.data,
                                      .k = k.data,
                                      .v = v.data,
                                      .heads = int(l.num_heads),
                                      .kv_heads = int(l.kv_heads),
                                      .head_dim = int(l.head_dim),
                                      .block_tokens = int(l.block_tokens),
                                      .max_blocks = tables.max_blocks,
                                      .steps = steps,
                                      .tables = tables};
    constexpr int kHeads = kWarps * kHeadsOfWarp;
    const dim3 grid(unsigned(rows), unsigned((all_heads + kHeads - 1) / kHeads));
    const auto kernel = l.head_dim <= 64    ? store_kernel<T, 1>
                        : l.head_dim <= 128 ? store_kernel<T, 2>
                                            : store_kernel<T, 4>;
    launch(device, kernel, grid, 32 * kWarps, 0, arguments);
}

template void store_qkv<float>(CudaDevice&, float*, const KvLayout&, View<float, 2>, View<const float, 2>,
                               View<const float, 2>, const QkvSteps&, const CudaBatchTables&);
template void store_qkv<bf16>(CudaDevice&, bf16*, const KvLayout&, View<bf16, 2>, View<const bf16, 2>,
                              View<const bf16, 2>, const QkvSteps&, const CudaBatchTables&);

}  // namespace spartan
