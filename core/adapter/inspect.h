// `spartan inspect` of an adapter.
#pragma once

#include "core/adapter/adapter.h"
#include "core/base/json.h"

namespace spartan {

// {"type":"adapter","kind":…,"modules":[{"name","b","m","r","in","out"}],"bytes":N,"warnings":[],"problems":[]}; sizes
// that do not apply to the kind, or that the file alone does not tell, are null.
Json inspect_adapter_json(const AdapterInfo& info);

}  // namespace spartan
