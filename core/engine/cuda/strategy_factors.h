// The strategy `common_block` on a GPU: the factors of the batch's adapters cut to their common block size, in pages of
// their own, and the tables that block_sparse() finds them by.
#pragma once

#include "core/adapter/adapter.h"
#include "core/engine/batch.h"
#include "core/engine/cuda/spares.h"
#include "kernels/cuda/block_sparse.h"

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <span>
#include <tuple>

namespace spartan {

// Of a batch: all that launches depend on.
struct FactorShape {
    int64_t cell = 0;                             // what its factors are cut to; 0: there are none
    std::array<int32_t, kNumProjections> most{};  // factors that an adapter has there

    int32_t most_of(std::span<const Projection> which) const {
        int32_t m = 0;
        for (const Projection p : which) m = std::max(m, most[size_t(p)]);
        return m;
    }
    bool operator<(const FactorShape& other) const { return std::tie(cell, most) < std::tie(other.cell, other.most); }
};

template <class T>
class DeviceFactors {
public:
    DeviceFactors(CudaDevice& device, const ModelConfig& config) : device_(device), config_(config) {}

    // The table [layer * kNumProjections + projection] that the adapter's CudaPart::factors point into; its blob will
    // lie at `blob`. Null: it has no factors.
    const CudaFactors* add(AdapterId id, std::shared_ptr<const Adapter> adapter, const std::byte* blob);
    // Its factors are batched at `batched` from the next batch() on.
    void place(AdapterId id, std::byte* batched);
    void drop(AdapterId id);
    bool empty() const { return placed_.empty(); }

    // Cuts what the batch's adapters brought to the size that they have in common, as far as it does not lie there from
    // an earlier batch, behind the work given to the device before. Returns the bytes written.
    int64_t batch(std::span<const AdapterSegment> segments, FactorShape& shape);

private:
    struct Placed {
        std::shared_ptr<const Adapter> adapter;
        const std::byte* blob = nullptr;
        std::byte* batched = nullptr;
        FactorShape own;   // cell: the largest that divides its blocks
        int64_t cell = 0;  // that it is cut to; 0: not yet
        int64_t largest = 0;
        int num_runs = 0;
        DeviceMemory table, runs;  // CudaFactors, CudaFactorRun
    };
    const int32_t* maps_of(int64_t dim, int64_t b, int64_t m);

    CudaDevice& device_;
    const ModelConfig& config_;
    Spares<DeviceMemory> spares_;
    std::map<AdapterId, Placed> placed_;
    std::map<std::tuple<int64_t, int64_t, int64_t>, DeviceMemory> maps_;
};

extern template class DeviceFactors<float>;
extern template class DeviceFactors<bf16>;
extern template class DeviceFactors<f16>;

}  // namespace spartan
