#include "kernels/cuda/graph_timer.h"

#include <algorithm>

namespace spartan {

namespace {

// Owns what a captured graph and its timing consist of.
struct Graph {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    cudaEvent_t begin = nullptr, end = nullptr;

    Graph() = default;
    Graph(const Graph&) = delete;
    Graph& operator=(const Graph&) = delete;
    ~Graph() {
        if (executable) cudaGraphExecDestroy(executable);
        if (graph) cudaGraphDestroy(graph);
        if (begin) cudaEventDestroy(begin);
        if (end) cudaEventDestroy(end);
    }
};

}  // namespace

std::vector<double> time_graph(CudaDevice& device, int replays, const std::function<void()>& enqueue) {
    Graph g;
    CHECK_CUDA(cudaStreamBeginCapture(device.stream(), cudaStreamCaptureModeThreadLocal));
    enqueue();
    CHECK_CUDA(cudaStreamEndCapture(device.stream(), &g.graph));
    CHECK_CUDA(cudaGraphInstantiate(&g.executable, g.graph, 0));
    CHECK_CUDA(cudaEventCreate(&g.begin));
    CHECK_CUDA(cudaEventCreate(&g.end));
    std::vector<double> us;
    for (int i = 0; i < replays; ++i) {
        CHECK_CUDA(cudaEventRecord(g.begin, device.stream()));
        CHECK_CUDA(cudaGraphLaunch(g.executable, device.stream()));
        CHECK_CUDA(cudaEventRecord(g.end, device.stream()));
        device.synchronize();
        float ms = 0;
        CHECK_CUDA(cudaEventElapsedTime(&ms, g.begin, g.end));
        us.push_back(1e3 * double(ms));
    }
    std::sort(us.begin(), us.end());
    return us;
}

}  // namespace spartan
