// The forward pass of a Llama-like decoder over one batch of rows, written once for every device and storage type.
//
//     x = embedding[ids]
//     per layer:  h = norm(x);  q, k, v = project(h);  rope(q, k);  store k, v;  x += project_o(attention(q))
//                 h = norm(x);  x += project_down(silu(project_gate(h)) * project_up(h))
//     logits = norm(x)[rows that need them] · output^T
//
// project() is the one formula of all adapters: gain * (W · rot(x) + scale · B(A x)) + bias, with each segment's parts
// read from the pool. q, k and v may each see their own rotated input.
#pragma once

#include "core/adapter/adapter.h"
#include "core/engine/batch.h"
#include "core/engine/model_runner.h"
#include "core/model/model.h"
#include "kernels/adapter_ops.h"
#include "kernels/attention.h"
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
    std::vector<int32_t> part_index;  // [layer * kNumProjections + projection]; -1: not adapted

    const AdapterPart* part(int64_t layer, Projection p) const {
        const int32_t i = part_index[size_t(layer * kNumProjections + int64_t(p))];
        return i < 0 ? nullptr : &adapter->parts[size_t(i)];
    }
    template <class T>
    const T* at(int64_t offset) const {
        return offset < 0 ? nullptr : reinterpret_cast<const T*>(data + offset);
    }
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
                int64_t max_tokens);

    // `placed[i]` belongs to batch.segments[i]; null: base. Times in `result` are nanoseconds here.
    void forward(const Batch& batch, std::span<const PlacedAdapter* const> placed, T* pool, const KeepGoing& keep_going,
                 const HeadLogits& logits, ForwardResult& result);

    int64_t workspace_bytes() const;

private:
    using Activation = typename Device::template Activation<T>;
    using Rows = View<Activation, 2>;

    void decoder_layer(int64_t layer, const Batch& batch, T* pool);
    void project(int64_t layer, Projection p, Rows in, Rows out);
    void attend(int64_t layer, const Batch& batch, T* pool, Rows out, Rows q, Rows k, Rows v);
    void product(Rows out, Rows x, const PackedMatrix<T>& w, int64_t& phase_ns);
    void collect_segments(int64_t layer, Projection p, int64_t out_dim);
    void heads(const Batch& batch, const HeadLogits& logits);
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
    std::vector<RotateSegment<T>> rotations_;
    std::vector<LoraSegment<T>> loras_;
    std::vector<ScaleBiasSegment> scales_;
    std::vector<AttentionSegment> attention_;

    // Of the step in progress.
    int64_t rows_ = 0;
    const Batch* batch_ = nullptr;
    std::span<const PlacedAdapter* const> placed_;
    const KeepGoing* keep_going_ = nullptr;
    ForwardResult* result_ = nullptr;
    PhaseClock clock_;
    Pace product_pace_, attention_pace_;
    bool stopped_ = false;
};

template <class Device, class T>
Transformer<Device, T>::Transformer(Device& device, const ModelConfig& config, const Weights<T>& weights,
                                    const KvLayout& layout, int64_t max_tokens)
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
    buffer(head_in_, head_block_, config.hidden_size);
    buffer(logits_, head_block_, config.vocab_size);
}

template <class Device, class T>
int64_t Transformer<Device, T>::workspace_bytes() const {
    size_t n = 0;
    for (const auto* b : {&x_, &h_, &rotated_, &q_, &k_, &v_, &attended_, &gate_, &up_, &out_, &head_in_, &logits_})
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
    placed_ = placed;
    keep_going_ = &keep_going;
    result_ = &result;
    stopped_ = false;
    result.tokens.assign(batch.sequences.size(), -1);
    result.not_finite.assign(batch.sequences.size(), 0);

    clock_.start();
    gather_rows(device_, rows_of(x_, config_.hidden_size), weights_.embedding, batch.ids);
    clock_.mark(result.times.other);
    for (int64_t layer = 0; layer < config_.num_layers && go_on(); ++layer) decoder_layer(layer, batch, pool);
    if (go_on()) heads(batch, logits);
    result.completed = !stopped_;
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

    rms_norm(device_, h, x, {w.attention_norm.data(), {config_.hidden_size}}, config_.rms_norm_eps);
    clock_.mark(t.other);
    project(layer, Projection::q, h, q);
    project(layer, Projection::k, h, k);
    project(layer, Projection::v, h, v);
    if (stopped_) return;

    rope(device_, q, batch.positions, weights_.inv_freq, config_.head_dim);
    rope(device_, k, batch.positions, weights_.inv_freq, config_.head_dim);
    attend(layer, batch, pool, attended, q, k, v);
    if (stopped_) return;

    project(layer, Projection::o, attended, out);
    if (stopped_) return;
    add(device_, x, x, out);
    rms_norm(device_, h, x, {w.mlp_norm.data(), {config_.hidden_size}}, config_.rms_norm_eps);
    clock_.mark(t.other);
    project(layer, Projection::gate, h, gate);
    project(layer, Projection::up, h, up);
    if (stopped_) return;
    silu_mul(device_, gate, gate, up);
    clock_.mark(t.other);
    project(layer, Projection::down, gate, out);
    if (stopped_) return;
    add(device_, x, x, out);
    clock_.mark(t.other);
}

