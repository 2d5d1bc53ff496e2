#include "core/engine/cuda/forward.h"

#include "core/engine/cuda_backend.h"
#include "kernels/check.h"
#include "kernels/cuda/embed_own.h"
#include "kernels/cuda/head.h"
#include "kernels/cuda/lora.h"
#include "kernels/cuda/rotate.h"
#include "kernels/rounding.h"

#include <algorithm>
#include <array>

namespace spartan {
namespace {

constexpr int64_t kAlignment = 256;
constexpr int64_t kLogitsBytes = 256 << 20;

int64_t head_block_of(const ModelConfig& c, int64_t rows) {
    return std::clamp<int64_t>(kLogitsBytes / (c.vocab_size * 4), 16, std::max<int64_t>(rows, 16));
}

KvLayout layout_of(const ModelConfig& c, int64_t block_tokens) {
    return {c.num_heads, c.num_kv_heads, c.head_dim, block_tokens};
}

AttentionBucket largest_attention_of(const ModelConfig& c, const ForwardLimits& l) {
    const int64_t context = std::min(c.max_position, l.total_context);
    AttentionBucket bucket = attention_bucket(l.rows, l.rows, context, l.total_context);
    // Every row is decoded then, those of one sequence as well.
    if (l.batch_invariant) bucket.decode_items = l.rows * divide_up(context, kSplitKeys);
    return bucket;
}

int64_t low_rank_bytes(const ModelConfig& c, int64_t rows) {
    return std::max({lora_workspace_bytes(3, rows, c.hidden_size, kMostCudaRank),
                     lora_workspace_bytes(1, rows, c.q_size(), kMostCudaRank),
                     lora_workspace_bytes(1, rows, c.intermediate_size, kMostCudaRank)});
}

// Calls place(pointer, count) for every buffer.
template <class T>
struct Buffers {
    float* x;
    T *h, *rotated, *multiplied, *q, *k, *v, *attended, *gate, *up, *out, *head_in;
    float *logits, *low_rank;
    std::byte* attention;
    int32_t* tokens;

