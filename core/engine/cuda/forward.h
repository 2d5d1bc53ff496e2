// The forward pass of core/engine/transformer.h as launches on a GPU: the same steps in the same order, gathered into
// the kernels that read each row once. Whatever changes between batches of one shape is read from device memory, so
// that one set of launches can be captured and replayed.
#pragma once

#include "core/engine/cuda/device_adapters.h"
#include "core/engine/cuda/device_weights.h"
#include "core/engine/cuda/phase_timer.h"
#include "core/engine/cuda/step_tables.h"
#include "core/engine/cuda/strategy_factors.h"
#include "core/engine/model_runner.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/rows.h"

#include <memory>
#include <string>

namespace spartan {

// Largest sizes that a batch may have.
struct ForwardLimits {
    int64_t rows = 0, block_tokens = 0;
    int64_t total_context = 0;  // tokens that the pool has room for
    bool batch_invariant = false;
    std::string plan_file = {};  // of MatmulPlans
    bool factored = false;       // for the strategy common_block
};

template <class T>
class Forward {
public:
    Forward(CudaDevice& device, const ModelConfig& config, const DeviceWeights<T>& weights,
            const ForwardLimits& limits);

    static int64_t workspace_bytes(const ModelConfig& config, const ForwardLimits& limits);
    // What every batch fits into.
    AttentionBucket largest_attention() const { return largest_attention_; }
    int64_t device_bytes() const { return memory_.bytes(); }
    int64_t head_block() const { return head_block_; }  // rows of logits that there is room for

    // Everything up to the last layer's residual, for a batch of `shape` whose tables are at `view`.
    void layers(const StepShape& shape, const StepView& view, const AdapterNeeds& needs, T* pool);
    // Rows [begin, begin + count) of the heads have an output table of their own, T [vocab, hidden].
    struct OwnHead {
        int64_t begin = 0, count = 0;
        const T* table = nullptr;
    };
    // Logits of the heads [first, first + count) and, where wanted, their tokens. `own` lies within them.
    void heads(const StepShape& shape, const StepView& view, int64_t first, int64_t count,
               std::span<const OwnHead> own = {});

    const float* logits() const { return logits_; }    // [count, vocab] of the last heads()
    const int32_t* tokens() const { return tokens_; }  // [head], of all heads() of a step
    // Told where phases end; null: nobody asks. It must not be set while launches are captured.
    void set_timer(PhaseTimer* timer) { timer_ = timer; }
    // How much of the weights that a product reads the kernel before it asks for; while nothing is captured.
    void set_ahead(int64_t bytes) { ahead_bytes_ = bytes; }
    // What the factors of the next batch are cut to, and how many there are.
    void set_factors(const FactorShape& factors) { factors_ = factors; }
    // Chooses how products of up to so many rows are computed, before anything is captured; waits for the GPU.
    void prepare_products(int64_t rows);

private:
    void end_of(int64_t StepTimes::*phase) {
        if (timer_) timer_->end_of(phase);
    }
    void project(int64_t layer, std::span<const Projection> which, const T* in, std::span<T* const> out,
                 const StepShape& shape, const StepView& view, const AdapterNeeds& needs);
    // The first of what the product of these projections reads; nothing when `rotated`, as the rotation comes before.
    Ahead ahead_of(int64_t layer, std::span<const Projection> which, int64_t rows, bool rotated) const;
    const T* multiply_factors(std::span<const Projection> which, int first_part, const T* in, const StepShape& shape,
                              const StepView& view);
    void attend(int64_t layer, const StepShape& shape, const StepView& view, const AdapterNeeds& needs, T* pool);
    RowTiles tiles_of(const StepShape& shape, const StepView& view) const { return {view.tiles, shape.tiles}; }
    TileNorms norms_of(NormRole role, int64_t layer, const StepShape& shape, const StepView& view) const;
    OutputChange change_of(int64_t layer, Projection p, const AdapterNeeds& needs) const;

    CudaDevice& device_;
    const ModelConfig& config_;
    const DeviceWeights<T>& weights_;
    KvLayout layout_;
    AttentionBucket largest_attention_;
    int64_t head_block_;
    bool batch_invariant_;
    int64_t ahead_bytes_ = 0;
    MatmulPlans plans_;
    DeviceMemory memory_;
    PhaseTimer* timer_ = nullptr;
    FactorShape factors_;

    float* x_ = nullptr;  // the residual stream, [rows, hidden]
    T *h_ = nullptr, *rotated_ = nullptr, *multiplied_ = nullptr, *q_ = nullptr, *k_ = nullptr, *v_ = nullptr,
      *attended_ = nullptr;
    T *gate_ = nullptr, *up_ = nullptr, *out_ = nullptr, *head_in_ = nullptr;
    float *logits_ = nullptr, *low_rank_ = nullptr;
    std::byte* attention_ = nullptr;
    int32_t* tokens_ = nullptr;
};

extern template class Forward<float>;
extern template class Forward<bf16>;
extern template class Forward<f16>;

}  // namespace spartan
