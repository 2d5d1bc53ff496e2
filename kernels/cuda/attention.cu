#include "kernels/check.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_decode.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numbers.cuh"

#include <algorithm>
#include <bit>

namespace spartan {

// attention_fast.cuh. Its kernels follow from d.
template <class T>
void launch_fast_attention(CudaDevice& device, int64_t head_dim, const DecodeArguments<T>& d,
                           const AttentionBucket& bucket);

namespace {

constexpr int kPlainWarps = 4, kMostFeaturesOfLane = 8;

template <class T>
struct PlainArguments {
    T* out;
    const T *q, *pool;
    int heads, kv_heads, head_dim, block_tokens;
    int64_t window;
    float scale;
    CudaBatchTables tables;
};

// One warp for each row and head, key by key; lane i has features i, i + 32, …
template <class T>
__global__ void plain_kernel(const __grid_constant__ PlainArguments<T> a) {
    pdl_trigger();
    const int lane = int(threadIdx.x % 32), head = int(blockIdx.y) * kPlainWarps + int(threadIdx.x / 32);
    const CudaRow row = a.tables.rows[blockIdx.x];
    if (row.sequence < 0 || head >= a.heads) return pdl_wait();
    const int32_t* pages = a.tables.block_tables + a.tables.sequences[row.sequence].table * a.tables.max_blocks;
    const int64_t half_page = int64_t(a.kv_heads) * a.block_tokens * a.head_dim;
    const int64_t of_head = int64_t(head / (a.heads / a.kv_heads)) * a.block_tokens;
    const int64_t at = (int64_t(blockIdx.x) * a.heads + head) * a.head_dim;
    pdl_wait();

    float q[kMostFeaturesOfLane] = {}, sums[kMostFeaturesOfLane] = {}, highest = -INFINITY, total = 0;
#pragma unroll
    for (int i = 0; i < kMostFeaturesOfLane; ++i)
        if (lane + 32 * i < a.head_dim) q[i] = to_float(a.q[at + lane + 32 * i]) * a.scale;
    const int first = a.window > 0 && row.position >= a.window ? int(row.position - a.window + 1) : 0;
    for (int key = first; key <= row.position; ++key) {
        const T* k =
            a.pool + 2 * half_page * pages[key / a.block_tokens] + (of_head + key % a.block_tokens) * a.head_dim;
        const T* v = k + half_page;
        float dot = 0, values[kMostFeaturesOfLane] = {};
#pragma unroll
        for (int i = 0; i < kMostFeaturesOfLane; ++i)
            if (lane + 32 * i < a.head_dim) {
                dot = fmaf(q[i], to_float(k[lane + 32 * i]), dot);
                values[i] = to_float(v[lane + 32 * i]);
            }
        const float score = warp_sum(dot), now = fmaxf(highest, score);
        const float shrink = expf(highest - now), weight = expf(score - now);
        highest = now;
        total = fmaf(total, shrink, weight);
#pragma unroll
        for (int i = 0; i < kMostFeaturesOfLane; ++i) sums[i] = fmaf(sums[i], shrink, weight * values[i]);
    }
#pragma unroll
    for (int i = 0; i < kMostFeaturesOfLane; ++i)
        if (lane + 32 * i < a.head_dim) a.out[at + lane + 32 * i] = from_float<T>(sums[i] / total);
}

struct Workspace {
    int64_t turns_bytes = 256, arrived_bytes, states_bytes, sums_bytes;
    Workspace(const KvLayout& l, const AttentionBucket& bucket) {
        const auto aligned = [](int64_t bytes) { return (bytes + 255) / 256 * 256; };
        arrived_bytes = aligned(bucket.decode_items * HeadGroups(l.num_heads, l.kv_heads).count * 4);
        states_bytes = aligned(bucket.decode_items * l.num_heads * int64_t(sizeof(float2)));
        sums_bytes = aligned(bucket.decode_items * l.num_heads * l.head_dim * 4);
    }
};

}  // namespace

template <class T>
bool attention_is_fast(const KvLayout& l) {
    const auto dims = {32, 64, 96, 128, 256};
    return is_16_bit<T> && l.block_tokens >= 16 && std::has_single_bit(uint64_t(l.block_tokens)) &&
           std::find(dims.begin(), dims.end(), l.head_dim) != dims.end();
}

template <class T>
int64_t attention_workspace_bytes(const KvLayout& l, const AttentionBucket& bucket) {
    if (!attention_is_fast<T>(l)) return 0;
    const Workspace w(l, bucket);
    return w.turns_bytes + w.arrived_bytes + w.states_bytes + w.sums_bytes;
}

template <class T>
void attention(CudaDevice& device, View<T, 2> out, View<const T, 2> q, const T* pool, const KvLayout& l, float scale,
               int64_t window, const CudaBatchTables& tables, const AttentionBucket& bucket,
               const AttentionWorkspace& workspace) {
    CHECK(l.kv_heads > 0 && l.num_heads % l.kv_heads == 0 && l.block_tokens > 0);
    CHECK(l.head_dim > 0 && l.head_dim % 2 == 0 && l.head_dim <= 256);
    CHECK(out.shape == q.shape && q.shape[1] == l.num_heads * l.head_dim);
    CHECK(q.shape[0] <= bucket.rows && window >= 0 && scale > 0);
    const int heads = int(l.num_heads), kv_heads = int(l.kv_heads), block_tokens = int(l.block_tokens);
    if constexpr (is_16_bit<T>) {
        if (attention_is_fast<T>(l)) {
            CHECK(bucket.decode_items <= workspace.room.decode_items);
            const Workspace w(l, workspace.room);
            auto* memory = static_cast<std::byte*>(workspace.memory);
            std::byte* arrived = memory + w.turns_bytes;
            return launch_fast_attention<T>(
                device, l.head_dim,
                {.out = out.data,
                 .q = q.data,
                 .pool = pool,
                 .heads = heads,
                 .kv_heads = kv_heads,
                 .block_shift = std::countr_zero(unsigned(block_tokens)),
                 .groups = HeadGroups(heads, kv_heads),
                 .window = window,
                 .scale = scale * kLog2E,
                 .tables = tables,
                 .turns = reinterpret_cast<uint32_t*>(memory),
                 .arrived = reinterpret_cast<uint32_t*>(arrived),
                 .states = reinterpret_cast<float2*>(arrived + w.arrived_bytes),
                 .sums = reinterpret_cast<float*>(arrived + w.arrived_bytes + w.states_bytes)},
                bucket);
        }
    }
    const dim3 grid(unsigned(q.shape[0]), unsigned((l.num_heads + kPlainWarps - 1) / kPlainWarps));
    launch(device, plain_kernel<T>, grid, 32 * kPlainWarps, 0,
           PlainArguments<T>{out.data, q.data, pool, heads, kv_heads, int(l.head_dim), block_tokens, window, scale,
                             tables});
}

template bool attention_is_fast<float>(const KvLayout&);
template bool attention_is_fast<bf16>(const KvLayout&);
template bool attention_is_fast<f16>(const KvLayout&);
template int64_t attention_workspace_bytes<float>(const KvLayout&, const AttentionBucket&);
template int64_t attention_workspace_bytes<bf16>(const KvLayout&, const AttentionBucket&);
template int64_t attention_workspace_bytes<f16>(const KvLayout&, const AttentionBucket&);
template void attention<float>(CudaDevice&, View<float, 2>, View<const float, 2>, const float*, const KvLayout&, float,
                               int64_t, const CudaBatchTables&, const AttentionBucket&, const AttentionWorkspace&);
template void attention<bf16>(CudaDevice&, View<bf16, 2>, View<const bf16, 2>, const bf16*, const KvLayout&, float,
                              int64_t, const CudaBatchTables&, const AttentionBucket&, const AttentionWorkspace&);
template void attention<f16>(CudaDevice&, View<f16, 2>, View<const f16, 2>, const f16*, const KvLayout&, float, int64_t,
                             const CudaBatchTables&, const AttentionBucket&, const AttentionWorkspace&);

}  // namespace spartan
