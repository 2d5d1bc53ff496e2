#pragma once

#include "core/base/result.h"

#include <string>

namespace spartan {

// Adapters' names: 1 to 64 of letters, digits, '.', '_' and '-'. `source` is what the message names as the file.
Result<void> check_adapter_name(const std::string& name, const std::string& source);

}  // namespace spartan
