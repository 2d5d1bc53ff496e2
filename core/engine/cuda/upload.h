// Copies from the host through two pinned buffers, so that one is filled while the other travels.
#pragma once

#include "kernels/cuda/device.h"
#include "kernels/matmul.h"

#include <cstddef>
#include <functional>
#include <vector>

namespace spartan {

// Pinned host memory with one owner.
class PinnedMemory {
public:
    PinnedMemory() = default;
    explicit PinnedMemory(int64_t bytes);
    ~PinnedMemory();
    PinnedMemory(PinnedMemory&& other) noexcept;
    PinnedMemory& operator=(PinnedMemory&& other) noexcept;
    std::byte* data() const { return data_; }
    int64_t bytes() const { return bytes_; }

private:
    std::byte* data_ = nullptr;
    int64_t bytes_ = 0;
};

class Uploader {
public:
    explicit Uploader(CudaDevice& device);
    ~Uploader();
    Uploader(const Uploader&) = delete;
    Uploader& operator=(const Uploader&) = delete;

    // `count` items of `item_bytes` go to `to`; fill(first, n, buffer) writes items [first, first + n).
    void copy(std::byte* to, int64_t count, int64_t item_bytes,
              const std::function<void(int64_t first, int64_t n, std::byte* buffer)>& fill);
    void copy(std::byte* to, const void* from, int64_t bytes);
    void finish();  // waits until everything has arrived

private:
    std::byte* next_buffer();

    static constexpr int64_t kBufferBytes = 32 << 20;
    CudaDevice& device_;
    PinnedMemory buffers_[2];
    cudaEvent_t sent_[2] = {};
    int next_ = 0;
};

// Rows [first, first + count) of a packed matrix, row-major.
template <class T>
void unpack_rows(const PackedMatrix<T>& matrix, int64_t first, int64_t count, T* out) {
    const int64_t cols = matrix.cols();
    std::vector<float> row(static_cast<size_t>(cols));
    for (int64_t i = 0; i < count; ++i) {
        matrix.get_row(first + i, row.data());
        for (int64_t k = 0; k < cols; ++k) out[i * cols + k] = from_float<T>(row[size_t(k)]);
    }
}

}  // namespace spartan
