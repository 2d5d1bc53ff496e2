#include "core/engine/cuda/step_tables.h"

#include "kernels/check.h"
#include "kernels/cuda/fetch.h"
#include "kernels/device_memory_error.h"
#include "kernels/rounding.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace spartan {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kLeastBytes = 1 << 20;

template <class T>
int64_t bytes_of(const T*, int64_t count) {
    const auto size = int64_t(sizeof(T));  // NOLINT(bugprone-sizeof-expression): there are tables of pointers
    return round_up(count * size, kAlignment);
}

// The same tables on the host, to be written.
template <class T>
T* writable(const T* p) {
    return const_cast<T*>(p);
}

}  // namespace

StepTables::StepTables(CudaDevice& device, int64_t num_layers, bool row_by_row)
    : device_(device), num_layers_(num_layers), row_by_row_(row_by_row), memory_(kLeastBytes) {
    for (PinnedMemory& host : hosts_) host = PinnedMemory(kLeastBytes);
}

template <class Visit>
void StepTables::visit(StepView& v, const StepShape& s, int64_t num_layers, const Visit& table) {
    table(v.ids, s.rows);
    table(v.rows, s.rows);
    table(v.sequences, s.sequences);
    table(v.block_tables, num_layers * s.sequences * s.max_blocks);
    table(v.tiles, s.tiles);
    table(v.decode, s.attention.decode_items);
    table(v.prefill, s.attention.prefill_items);
    table(v.item_counts, 2);
    table(v.head_rows, s.heads);
    table(v.sampling, s.heads);
    if (s.norms) table(v.norms, num_layers * kNumNormRoles * s.tiles);
    if (s.embeddings) table(v.embeddings, s.tiles);
    if (s.output_heads) table(v.output_heads, s.tiles);
}

const StepTables::Plan& StepTables::plan(const Batch& batch, std::span<const DeviceAdapter* const> adapters) {
    CHECK(adapters.size() == batch.segments.size());
    plan_.tiles.clear();
    plan_.adapter_of_tile.clear();
    plan_.tile_of_row.clear();
    for (size_t i = 0; i < adapters.size(); ++i) {
        const AdapterSegment& s = batch.segments[i];
        for (int32_t begin = s.row_begin; begin < s.row_end; begin += kTileRows) {
            const int32_t rows = std::min<int32_t>(kTileRows, s.row_end - begin);
            plan_.tile_of_row.insert(plan_.tile_of_row.end(), size_t(rows), int32_t(plan_.tiles.size()));
            plan_.tiles.push_back({adapters[i] ? adapters[i]->parts : nullptr, begin, rows});
            plan_.adapter_of_tile.push_back(adapters[i]);
        }
    }
    plan_.sequences.clear();
    plan_.max_blocks = 1;
    plan_.decode_only = true;
    for (const BatchSequence& s : batch.sequences) {
        const auto table = int32_t(plan_.sequences.size());
        plan_.sequences.push_back({s.row_begin, s.row_end - s.row_begin, s.first_position, table});
        plan_.max_blocks = std::max(plan_.max_blocks, int64_t((*s.block_tables)[0].size()));
        plan_.decode_only &= s.row_end - s.row_begin == 1;
    }
    plan_attention(plan_.sequences, plan_.attention, row_by_row_);
    return plan_;
}

StepView StepTables::view(const StepShape& shape) const {
    StepView v;
    const std::byte* at = memory_.data();
    visit(v, shape, num_layers_, [&]<class T>(const T*& table, int64_t count) {
        table = reinterpret_cast<const T*>(at);
        at += bytes_of(table, count);
    });
    return v;
}

bool StepTables::send(const Batch& batch, const StepShape& shape, bool beside_copies) {
    int64_t bytes = 0;
    StepView sizes;
    visit(sizes, shape, num_layers_, [&](auto* table, int64_t count) { bytes += bytes_of(table, count); });
    const bool fits = bytes <= memory_.bytes();
    if (!fits) grow(bytes);
    filled_ = 1 - filled_;
    std::byte* host = hosts_[filled_].data();
    std::memset(host, 0, size_t(bytes));
    fill(batch, shape);
    if (beside_copies)
        fetch(device_, memory_.data(), host, bytes);
    else
        CHECK_CUDA(cudaMemcpyAsync(memory_.data(), host, size_t(bytes), cudaMemcpyHostToDevice, device_.stream()));
    return fits;
}

