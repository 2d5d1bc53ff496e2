// The forward pass of a Llama-like decoder over one batch of rows, written once for every device and storage type.
//
//     x = embedding[ids]
//     per layer:  h = norm(x);  q, k, v = project(h);  rope(q, k);  store k, v;  x += project_o(attention(q))
//                 h = norm(x);  x += project_down(silu(project_gate(h)) * project_up(h))
//     logits = norm(x)[rows that need them] · output^T
//
// What families change of it are switches of ModelConfig: norms of q and k, layers without rope or with a sliding
// window, another activation, multipliers of the embedding, the scores, the residual and the logits.
//
// project() is the one formula of all adapters: gain * (W · rot(x) + scale · B(A x)) + bias, with each segment's parts
// read from the pool. q, k and v may each see their own rotated input. Where a segment's adapter changes the embedding,
// a norm or the output head, its rows alone take another way; a batch without such adapters takes none.
#pragma once

#include "core/adapter/adapter.h"
#include "core/engine/batch.h"
#include "core/engine/common_block.h"
#include "core/engine/model_runner.h"
#include "core/model/model.h"
#include "kernels/adapter_ops.h"
#include "kernels/attention.h"
#include "kernels/block_sparse.h"
#include "kernels/check.h"
#include "kernels/elementwise.h"
#include "kernels/matmul.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/sample.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <span>
#include <vector>

namespace spartan {

// An adapter's blob as it lies in the pool.
struct PlacedAdapter {
    const std::byte* data = nullptr;
    std::shared_ptr<const Adapter> adapter;
    std::vector<int32_t> part_index;        // [layer * kNumProjections + projection]; -1: not adapted
    std::vector<const float*> norm_weight;  // [layer * kNumNormRoles + role]; null: the base's. Empty: all the base's
    std::byte* batched = nullptr;  // its factors cut to blocks of `cell` (common_block), where the blob has them
    int64_t cell = 0;              // 0: not cut yet

    const AdapterPart* part(int64_t layer, Projection p) const {
        const int32_t i = part_index[size_t(layer * kNumProjections + int64_t(p))];
        return i < 0 ? nullptr : &adapter->parts[size_t(i)];
    }
    const float* norm(NormRole role, int64_t layer) const {
        return norm_weight.empty() ? nullptr : norm_weight[size_t(layer * kNumNormRoles + int64_t(role))];
    }
    template <class T>
    const T* at(int64_t offset) const {
        return offset < 0 ? nullptr : reinterpret_cast<const T*>(data + offset);
    }
};

// Rows [begin, end) of the rows at hand use one adapter; null: the base.
struct SegmentRows {
    const PlacedAdapter* placed = nullptr;
    int64_t begin = 0, end = 0;
};

// Splits wall time among phases: each mark() books the time since the last one.
class PhaseClock {
public:
    void start() { last_ = std::chrono::steady_clock::now(); }
    int64_t mark(int64_t& phase_ns) {
        const auto now = std::chrono::steady_clock::now();
        const int64_t ns = std::chrono::duration_cast<std::chrono::nanoseconds>(now - last_).count();
        phase_ns += ns;
        last_ = now;
        return ns;
    }

private:
    std::chrono::steady_clock::time_point last_{};
};

// How much work fits into one kernel call, so that a cancel is heard within a fraction of 100 ms however large the
// model and slow the machine. Where rows are cut changes no bit of the result.
class Pace {
public:
    int64_t flops_in_one_call() const { return std::max<int64_t>(int64_t(flops_per_us_ * kCall_us), 1); }
    void learn(int64_t flops, int64_t ns) {
        if (ns > 1'000'000) flops_per_us_ = 0.5 * (flops_per_us_ + 1e3 * double(flops) / double(ns));
    }

private:
    static constexpr double kCall_us = 15'000;
    double flops_per_us_ = 5'000;  // a modest guess: 5 GFLOP/s
};

template <class Device, class T>
class Transformer {
public:
    Transformer(Device& device, const ModelConfig& config, const Weights<T>& weights, const KvLayout& layout,
                int64_t max_tokens, AdapterStrategy strategy = AdapterStrategy::folded);

