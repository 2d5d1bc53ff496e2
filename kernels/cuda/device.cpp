#include "kernels/cuda/device.h"

#include "kernels/device_memory_error.h"

#include <string>
#include <utility>

namespace spartan {

void check_cuda(cudaError_t status, const char* call) {
    if (status == cudaSuccess) return;
    const std::string what =
        std::string(call) + ": " + cudaGetErrorString(status) + " (" + cudaGetErrorName(status) + ")";
    if (status != cudaErrorMemoryAllocation) throw DeviceError(what);
    cudaGetLastError();  // CUDA would report it once more at the next call that asks
    throw OutOfDeviceMemory(what);
}

CudaDevice::CudaDevice(int ordinal, StreamPriority priority) : ordinal_(ordinal) {
    make_current();
    int major = 0, minor = 0;
    CHECK_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, ordinal));
    CHECK_CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, ordinal));
    compute_capability_ = 10 * major + minor;
    CHECK_CUDA(cudaDeviceGetAttribute(&num_sms_, cudaDevAttrMultiProcessorCount, ordinal));
    int lowest = 0, highest = 0;
    CHECK_CUDA(cudaDeviceGetStreamPriorityRange(&lowest, &highest));
    CHECK_CUDA(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking,
                                            priority == StreamPriority::high ? highest : lowest));
    set_overlap_launches(true);
}

CudaDevice::~CudaDevice() {
    if (stream_) cudaStreamDestroy(stream_);
}

void CudaDevice::synchronize() { CHECK_CUDA(cudaStreamSynchronize(stream_)); }

DeviceMemory::DeviceMemory(int64_t bytes) : bytes_(bytes) {
    void* data = nullptr;
    if (bytes > 0) CHECK_CUDA(cudaMalloc(&data, size_t(bytes)));
    data_ = static_cast<std::byte*>(data);
}

DeviceMemory::~DeviceMemory() {
    if (data_) cudaFree(data_);
}

DeviceMemory::DeviceMemory(DeviceMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

DeviceMemory& DeviceMemory::operator=(DeviceMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
}

}  // namespace spartan
