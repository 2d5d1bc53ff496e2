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

PinnedBytes::~PinnedBytes() {
    if (registered_) cudaHostUnregister(registered_);
}

void PinnedBytes::pin(std::span<const std::byte> from) {
    if (int64_t(from.size()) < kLeastInPlace || !pin_in_place(from)) copy(from);
}

// Only whole pages, which nobody else lies in; what is left at the ends is copied. False: the system will not have it,
// or somebody has pinned it already.
bool PinnedBytes::pin_in_place(std::span<const std::byte> from) {
    const std::byte* begin = from.data();
    const auto size = int64_t(from.size());
    const auto before = int64_t(-reinterpret_cast<uintptr_t>(begin) % uintptr_t(kPage));
    const int64_t middle = (size - before) / kPage * kPage, after = size - before - middle;
    void* const pages = const_cast<std::byte*>(begin + before);
    if (cudaHostRegister(pages, size_t(middle), cudaHostRegisterPortable) != cudaSuccess) {
        cudaGetLastError();
        return false;
    }
    registered_ = pages;
    copied_ = PinnedMemory(before + after);
    std::memcpy(copied_.data(), begin, size_t(before));
    std::memcpy(copied_.data() + before, begin + size - after, size_t(after));
    pieces_ = {
        {copied_.data(), 0, before}, {begin + before, before, middle}, {copied_.data() + before, size - after, after}};
    return true;
}

std::byte* PinnedBytes::copy(std::span<const std::byte> from) {
    copied_ = PinnedMemory(int64_t(from.size()));
    if (!from.empty()) std::memcpy(copied_.data(), from.data(), from.size());
    pieces_ = {{copied_.data(), 0, int64_t(from.size())}};
    return copied_.data();
}

void PinnedBytes::copy_to(std::byte* to, int64_t first, int64_t count, cudaStream_t stream) const {
    for (const Piece& piece : pieces_) {
        const int64_t begin = std::max(first, piece.begin), end = std::min(first + count, piece.begin + piece.bytes);
        for (int64_t at = begin; at < end; at += kMostAtOnce)
            CHECK_CUDA(cudaMemcpyAsync(to + (at - first), piece.from + (at - piece.begin),
                                       size_t(std::min(kMostAtOnce, end - at)), cudaMemcpyHostToDevice, stream));
    }
}

PinnedAdapter::PinnedAdapter(std::shared_ptr<const Adapter> of) : HostAdapter(std::move(of)) {
    CHECK_CUDA(cudaGetDevice(&device_));
}

PinnedAdapter::~PinnedAdapter() {
    cudaSetDevice(device_);  // a thread that has used none would begin with the first, which may not be in use at all
}

std::shared_ptr<const PinnedAdapter> PinnedAdapter::make(std::shared_ptr<const Adapter> adapter,
                                                         const ModelConfig& config) {
    std::shared_ptr<PinnedAdapter> pinned(new PinnedAdapter(std::move(adapter)));
    const Adapter& a = *pinned->adapter;
    pinned->skew_.pin(a.skew);
    if (!has_tables(a)) {
        pinned->blob_.pin(a.blob);
        return pinned;
    }
    std::byte* blob = pinned->blob_.copy(a.blob);
    with_type(a.dtype, [&]<class T>(T) { pinned->template unpack_tables<T>(config, blob); });
    return pinned;
}

template <class T>
void PinnedAdapter::unpack_tables(const ModelConfig& config, std::byte* blob) const {
    for (const auto* table : {&adapter->embedding, &adapter->head}) {
        if (!*table) continue;
        const TablePart& t = **table;
        unpack_table<T>(*adapter, t.copy, config.vocab_size, config.hidden_size, blob);
        unpack_table<T>(*adapter, t.token_rows, int64_t(t.tokens.size()), config.hidden_size, blob);
    }
}

void PinnedAdapter::copy_to(std::byte* to, cudaStream_t stream) const {
    blob_.copy_to(to, 0, int64_t(adapter->blob.size()), stream);
}

void PinnedAdapter::copy_skew_to(std::byte* to, int64_t first, int64_t count, cudaStream_t stream) const {
    skew_.copy_to(to, first, count, stream);
}

}  // namespace spartan
