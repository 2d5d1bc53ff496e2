#include "core/engine/cuda/device_adapters.h"

#include "kernels/check.h"
#include "kernels/cuda/block_sparse.h"
#include "kernels/rounding.h"

#include <algorithm>
#include <cmath>
#include <cstring>
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

CudaTable table_at(const TablePart& table, const std::byte* data) {
    CudaTable placed;
    placed.part = part_at(table.part, data);
    if (table.copy >= 0) placed.copy = data + table.copy;
    if (table.token_rows >= 0) {
        placed.num_tokens = int32_t(table.tokens.size());
        placed.token_rows = data + table.token_rows;
    }
    return placed;
}

// Jobs that an adapter's rotations may be cut into: a whole one each, and one more wherever a piece ends. Pieces are of
// 1 MB or more, and a linear layer's skew halves of at most 1 KB an input.
int64_t most_folds(const ModelConfig& config) {
    int64_t jobs = 0;
    for (int p = 0; p < kNumProjections; ++p) jobs += 2 + (in_features(config, Projection(p)) >> 10);
    return config.num_layers * jobs;
}

}  // namespace

template <class T>
DeviceAdapters<T>::DeviceAdapters(CudaDevice& device, const ModelConfig& config, AdapterStrategy strategy)
    : device_(device),
      copies_(device.ordinal(), StreamPriority::low),
      folds_(device.ordinal(), StreamPriority::low),
      config_(config),
      strategy_(strategy),
      parts_bytes_(round_up(config.num_layers * kNumProjections * int64_t(sizeof(CudaPart)), 64)),
      packs_bytes_(round_up(config.num_layers * kNumProjections * int64_t(sizeof(PackJob<T>)), 64)),
      folds_bytes_(round_up(most_folds(config) * int64_t(sizeof(FoldJob)), 64)),
      slot_bytes_(parts_bytes_ + packs_bytes_ + folds_bytes_),
      staging_(int64_t(kPieces) * kPieceBytes),
      scratch_(kScratchBytes) {
    copies_.set_overlap_launches(false);
    folds_.set_overlap_launches(false);
    for (cudaEvent_t* event : {&given_, &copied_}) CHECK_CUDA(cudaEventCreateWithFlags(event, cudaEventDisableTiming));
    for (Staging& staging : stagings_)
        for (cudaEvent_t* event : {&staging.copied, &staging.folded})
            CHECK_CUDA(cudaEventCreateWithFlags(event, cudaEventDisableTiming));
    CHECK_CUDA(cudaEventCreate(&anchor_));
    add_slab();
}

template <class T>
DeviceAdapters<T>::~DeviceAdapters() {
    cudaStreamSynchronize(copies_.stream());
    cudaStreamSynchronize(folds_.stream());
    for (const Slot& slot : slots_)
        for (const cudaEvent_t event : {slot.begin, slot.end})
            if (event) cudaEventDestroy(event);
    for (const Staging& staging : stagings_)
        for (const cudaEvent_t event : {staging.copied, staging.folded})
            if (event) cudaEventDestroy(event);
    for (const cudaEvent_t event : {given_, copied_, anchor_})
        if (event) cudaEventDestroy(event);
}

template <class T>
void DeviceAdapters<T>::add_slab() {
    DeviceMemory on_device(int64_t(kSlotsOfSlab) * slot_bytes_);
    PinnedMemory from(int64_t(kSlotsOfSlab) * slot_bytes_);
    slabs_.push_back(std::move(on_device));
    slabs_from_.push_back(std::move(from));
    for (size_t i = 0; i < kSlotsOfSlab; ++i) {
        const auto at = int64_t(i) * slot_bytes_;
        Slot& slot = slots_.emplace_back(Slot{slabs_from_.back().data() + at, slabs_.back().data() + at});
        CHECK_CUDA(cudaEventCreate(&slot.begin));
        CHECK_CUDA(cudaEventCreate(&slot.end));
    }
    for (size_t i = kSlotsOfSlab; i-- > 0;) free_slots_.push_back(slots_.size() - kSlotsOfSlab + i);
}

template <class T>
size_t DeviceAdapters<T>::take_slot() {
    if (free_slots_.empty()) add_slab();
    const size_t slot = free_slots_.back();
    free_slots_.pop_back();
    return slot;
}

