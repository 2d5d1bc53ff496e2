// The demo model, which app/run.sh and tests/run.sh fetch into the user's cache. Wherever a MODEL is asked for, the
// word "demo" stands for it.
#pragma once

#include <string>

namespace spartan {

constexpr const char* kDemoModel = "demo";

std::string demo_model_path();

// Whether `model` is the word and not a model of that name (a file, or a folder with a config.json) in `base_dir`
// (empty: the working directory). A folder of other things may have the name: resources/demo is one.
bool names_demo_model(const std::string& model, const std::string& base_dir = "");

}  // namespace spartan
