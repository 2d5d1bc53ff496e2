// Tokens that the step before picked, put where the next step reads its ids: the host launches that step before it
// knows them.
#pragma once

#include "kernels/cuda/device.h"

#include <cstdint>

namespace spartan {

// ids[row] = max(tokens[-1 - ids[row]], 0) for each of `rows` rows whose id is negative; others stay. A token below 0
// (there was none to pick) has no row in any embedding.
// Waits for all that was launched before and overlaps nothing, so that what follows may read tables early that came
// just before (fetch.h).
void follow(CudaDevice&, int32_t* ids, int64_t rows, const int32_t* tokens);

}  // namespace spartan