template <class T>
CudaPart DeviceAdapters<T>::place_part(const AdapterPart& part, std::byte* data, std::vector<PackJob<T>>& jobs,
                                       AdapterNeeds& needs) {
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
    // Where the last item would be padded, the packed form would not fit into the blob's place.
    const int64_t bytes = part.in * part.group * int64_t(sizeof(T));
    const bool packed = is_served_packed(part.in, part.group, dtype_of<T>) && (part.skew >= 0 || bytes <= kPackBytes);
    if (packed) {
        placed.rotation_packed = 1;
        needs.max_group = std::max(needs.max_group, int(part.group));
        if (part.skew >= 0) return placed;
        jobs.push_back({nullptr, reinterpret_cast<T*>(data + part.rotation), int32_t(part.in), int32_t(part.group)});
    } else {
        needs.plain_rotations |= bit;
    }
    return placed;
}

// Room for the adapter's own embedding and head, and what is to be copied there.
template <class T>
void DeviceAdapters<T>::plan_tables(DeviceAdapter& placed) {
    const Adapter& adapter = *placed.adapter;
    const std::optional<TablePart>* sources[] = {&adapter.embedding, &adapter.head};
    const CudaTable** places[] = {&placed.embedding, &placed.head};
    int64_t bytes = 0;
    const auto ids_bytes = [](const TablePart& t) { return int64_t(t.tokens.size() * sizeof(int32_t)); };
    for (const auto* source : sources)
        if (*source) bytes += int64_t(sizeof(CudaTable)) + round_up(ids_bytes(**source), 16);
    if (bytes == 0) return;
    placed.tables = spare_tables_.take(bytes);
    placed.tables_from = spare_tables_from_.take(bytes);
    placed.tables_bytes = bytes;
    int64_t at = 0;
    for (size_t i = 0; i < std::size(sources); ++i) {
        if (!*sources[i]) continue;
        const TablePart& source = **sources[i];
        CudaTable table = table_at(source, placed.data);
        const auto ids = at + int64_t(sizeof table);
        if (table.token_rows) {
            table.tokens = reinterpret_cast<const int32_t*>(placed.tables.data() + ids);
            std::memcpy(placed.tables_from.data() + ids, source.tokens.data(), size_t(ids_bytes(source)));
        }
        std::memcpy(placed.tables_from.data() + at, &table, sizeof table);
        *places[i] = reinterpret_cast<const CudaTable*>(placed.tables.data() + at);
        if (i == 1) placed.head_copy = table.copy;
        at = ids + round_up(ids_bytes(source), 16);
    }
}

// Cuts the rotations that are to be packed into runs that lie within kPackBytes of the blob, where each will be
// read.
template <class T>
std::vector<typename DeviceAdapters<T>::PackRun> DeviceAdapters<T>::plan_packing(std::vector<PackJob<T>>& jobs) const {
    std::sort(jobs.begin(), jobs.end(), [](const PackJob<T>& a, const PackJob<T>& b) { return a.packed < b.packed; });
    constexpr auto kValueBytes = int64_t(sizeof(T));
    std::vector<PackRun> runs;
    for (PackJob<T>& job : jobs) {
        const int64_t values = int64_t(job.dim) * job.group;
        const bool fits = !runs.empty() && (job.packed + values - runs.back().from) * kValueBytes <= kPackBytes;
        if (!fits) runs.push_back({job.packed, 0, 0, 0});
        PackRun& run = runs.back();
        job.r = staging_.as<T>() + (job.packed - run.from);
        run.bytes = (job.packed + values - run.from) * kValueBytes;
        run.most_items = std::max(run.most_items, packed_rotation_items(job.dim, job.group));
        ++run.jobs;
    }
    return runs;
}

// Turns rotations that lie in the pool as in the blob into the kernels' order.
template <class T>
void DeviceAdapters<T>::pack(const Slot& slot, const std::vector<PackRun>& runs) {
    const auto* jobs = reinterpret_cast<const PackJob<T>*>(slot.device + parts_bytes_);
    if (!runs.empty())  // the memory between may hold what earlier adapters are folded from
        for (const Staging& staging : stagings_) CHECK_CUDA(cudaStreamWaitEvent(copies_.stream(), staging.folded));
    for (const PackRun& run : runs) {
        CHECK_CUDA(
            cudaMemcpyAsync(staging_.data(), run.from, size_t(run.bytes), cudaMemcpyDeviceToDevice, copies_.stream()));
        if constexpr (is_16_bit<T>) pack_rotations(copies_, jobs, run.jobs, run.most_items);  // no others are packed
        jobs += run.jobs;
    }
}

