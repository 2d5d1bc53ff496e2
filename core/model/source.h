// The three places a model comes from. Each fills an OpenedModel from headers only.
#pragma once

#include "core/model/model.h"

#include <string>

namespace spartan {

Result<OpenedModel> open_hf_folder(const std::string& path);                 // hf_folder.cpp
Result<OpenedModel> open_gguf(const std::string& path);                      // gguf_model.cpp
Result<OpenedModel> open_synthetic(const std::string& path, uint64_t seed);  // synthetic.cpp

}  // namespace spartan