    template <class Place>
    void visit(const ModelConfig& c, const ForwardLimits& l, const Place& place) {
        const int64_t head_rows = head_block_of(c, l.rows);
        place(x, l.rows * c.hidden_size);
        place(h, l.rows * c.hidden_size);
        place(rotated, std::max(l.rows, head_rows) * std::max({3 * c.hidden_size, c.q_size(), c.intermediate_size}));
        place(multiplied, l.factored ? l.rows * std::max({3 * c.hidden_size, c.q_size(), c.intermediate_size}) : 0);
        place(q, l.rows * c.q_size());
        place(k, l.rows * c.kv_size());
        place(v, l.rows * c.kv_size());
        place(attended, l.rows * c.q_size());
        place(gate, l.rows * c.intermediate_size);
        place(up, l.rows * c.intermediate_size);
        place(out, l.rows * c.hidden_size);
        place(head_in, head_rows * c.hidden_size);
        place(logits, head_rows * c.vocab_size);
        place(low_rank, low_rank_bytes(c, l.rows) / 4);
        place(attention, attention_workspace_bytes<T>(layout_of(c, l.block_tokens), largest_attention_of(c, l)));
        place(tokens, std::max(l.rows, head_rows));
    }
};

template <class P>
int64_t bytes_in(P*, int64_t count) {
    return round_up(count * int64_t(sizeof(P)), kAlignment);
}

GateKind gate_function(GateFunction f) {
    switch (f) {
        case GateFunction::silu:
            return GateKind::silu;
        case GateFunction::gelu:
            return GateKind::gelu;
        case GateFunction::gelu_tanh:
            return GateKind::gelu_tanh;
    }
    CHECK(false);
}

constexpr int64_t kMostRowsAddedTo = 2048;  // by low-rank parts; for so few the other order gained nothing

int part_of(int64_t layer, Projection p) { return int(layer) * kNumProjections + int(p); }
bool any_of(uint32_t bits, std::span<const Projection> which) {
    return std::any_of(which.begin(), which.end(), [&](Projection p) { return bits >> int(p) & 1; });
}

}  // namespace

template <class T>
int64_t Forward<T>::workspace_bytes(const ModelConfig& config, const ForwardLimits& limits) {
    int64_t bytes = 0;
    Buffers<T> buffers{};
    buffers.visit(config, limits, [&](auto* p, int64_t count) { bytes += bytes_in(p, count); });
    return bytes;
}

template <class T>
Forward<T>::Forward(CudaDevice& device, const ModelConfig& config, const DeviceWeights<T>& weights,
                    const ForwardLimits& limits)
    : device_(device),
      config_(config),
      weights_(weights),
      layout_(layout_of(config, limits.block_tokens)),
      largest_attention_(largest_attention_of(config, limits)),
      head_block_(head_block_of(config, limits.rows)),
      batch_invariant_(limits.batch_invariant),
      plans_(limits.batch_invariant, limits.plan_file),
      memory_(workspace_bytes(config, limits)) {
    std::byte* at = memory_.data();
    Buffers<T> b{};
    b.visit(config, limits, [&]<class P>(P*& p, int64_t count) {
        p = reinterpret_cast<P*>(at);
        at += bytes_in(p, count);
    });
    x_ = b.x, h_ = b.h, rotated_ = b.rotated, multiplied_ = b.multiplied, q_ = b.q, k_ = b.k, v_ = b.v,
    attended_ = b.attended;
    gate_ = b.gate, up_ = b.up, out_ = b.out, head_in_ = b.head_in, logits_ = b.logits;
    low_rank_ = b.low_rank, attention_ = b.attention, tokens_ = b.tokens;
    CHECK_CUDA(cudaMemsetAsync(memory_.data(), 0, size_t(memory_.bytes()), device_.stream()));
}

template <class T>
TileNorms Forward<T>::norms_of(NormRole role, int64_t layer, const StepShape& shape, const StepView& view) const {
    const int64_t at = (layer * kNumNormRoles + int64_t(role)) * shape.tiles;
    return {tiles_of(shape, view), view.norms ? view.norms + at : nullptr};
}

template <class T>
OutputChange Forward<T>::change_of(int64_t layer, Projection p, const AdapterNeeds& needs) const {
    return {needs.gains >> int(p) & 1 ? part_of(layer, p) : -1, weights_.layers[size_t(layer)].bias[size_t(p)]};
}

template <class T>
Ahead Forward<T>::ahead_of(int64_t layer, std::span<const Projection> which, int64_t rows, bool rotated) const {
    constexpr int64_t kMostRows = 256;  // more keep the GPU busy otherwise
    if (rows > kMostRows || rotated || factors_.most_of(which) > 0 || ahead_bytes_ == 0) return {};
    // Projections of one product lie one behind the other, but for the gaps of alignment.
    int64_t bytes = 0;
    for (const Projection p : which) bytes += in_features(config_, p) * out_features(config_, p) * int64_t(sizeof(T));
    return {weights_.layers[size_t(layer)].projection[size_t(which[0])], std::min(bytes, ahead_bytes_)};
}

// Factor position by position, the last first as the input meets them: one launch each, for all adapters of the batch.
// [projection][rows][in], in rotated_ or multiplied_.
template <class T>
const T* Forward<T>::multiply_factors(std::span<const Projection> which, int first_part, const T* in,
                                      const StepShape& shape, const StepView& view) {
    const T* from = in;
    for (int factor = factors_.most_of(which); factor-- > 0;) {
        T* const to = from == rotated_ ? multiplied_ : rotated_;
        block_sparse<T>(device_, to, from, from == in, view.tiles, int(shape.tiles), first_part, int(which.size()),
                        shape.rows, in_features(config_, which[0]), factors_.cell, factor);
        from = to;
    }
    return from;
}

// out[i] = W · rot(in) + scale · B (A in) of projections that follow each other and share their input; gain and bias
// are left to what reads the outputs.
template <class T>
void Forward<T>::project(int64_t layer, std::span<const Projection> which, const T* in, std::span<T* const> out,
                         const StepShape& shape, const StepView& view, const AdapterNeeds& needs) {
    const int64_t width = in_features(config_, which[0]), rows = shape.rows;
    const int first = part_of(layer, which[0]), count = int(which.size());
    const bool rotates = any_of(needs.rotations, which), multiplies = factors_.most_of(which) > 0;
    const T* const turned = multiplies ? multiply_factors(which, first, in, shape, view) : rotated_;
    if (rotates)
        rotate<T>(device_, rotated_, in, view.tiles, int(shape.tiles), first, count, rows, width, needs.max_group,
                  any_of(needs.plain_rotations, which), ahead_of(layer, which, rows, false));
    end_of(&StepTimes::rotate);
    std::array<MatmulProduct<T, T>, kMostProducts> products;
    LoraOutputs<T> low_rank;
    for (int i = 0; i < count; ++i) {
        const Projection p = which[size_t(i)];
        const int64_t n = out_features(config_, p);
        products[size_t(i)] = {out[size_t(i)], rotates || multiplies ? turned + i * rows * width : in,
                               weights_.layers[size_t(layer)].projection[size_t(p)], n};
        low_rank.out[i] = out[size_t(i)];
        low_rank.width[i] = n;
    }
    const auto all = std::span<const MatmulProduct<T, T>>(products).first(size_t(count));
    const bool has_low_rank = any_of(needs.low_ranks, which);
    const auto low_ranks = [&](bool sets) {
        if (has_low_rank)
            lora<T>(device_, low_rank, in, view.tiles, int(shape.tiles), first, count, rows, width, needs.max_rank,
                    low_rank_, sets);
        end_of(&StepTimes::lora);
    };
    // Low-rank parts first pays where most rows need not be set to zeros, and for many rows.
    const bool onto = has_low_rank && rows > kMostRowsAddedTo && 4 * shape.low_rank_rows >= 3 * rows &&
                      lora_sets<T>(device_, low_rank, int(shape.tiles), count, rows, width, needs.max_rank) &&
                      can_multiply_onto<T>(plans_, all, rows, width);
    if (onto) {
        low_ranks(/*sets=*/true);
        const bool done = multiply_onto<T>(device_, plans_, all, rows, width);
        end_of(&StepTimes::products);
        if (done) return;
    }
    matmul<T, T>(device_, plans_, all, rows, width);
    end_of(&StepTimes::products);
    low_ranks(/*sets=*/false);
}

template <class T>
void Forward<T>::attend(int64_t layer, const StepShape& shape, const StepView& view, const AdapterNeeds& needs,
                        T* pool) {
    const DeviceLayer<T>& w = weights_.layers[size_t(layer)];
    QkvSteps steps;
    const OutputChange q = change_of(layer, Projection::q, needs), k = change_of(layer, Projection::k, needs),
                       v = change_of(layer, Projection::v, needs);
    steps.part_q = q.part, steps.part_k = k.part, steps.part_v = v.part;
    steps.bias_q = q.bias, steps.bias_k = k.bias, steps.bias_v = v.bias;
    steps.norm_q = w.q_norm, steps.norm_k = w.k_norm;
    steps.own_norm_q = norms_of(NormRole::q, layer, shape, view).own;
    steps.own_norm_k = norms_of(NormRole::k, layer, shape, view).own;
    steps.norm_eps = config_.rms_norm_eps;
    if (config_.rotates(layer)) {
        steps.inv_freq = weights_.inv_freq;
        steps.rotated = config_.rotary_size();
        steps.rope_scale = float(config_.rope.attention_factor);
    }
    CudaBatchTables tables;
    tables.rows = view.rows, tables.tiles = view.tiles, tables.sequences = view.sequences;
    tables.block_tables = view.block_tables + layer * shape.sequences * shape.max_blocks;
    tables.max_blocks = shape.max_blocks;
    tables.decode = view.decode, tables.prefill = view.prefill, tables.item_counts = view.item_counts;
    const int64_t rows = shape.rows, q_size = config_.q_size(), kv_size = config_.kv_size();
    store_qkv<T>(device_, pool, layout_, {q_, {rows, q_size}}, {k_, {rows, kv_size}}, {v_, {rows, kv_size}}, steps,
                 tables);
    attention<T>(device_, {attended_, {rows, q_size}}, {q_, {rows, q_size}}, pool, layout_, config_.score_scale(),
                 config_.window_of(layer), tables, shape.attention, {attention_, largest_attention_});
    end_of(&StepTimes::attention);
}

template <class T>
void Forward<T>::layers(const StepShape& shape, const StepView& view, const AdapterNeeds& needs, T* pool) {
    constexpr Projection kQkv[] = {Projection::q, Projection::k, Projection::v}, kO[] = {Projection::o},
                         kGateUp[] = {Projection::gate, Projection::up}, kDown[] = {Projection::down};
    const int64_t rows = shape.rows, hidden = config_.hidden_size;
    const float eps = config_.rms_norm_eps, residual = config_.residual_multiplier;
    const RowTiles tiles = tiles_of(shape, view);
    gather_rows<T>(device_, x_, weights_.embedding, view.ids, config_.embedding_multiplier, rows, hidden);
    if (view.embeddings)
        embed_own<T>(device_, x_, weights_.embedding, view.ids, view.tiles, view.embeddings, int(shape.tiles), hidden,
                     config_.embedding_multiplier);
    for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
        const DeviceLayer<T>& w = weights_.layers[size_t(layer)];
        const Ahead to_qkv = ahead_of(layer, kQkv, rows, any_of(needs.rotations, kQkv));
        const TileNorms before = norms_of(NormRole::attention, layer, shape, view);
        if (layer == 0)
            rms_norm<T>(device_, h_, x_, w.attention_norm, eps, rows, hidden, before, to_qkv);
        else
            add_rms_norm<T>(device_, h_, x_, out_, residual, w.attention_norm, eps, rows, hidden, before,
                            change_of(layer - 1, Projection::down, needs), to_qkv);
        end_of(&StepTimes::other);
        T* const qkv[] = {q_, k_, v_};
        project(layer, kQkv, h_, qkv, shape, view, needs);
        attend(layer, shape, view, needs, pool);
        T* const out[] = {out_};
        project(layer, kO, attended_, out, shape, view, needs);
        add_rms_norm<T>(device_, h_, x_, out_, residual, w.mlp_norm, eps, rows, hidden,
                        norms_of(NormRole::mlp, layer, shape, view), change_of(layer, Projection::o, needs),
                        ahead_of(layer, kGateUp, rows, any_of(needs.rotations, kGateUp)));
        end_of(&StepTimes::other);
        T* const gate_up[] = {gate_, up_};
        project(layer, kGateUp, h_, gate_up, shape, view, needs);
        gate_mul<T>(device_, gate_, gate_, up_, gate_function(config_.gate_function), rows, config_.intermediate_size,
                    tiles, change_of(layer, Projection::gate, needs), change_of(layer, Projection::up, needs),
                    ahead_of(layer, kDown, rows, any_of(needs.rotations, kDown)));
        end_of(&StepTimes::other);
        project(layer, kDown, gate_, out, shape, view, needs);
    }
    add_rows<T>(device_, x_, out_, residual, rows, hidden, tiles,
                change_of(config_.num_layers - 1, Projection::down, needs));
    end_of(&StepTimes::other);
}