// Jobs in the slot, with the places of their pieces in the staging memory: those that fold() will take.
template <class T>
void DeviceAdapters<T>::place_jobs(const Slot& slot, FoldPlan& plan) const {
    CHECK(int64_t(plan.jobs.size() * sizeof(FoldJob)) <= folds_bytes_);
    size_t staging = next_staging_;
    for (const FoldPiece& piece : plan.pieces) {
        const std::byte* skew = staging_.data() + int64_t(staging) * kPieceBytes;
        for (const FoldRun& run : piece.runs)
            for (int i = run.first; i < run.first + run.count; ++i) {
                FoldJob& job = plan.jobs[size_t(i)];
                job.skew = skew + reinterpret_cast<intptr_t>(job.skew);
                if (piece.scratch_bytes > 0)
                    job.factors = reinterpret_cast<float*>(scratch_.data() + reinterpret_cast<intptr_t>(job.factors));
            }
        staging = (staging + 1) % kPieces;
    }
    if (!plan.jobs.empty())
        std::memcpy(slot.host + parts_bytes_ + packs_bytes_, plan.jobs.data(), plan.jobs.size() * sizeof(FoldJob));
}

// Copies the pieces one after another and folds each as soon as it is there. The folding stream then waits for all
// that was copied.
template <class T>
void DeviceAdapters<T>::fold(const Slot& slot, const FoldPlan& plan, const PinnedAdapter& from) {
    const auto* jobs = reinterpret_cast<const FoldJob*>(slot.device + parts_bytes_ + packs_bytes_);
    for (const FoldPiece& piece : plan.pieces) {
        const Staging& staging = stagings_[next_staging_];
        std::byte* to = staging_.data() + int64_t(next_staging_) * kPieceBytes;
        next_staging_ = (next_staging_ + 1) % kPieces;
        CHECK_CUDA(cudaStreamWaitEvent(copies_.stream(), staging.folded));
        from.copy_skew_to(to, piece.begin, piece.bytes, copies_.stream());
        CHECK_CUDA(cudaEventRecord(staging.copied, copies_.stream()));
        CHECK_CUDA(cudaStreamWaitEvent(folds_.stream(), staging.copied));
        for (const FoldRun& run : piece.runs) fold_rotations<T>(folds_, jobs + run.first, run.count, run.shape);
        CHECK_CUDA(cudaEventRecord(staging.folded, folds_.stream()));
    }
}

template <class T>
void DeviceAdapters<T>::load(AdapterId id, std::byte* data, std::shared_ptr<const HostAdapter> host,
                             const CudaFactors* factors) {
    CHECK(!placed_.contains(id));
    const auto* pinned = dynamic_cast<const PinnedAdapter*>(host.get());
    CHECK(pinned);
    DeviceAdapter placed;
    placed.adapter = host->adapter;
    placed.host = std::move(host);
    placed.data = data;
    const Adapter& adapter = *placed.adapter;
    plan_tables(placed);
    placed.slot = take_slot();
    const Slot& slot = slots_[placed.slot];
    std::vector<PackJob<T>> jobs;
    auto* parts = reinterpret_cast<CudaPart*>(slot.host);
    std::fill_n(parts, config_.num_layers * kNumProjections, CudaPart{});
    for (const AdapterPart& part : adapter.parts) {
        CHECK(part.layer >= 0 && part.layer < config_.num_layers);
        const int64_t index = part.layer * kNumProjections + int(part.projection);
        parts[index] = place_part(part, data, jobs, placed.needs);
        if (part.factors >= 0) parts[index].factors = factors + index;
    }
    const std::vector<PackRun> runs = plan_packing(jobs);
    FoldPlan folds = plan_folds(adapter, data, strategy_ != AdapterStrategy::merged, kPieceBytes, kScratchBytes);
    place_jobs(slot, folds);
    if (!jobs.empty()) std::memcpy(slot.host + parts_bytes_, jobs.data(), jobs.size() * sizeof(PackJob<T>));
    placed.needs.own_norms = !adapter.norms.empty();
    placed.needs.own_embedding = adapter.embedding.has_value();
    placed.needs.own_head = adapter.head.has_value();
    placed.parts = reinterpret_cast<const CudaPart*>(slot.device);

    try {
        begin_moving(placed, runs, folds, *pinned);
    } catch (...) {  // what has begun must not write into pages that are somebody else's by then
        cudaStreamSynchronize(copies_.stream());
        cudaStreamSynchronize(folds_.stream());
        free_slots_.push_back(placed.slot);
        throw;
    }
    placed_.emplace(id, std::move(placed));
    moving_.push_back(id);
}

