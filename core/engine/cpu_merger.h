// The strategy `merged` on a CPU: a copy of the linear layers that one adapter at a time is multiplied into, from the
// model's own weights, which stay as they are.
#pragma once

#include "core/adapter/merged_rows.h"
#include "core/engine/model_runner.h"
#include "kernels/memory.h"

#include <new>
#include <span>
#include <vector>

namespace spartan {

template <class T>
class CpuMerger {
public:
    // Takes the copy's memory: `bytes` as merged_copy_bytes() says. Throws std::bad_alloc.
    CpuMerger(const Weights<T>& base, int64_t bytes) : base_(base), memory_(allocate_memory(bytes)) {
        if (!memory_) throw std::bad_alloc();
        std::byte* at = memory_.get();
        for (const LayerWeights<T>& layer : base.layers)
            for (const PackedMatrix<T>& w : layer.projection) {
                // Borrowed: all share memory_.
                copies_.emplace_back(w.rows(), w.cols(), std::shared_ptr<std::byte[]>(std::shared_ptr<void>(), at));
                at += copies_.back().bytes();
            }
        CHECK(at == memory_.get() + bytes);
        bytes_ = bytes;
    }

    int64_t bytes() const { return bytes_; }
    // [layer * kNumProjections + projection]: what runs in the base's place; null: the base itself.
    std::span<const PackedMatrix<T>* const> weights() const { return merged_; }
    void unmerge() { merged_.assign(copies_.size(), nullptr); }

    // Returns the bytes written; negative when abandoned, and then nothing is merged.
    int64_t merge(CpuDevice& device, const Adapter& adapter, const KeepGoing& keep_going) {
        unmerge();
        const MergedRows<T> rows(adapter, base_);
        int64_t written = 0;
        for (const AdapterPart& part : adapter.parts) {
            if (part.rotation < 0 && part.a < 0 && part.gain < 0) continue;
            if (!keep_going()) {
                unmerge();
                return -1;
            }
            const auto index = size_t(part.layer) * kNumProjections + size_t(part.projection);
            const PackedMatrix<T>& w = base_.layers[size_t(part.layer)].projection[size_t(part.projection)];
            PackedMatrix<T>& copy = copies_[index];
            device.parallel_for(w.rows(), 16, [&](int64_t begin, int64_t end, int thread) {
                auto* row = static_cast<float*>(device.thread_scratch(thread, w.cols() * int64_t(sizeof(float))));
                for (int64_t n = begin; n < end; ++n) {
                    rows.linear(w, &part, n, row);
                    copy.set_rows(n, 1, row);
                }
            });
            merged_[index] = &copy;
            written += copy.bytes();
        }
        return written;
    }

private:
    const Weights<T>& base_;
    Memory memory_;
    int64_t bytes_ = 0;
    std::vector<PackedMatrix<T>> copies_;
    std::vector<const PackedMatrix<T>*> merged_;
};

}  // namespace spartan
