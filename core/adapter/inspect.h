// `spartan inspect` of an adapter.
#pragma once

#include "core/adapter/adapter.h"
#include "core/base/json.h"

#include <optional>
#include <string>

namespace spartan {

// {"type":"adapter","kind":…,"modules":[{"name","b","m","r","in","out"}],"bytes":N,"warnings":[],"problems":[]}; sizes
// that do not apply to the kind, or that the file alone does not tell, are null.
Json inspect_adapter_json(const AdapterInfo& info);

// The largest |RᵀR - I| over all blocks of the file's rotations (infinity norm), as loading measures it on a base. None
// without rotations, and where blocks are so large that it would take more than some seconds.
Result<std::optional<double>> measure_orthogonality(const std::string& dir);

}  // namespace spartan
