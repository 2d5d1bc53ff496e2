// What the shared library exports.
#include "core/engine/cuda_backend.h"

#include "core/engine/cuda/cuda_runner.h"
#include "kernels/cuda/bench.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/limits.h"

#include <exception>

namespace spartan {
namespace {

constexpr int kLeastComputeCapability = 80;  // bf16 matrix instructions and asynchronous copies

Error cuda_error(cudaError_t status) {
    return make_error(std::string(cudaGetErrorString(status)) + " (" + cudaGetErrorName(status) + ")");
}

CudaDeviceInfo describe(int ordinal) {
    CudaDeviceInfo d;
    cudaDeviceProp properties{};
    if (const cudaError_t status = cudaGetDeviceProperties(&properties, ordinal); status != cudaSuccess) {
        d.reason = cuda_error(status).message();
        return d;
    }
    d.name = properties.name;
    d.compute_capability = 10 * properties.major + properties.minor;
    d.multiprocessors = properties.multiProcessorCount;
    d.memory_bytes = int64_t(properties.totalGlobalMem);
    if (d.compute_capability < kLeastComputeCapability) {
        d.reason = "compute capability " + std::to_string(properties.major) + "." + std::to_string(properties.minor) +
                   ", and at least 8.0 is needed";
        return d;
    }
    size_t free_bytes = 0, total_bytes = 0;
    cudaError_t status = cudaSetDevice(ordinal);
    if (status == cudaSuccess) status = cudaMemGetInfo(&free_bytes, &total_bytes);
    if (status != cudaSuccess)
        d.reason = cuda_error(status).message();
    else
        d.free_bytes = int64_t(free_bytes);
    return d;
}

Result<std::vector<CudaDeviceInfo>> devices() {
    int driver = 0, count = 0;
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) return make_error("no NVIDIA driver is loaded");
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status == cudaErrorInsufficientDriver)
        return make_error("the NVIDIA driver is for CUDA " + std::to_string(driver / 1000) + "." +
                          std::to_string(driver % 1000 / 10) + ", and this program needs CUDA " +
                          std::to_string(CUDART_VERSION / 1000) + ".0 or newer");
    if (status != cudaSuccess) return cuda_error(status);
    if (count == 0) return make_error("the NVIDIA driver sees no GPU");
    std::vector<CudaDeviceInfo> list;
    for (int i = 0; i < count; ++i) list.push_back(describe(i));
    return list;
}

// Runs what may throw DeviceError.
template <class Body>
auto guarded(const Body& body) -> decltype(body()) {
    try {
        return body();
    } catch (const DeviceError& e) {
        return make_error(e.what());
    }
}

Result<std::unique_ptr<ModelRunner>> make_runner_on(int ordinal, std::shared_ptr<const Model> model,
                                                    const RunnerLimits& limits) {
    return guarded([&] { return make_cuda_runner(ordinal, std::move(model), limits); });
}

Result<MachineLimits> measure_limits_on(int ordinal) {
    return guarded([&]() -> Result<MachineLimits> {
        CudaDevice device(ordinal);
        return measure_limits(device);
    });
}

Result<std::vector<GpuKernelTiming>> bench_kernels_on(int ordinal, const MachineLimits& limits, const std::string& only,
                                                      const std::function<bool()>& cancelled) {
    return guarded([&]() -> Result<std::vector<GpuKernelTiming>> {
        CudaDevice device(ordinal);
        return bench_kernels(device, limits, only, cancelled);
    });
}

Result<void> recover(int ordinal) {
    return guarded([&]() -> Result<void> {
        // What the first two say is still about the context that is lost.
        cudaSetDevice(ordinal);
        cudaDeviceReset();
        cudaGetLastError();
        CudaDevice device(ordinal);
        constexpr size_t kProbeBytes = 1 << 20;
        const DeviceMemory probe{int64_t(kProbeBytes)};
        CHECK_CUDA(cudaMemsetAsync(probe.data(), 0, kProbeBytes, device.stream()));
        device.synchronize();
        return {};
    });
}

}  // namespace
}  // namespace spartan

extern "C" __attribute__((visibility("default"))) const spartan::CudaBackend* spartan_cuda_backend() {
    static const spartan::CudaBackend backend{spartan::cuda_backend_build(),
                                              spartan::devices,
                                              spartan::cuda_bytes_needed,
                                              spartan::make_runner_on,
                                              spartan::measure_limits_on,
                                              spartan::bench_kernels_on,
                                              spartan::recover};
    return &backend;
}
