#include "kernels/cuda/graph_timer.h"

#include "kernels/cuda/graph.h"

#include <algorithm>

namespace spartan {

std::vector<double> time_graph(CudaDevice& device, int replays, const std::function<void()>& enqueue) {
    const CudaGraph graph(device, enqueue);
    Stopwatch stopwatch;
    std::vector<double> us;
    graph.launch(device);  // the first launch takes longer
    for (int i = 0; i < replays; ++i) {
        stopwatch.start(device);
        graph.launch(device);
        stopwatch.stop(device);
        device.synchronize();
        us.push_back(1e3 * stopwatch.ms());
    }
    std::sort(us.begin(), us.end());
    return us;
}

}  // namespace spartan
