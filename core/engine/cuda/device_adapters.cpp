#include "core/engine/cuda/device_adapters.h"

#include "core/adapter/own_table.h"
#include "kernels/check.h"
#include "kernels/cuda/block_sparse.h"
#include "kernels/cuda/rotate.h"

#include <algorithm>
#include <iterator>

namespace spartan {

void AdapterNeeds::merge(const AdapterNeeds& other) {
    rotations |= other.rotations;
    plain_rotations |= other.plain_rotations;
    low_ranks |= other.low_ranks;
    gains |= other.gains;
    max_group = std::max(max_group, other.max_group);
    max_rank = std::max(max_rank, other.max_rank);
    own_norms |= other.own_norms;
    own_embedding |= other.own_embedding;
    own_head |= other.own_head;
}

namespace {

// As it lies in a blob at `data`.
CudaPart part_at(const AdapterPart& part, const std::byte* data) {
    const auto at = [&](int64_t offset) { return offset < 0 ? nullptr : data + offset; };
    CudaPart placed;
    placed.rotation = at(part.rotation);
    placed.a = at(part.a);
    placed.b_t = at(part.b_t);
    placed.gain = reinterpret_cast<const float*>(at(part.gain));
    placed.bias = reinterpret_cast<const float*>(at(part.bias));
    placed.group = int32_t(part.group);
    placed.rank = int32_t(part.rank);
    placed.scale = part.scale;
    return placed;
}

}  // namespace

template <class T>
DeviceAdapters<T>::DeviceAdapters(CudaDevice& device, const ModelConfig& config, AdapterStrategy strategy)
    : device_(device), config_(config), strategy_(strategy), uploader_(device) {}

template <class T>
CudaPart* DeviceAdapters<T>::table(size_t slot) const {
    const size_t parts = size_t(config_.num_layers) * kNumProjections;
    return slabs_[slot / kSlotsOfSlab].template as<CudaPart>() + slot % kSlotsOfSlab * parts;
}

template <class T>
size_t DeviceAdapters<T>::take_slot() {
    if (free_slots_.empty()) {
        const auto bytes = int64_t(kSlotsOfSlab * sizeof(CudaPart)) * config_.num_layers * kNumProjections;
        slabs_.emplace_back(bytes);
        for (size_t i = kSlotsOfSlab; i-- > 0;) free_slots_.push_back((slabs_.size() - 1) * kSlotsOfSlab + i);
    }
    const size_t slot = free_slots_.back();
    free_slots_.pop_back();
    return slot;
}

// Turns a rotation that lies in the pool as in the blob into the kernels' order, where it has one.
template <class T>
CudaPart DeviceAdapters<T>::place_part(const AdapterPart& part, std::byte* data, AdapterNeeds& needs) {
    const uint32_t bit = 1u << int(part.projection);
    CudaPart placed = part_at(part, data);
    if (strategy_ == AdapterStrategy::merged) {
        CudaPart beside;
        beside.bias = placed.bias;
        if (beside.bias) needs.gains |= bit;
        return beside;
    }
    if (part.a >= 0) {
        needs.low_ranks |= bit;
        needs.max_rank = std::max(needs.max_rank, int(part.rank));
    }
    if (part.gain >= 0 || part.bias >= 0) needs.gains |= bit;
    if (part.rotation < 0) return placed;
    needs.rotations |= bit;
    const int64_t bytes = part.in * part.group * int64_t(sizeof(T));
    // Where the last item would be padded, the packed form would not fit into the blob's place.
    if constexpr (std::is_same_v<T, bf16>) {
        if (packs(part.in, part.group, DType::bf16) && packed_rotation_bytes(part.in, part.group) == bytes) {
            if (staging_.bytes() < bytes) staging_ = DeviceMemory(bytes);
            bf16* raw = staging_.as<bf16>();
            CHECK_CUDA(
                cudaMemcpyAsync(raw, placed.rotation, size_t(bytes), cudaMemcpyDeviceToDevice, device_.stream()));
            pack_rotation<bf16>(device_, reinterpret_cast<bf16*>(data + part.rotation), raw, part.in, part.group);
            placed.rotation_packed = 1;
            needs.max_group = std::max(needs.max_group, int(part.group));
            return placed;
        }
    }
    needs.plain_rotations |= bit;
    return placed;
}

// A table that lies packed for the CPU in the blob, row-major in its place.
template <class T>
void DeviceAdapters<T>::place_rows(std::byte* data, const Adapter& adapter, int64_t offset, int64_t rows) {
    const int64_t cols = config_.hidden_size;
    const OwnTable<T> table(adapter, offset, rows, cols);
    uploader_.copy(data + offset, rows, cols * int64_t(sizeof(T)), [&](int64_t first, int64_t n, std::byte* buffer) {
        unpack_rows(*table.get(), first, n, reinterpret_cast<T*>(buffer));
    });
}

template <class T>
CudaTable DeviceAdapters<T>::place_table(const TablePart& table, const Adapter& adapter, std::byte* data) {
    CudaTable placed;
    placed.part = part_at(table.part, data);
    if (table.copy >= 0) {
        place_rows(data, adapter, table.copy, config_.vocab_size);
        placed.copy = data + table.copy;
    }
    if (table.token_rows >= 0) {
        placed.num_tokens = int32_t(table.tokens.size());
        place_rows(data, adapter, table.token_rows, placed.num_tokens);
        placed.token_rows = data + table.token_rows;
    }
    return placed;
}

template <class T>
void DeviceAdapters<T>::place_tables(DeviceAdapter& placed) {
    const Adapter& adapter = *placed.adapter;
    const std::optional<TablePart>* sources[] = {&adapter.embedding, &adapter.head};
    const CudaTable** places[] = {&placed.embedding, &placed.head};
    int64_t bytes = 0;
    for (const auto* source : sources)
        if (*source) bytes += int64_t(sizeof(CudaTable) + (*source)->tokens.size() * sizeof(int32_t) + 16);
    if (bytes == 0) return;
    placed.tables = DeviceMemory(bytes);
    std::byte* at = placed.tables.data();
    for (size_t i = 0; i < std::size(sources); ++i) {
        if (!*sources[i]) continue;
        const TablePart& source = **sources[i];
        CudaTable table = place_table(source, adapter, placed.data);
        const auto ids = int64_t(source.tokens.size() * sizeof(int32_t));
        if (table.token_rows) table.tokens = reinterpret_cast<const int32_t*>(at + sizeof(CudaTable));
        *places[i] = reinterpret_cast<const CudaTable*>(at);
        uploader_.copy(at, &table, sizeof table);
        uploader_.copy(at + sizeof table, source.tokens.data(), ids);
        at += int64_t(sizeof table) + (ids + 15) / 16 * 16;
        if (i == 1) placed.head_copy = table.copy;
    }
}

template <class T>
void DeviceAdapters<T>::load(AdapterId id, std::byte* data, std::shared_ptr<const Adapter> adapter,
                             const CudaFactors* factors) {
    CHECK(!placed_.contains(id));
    uploader_.copy(data, adapter->blob.data(), int64_t(adapter->blob.size()));
    DeviceAdapter placed;
    placed.adapter = adapter;
    placed.data = data;
    placed.slot = take_slot();
    std::vector<CudaPart> parts(size_t(config_.num_layers) * kNumProjections);
    for (const AdapterPart& part : adapter->parts) {
        CHECK(part.layer >= 0 && part.layer < config_.num_layers);
        const size_t index = size_t(part.layer) * kNumProjections + size_t(part.projection);
        parts[index] = place_part(part, data, placed.needs);
        if (part.factors >= 0) parts[index].factors = factors + index;
    }
    placed.needs.own_norms = !adapter->norms.empty();
    placed.needs.own_embedding = adapter->embedding.has_value();
    placed.needs.own_head = adapter->head.has_value();
    place_tables(placed);
    CudaPart* to = table(placed.slot);
    uploader_.copy(reinterpret_cast<std::byte*>(to), parts.data(), int64_t(parts.size() * sizeof(CudaPart)));
    uploader_.finish();
    placed.parts = to;
    placed_.emplace(id, std::move(placed));
}

template <class T>
void DeviceAdapters<T>::drop(AdapterId id) {
    const auto it = placed_.find(id);
    if (it == placed_.end()) return;
    free_slots_.push_back(it->second.slot);
    placed_.erase(it);
}

template class DeviceAdapters<float>;
template class DeviceAdapters<bf16>;

}  // namespace spartan
