// One NVIDIA GPU as the kernels' execution policy: CudaDevice& is the first argument of every CUDA kernel's overload.
// All work goes to its one stream, in order; nothing here waits for the GPU unless it says so. Two of them for one GPU
// are two streams.
#pragma once

#include "kernels/device.h"
#include "kernels/view.h"

#include <cstddef>
#include <cstdint>

#include <cuda_runtime_api.h>

namespace spartan {

// Throws DeviceError naming the call and CUDA's reason.
void check_cuda(cudaError_t status, const char* call);
#define CHECK_CUDA(call) ::spartan::check_cuda((call), #call)

// Weights that a later kernel reads: a kernel that leaves memory idle asks for them, so that they lie in the L2 cache
// by then. `data` is 16-byte aligned; only what fits the cache beside the kernel's own makes sense. Empty: nothing.
// GPUs before compute capability 9.0 take no notice.
struct Ahead {
    const void* data = nullptr;
    int64_t bytes = 0;
};

// Whose thread blocks find their places first where two streams have some that wait.
enum class StreamPriority : uint8_t { low, high };

class CudaDevice {
public:
    explicit CudaDevice(int ordinal = 0, StreamPriority priority = StreamPriority::high);
    ~CudaDevice();
    CudaDevice(const CudaDevice&) = delete;
    CudaDevice& operator=(const CudaDevice&) = delete;

    // What rows of activations are stored in; sums are fp32 in every kernel.
    template <class T>
    using Activation = T;

    // CUDA's current device belongs to a thread: call this where another thread than the constructor's goes on.
    void make_current() { CHECK_CUDA(cudaSetDevice(ordinal_)); }
    int ordinal() const { return ordinal_; }
    cudaStream_t stream() const { return stream_; }
    int num_sms() const { return num_sms_; }
    int compute_capability() const { return compute_capability_; }  // 90 for an H100
    // Programmatic dependent launch: a kernel's blocks start while the one before drains (from compute capability 9.0).
    bool overlaps_launches() const { return overlap_launches_; }
    void set_overlap_launches(bool on) { overlap_launches_ = on && compute_capability_ >= 90; }

    void synchronize();

private:
    int ordinal_ = 0;
    cudaStream_t stream_ = nullptr;
    int num_sms_ = 0, compute_capability_ = 0;
    bool overlap_launches_ = false;
};

// Device memory with one owner. Freed with cudaFree, which waits for the GPU: allocate at start, not in a step.
class DeviceMemory {
public:
    DeviceMemory() = default;
    explicit DeviceMemory(int64_t bytes);
    ~DeviceMemory();
    DeviceMemory(DeviceMemory&& other) noexcept;
    DeviceMemory& operator=(DeviceMemory&& other) noexcept;

    std::byte* data() const { return data_; }
    int64_t bytes() const { return bytes_; }
    template <class T>
    T* as() const {
        return reinterpret_cast<T*>(data_);
    }

private:
    std::byte* data_ = nullptr;
    int64_t bytes_ = 0;
};

}  // namespace spartan
