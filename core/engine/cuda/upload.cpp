#include "core/engine/cuda/upload.h"

#include "kernels/check.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace spartan {

PinnedMemory::PinnedMemory(int64_t bytes) : bytes_(bytes) {
    void* data = nullptr;
    if (bytes > 0) CHECK_CUDA(cudaHostAlloc(&data, size_t(bytes), cudaHostAllocDefault));
    data_ = static_cast<std::byte*>(data);
}

PinnedMemory::~PinnedMemory() {
    if (data_) cudaFreeHost(data_);
}

PinnedMemory::PinnedMemory(PinnedMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

PinnedMemory& PinnedMemory::operator=(PinnedMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
}

Uploader::Uploader(CudaDevice& device) : device_(device) {
    for (PinnedMemory& buffer : buffers_) buffer = PinnedMemory(kBufferBytes);
    for (cudaEvent_t& event : sent_) CHECK_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
}

Uploader::~Uploader() {
    cudaStreamSynchronize(device_.stream());
    for (const cudaEvent_t event : sent_)
        if (event) cudaEventDestroy(event);
}

std::byte* Uploader::next_buffer() {
    next_ = 1 - next_;
    CHECK_CUDA(cudaEventSynchronize(sent_[next_]));
    return buffers_[next_].data();
}

void Uploader::copy(std::byte* to, int64_t count, int64_t item_bytes,
                    const std::function<void(int64_t, int64_t, std::byte*)>& fill) {
    CHECK(item_bytes > 0 && item_bytes <= kBufferBytes);
    const int64_t most = kBufferBytes / item_bytes;
    for (int64_t first = 0; first < count; first += most) {
        const int64_t n = std::min(most, count - first);
        std::byte* buffer = next_buffer();
        fill(first, n, buffer);
        CHECK_CUDA(cudaMemcpyAsync(to + first * item_bytes, buffer, size_t(n * item_bytes), cudaMemcpyHostToDevice,
                                   device_.stream()));
        CHECK_CUDA(cudaEventRecord(sent_[next_], device_.stream()));
    }
}

void Uploader::copy(std::byte* to, const void* from, int64_t bytes) {
    copy(to, bytes, 1, [&](int64_t first, int64_t n, std::byte* buffer) {
        std::memcpy(buffer, static_cast<const std::byte*>(from) + first, size_t(n));
    });
}

void Uploader::finish() { device_.synchronize(); }

}  // namespace spartan