    // With `common_block`: what the batched factors of the next batch are cut to.
    void set_cell(int64_t cell) { cell_ = cell; }
    // [layer * kNumProjections + projection]: weights that the adapter of the next batch's only segment was merged
    // into; null: the base's. Empty: all the base's.
    void set_merged(std::span<const PackedMatrix<T>* const> merged) { merged_ = merged; }

    // `placed[i]` belongs to batch.segments[i]; null: base. Times in `result` are nanoseconds here.
    void forward(const Batch& batch, std::span<const PlacedAdapter* const> placed, T* pool, const KeepGoing& keep_going,
                 const HeadLogits& logits, ForwardResult& result);

    int64_t workspace_bytes() const;

private:
    using Activation = typename Device::template Activation<T>;
    using Rows = View<Activation, 2>;

    using Segments = std::span<const SegmentRows>;

    void embed(const Batch& batch);
    void embed_own_rows(const TablePart& table, const SegmentRows& s, Rows x, std::span<const Token> ids);
    void decoder_layer(int64_t layer, const Batch& batch, T* pool);
    // rms_norm with the weight that each segment's adapter has for this norm. `vectors` of weight.size() values lie in
    // a row one after another.
    void norm(Segments segments, NormRole role, int64_t layer, const std::vector<float>& weight, Rows out, Rows in,
              int64_t vectors = 1);
    void project(int64_t layer, Projection p, Rows in, Rows out);
    void activate(Rows gate, Rows up);
    void add_to_residual(Rows x, Rows out);
    void attend(int64_t layer, const Batch& batch, T* pool, Rows out, Rows q, Rows k, Rows v);
    void product(Rows out, Rows x, const PackedMatrix<T>& w, int64_t& phase_ns);
    template <class PartOf>
    void collect_parts(Segments segments, const PartOf& part_of, const float* base_bias, bool merged = false);
    Rows multiply_factors(int64_t layer, Projection p, Rows in);
    void heads(const Batch& batch, const HeadLogits& logits);
    void collect_head_segments(const Batch& batch, size_t first_head, size_t count);
    void project_head(Rows out, Rows in);
    void project_head_tables(Rows out, Rows x);
    void replace_token_logits(const TablePart& table, const SegmentRows& s, Rows out, Rows in);
    void hand_out_logits(const Batch& batch, size_t first_head, size_t count, const HeadLogits& logits);
    void pick_tokens(const Batch& batch, size_t first_head, size_t count);

    Rows rows_of(std::vector<Activation>& buffer, int64_t dim) { return {buffer.data(), {rows_, dim}}; }
    bool go_on() {
        stopped_ = stopped_ || !(*keep_going_)();
        return !stopped_;
    }

    Device& device_;
    const ModelConfig& config_;
    const Weights<T>& weights_;
    KvLayout layout_;
    int64_t head_block_;  // rows of logits computed at a time

    std::vector<Activation> x_, h_, rotated_, q_, k_, v_, attended_, gate_, up_, out_, head_in_, logits_;
    std::vector<Activation> multiplied_;  // beside rotated_, of chains of factors
    std::vector<RotateSegment<T>> rotations_;
    std::vector<BlockSparseSegment<T>> factors_;
    std::vector<LoraSegment<T>> loras_;
    std::vector<ScaleBiasSegment> scales_;
    std::vector<EmbeddingLoraSegment<T>> embedding_loras_;
    std::vector<AttentionSegment> attention_;
    std::vector<SegmentRows> segments_, head_segments_;
    std::vector<Activation> token_logits_;
    FactorMaps maps_;
    int64_t cell_ = 0;
    std::span<const PackedMatrix<T>* const> merged_;

