#include "kernels/check.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/tiles.cuh"
#include "kernels/cuda/words.cuh"
#include "kernels/rounding.h"

#include <type_traits>

namespace spartan {

namespace {

constexpr int kWarps = 8, kHeadsOfWarp = 4;  // of store_kernel

template <class T>
struct StoreArguments {
    T *pool, *q;
    const T *k, *v;
    int heads, kv_heads, head_dim, block_tokens;
    int64_t max_blocks;
    QkvSteps steps;
    CudaBatchTables tables;

    __device__ const float* norm_of(int kind, const CudaRow& row) const {
        const float* norm = kind == 0 ? steps.norm_q : kind == 1 ? steps.norm_k : nullptr;
        const float* const* own = kind == 0 ? steps.own_norm_q : steps.own_norm_k;
        return norm && own && row.tile >= 0 && own[row.tile] ? own[row.tile] : norm;
    }
    // Which of q, k and v a head of [0, heads + 2 kv_heads) is, and which head of it.
    __device__ int kind_of(int head) const { return head < heads ? 0 : head < heads + kv_heads ? 1 : 2; }
    __device__ int of_kind(int head, int kind) const {
        return head - (kind == 0 ? 0 : kind == 1 ? heads : heads + kv_heads);
    }
    __device__ const T* read_from(int64_t row, int head) const {
        const int kind = kind_of(head);
        const T* x = kind == 0 ? q : kind == 1 ? k : v;
        return x + (row * (kind == 0 ? heads : kv_heads) + of_kind(head, kind)) * head_dim;
    }
    __device__ int32_t page_of(int32_t table, int position) const {
        return tables.block_tables[table * max_blocks + position / block_tokens];
    }
    __device__ T* write_to(int64_t row, int head, int32_t page, int position) const {
        const int kind = kind_of(head), h = of_kind(head, kind);
        if (kind == 0) return q + (row * heads + h) * head_dim;
        return pool + ((2 * int64_t(page) + kind - 1) * kv_heads + h) * block_tokens * head_dim +
               position % block_tokens * head_dim;
    }
};

// Of pair `pair` of a row's features.
template <class T>
__device__ __forceinline__ void turn_of(const StoreArguments<T>& a, int position, int pair, float& cosine,
                                        float& sine) {
    sincosf(__fmul_rn(float(position), a.steps.inv_freq[pair]), &sine, &cosine);
    cosine *= a.steps.rope_scale;
    sine *= a.steps.rope_scale;
}

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
    const float *gain[3] = {}, *bias[3] = {};

    Projections() = default;
    __device__ const float* gain_of(int kind) const { return kind == 0 ? gain[0] : kind == 1 ? gain[1] : gain[2]; }
    __device__ const float* bias_of(int kind) const { return kind == 0 ? bias[0] : kind == 1 ? bias[1] : bias[2]; }

    template <class Arguments>
    __device__ Projections(const Arguments& a, const CudaRow& row)
        : bias{a.steps.bias_q, a.steps.bias_k, a.steps.bias_v} {
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
        if (pair < half) turn_of(a, at.position, pair, cosine[i], sine[i]);
    }
    const Projections projections(a, at);
    const int32_t page = a.page_of(a.tables.sequences[at.sequence].table, at.position);
    pdl_wait();