// Twice as much as is needed now, so that it seldom happens; where that is refused, just enough in the old one's place.
void StepTables::grow(int64_t bytes) {
    device_.synchronize();  // a step in flight reads them
    try {
        PinnedMemory host(2 * bytes), other(2 * bytes);
        memory_ = DeviceMemory(2 * bytes);
        hosts_[0] = std::move(host);
        hosts_[1] = std::move(other);
    } catch (const OutOfDeviceMemory&) {
        memory_ = {};
        for (PinnedMemory& host : hosts_) host = PinnedMemory(bytes);
        memory_ = DeviceMemory(bytes);
    }
}

void StepTables::fill(const Batch& batch, const StepShape& shape) {
    const StepView on_device = view(shape);
    const std::byte* const filled = hosts_[filled_].data();
    const auto host = [&]<class T>(const T* device) {
        return writable(
            reinterpret_cast<const T*>(filled + (reinterpret_cast<const std::byte*>(device) - memory_.data())));
    };
    const auto copy = [&]<class T>(const T* to, const std::vector<T>& from, int64_t room) {
        CHECK(int64_t(from.size()) <= room);
        if (!from.empty()) std::memcpy(host(to), from.data(), from.size() * sizeof(T));
    };
    copy(on_device.ids, batch.ids, shape.rows);
    copy(on_device.sequences, plan_.sequences, shape.sequences);
    copy(on_device.tiles, plan_.tiles, shape.tiles);
    copy(on_device.decode, plan_.attention.decode, shape.attention.decode_items);
    copy(on_device.prefill, plan_.attention.prefill, shape.attention.prefill_items);
    int32_t* counts = host(on_device.item_counts);
    counts[0] = int32_t(plan_.attention.decode.size());
    counts[1] = int32_t(plan_.attention.prefill.size());

    CudaRow* rows = host(on_device.rows);
    std::fill_n(rows, shape.rows, CudaRow{});
    for (size_t s = 0; s < plan_.sequences.size(); ++s) {
        const CudaSequence& sequence = plan_.sequences[s];
        for (int32_t i = 0; i < sequence.rows; ++i) {
            const int32_t row = sequence.row_begin + i;
            rows[row] = {sequence.first_position + i, int32_t(s), plan_.tile_of_row[size_t(row)]};
        }
    }
    int32_t* blocks = host(on_device.block_tables);
    for (int64_t layer = 0; layer < num_layers_; ++layer)
        for (size_t s = 0; s < batch.sequences.size(); ++s) {
            const std::vector<int32_t>& pages = (*batch.sequences[s].block_tables)[size_t(layer)];
            std::copy(pages.begin(), pages.end(), blocks + (layer * shape.sequences + int64_t(s)) * shape.max_blocks);
        }
    CHECK(int64_t(batch.heads.size()) <= shape.heads);
    int32_t* head_rows = host(on_device.head_rows);
    CudaSampleParams* sampling = host(on_device.sampling);
    for (size_t i = 0; i < batch.heads.size(); ++i) {
        const HeadRow& head = batch.heads[i];
        const SampleParams& p = batch.sampling[size_t(head.sequence)];
        head_rows[i] = head.row;
        sampling[i] = {p.seed,        batch.sample_position[size_t(head.sequence)],
                       p.temperature, p.top_p,
                       p.top_k,       head.sample && !*batch.sequences[size_t(head.sequence)].over};
    }
    for (size_t tile = 0; tile < plan_.tiles.size(); ++tile) {
        const DeviceAdapter* adapter = plan_.adapter_of_tile[tile];
        if (adapter && shape.embeddings) host(on_device.embeddings)[tile] = adapter->embedding;
        if (adapter && shape.output_heads) host(on_device.output_heads)[tile] = adapter->head;
    }
    if (!shape.norms) return;
    const float** norms = host(on_device.norms);
    for (size_t tile = 0; tile < plan_.tiles.size(); ++tile)
        if (const DeviceAdapter* adapter = plan_.adapter_of_tile[tile])
            for (const NormPart& norm : adapter->adapter->norms)
                norms[(norm.layer * kNumNormRoles + int64_t(norm.role)) * shape.tiles + int64_t(tile)] =
                    reinterpret_cast<const float*>(adapter->data + norm.weight);
}

}  // namespace spartan
