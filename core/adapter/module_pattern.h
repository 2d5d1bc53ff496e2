// One key of rank_pattern or alpha_pattern: a Python regular expression from a file that is not trusted.
#pragma once

#include "core/base/result.h"

#include <string>

namespace spartan {

// re.match(r"(.*\.)?(KEY)$", module). The error's `found` and `expected` say why a key is refused; the caller adds file
// and field.
Result<bool> module_matches(const std::string& key, const std::string& module);

}  // namespace spartan
