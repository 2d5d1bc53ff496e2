#include "core/model/demo_model.h"

#include "core/base/file.h"

#include <filesystem>

namespace spartan {

namespace fs = std::filesystem;

std::string demo_model_path() { return (fs::path(cache_dir()) / "SmolLM2-135M-Instruct.Q4_1.gguf").string(); }

bool names_demo_model(const std::string& model, const std::string& base_dir) {
    if (model != kDemoModel) return false;
    const fs::path there = fs::path(base_dir) / kDemoModel;
    std::error_code ignored;
    return !fs::is_regular_file(there, ignored) && !fs::exists(there / "config.json", ignored);
}

}  // namespace spartan