// Gives all that brings an adapter in to the streams.
template <class T>
void DeviceAdapters<T>::begin_moving(const DeviceAdapter& placed, const std::vector<PackRun>& runs,
                                     const FoldPlan& folds, const PinnedAdapter& pinned) {
    const Slot& slot = slots_[placed.slot];
    const cudaStream_t stream = copies_.stream();
    if (moving_.empty()) {
        anchor_time_ = std::chrono::steady_clock::now();
        CHECK_CUDA(cudaEventRecord(anchor_, stream));
    }
    CHECK_CUDA(cudaEventRecord(given_, device_.stream()));  // may still read what these pages held
    CHECK_CUDA(cudaStreamWaitEvent(stream, given_));
    CHECK_CUDA(cudaEventRecord(slot.begin, stream));
    const auto folds_bytes = int64_t(folds.jobs.size() * sizeof(FoldJob));
    CHECK_CUDA(cudaMemcpyAsync(slot.device, slot.host, size_t(parts_bytes_ + packs_bytes_ + folds_bytes),
                               cudaMemcpyHostToDevice, stream));
    pinned.copy_to(placed.data, stream);
    if (placed.tables_bytes > 0)
        CHECK_CUDA(cudaMemcpyAsync(placed.tables.data(), placed.tables_from.data(), size_t(placed.tables_bytes),
                                   cudaMemcpyHostToDevice, stream));
    pack(slot, runs);
    CHECK_CUDA(cudaEventRecord(copied_, stream));
    fold(slot, folds, pinned);
    CHECK_CUDA(cudaStreamWaitEvent(folds_.stream(), copied_));
    CHECK_CUDA(cudaEventRecord(slot.end, folds_.stream()));
}

template <class T>
std::vector<AdapterArrival> DeviceAdapters<T>::take_arrivals() {
    std::vector<AdapterArrival> arrivals;
    while (!moving_.empty()) {
        const Slot& slot = slots_[placed_.at(moving_.front()).slot];
        const cudaError_t status = cudaEventQuery(slot.end);
        if (status == cudaErrorNotReady) break;
        check_cuda(status, "cudaEventQuery");
        float before_ms = 0, ms = 0;
        CHECK_CUDA(cudaEventElapsedTime(&before_ms, anchor_, slot.begin));
        CHECK_CUDA(cudaEventElapsedTime(&ms, slot.begin, slot.end));
        const std::chrono::microseconds before(std::llround(double(before_ms) * 1e3));
        arrivals.push_back({moving_.front(), anchor_time_ + before, std::llround(double(ms) * 1e3)});
        moving_.pop_front();
    }
    return arrivals;
}

template <class T>
const DeviceAdapter& DeviceAdapters<T>::use(AdapterId id) {
    DeviceAdapter& placed = placed_.at(id);
    if (!placed.awaited) CHECK_CUDA(cudaStreamWaitEvent(device_.stream(), slots_[placed.slot].end));
    placed.awaited = true;
    return placed;
}

template <class T>
void DeviceAdapters<T>::drop(AdapterId id) {
    const auto it = placed_.find(id);
    if (it == placed_.end()) return;
    const auto moving = std::find(moving_.begin(), moving_.end(), id);
    if (moving != moving_.end()) {
        CHECK_CUDA(cudaEventSynchronize(slots_[it->second.slot].end));
        moving_.erase(moving);
    }
    free_slots_.push_back(it->second.slot);
    // A copy into them begins after what the device was given before, as into the pool's pages.
    spare_tables_.give(std::move(it->second.tables));
    spare_tables_from_.give(std::move(it->second.tables_from));
    placed_.erase(it);
}

template class DeviceAdapters<float>;
template class DeviceAdapters<bf16>;
template class DeviceAdapters<f16>;

}  // namespace spartan
