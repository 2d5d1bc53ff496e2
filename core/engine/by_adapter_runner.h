// Runs a batch adapter by adapter on another runner: the strategies `sequential` and `merged`.
#pragma once

#include "core/engine/model_runner.h"

#include <memory>
#include <vector>

namespace spartan {

// Segment `index` of `batch` as a batch of its own. `first_sequence` gets the number of its first sequence.
Batch batch_of_segment(const Batch& batch, size_t index, int32_t& first_sequence);

// Each segment is a step of its own on `inner`, with `merged` after its adapter was merged. Bytes and times add up.
std::unique_ptr<ModelRunner> make_by_adapter_runner(std::unique_ptr<ModelRunner> inner, AdapterStrategy strategy);

}  // namespace spartan
