// The model runner on one GPU: weights, pool and workspace in device memory taken at start; a step is one transfer in
// (the batch's tables), a sequence of kernel launches, and one transfer out (the sampled tokens).
#pragma once

#include "core/engine/model_runner.h"

namespace spartan {

// Device memory of weights and workspace; the pool comes on top.
int64_t cuda_bytes_needed(const Model& model, const RunnerLimits& limits);

// Throws DeviceError when the GPU fails; an error when it has too little memory.
Result<std::unique_ptr<ModelRunner>> make_cuda_runner(int ordinal, std::shared_ptr<const Model> model,
                                                      const RunnerLimits& limits);

}  // namespace spartan
