// What no kernel does: it ends its GPU's context, as a fault of ours or of the hardware would. For tests.
#pragma once

#include "kernels/cuda/device.h"

namespace spartan {

// Every later call on the device fails, the next one that waits for it first.
void trap(CudaDevice& device);

}  // namespace spartan
