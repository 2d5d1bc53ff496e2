// Launches that are captured once and replayed, points of a stream, and the time between two.
#pragma once

#include "kernels/cuda/device.h"

#include <functional>
#include <utility>

namespace spartan {

// A point of the stream, and when the GPU came past it.
class Milestone {
public:
    Milestone() { CHECK_CUDA(cudaEventCreate(&event_)); }
    ~Milestone() { cudaEventDestroy(event_); }
    Milestone(const Milestone&) = delete;
    Milestone& operator=(const Milestone&) = delete;
    void record(CudaDevice& device) { CHECK_CUDA(cudaEventRecord(event_, device.stream())); }
    void wait() const { CHECK_CUDA(cudaEventSynchronize(event_)); }
    // Once the GPU is past both.
    double ms_since(const Milestone& earlier) const {
        float value = 0;
        CHECK_CUDA(cudaEventElapsedTime(&value, earlier.event_, event_));
        return double(value);
    }

private:
    cudaEvent_t event_ = nullptr;
};

// What the GPU takes from one point of the stream to a later one.
class Stopwatch {
public:
    Stopwatch() {
        CHECK_CUDA(cudaEventCreate(&begin_));
        CHECK_CUDA(cudaEventCreate(&end_));
    }
    ~Stopwatch() {
        cudaEventDestroy(begin_);
        cudaEventDestroy(end_);
    }
    Stopwatch(const Stopwatch&) = delete;
    Stopwatch& operator=(const Stopwatch&) = delete;
    void start(CudaDevice& device) { CHECK_CUDA(cudaEventRecord(begin_, device.stream())); }
    void stop(CudaDevice& device) { CHECK_CUDA(cudaEventRecord(end_, device.stream())); }
    // Once the GPU is past stop().
    double ms() const {
        float value = 0;
        CHECK_CUDA(cudaEventElapsedTime(&value, begin_, end_));
        return double(value);
    }

private:
    cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

// A captured sequence of launches, ready to be replayed.
class CudaGraph {
public:
    CudaGraph() = default;
    CudaGraph(CudaDevice& device, const std::function<void()>& launches) {
        cudaGraph_t graph = nullptr;
        CHECK_CUDA(cudaStreamBeginCapture(device.stream(), cudaStreamCaptureModeThreadLocal));
        try {
            launches();
        } catch (...) {  // or the stream would go on recording
            cudaStreamEndCapture(device.stream(), &graph);
            if (graph) cudaGraphDestroy(graph);
            throw;
        }
        CHECK_CUDA(cudaStreamEndCapture(device.stream(), &graph));
        const cudaError_t status = cudaGraphInstantiate(&executable_, graph, 0);
        cudaGraphDestroy(graph);
        check_cuda(status, "cudaGraphInstantiate");
    }
    ~CudaGraph() {
        if (executable_) cudaGraphExecDestroy(executable_);
    }
    CudaGraph(CudaGraph&& other) noexcept : executable_(std::exchange(other.executable_, nullptr)) {}
    CudaGraph& operator=(CudaGraph&& other) noexcept {
        std::swap(executable_, other.executable_);
        return *this;
    }
    void launch(CudaDevice& device) const { CHECK_CUDA(cudaGraphLaunch(executable_, device.stream())); }

private:
    cudaGraphExec_t executable_ = nullptr;
};

}  // namespace spartan
