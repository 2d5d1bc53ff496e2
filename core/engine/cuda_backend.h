// The CUDA backend: a shared library of its own, opened the first time somebody asks, so that the same programs start
// on machines that have neither a driver nor a GPU. What keeps it from being used is a reason in words, not a failure.
#pragma once

#include "core/base/result.h"
#include "core/engine/model_runner.h"
#include "kernels/bench.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace spartan {

constexpr int kMostCudaRank = 512;  // of an adapter's low-rank pairs: what workspaces are sized for

struct CudaDeviceInfo {
    std::string name;            // "NVIDIA H100 80GB HBM3"
    int compute_capability = 0;  // 90: 9.0
    int multiprocessors = 0;
    int64_t memory_bytes = 0, free_bytes = 0;
    std::string reason;  // why it cannot be used; empty: it can
};

// What the library exports, by the one C function `const spartan::CudaBackend* spartan_cuda_backend()`.
struct CudaBackend {
    std::string build;  // of the library; it has to be the program's own
    // By ordinal, never empty; an error when there is no driver, too old a one, or no GPU.
    Result<std::vector<CudaDeviceInfo>> (*devices)() = nullptr;
    // Device memory that weights and workspace take; the pool comes on top.
    int64_t (*bytes_needed)(const Model& model, const RunnerLimits& limits) = nullptr;
    // Copies the weights and takes all memory; an error when the GPU has too little.
    Result<std::unique_ptr<ModelRunner>> (*make_runner)(int ordinal, std::shared_ptr<const Model> model,
                                                        const RunnerLimits& limits) = nullptr;
    Result<MachineLimits> (*measure_limits)(int ordinal) = nullptr;
    // kernels/cuda/bench.h
    Result<std::vector<GpuKernelTiming>> (*bench_kernels)(int ordinal, const MachineLimits& limits,
                                                          const std::string& only,
                                                          const std::function<bool()>& cancelled) = nullptr;
    // Makes a GPU usable again whose context a fault has ended, by destroying everything that this process has on it:
    // no runner may be there any more. An error when that does not help, so that the program has to be started again.
    Result<void> (*recover)(int ordinal) = nullptr;
};

// Version and layout of what crosses between a program and the library; both sides must agree.
std::string cuda_backend_build();

// Opened once and kept. An error says what is missing. The library is looked for beside the program and in ../lib.
Result<const CudaBackend*> cuda_backend();

// CudaBackend::recover; the CPU (-1) needs none.
Result<void> recover_device(int cuda_device);

// The devices of the backend, or why there are none.
Result<std::vector<CudaDeviceInfo>> cuda_devices();

}  // namespace spartan
