// Times of work as a captured graph brings it, which is how a model's steps run.
#pragma once

#include "kernels/cuda/device.h"

#include <functional>
#include <vector>

namespace spartan {

// Captures what `enqueue` puts on the device's stream and replays it `replays` times: microseconds of each replay, in
// rising order. What it launches must have run before, so that its code is loaded. Waits for the GPU.
std::vector<double> time_graph(CudaDevice& device, int replays, const std::function<void()>& enqueue);

}  // namespace spartan
