// Stored values to fp32, and the check that they are numbers the model can hold.
#pragma once

#include "kernels/dequantise.h"
#include "kernels/view.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace spartan {

// The float dtypes a safetensors file may hold weights in, and those of GGUF (kGgufTypeNames).
std::optional<GgufType> float_type(std::string_view dtype);

// Index of the first value that is NaN, infinite, or would become infinite when rounded to `dtype`; -1: none.
int64_t first_not_representable(const float* values, int64_t count, DType dtype);

std::string value_text(float value);                        // "NaN", "infinity", "3.4e+38"
std::string shape_text(const std::vector<int64_t>& shape);  // "[2, 3]"

}  // namespace spartan
