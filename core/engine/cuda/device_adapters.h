// Adapters as they lie in the GPU's pool: each one's blob in its pages, rotations in the kernels' own order, and one
// table of CudaPart an adapter that the kernels find them by.
#pragma once

#include "core/adapter/adapter.h"
#include "core/engine/adapter_strategy.h"
#include "core/engine/cuda/upload.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/tables.h"

#include <cstdint>
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
    std::shared_ptr<const Adapter> adapter;
    std::byte* data = nullptr;                              // the blob
    const CudaPart* parts = nullptr;                        // [layer * kNumProjections + projection], in device memory
    const CudaTable *embedding = nullptr, *head = nullptr;  // in device memory; null: the base's
    const void* head_copy = nullptr;                        // T [vocab, hidden]; null: none
    DeviceMemory tables;                                    // those two and their token ids
    AdapterNeeds needs;
    size_t slot = 0;
};

template <class T>
class DeviceAdapters {
public:
    // With `merged`, parts keep their biases only: the weights hold the rest.
    DeviceAdapters(CudaDevice& device, const ModelConfig& config, AdapterStrategy strategy);

    // Copies the blob to `data` (64-byte aligned, in the pool) and waits until it is there.
    // factors: [layer * kNumProjections + projection] of a factored adapter; null: it is folded.
    void load(AdapterId id, std::byte* data, std::shared_ptr<const Adapter> adapter, const CudaFactors* factors);
    void drop(AdapterId id);
    const DeviceAdapter& at(AdapterId id) const { return placed_.at(id); }

private:
    CudaPart place_part(const AdapterPart& part, std::byte* data, AdapterNeeds& needs);
    void place_tables(DeviceAdapter& placed);
    CudaTable place_table(const TablePart& table, const Adapter& adapter, std::byte* data);
    void place_rows(std::byte* data, const Adapter& adapter, int64_t offset, int64_t rows);
    CudaPart* table(size_t slot) const;
    size_t take_slot();

    static constexpr size_t kSlotsOfSlab = 64;
    CudaDevice& device_;
    const ModelConfig& config_;
    AdapterStrategy strategy_;
    Uploader uploader_;
    DeviceMemory staging_;             // one rotation as it is in the blob
    std::vector<DeviceMemory> slabs_;  // of kSlotsOfSlab tables each
    std::vector<size_t> free_slots_;
    std::map<AdapterId, DeviceAdapter> placed_;
};

extern template class DeviceAdapters<float>;
extern template class DeviceAdapters<bf16>;

}  // namespace spartan