    // Of the step in progress.
    int64_t rows_ = 0;
    const Batch* batch_ = nullptr;
    bool own_norms_ = false, own_embeddings_ = false, own_heads_ = false;  // of any segment's adapter
    const KeepGoing* keep_going_ = nullptr;
    ForwardResult* result_ = nullptr;
    PhaseClock clock_;
    Pace product_pace_, attention_pace_;
    bool stopped_ = false;
};

template <class Device, class T>
Transformer<Device, T>::Transformer(Device& device, const ModelConfig& config, const Weights<T>& weights,
                                    const KvLayout& layout, int64_t max_tokens, AdapterStrategy strategy)
    : device_(device), config_(config), weights_(weights), layout_(layout) {
    constexpr int64_t kLogitsBytes = 32 << 20;
    head_block_ = std::clamp<int64_t>(kLogitsBytes / (config.vocab_size * 4), 16, std::max<int64_t>(max_tokens, 16));
    const auto buffer = [&](std::vector<Activation>& b, int64_t rows, int64_t dim) { b.resize(size_t(rows * dim)); };
    const int64_t widest = std::max({config.hidden_size, config.q_size(), config.intermediate_size});
    for (auto* b : {&x_, &h_, &out_}) buffer(*b, max_tokens, config.hidden_size);
    for (auto* b : {&q_, &attended_}) buffer(*b, max_tokens, config.q_size());
    for (auto* b : {&k_, &v_}) buffer(*b, max_tokens, config.kv_size());
    for (auto* b : {&gate_, &up_}) buffer(*b, max_tokens, config.intermediate_size);
    buffer(rotated_, max_tokens, widest);
    if (strategy == AdapterStrategy::common_block) buffer(multiplied_, max_tokens, widest);
    buffer(head_in_, head_block_, config.hidden_size);
    buffer(logits_, head_block_, config.vocab_size);
}

template <class Device, class T>
int64_t Transformer<Device, T>::workspace_bytes() const {
    size_t n = 0;
    for (const auto* b :
         {&x_, &h_, &rotated_, &q_, &k_, &v_, &attended_, &gate_, &up_, &out_, &head_in_, &logits_, &multiplied_})
        n += b->size();
    return int64_t(n * sizeof(Activation));
}

template <class Device, class T>
void Transformer<Device, T>::forward(const Batch& batch, std::span<const PlacedAdapter* const> placed, T* pool,
                                     const KeepGoing& keep_going, const HeadLogits& logits, ForwardResult& result) {
    CHECK(placed.size() == batch.segments.size());
    CHECK(batch.num_rows() * config_.hidden_size <= int64_t(x_.size()));
    rows_ = batch.num_rows();
    batch_ = &batch;
    segments_.clear();
    own_norms_ = own_embeddings_ = own_heads_ = false;
    for (size_t i = 0; i < placed.size(); ++i) {
        segments_.push_back({placed[i], batch.segments[i].row_begin, batch.segments[i].row_end});
        if (!placed[i]) continue;
        own_norms_ |= !placed[i]->norm_weight.empty();
        own_embeddings_ |= placed[i]->adapter->embedding.has_value();
        own_heads_ |= placed[i]->adapter->head.has_value();
    }
    keep_going_ = &keep_going;
    result_ = &result;
    stopped_ = false;
    result.tokens.assign(batch.sequences.size(), -1);
    result.not_finite.assign(batch.sequences.size(), 0);

    clock_.start();
    embed(batch);
    const Rows x = rows_of(x_, config_.hidden_size);
    if (config_.embedding_multiplier != 1) scale(device_, x, x, config_.embedding_multiplier);
    clock_.mark(result.times.other);
    for (int64_t layer = 0; layer < config_.num_layers && go_on(); ++layer) decoder_layer(layer, batch, pool);
    if (go_on()) heads(batch, logits);
    result.completed = !stopped_;
}

template <class Device, class T>
void Transformer<Device, T>::embed(const Batch& batch) {
    const Rows x = rows_of(x_, config_.hidden_size), h = rows_of(h_, config_.hidden_size);
    if (!own_embeddings_) return gather_rows(device_, x, weights_.embedding, batch.ids);
    const auto part_of = [](const PlacedAdapter& placed) {
        return placed.adapter->embedding ? &placed.adapter->embedding->part : nullptr;
    };
    collect_parts(segments_, part_of, nullptr);
    const Rows looked_up = rotations_.empty() ? x : h;
    gather_rows(device_, looked_up, weights_.embedding, batch.ids);
    embedding_loras_.clear();
    for (const SegmentRows& s : segments_) {
        if (!s.placed || !s.placed->adapter->embedding) continue;
        const TablePart& table = *s.placed->adapter->embedding;
        embed_own_rows(table, s, looked_up, batch.ids);
        if (table.part.a >= 0)
            embedding_loras_.push_back({s.begin, s.end, s.placed->template at<T>(table.part.a),
                                        s.placed->template at<T>(table.part.b_t), config_.vocab_size, table.part.rank,
                                        table.part.scale});
    }
    if (!rotations_.empty()) rotate<T>(device_, x, looked_up, rotations_);
    if (!embedding_loras_.empty()) embedding_lora<T>(device_, x, batch.ids, embedding_loras_);
    if (!scales_.empty()) scale_bias(device_, x, scales_);
}

// The rows of tokens that the adapter has rows of its own for.
template <class Device, class T>
void Transformer<Device, T>::embed_own_rows(const TablePart& table, const SegmentRows& s, Rows x,
                                            std::span<const Token> ids) {
    const int64_t hidden = config_.hidden_size;
    if (table.copy >= 0)
        gather_rows(device_, Rows{x.row(s.begin), {s.end - s.begin, hidden}},
                    PackedMatrix<T>::view(config_.vocab_size, hidden, s.placed->template at<T>(table.copy)),
                    ids.subspan(size_t(s.begin), size_t(s.end - s.begin)));
    if (table.token_rows < 0) return;
    const auto own =
        PackedMatrix<T>::view(int64_t(table.tokens.size()), hidden, s.placed->template at<T>(table.token_rows));
    for (int64_t row = s.begin; row < s.end; ++row) {
        const auto at = std::lower_bound(table.tokens.begin(), table.tokens.end(), ids[size_t(row)]);
        if (at == table.tokens.end() || *at != ids[size_t(row)]) continue;
        const auto index = int32_t(at - table.tokens.begin());
        gather_rows(device_, Rows{x.row(row), {1, hidden}}, own, {&index, 1});
    }
}

template <class Device, class T>
void Transformer<Device, T>::norm(Segments segments, NormRole role, int64_t layer, const std::vector<float>& weight,
                                  Rows out, Rows in, int64_t vectors) {
    const auto dim = int64_t(weight.size());
    CHECK(in.shape[1] == vectors * dim && out.shape == in.shape);
    const auto run = [&](int64_t begin, int64_t end, const float* own) {
        const int64_t count = (end - begin) * vectors;
        rms_norm(device_, Rows{out.row(begin), {count, dim}}, Rows{in.row(begin), {count, dim}},
                 {own ? own : weight.data(), {dim}}, config_.rms_norm_eps);
    };
    if (!own_norms_) return run(0, in.shape[0], nullptr);
    for (size_t i = 0; i < segments.size();) {
        const auto own_of = [&](size_t k) {
            return segments[k].placed ? segments[k].placed->norm(role, layer) : nullptr;
        };
        const size_t first = i;
        while (i < segments.size() && own_of(i) == own_of(first)) ++i;
        run(segments[first].begin, segments[i - 1].end, own_of(first));
    }
}

template <class Device, class T>
void Transformer<Device, T>::decoder_layer(int64_t layer, const Batch& batch, T* pool) {
    const LayerWeights<T>& w = weights_.layers[size_t(layer)];
    const Rows x = rows_of(x_, config_.hidden_size), h = rows_of(h_, config_.hidden_size);
    const Rows q = rows_of(q_, config_.q_size()), attended = rows_of(attended_, config_.q_size());
    const Rows k = rows_of(k_, config_.kv_size()), v = rows_of(v_, config_.kv_size());
    const Rows gate = rows_of(gate_, config_.intermediate_size), up = rows_of(up_, config_.intermediate_size);
    const Rows out = rows_of(out_, config_.hidden_size);
    StepTimes& t = result_->times;

    norm(segments_, NormRole::attention, layer, w.attention_norm, h, x);
    clock_.mark(t.other);
    project(layer, Projection::q, h, q);
    project(layer, Projection::k, h, k);
    project(layer, Projection::v, h, v);
    if (stopped_) return;

    if (config_.qk_norm) {
        norm(segments_, NormRole::q, layer, w.q_norm, q, q, config_.num_heads);
        norm(segments_, NormRole::k, layer, w.k_norm, k, k, config_.num_kv_heads);
    }
    if (config_.rotates(layer))
        for (const Rows& r : {q, k})
            rope(device_, r, batch.positions, weights_.inv_freq, config_.head_dim,
                 float(config_.rope.attention_factor));
    attend(layer, batch, pool, attended, q, k, v);
    if (stopped_) return;

    project(layer, Projection::o, attended, out);
    if (stopped_) return;
    add_to_residual(x, out);
    norm(segments_, NormRole::mlp, layer, w.mlp_norm, h, x);
    clock_.mark(t.other);
    project(layer, Projection::gate, h, gate);
    project(layer, Projection::up, h, up);
    if (stopped_) return;
    activate(gate, up);
    clock_.mark(t.other);
    project(layer, Projection::down, gate, out);
    if (stopped_) return;
    add_to_residual(x, out);
    clock_.mark(t.other);
}

template <class Device, class T>
void Transformer<Device, T>::activate(Rows gate, Rows up) {
    switch (config_.gate_function) {
        case GateFunction::silu:
            return silu_mul(device_, gate, gate, up);
        case GateFunction::gelu:
            return gelu_mul(device_, gate, gate, up);
        case GateFunction::gelu_tanh:
            return gelu_tanh_mul(device_, gate, gate, up);
    }
}

template <class Device, class T>
void Transformer<Device, T>::add_to_residual(Rows x, Rows out) {
    if (config_.residual_multiplier == 1)
        add(device_, x, x, out);
    else
        add_scaled(device_, x, x, out, config_.residual_multiplier);
}

// Which parts the segments bring to one linear layer; where they are merged into its weight, their biases only.
template <class Device, class T>
template <class PartOf>
void Transformer<Device, T>::collect_parts(Segments segments, const PartOf& part_of, const float* base_bias,
                                           bool merged) {
    rotations_.clear();
    loras_.clear();
    scales_.clear();
    for (const SegmentRows& s : segments) {
        const AdapterPart* part = s.placed ? part_of(*s.placed) : nullptr;
        if (part && part->rotation >= 0 && !merged)
            rotations_.push_back({s.begin, s.end, s.placed->template at<T>(part->rotation), part->group});
        if (part && part->a >= 0 && !merged)
            loras_.push_back({s.begin, s.end, s.placed->template at<T>(part->a), s.placed->template at<T>(part->b_t),
                              part->rank, part->scale});
        const float* gain = part && !merged ? s.placed->template at<float>(part->gain) : nullptr;
        const float* own_bias = part ? s.placed->template at<float>(part->bias) : nullptr;
        if (gain || own_bias || base_bias) scales_.push_back({s.begin, s.end, gain, own_bias ? own_bias : base_bias});
    }
}

template <class Device, class T>
void Transformer<Device, T>::project(int64_t layer, Projection p, Rows in, Rows out) {
    if (stopped_) return;
    const std::vector<float>& bias = weights_.layers[size_t(layer)].bias[size_t(p)];
    CHECK(bias.empty() || int64_t(bias.size()) == out.shape[1]);
    const PackedMatrix<T>* merged = merged_.empty() ? nullptr : merged_[size_t(layer * kNumProjections + int64_t(p))];
    collect_parts(
        segments_, [&](const PlacedAdapter& placed) { return placed.part(layer, p); },
        bias.empty() ? nullptr : bias.data(), merged != nullptr);
    StepTimes& t = result_->times;
    Rows x = in;
    if (!rotations_.empty()) {
        x = rows_of(rotated_, in.shape[1]);
        rotate<T>(device_, x, in, rotations_);
    }
    if (cell_ > 0) x = multiply_factors(layer, p, in);
    clock_.mark(t.rotate);
    product(out, x, merged ? *merged : weights_.layers[size_t(layer)].projection[size_t(p)], t.products);
    if (stopped_) return;
    if (!loras_.empty()) lora<T>(device_, out, in, loras_);
    if (!scales_.empty()) scale_bias(device_, out, scales_);
    clock_.mark(t.lora);
}

// Factor position by position, the last first as the input meets them: one block-sparse product of all segments each.
// Segments without a factor at a position pass it unchanged.
template <class Device, class T>
auto Transformer<Device, T>::multiply_factors(int64_t layer, Projection p, Rows in) -> Rows {
    const auto part_of = [&](const SegmentRows& s) {
        const AdapterPart* part = s.placed ? s.placed->part(layer, p) : nullptr;
        return part && part->factors >= 0 ? part : nullptr;
    };
    int64_t most = 0;
    for (const SegmentRows& s : segments_)
        if (const AdapterPart* part = part_of(s)) most = std::max(most, part->num_factors);
    Rows x = in;
    for (int64_t factor = most; factor-- > 0 && go_on();) {
        factors_.clear();
        for (const SegmentRows& s : segments_) {
            const AdapterPart* part = part_of(s);
            if (!part || factor >= part->num_factors) continue;
            const auto* cells = reinterpret_cast<const T*>(s.placed->batched + part->factors);
            factors_.push_back({s.begin, s.end, cells + factor * part->in * part->block_size, part->block_size,
                                maps_.of(part->in, part->block_size, factor)});
        }
        const Rows to = rows_of(x.data == rotated_.data() ? multiplied_ : rotated_, in.shape[1]);
        block_sparse<T>(device_, to, x, cell_, factors_);
        x = to;
    }
    return x;
}

// Stores all rows' k and v, then answers all rows' q, so many at a time as the pace allows.
template <class Device, class T>
void Transformer<Device, T>::attend(int64_t layer, const Batch& batch, T* pool, Rows out, Rows q, Rows k, Rows v) {
    const float scale = config_.score_scale();
    const int64_t window = config_.window_of(layer);
    const auto segment = [&](const BatchSequence& s, int64_t begin, int64_t end) {
        return AttentionSegment{begin, end, s.first_position + begin - s.row_begin, (*s.block_tables)[size_t(layer)]};
    };
    attention_.clear();
    for (const BatchSequence& s : batch.sequences) attention_.push_back(segment(s, s.row_begin, s.row_end));
    store_kv<T>(device_, pool, layout_, k, v, attention_);
    clock_.mark(result_->times.attention);

    attention_.clear();
    int64_t flops = 0;
    const auto run = [&] {
        attention<T>(device_, out, q, pool, layout_, scale, attention_, window);
        attention_pace_.learn(flops, clock_.mark(result_->times.attention));
        attention_.clear();
        flops = 0;
    };
    for (const BatchSequence& s : batch.sequences)
        for (int64_t begin = s.row_begin; begin < s.row_end;) {
            const int64_t before = s.first_position + begin - s.row_begin + 1;
            const int64_t context = window > 0 ? std::min(before, window) : before;
            const int64_t flops_of_row = 4 * context * config_.q_size();
            const int64_t room = (attention_pace_.flops_in_one_call() - flops) / flops_of_row;
            const int64_t end = std::min<int64_t>(s.row_end, begin + std::max<int64_t>(room, 1));
            attention_.push_back(segment(s, begin, end));
            flops += (end - begin) * flops_of_row;
            begin = end;
            if (flops + flops_of_row <= attention_pace_.flops_in_one_call()) continue;
            run();
            if (!go_on()) return;
        }
    if (!attention_.empty()) run();
}

template <class Device, class T>
void Transformer<Device, T>::product(Rows out, Rows x, const PackedMatrix<T>& w, int64_t& phase_ns) {
    constexpr int64_t kFewestRows = 16;  // fewer would only read the weights more often
    const int64_t m = out.shape[0], n = out.shape[1], k = x.shape[1];
    for (int64_t begin = 0; begin < m && go_on();) {
        const int64_t group = std::max(kFewestRows, product_pace_.flops_in_one_call() / (2 * n * k) / 16 * 16);
        const int64_t count = std::min(group, m - begin);
        matmul(device_, Rows{out.row(begin), {count, n}}, View<const Activation, 2>{x.row(begin), {count, k}}, w);
        product_pace_.learn(2 * count * n * k, clock_.mark(phase_ns));
        begin += count;
    }
}

template <class Device, class T>
void Transformer<Device, T>::heads(const Batch& batch, const HeadLogits& logits) {
    const int64_t hidden = config_.hidden_size;
    StepTimes& t = result_->times;
    for (size_t first = 0; first < batch.heads.size() && !stopped_; first += size_t(head_block_)) {
        const size_t count = std::min(size_t(head_block_), batch.heads.size() - first);
        for (size_t i = 0; i < count; ++i)
            std::memcpy(head_in_.data() + int64_t(i) * hidden, x_.data() + batch.heads[first + i].row * hidden,
                        size_t(hidden) * sizeof(Activation));
        const Rows in{head_in_.data(), {int64_t(count), hidden}};
        collect_head_segments(batch, first, count);
        norm(head_segments_, NormRole::final, 0, weights_.final_norm, in, in);
        const Rows out{logits_.data(), {int64_t(count), config_.vocab_size}};
        project_head(out, in);
        if (stopped_) return;
        if (config_.logits_scaling != 1) scale(device_, out, out, 1 / config_.logits_scaling);
        hand_out_logits(batch, first, count, logits);
        clock_.mark(t.other);
        pick_tokens(batch, first, count);
        clock_.mark(t.sample);
    }
}

// Heads lie in the order of their rows, and segments as well.
template <class Device, class T>
void Transformer<Device, T>::collect_head_segments(const Batch& batch, size_t first_head, size_t count) {
    head_segments_.clear();
    if (!own_norms_ && !own_heads_) return;
    const auto heads = std::span(batch.heads).subspan(first_head, count);
    const auto before = [&](int64_t row) {
        return std::lower_bound(heads.begin(), heads.end(), row,
                                [](const HeadRow& h, int64_t r) { return h.row < r; }) -
               heads.begin();
    };
    for (const SegmentRows& s : segments_) {
        const int64_t begin = before(s.begin), end = before(s.end);
        if (begin < end) head_segments_.push_back({s.placed, begin, end});
    }
}

template <class Device, class T>
void Transformer<Device, T>::project_head(Rows out, Rows in) {
    StepTimes& t = result_->times;
    if (!own_heads_) return product(out, in, weights_.output(), t.head);
    const auto part_of = [](const PlacedAdapter& placed) {
        return placed.adapter->head ? &placed.adapter->head->part : nullptr;
    };
    collect_parts(head_segments_, part_of, nullptr);
    Rows x = in;
    if (!rotations_.empty()) {
        x = Rows{rotated_.data(), in.shape};
        rotate<T>(device_, x, in, rotations_);
    }
    clock_.mark(t.rotate);
    project_head_tables(out, x);
    if (stopped_) return;
    if (!loras_.empty()) lora<T>(device_, out, in, loras_);
    if (!scales_.empty()) scale_bias(device_, out, scales_);
    for (const SegmentRows& s : head_segments_)
        if (s.placed && s.placed->adapter->head && s.placed->adapter->head->token_rows >= 0 && !stopped_)
            replace_token_logits(*s.placed->adapter->head, s, out, in);
    clock_.mark(t.lora);
}

// The product with the base's table, or with the adapter's own.
template <class Device, class T>
void Transformer<Device, T>::project_head_tables(Rows out, Rows x) {
    const int64_t vocab = config_.vocab_size, hidden = config_.hidden_size;
    const auto own_of = [&](size_t i) -> const T* {
        const PlacedAdapter* placed = head_segments_[i].placed;
        return placed && placed->adapter->head ? placed->template at<T>(placed->adapter->head->copy) : nullptr;
    };
    for (size_t i = 0; i < head_segments_.size() && !stopped_;) {
        const size_t first = i;
        while (i < head_segments_.size() && own_of(i) == own_of(first)) ++i;
        const int64_t begin = head_segments_[first].begin, count = head_segments_[i - 1].end - begin;
        const Rows from{x.row(begin), {count, hidden}}, to{out.row(begin), {count, vocab}};
        if (const T* own = own_of(first))
            product(to, from, PackedMatrix<T>::view(vocab, hidden, own), result_->times.head);
        else
            product(to, from, weights_.output(), result_->times.head);
    }
}

template <class Device, class T>
void Transformer<Device, T>::replace_token_logits(const TablePart& table, const SegmentRows& s, Rows out, Rows in) {
    const int64_t rows = s.end - s.begin, tokens = int64_t(table.tokens.size()), hidden = config_.hidden_size;
    token_logits_.resize(std::max(token_logits_.size(), size_t(rows * tokens)));
    product({token_logits_.data(), {rows, tokens}}, {in.row(s.begin), {rows, hidden}},
            PackedMatrix<T>::view(tokens, hidden, s.placed->template at<T>(table.token_rows)), result_->times.head);
    if (stopped_) return;
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t i = 0; i < tokens; ++i)
            out.row(s.begin + row)[table.tokens[size_t(i)]] = token_logits_[size_t(row * tokens + i)];
}

