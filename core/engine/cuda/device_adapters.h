// Adapters as they lie in the GPU's pool: each one's blob in its pages, rotations in the kernels' own order, and one
// table of CudaPart an adapter that the kernels find them by. They come in on streams of their own, beside the steps:
// one copies, one folds what has been copied of skew halves.
#pragma once

#include "core/adapter/adapter.h"
#include "core/engine/adapter_strategy.h"
#include "core/engine/cuda/fold_plan.h"
#include "core/engine/cuda/pinned_adapter.h"
#include "core/engine/cuda/spares.h"
#include "core/engine/model_runner.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/rotate.h"
#include "kernels/cuda/tables.h"

#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <vector>

namespace spartan {

// What the adapters of a batch bring at all, so that a step launches no kernel for nothing. Bits by Projection.
struct AdapterNeeds {
    uint32_t rotations = 0, plain_rotations = 0, low_ranks = 0, gains = 0;  // gains: gain or bias
    int max_group = 0, max_rank = 0;                                        // of packed rotations; of low-rank pairs
    bool own_norms = false, own_embedding = false, own_head = false;

    void merge(const AdapterNeeds& other);
    bool operator==(const AdapterNeeds&) const = default;
};

struct DeviceAdapter {
    std::shared_ptr<const HostAdapter> host;
    std::shared_ptr<const Adapter> adapter;
    std::byte* data = nullptr;                              // the blob
    const CudaPart* parts = nullptr;                        // [layer * kNumProjections + projection], in device memory
    const CudaTable *embedding = nullptr, *head = nullptr;  // in device memory; null: the base's
    const void* head_copy = nullptr;                        // T [vocab, hidden]; null: none
    DeviceMemory tables;                                    // those two and their token ids …
    PinnedMemory tables_from;                               // … and what they were copied from
    int64_t tables_bytes = 0;
    AdapterNeeds needs;
    size_t slot = 0;
    bool awaited = false;  // the computation's stream has been told to wait for it
};

template <class T>
class DeviceAdapters {
public:
    // Copies begin after what `device` was given before. Both must outlive this. With `merged`, parts keep their biases
    // only: the weights hold the rest.
    DeviceAdapters(CudaDevice& device, const ModelConfig& config, AdapterStrategy strategy);
    ~DeviceAdapters();
    DeviceAdapters(const DeviceAdapters&) = delete;
    DeviceAdapters& operator=(const DeviceAdapters&) = delete;

    // Begins to copy the blob to `data` (64-byte aligned, in the pool). `host` is a PinnedAdapter. When it throws,
    // nothing is on its way.
    // factors: [layer * kNumProjections + projection] of a factored adapter; null: it is folded.
    void load(AdapterId id, std::byte* data, std::shared_ptr<const HostAdapter> host, const CudaFactors* factors);
    std::vector<AdapterArrival> take_arrivals();
    bool copying() const { return !moving_.empty(); }
    // Waits for the copy if it has not ended.
    void drop(AdapterId id);
    // For work that is given to the device's stream from now on.
    const DeviceAdapter& use(AdapterId id);

private:
    // What one adapter's kernels read, in pinned memory to be filled and in the device's, and when its copy ran.
    struct Slot {
        std::byte *host = nullptr, *device = nullptr;
        cudaEvent_t begin = nullptr, end = nullptr;
    };

    // Rotations that are packed at once: `jobs` of them.
    struct PackRun {
        const T* from = nullptr;  // in the pool
        int64_t bytes = 0, most_items = 0;
        int jobs = 0;
    };

    CudaPart place_part(const AdapterPart& part, std::byte* data, std::vector<PackJob<T>>& jobs, AdapterNeeds& needs);
    void plan_tables(DeviceAdapter& placed);
    std::vector<PackRun> plan_packing(std::vector<PackJob<T>>& jobs) const;
    void begin_moving(const DeviceAdapter& placed, const std::vector<PackRun>& runs, const FoldPlan& folds,
                      const PinnedAdapter& pinned);
    void pack(const Slot& slot, const std::vector<PackRun>& runs);
    void place_jobs(const Slot& slot, FoldPlan& plan) const;
    void fold(const Slot& slot, const FoldPlan& plan, const PinnedAdapter& from);
    size_t take_slot();
    void add_slab();

    static constexpr size_t kSlotsOfSlab = 64;
    static constexpr int64_t kPackBytes = 16 << 20;  // of rotations that are packed at once
    // Of skew halves: one piece is folded while others come. Few pieces, as a stream takes a thousand works at once.
    static constexpr int64_t kPieceBytes = 8 << 20, kScratchBytes = 16 << 20;
    static constexpr size_t kPieces = 4;
    // Where a piece of skew halves lies until it is folded.
    struct Staging {
        cudaEvent_t copied = nullptr, folded = nullptr;
    };

    CudaDevice& device_;
    CudaDevice copies_, folds_;
    const ModelConfig& config_;
    AdapterStrategy strategy_;
    // In a slot: the adapter's parts, what is to be packed, what is to be folded.
    int64_t parts_bytes_, packs_bytes_, folds_bytes_, slot_bytes_;
    DeviceMemory staging_, scratch_;  // rotations as they are in the blob, or skew halves; factors
    std::array<Staging, kPieces> stagings_;
    size_t next_staging_ = 0;
    std::vector<DeviceMemory> slabs_;  // of kSlotsOfSlab each
    std::vector<PinnedMemory> slabs_from_;
    std::vector<Slot> slots_;
    std::vector<size_t> free_slots_;
    Spares<DeviceMemory> spare_tables_;
    Spares<PinnedMemory> spare_tables_from_;
    std::map<AdapterId, DeviceAdapter> placed_;
    std::deque<AdapterId> moving_;  // their copies run one after another
    cudaEvent_t given_ = nullptr;   // to the device's stream before a copy
    cudaEvent_t copied_ = nullptr;  // all but skew halves
    cudaEvent_t anchor_ = nullptr;  // recorded when nothing was on its way, at anchor_time_
    std::chrono::steady_clock::time_point anchor_time_;
};

extern template class DeviceAdapters<float>;
extern template class DeviceAdapters<bf16>;
extern template class DeviceAdapters<f16>;

}  // namespace spartan
