// What no kernel does, for tests: one ends its GPU's context, as a fault of ours or of the hardware would, one hangs.
#pragma once

#include "kernels/cuda/device.h"

namespace spartan {

// Every later call on the device fails, the next one that waits for it first.
void trap(CudaDevice& device);
// What is launched after it waits so long.
void stall(CudaDevice& device, int seconds);

}  // namespace spartan
