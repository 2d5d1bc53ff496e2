// Copies from pinned host memory by a kernel instead of by a copy engine, whose queue a long copy of another stream may
// occupy.
#pragma once

#include "kernels/cuda/device.h"

namespace spartan {

// to = from. `from` was allocated with cudaHostAlloc; both are aligned to 16 bytes, which `bytes` is a multiple of.
// The kernels of a step may read what this writes before pdl_wait(): what follows at once must not be launched to
// overlap it (a graph is not).
void fetch(CudaDevice&, void* to, const void* from, int64_t bytes);

}  // namespace spartan
