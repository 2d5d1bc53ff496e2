// An adapter in pinned host memory, laid out as a GPU wants it, so that its copy needs no thread to help.
#pragma once

#include "core/engine/cuda/upload.h"
#include "core/engine/model_runner.h"

#include <memory>
#include <span>
#include <vector>

namespace spartan {

// Bytes in pinned memory: pinned where they lie, or a copy. Throws DeviceError when the memory is refused.
class PinnedBytes {
public:
    PinnedBytes() = default;
    ~PinnedBytes();
    PinnedBytes(const PinnedBytes&) = delete;
    PinnedBytes& operator=(const PinnedBytes&) = delete;

    // Once. `from` must stay; small ones are copied.
    void pin(std::span<const std::byte> from);
    // Returns the copy.
    std::byte* copy(std::span<const std::byte> from);

    // Puts copies of bytes [first, first + count) to `to` into the stream.
    void copy_to(std::byte* to, int64_t first, int64_t count, cudaStream_t stream) const;

private:
    struct Piece {
        const std::byte* from = nullptr;
        int64_t begin = 0, bytes = 0;  // of all
    };
    bool pin_in_place(std::span<const std::byte> from);

    std::vector<Piece> pieces_;
    PinnedMemory copied_;
    void* registered_ = nullptr;
};

class PinnedAdapter final : public HostAdapter {
public:
    // Pins blob and skew halves. Blobs with tables of their own, which lie packed for the CPU in there and row-major
    // here, are copied. Throws DeviceError when the memory is refused.
    static std::shared_ptr<const PinnedAdapter> make(std::shared_ptr<const Adapter> adapter, const ModelConfig& config);

    ~PinnedAdapter() override;

    // Puts copies to the blob's place at `to` into the stream; and of bytes [first, first + count) of the skew halves.
    void copy_to(std::byte* to, cudaStream_t stream) const;
    void copy_skew_to(std::byte* to, int64_t first, int64_t count, cudaStream_t stream) const;

private:
    explicit PinnedAdapter(std::shared_ptr<const Adapter> of);
    template <class T>
    void unpack_tables(const ModelConfig& config, std::byte* blob) const;

    PinnedBytes blob_, skew_;
    int device_ = 0;  // that was current when it was made
};

}  // namespace spartan
