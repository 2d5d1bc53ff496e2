// Which tensors a model consists of: one list from which opening checks, loading places and memory is counted.
#pragma once

#include "core/model/model.h"

#include <string>
#include <vector>

namespace spartan {

enum class WeightRole : uint8_t {
    embedding,
    attention_norm,
    mlp_norm,
    q_norm,
    k_norm,
    projection,
    bias,
    final_norm,
    head
};

struct WeightSlot {
    std::string name;            // Hugging Face's
    std::vector<int64_t> shape;  // [out, in], or [n]
    WeightRole role{};
    int64_t layer = -1;
    Projection projection{};  // of projection and bias

    bool is_matrix() const { return shape.size() == 2; }
    bool is_norm() const { return !is_matrix() && role != WeightRole::bias; }
};

// In the order of the layers; the head only when it is not tied to the embedding.
std::vector<WeightSlot> weight_slots(const ModelConfig& config);

// Gives each slot its tensor out of `found`: fills opened.tensors, and says what is missing, misshapen (problems) or
// left over (warnings). `file` names the source of the tensors in messages.
void match_tensors(OpenedModel& opened, std::vector<TensorSource> found, const std::string& file);

// The stored dtype that most values have.
std::string most_common_dtype(const std::vector<TensorSource>& tensors);

}  // namespace spartan
