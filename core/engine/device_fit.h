// Whether an engine fits into what a GPU has free and, where it does not, what is missing, who has it and what would
// fit.
#pragma once

#include "core/base/result.h"
#include "kernels/view.h"

#include <cstdint>
#include <functional>
#include <string>

namespace spartan {

struct DeviceNeed {
    int64_t total_bytes = 0, free_bytes = 0;  // of the GPU
    int64_t weight_bytes = 0;
    DType dtype = DType::f32;
    int32_t max_batch_tokens = 0;
    int64_t least_pool_bytes = 0;  // for one sequence
    int64_t pool_bytes = 0;        // asked for; 0: what is left
    // Bytes of weights and workspace with so many tokens a step.
    std::function<int64_t(int32_t max_batch_tokens)> needed;
};

// What is left for the pool.
Result<int64_t> fit_into_device(const DeviceNeed& need);

// "3.1 GB free of 85.0 GB (81.9 GB held by other programs and the driver)"
std::string free_of_total(int64_t free_bytes, int64_t total_bytes);

}  // namespace spartan