template <class T>
void Forward<T>::heads(const StepShape& shape, const StepView& view, int64_t first, int64_t count,
                       std::span<const OwnHead> own) {
    CHECK(count <= head_block_);
    const int64_t hidden = config_.hidden_size, vocab = config_.vocab_size;
    const Ahead to_head{weights_.head, std::min(ahead_bytes_, vocab * hidden * int64_t(sizeof(T)))};
    rms_norm_of_rows<T>(device_, head_in_, x_, view.head_rows + first, weights_.final_norm, config_.rms_norm_eps, count,
                        hidden, norms_of(NormRole::final, 0, shape, view), to_head);
    const HeadTables tables{view.head_rows + first, view.rows, view.output_heads};
    const T* in = head_in_;
    if (view.output_heads) {
        rotate_heads<T>(device_, rotated_, head_in_, tables, count, hidden);
        in = rotated_;
    }
    matmul<float, T>(device_, plans_, logits_, in, weights_.head, count, vocab, hidden);
    for (const OwnHead& o : own)
        matmul<float, T>(device_, plans_, logits_ + (o.begin - first) * vocab, in + (o.begin - first) * hidden, o.table,
                         o.count, vocab, hidden);
    if (view.output_heads) change_logits<T>(device_, logits_, head_in_, tables, count, hidden, vocab);
    if (config_.logits_scaling != 1) scale(device_, logits_, 1 / config_.logits_scaling, count * vocab);
    end_of(&StepTimes::head);
    sample(device_, tokens_ + first, {logits_, {count, vocab}}, view.sampling + first);
    end_of(&StepTimes::sample);
}

