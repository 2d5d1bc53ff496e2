// An adapter's blob in pinned host memory, laid out as a GPU wants it, so that its copy needs no thread to help.
#pragma once

#include "core/engine/cuda/upload.h"
#include "core/engine/model_runner.h"

#include <memory>
#include <vector>

namespace spartan {

class PinnedAdapter final : public HostAdapter {
public:
    // Pins the blob where it lies. Small ones, and those with tables of their own, which lie packed for the CPU in the
    // blob and row-major here, are copied. Throws DeviceError when the memory is refused.
    static std::shared_ptr<const PinnedAdapter> make(std::shared_ptr<const Adapter> adapter, const ModelConfig& config);
    ~PinnedAdapter() override;

    // Puts copies to the blob's place at `to` into the stream.
    void copy_to(std::byte* to, cudaStream_t stream) const;

private:
    struct Piece {
        const std::byte* from = nullptr;
        int64_t offset = 0, bytes = 0;  // of the blob
    };
    explicit PinnedAdapter(std::shared_ptr<const Adapter> of);
    bool pin_in_place();
    void copy_blob();
    template <class T>
    void unpack_tables(const ModelConfig& config);

    std::vector<Piece> pieces_;
    PinnedMemory copied_;
    void* registered_ = nullptr;
    int device_ = 0;  // that was current when it was made
};

}  // namespace spartan