// Which parts the batch's segments bring to this projection.
template <class Device, class T>
void Transformer<Device, T>::collect_segments(int64_t layer, Projection p, int64_t out_dim) {
    rotations_.clear();
    loras_.clear();
    scales_.clear();
    const std::vector<float>& base_bias = weights_.layers[size_t(layer)].bias[size_t(p)];
    const float* bias = base_bias.empty() ? nullptr : base_bias.data();
    CHECK(!bias || int64_t(base_bias.size()) == out_dim);
    for (size_t i = 0; i < placed_.size(); ++i) {
        const AdapterSegment& segment = batch_->segments[i];
        const int64_t begin = segment.row_begin, end = segment.row_end;
        const AdapterPart* part = placed_[i] ? placed_[i]->part(layer, p) : nullptr;
        if (part && part->rotation >= 0)
            rotations_.push_back({begin, end, placed_[i]->template at<T>(part->rotation), part->group});
        if (part && part->a >= 0)
            loras_.push_back({begin, end, placed_[i]->template at<T>(part->a), placed_[i]->template at<T>(part->b_t),
                              part->rank, part->scale});
        const float* gain = part ? placed_[i]->template at<float>(part->gain) : nullptr;
        const float* own_bias = part ? placed_[i]->template at<float>(part->bias) : nullptr;
        if (gain || own_bias || bias) scales_.push_back({begin, end, gain, own_bias ? own_bias : bias});
    }
}

template <class Device, class T>
void Transformer<Device, T>::project(int64_t layer, Projection p, Rows in, Rows out) {
    if (stopped_) return;
    collect_segments(layer, p, out.shape[1]);
    StepTimes& t = result_->times;
    Rows x = in;
    if (!rotations_.empty()) {
        x = rows_of(rotated_, in.shape[1]);
        rotate<T>(device_, x, in, rotations_);
    }
    clock_.mark(t.rotate);
    product(out, x, weights_.layers[size_t(layer)].projection[size_t(p)], t.products);
    if (stopped_) return;
    if (!loras_.empty()) lora<T>(device_, out, in, loras_);
    if (!scales_.empty()) scale_bias(device_, out, scales_);
    clock_.mark(t.lora);
}

// Stores all rows' k and v, then answers all rows' q, so many at a time as the pace allows.
template <class Device, class T>
void Transformer<Device, T>::attend(int64_t layer, const Batch& batch, T* pool, Rows out, Rows q, Rows k, Rows v) {
    const float scale = 1.0f / std::sqrt(float(config_.head_dim));
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
        attention<T>(device_, out, q, pool, layout_, scale, attention_);
        attention_pace_.learn(flops, clock_.mark(result_->times.attention));
        attention_.clear();
        flops = 0;
    };
    for (const BatchSequence& s : batch.sequences)
        for (int64_t begin = s.row_begin; begin < s.row_end;) {
            const int64_t context = s.first_position + begin - s.row_begin + 1;
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
        rms_norm(device_, in, in, {weights_.final_norm.data(), {hidden}}, config_.rms_norm_eps);
        product({logits_.data(), {int64_t(count), config_.vocab_size}}, in, weights_.output(), t.head);
        if (stopped_) return;
        hand_out_logits(batch, first, count, logits);
        clock_.mark(t.other);
        pick_tokens(batch, first, count);
        clock_.mark(t.sample);
    }
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