template <class T>
void Forward<T>::prepare_products(int64_t rows) {
    if constexpr (is_16_bit<T>) {
        if (batch_invariant_) return;
        constexpr int64_t kLeastBytes = 4 << 20;  // of weights: less is not worth the time
        constexpr int64_t kMostRows = 4096;       // more are as fast as they get
        constexpr Projection kQkv[] = {Projection::q, Projection::k, Projection::v}, kO[] = {Projection::o},
                             kGateUp[] = {Projection::gate, Projection::up}, kDown[] = {Projection::down};
        struct Use {
            std::span<const Projection> which;
            const T* in;
            std::array<T*, 3> out;
        };
        const Use uses[] = {
            {kQkv, h_, {q_, k_, v_}}, {kO, attended_, {out_}}, {kGateUp, h_, {gate_, up_}}, {kDown, gate_, {out_}}};
        const auto prepare = [&]<class Out>(const std::vector<MatmulRun<Out, T>>& runs, int64_t m, int64_t k) {
            if (k % 64 == 0 && 2 * runs[0].first.n * k * runs[0].count >= kLeastBytes)
                plans_.template prepare<Out, T>(device_, runs, m, k);
        };
        const auto prepare_use = [&](const Use& use, int64_t m) {
            const int64_t width = in_features(config_, use.which[0]);
            // Runs begin with the same products in every layer, as the weights of all layers lie in the same way.
            for (size_t first = 0; first < use.which.size();) {
                std::vector<MatmulRun<T, T>> runs;
                for (const DeviceLayer<T>& layer : weights_.layers) {
                    std::vector<MatmulProduct<T, T>> products;
                    for (size_t i = first; i < use.which.size(); ++i) {
                        const Projection p = use.which[i];
                        products.push_back({use.out[i], use.in, layer.projection[size_t(p)], out_features(config_, p)});
                    }
                    runs.push_back(leading_run(std::span<const MatmulProduct<T, T>>(products), m));
                }
                prepare(runs, m, width);
                first += size_t(runs[0].count);
            }
        };
        const int64_t hidden = config_.hidden_size;
        for (int64_t m = 9; m <= std::min(rows, kMostRows); m = MatmulPlans::bucket_of(m) + 1) {
            const int64_t bucket = MatmulPlans::bucket_of(m);
            for (const Use& use : uses) prepare_use(use, std::min(bucket, rows));
            if (bucket <= head_block_)
                prepare(
                    std::vector<MatmulRun<float, T>>{{.first = {logits_, head_in_, weights_.head, config_.vocab_size}}},
                    bucket, hidden);
        }
        plans_.save();
    }
}

template class Forward<float>;
template class Forward<bf16>;
template class Forward<f16>;

}  // namespace spartan