template <class Device, class T>
void Transformer<Device, T>::hand_out_logits(const Batch& batch, size_t first_head, size_t count,
                                             const HeadLogits& logits) {
    for (size_t i = 0; i < count;) {
        const HeadRow& head = batch.heads[first_head + i];
        const size_t begin = i++;
        if (!head.logits) continue;
        while (i < count && batch.heads[first_head + i].sequence == head.sequence && batch.heads[first_head + i].logits)
            ++i;
        const BatchSequence& s = batch.sequences[size_t(head.sequence)];
        if (!*s.over)
            logits(head.sequence, s.first_position + head.row - s.row_begin, int64_t(i - begin),
                   logits_.data() + int64_t(begin) * config_.vocab_size);
    }
}

template <class Device, class T>
void Transformer<Device, T>::pick_tokens(const Batch& batch, size_t first_head, size_t count) {
    for (size_t i = 0; i < count; ++i) {
        const HeadRow& head = batch.heads[first_head + i];
        const auto s = size_t(head.sequence);
        if (!head.sample || *batch.sequences[s].over) continue;
        const std::span<const float> row(logits_.data() + int64_t(i) * config_.vocab_size, size_t(config_.vocab_size));
        result_->tokens[s] = sample(device_, row, batch.sampling[s], batch.sample_position[s]);
        result_->not_finite[s] = result_->tokens[s] < 0;
    }
}

}  // namespace spartan
