#include "core/engine/cuda/strategy_factors.h"

#include "core/engine/common_block.h"
#include "kernels/check.h"

#include <numeric>
#include <vector>

namespace spartan {
namespace {

// From memory that is pageable, so that it has been read when this returns.
template <class V>
void send(CudaDevice& device, std::byte* to, const std::vector<V>& from) {
    if (from.empty()) return;
    CHECK_CUDA(cudaMemcpyAsync(to, from.data(), from.size() * sizeof(V), cudaMemcpyHostToDevice, device.stream()));
}

}  // namespace

template <class T>
const CudaFactors* DeviceFactors<T>::add(AdapterId id, std::shared_ptr<const Adapter> adapter, const std::byte* blob) {
    if (adapter->factor_bytes == 0) return nullptr;
    Placed placed;
    placed.own.cell = common_block_of(*adapter);
    for (const AdapterPart& part : adapter->parts) {
        int32_t& most = placed.own.most[size_t(part.projection)];
        if (part.factors >= 0) most = std::max(most, int32_t(part.num_factors));
    }
    for_each_factor_run(*adapter, [&](int64_t, int64_t count, int64_t block) {
        ++placed.num_runs;
        placed.largest = std::max(placed.largest, count * block * block);
    });
    placed.table = spares_.take(config_.num_layers * kNumProjections * int64_t(sizeof(CudaFactors)));
    placed.runs = spares_.take(placed.num_runs * int64_t(sizeof(CudaFactorRun)));
    // Until place(): no factors.
    CHECK_CUDA(cudaMemsetAsync(placed.table.data(), 0, size_t(placed.table.bytes()), device_.stream()));
    placed.adapter = std::move(adapter);
    placed.blob = blob;
    return placed_.insert_or_assign(id, std::move(placed)).first->second.table.template as<CudaFactors>();
}

template <class T>
void DeviceFactors<T>::drop(AdapterId id) {
    const auto it = placed_.find(id);
    if (it == placed_.end()) return;
    spares_.give(std::move(it->second.table));
    spares_.give(std::move(it->second.runs));
    placed_.erase(it);
}

template <class T>
const int32_t* DeviceFactors<T>::maps_of(int64_t dim, int64_t b, int64_t m) {
    if (m < 2) return nullptr;
    DeviceMemory& memory = maps_[{dim, b, m}];
    if (memory.bytes() == 0) {
        std::vector<int32_t> maps;
        for (int64_t factor = 1; factor < m; ++factor) {
            const std::vector<int32_t> map = factor_map(dim, b, factor);
            maps.insert(maps.end(), map.begin(), map.end());
        }
        memory = DeviceMemory(int64_t(maps.size() * sizeof(int32_t)));
        send(device_, memory.data(), maps);
    }
    return memory.as<int32_t>();
}

template <class T>
void DeviceFactors<T>::place(AdapterId id, std::byte* batched) {
    Placed& placed = placed_.at(id);
    placed.batched = batched;
    placed.cell = 0;
    std::vector<CudaFactors> table(size_t(config_.num_layers) * kNumProjections);
    for (const AdapterPart& part : placed.adapter->parts) {
        if (part.factors < 0) continue;
        table[size_t(part.layer) * kNumProjections + size_t(part.projection)] = {
            batched + part.factors, maps_of(part.in, part.block_size, part.num_factors), int32_t(part.block_size),
            int32_t(part.num_factors)};
    }
    std::vector<CudaFactorRun> runs;
    for_each_factor_run(*placed.adapter, [&](int64_t offset, int64_t count, int64_t block) {
        runs.push_back({placed.blob + offset, batched + offset, int32_t(count), int32_t(block)});
    });
    send(device_, placed.table.data(), table);
    send(device_, placed.runs.data(), runs);
}

template <class T>
int64_t DeviceFactors<T>::batch(std::span<const AdapterSegment> segments, FactorShape& shape) {
    shape = {};
    std::vector<Placed*> used;
    for (const AdapterSegment& s : segments) {
        const auto it = placed_.find(s.adapter);
        if (it == placed_.end()) continue;
        Placed& placed = it->second;
        CHECK(placed.batched);
        used.push_back(&placed);
        shape.cell = std::gcd(shape.cell, placed.own.cell);
        for (size_t p = 0; p < shape.most.size(); ++p) shape.most[p] = std::max(shape.most[p], placed.own.most[p]);
    }
    int64_t written = 0;
    for (Placed* placed : used) {
        if (placed->cell == shape.cell) continue;
        cut_blocks<T>(device_, placed->runs.template as<CudaFactorRun>(), placed->num_runs, placed->largest,
                      shape.cell);
        placed->cell = shape.cell;
        written += placed->adapter->factor_bytes;
    }
    return written;
}

template class DeviceFactors<float>;
template class DeviceFactors<bf16>;
template class DeviceFactors<f16>;

}  // namespace spartan