    Head x[kHeadsOfWarp];
#pragma unroll
    for (int h = 0; h < kHeadsOfWarp; ++h) {  // all loads first
        const int head = first_head + h;
        if (head >= all_heads) break;
        const T* from = a.read_from(row, head);
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
        const int kind = a.kind_of(head), of_kind = a.of_kind(head, kind);
        const float *gain = projections.gain_of(kind), *bias = projections.bias_of(kind);
        const float* norm = a.norm_of(kind, at);

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
        T* to = a.write_to(row, head, page, at.position);
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

// The same for 16-bit types with D a power of two: a lane takes 8 features and the 8 that turn with them, so a head is
// D / 16 lanes' and everything moves 16 bytes at a time. A block takes kBlockHeads heads of a row.
//
// kAhead: tables are read and angles worked out before pdl_wait(), for the few rows of a step that follows another
// kernel closely. With many rows a block asks for its features first.
template <class T, int D>
struct FastStore {
    static constexpr int kWarps = 4, kLanes = D / 16, kTurns = 2, kHeadsOfTurn = kWarps * 32 / kLanes;
    static constexpr int kBlockHeads = kTurns * kHeadsOfTurn;
    struct alignas(16) Turns {
        float cosine[D / 2], sine[D / 2];
    };

    const StoreArguments<T>& a;
    Turns& turns;
    const int part = int(threadIdx.x) % kLanes;  // of a head
    // What turns comes first: 8 of its pairs are chunks part and part + half / 8; else two chunks beside each other.
    const int half = a.steps.inv_freq ? int(a.steps.rotated / 2) : 0;
    const bool rotates = 8 * part < half;
    const int first = rotates ? 8 * part : 16 * part, second = rotates ? first + half : first + 8;

    __device__ int head_of(int turn) const {
        return int(blockIdx.y) * kBlockHeads + turn * kHeadsOfTurn + int(threadIdx.x) / kLanes;
    }
    __device__ void prepare(const CudaRow& at) const {
        for (int pair = int(threadIdx.x); pair < half; pair += 32 * kWarps)
            turn_of(a, at.position, pair, turns.cosine[pair], turns.sine[pair]);
    }

    struct Features {
        uint32_t first[4], second[4];
    };
    __device__ static void widen(float (&to)[8], const uint32_t (&from)[4]) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            to[2 * i] = low_of<T>(from[i]);
            to[2 * i + 1] = high_of<T>(from[i]);
        }
    }
    __device__ static void store(T* to, const float (&x)[8]) {
        uint32_t words[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) words[i] = pack<T>(x[2 * i], x[2 * i + 1]);
        store_words(to, words);
    }
    // x * gain + bias of features [at, at + 8); null: left out.
    __device__ static void change(float (&x)[8], const float* gain, const float* bias, int at) {
        if (gain)
#pragma unroll
            for (int i = 0; i < 8; ++i) x[i] *= gain[at + i];
        if (bias)
#pragma unroll
            for (int i = 0; i < 8; ++i) x[i] += bias[at + i];
    }
    __device__ void normalise(float (&u)[8], float (&v)[8], const float* norm) const {
        float squares = 0;
#pragma unroll
        for (int i = 0; i < 8; ++i) squares = fmaf(u[i], u[i], fmaf(v[i], v[i], squares));
#pragma unroll
        for (int offset = 1; offset < kLanes; offset <<= 1) squares += __shfl_xor_sync(~0u, squares, offset);
        if (!norm) return;
        const float inverse = 1 / sqrtf(squares / float(D) + a.steps.norm_eps);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            u[i] = u[i] * inverse * norm[first + i];
            v[i] = v[i] * inverse * norm[second + i];
        }
    }
    __device__ void finish(const Features& x, int head, bool normed, const CudaRow& at, int32_t page,
                           const Projections& projections) const {
        const bool used = head < a.heads + 2 * a.kv_heads;
        const int kind = used ? a.kind_of(head) : 2;
        float u[8], v[8];
        widen(u, x.first);
        widen(v, x.second);
        if (used) {
            const float *gain = projections.gain_of(kind), *bias = projections.bias_of(kind);
            const int of_head = a.of_kind(head, kind) * D;
            change(u, gain, bias, of_head + first);
            change(v, gain, bias, of_head + second);
        }
        if (normed) normalise(u, v, a.norm_of(kind, at));  // all lanes: they add up by shuffles
        if (!used) return;
        if (rotates && kind < 2) {
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                const float cosine = turns.cosine[8 * part + i], sine = turns.sine[8 * part + i], was = u[i];
                u[i] = was * cosine - v[i] * sine;
                v[i] = v[i] * cosine + was * sine;
            }
        }
        T* to = a.write_to(blockIdx.x, head, page, at.position);
        store(to + first, u);
        store(to + second, v);
    }
};

template <class T, int D, bool kAhead>
__global__ void __launch_bounds__(32 * FastStore<T, D>::kWarps)
    fast_kernel(const __grid_constant__ StoreArguments<T> a) {
    using Store = FastStore<T, D>;
    __shared__ typename Store::Turns turns;
    pdl_trigger();
    const Store store{a, turns};
    const CudaRow at = a.tables.rows[blockIdx.x];
    if (kAhead && at.sequence < 0) return pdl_wait();
    int32_t table = 0;
    Projections projections;
    const auto prepare = [&] {
        table = a.tables.sequences[at.sequence].table;
        store.prepare(at);
        projections = Projections(a, at);
    };
    if (kAhead) prepare();
    pdl_wait();

    typename Store::Features x[Store::kTurns] = {};
#pragma unroll
    for (int turn = 0; turn < Store::kTurns; ++turn) {
        const int head = store.head_of(turn);
        if (head >= a.heads + 2 * a.kv_heads) continue;
        const T* from = a.read_from(blockIdx.x, head);
        load_words(x[turn].first, from + store.first);
        load_words(x[turn].second, from + store.second);
    }
    if (!kAhead && at.sequence < 0) return;
    if (!kAhead) prepare();
    const int32_t page = a.page_of(table, at.position);
    __syncthreads();
#pragma unroll
    for (int turn = 0; turn < Store::kTurns; ++turn)
        store.finish(x[turn], store.head_of(turn), a.steps.norm_q || a.steps.norm_k, at, page, projections);
}

constexpr int64_t kFewRows = 256;

template <int D, class T>
void launch_fast(CudaDevice& device, int64_t rows, const StoreArguments<T>& a) {
    using Store = FastStore<T, D>;
    const int64_t blocks = divide_up(a.heads + 2 * a.kv_heads, Store::kBlockHeads);
    const bool ahead = rows <= kFewRows && device.overlaps_launches();
    launch(device, ahead ? fast_kernel<T, D, true> : fast_kernel<T, D, false>, dim3(unsigned(rows), unsigned(blocks)),
           32 * Store::kWarps, 0, a);
}

template <class T>
bool takes_fast(const StoreArguments<T>& a) {
    return a.steps.rotated % 16 == 0 && aligned_to_16(a.q, a.k, a.v, a.pool);
}

// Whether it did.
template <class T>
bool launch_fast(CudaDevice& device, int64_t rows, const StoreArguments<T>& a) {
    if (!takes_fast(a)) return false;
    switch (a.head_dim) {
        case 32:
            launch_fast<32>(device, rows, a);
            return true;
        case 64:
            launch_fast<64>(device, rows, a);
            return true;
        case 128:
            launch_fast<128>(device, rows, a);
            return true;
        case 256:
            launch_fast<256>(device, rows, a);
            return true;
        default:
            return false;
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
    if constexpr (is_16_bit<T>)
        if (launch_fast(device, rows, arguments)) return;
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
template void store_qkv<f16>(CudaDevice&, f16*, const KvLayout&, View<f16, 2>, View<const f16, 2>, View<const f16, 2>,
                             const QkvSteps&, const CudaBatchTables&);

}  // namespace spartan
