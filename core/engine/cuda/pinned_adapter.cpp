#include "core/engine/cuda/pinned_adapter.h"

#include "core/adapter/own_table.h"
#include "kernels/check.h"

#include <algorithm>
#include <cstring>

namespace spartan {
namespace {

constexpr int64_t kPage = 4096;
constexpr int64_t kLeastInPlace = 1 << 20;
// A copy occupies the engine that does it; short ones let others go in between.
constexpr int64_t kMostAtOnce = 8 << 20;

bool has_tables(const Adapter& adapter) {
    const auto own = [](const std::optional<TablePart>& t) { return t && (t->copy >= 0 || t->token_rows >= 0); };
    return own(adapter.embedding) || own(adapter.head);
}

template <class T>
void unpack_table(const Adapter& adapter, int64_t offset, int64_t rows, int64_t cols, std::byte* blob) {
    if (offset < 0) return;
    const OwnTable<T> table(adapter, offset, rows, cols);
    unpack_rows(*table.get(), 0, rows, reinterpret_cast<T*>(blob + offset));
}

}  // namespace

PinnedAdapter::PinnedAdapter(std::shared_ptr<const Adapter> of) : HostAdapter(std::move(of)) {
    CHECK_CUDA(cudaGetDevice(&device_));
}

std::shared_ptr<const PinnedAdapter> PinnedAdapter::make(std::shared_ptr<const Adapter> adapter,
                                                         const ModelConfig& config) {
    std::shared_ptr<PinnedAdapter> pinned(new PinnedAdapter(std::move(adapter)));
    const Adapter& a = *pinned->adapter;
    if (!has_tables(a) && int64_t(a.blob.size()) >= kLeastInPlace && pinned->pin_in_place()) return pinned;
    pinned->copy_blob();
    with_type(a.dtype, [&]<class T>(T) { pinned->template unpack_tables<T>(config); });
    return pinned;
}

PinnedAdapter::~PinnedAdapter() {
    cudaSetDevice(device_);  // a thread that has used none would begin with the first, which may not be in use at all
    if (registered_) cudaHostUnregister(registered_);
}

// Only whole pages, which nobody else lies in; what is left at the ends is copied. False: the system will not have it,
// or somebody has pinned it already.
bool PinnedAdapter::pin_in_place() {
    const std::byte* blob = adapter->blob.data();
    const auto size = int64_t(adapter->blob.size());
    const auto before = int64_t(-reinterpret_cast<uintptr_t>(blob) % uintptr_t(kPage));
    const int64_t middle = (size - before) / kPage * kPage, after = size - before - middle;
    void* const pages = const_cast<std::byte*>(blob + before);
    if (cudaHostRegister(pages, size_t(middle), cudaHostRegisterPortable) != cudaSuccess) {
        cudaGetLastError();
        return false;
    }
    registered_ = pages;
    copied_ = PinnedMemory(before + after);
    std::memcpy(copied_.data(), blob, size_t(before));
    std::memcpy(copied_.data() + before, blob + size - after, size_t(after));
    pieces_ = {
        {copied_.data(), 0, before}, {blob + before, before, middle}, {copied_.data() + before, size - after, after}};
    return true;
}

void PinnedAdapter::copy_blob() {
    const auto size = int64_t(adapter->blob.size());
    copied_ = PinnedMemory(size);
    if (size > 0) std::memcpy(copied_.data(), adapter->blob.data(), size_t(size));
    pieces_ = {{copied_.data(), 0, size}};
}

template <class T>
void PinnedAdapter::unpack_tables(const ModelConfig& config) {
    for (const auto* table : {&adapter->embedding, &adapter->head}) {
        if (!*table) continue;
        const TablePart& t = **table;
        unpack_table<T>(*adapter, t.copy, config.vocab_size, config.hidden_size, copied_.data());
        unpack_table<T>(*adapter, t.token_rows, int64_t(t.tokens.size()), config.hidden_size, copied_.data());
    }
}

void PinnedAdapter::copy_to(std::byte* to, cudaStream_t stream) const {
    for (const Piece& piece : pieces_)
        for (int64_t at = 0; at < piece.bytes; at += kMostAtOnce)
            CHECK_CUDA(cudaMemcpyAsync(to + piece.offset + at, piece.from + at,
                                       size_t(std::min(kMostAtOnce, piece.bytes - at)), cudaMemcpyHostToDevice,
                                       stream));
}

}  // namespace spartan
