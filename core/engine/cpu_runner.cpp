#include "core/base/text.h"
#include "core/engine/common_block.h"
#include "core/engine/cpu_merger.h"
#include "core/engine/model_runner.h"
#include "core/engine/transformer.h"
#include "kernels/device_memory_error.h"
#include "kernels/memory.h"
#include "kernels/rounding.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <new>
#include <numeric>
#include <optional>
#include <thread>
#include <utility>

namespace spartan {
namespace {

std::vector<int32_t> index_parts(const Adapter& adapter, int64_t num_layers) {
    std::vector<int32_t> index(size_t(num_layers * kNumProjections), -1);
    for (size_t i = 0; i < adapter.parts.size(); ++i) {
        const AdapterPart& part = adapter.parts[i];
        CHECK(part.layer >= 0 && part.layer < num_layers);
        index[size_t(part.layer * kNumProjections + int(part.projection))] = int32_t(i);
    }
    return index;
}

std::vector<const float*> index_norms(const Adapter& adapter, const std::byte* data, int64_t num_layers) {
    if (adapter.norms.empty()) return {};
    std::vector<const float*> index(size_t(num_layers * kNumNormRoles), nullptr);
    for (const NormPart& norm : adapter.norms) {
        CHECK(norm.layer >= 0 && norm.layer < num_layers);
        index[size_t(norm.layer * kNumNormRoles + int(norm.role))] = reinterpret_cast<const float*>(data + norm.weight);
    }
    return index;
}

template <class T>
class CpuRunner final : public ModelRunner {
public:
    CpuRunner(std::shared_ptr<const Model> model, const RunnerLimits& limits, Memory pool)
        : model_(std::move(model)),
          device_(limits.threads),
          pool_(std::move(pool)),
          page_bytes_(page_bytes_of(*model_, limits.block_tokens)),
          transformer_(device_, model_->config(), weights(), layout(limits.block_tokens), limits.max_tokens,
                       limits.strategy) {
        if (limits.strategy == AdapterStrategy::merged)
            merger_ = std::make_unique<CpuMerger<T>>(weights(), merged_copy_bytes(*model_, limits.strategy));
        for (const LayerWeights<T>& layer : weights().layers) {
            for (const auto& w : layer.projection) layer_bytes_ += w.bytes();
            for (const auto& b : layer.bias) layer_bytes_ += int64_t(b.size() * sizeof(float));
            layer_bytes_ += int64_t(
                (layer.attention_norm.size() + layer.mlp_norm.size() + layer.q_norm.size() + layer.k_norm.size()) *
                sizeof(float));
        }
    }

    void forward(const Batch& batch, const KeepGoing& keep_going, const HeadLogits& logits,
                 ForwardResult& result) override {
        result.times = {};
        result.bytes = {};
        result.passes = 1;
        if (const auto fault = std::exchange(fault_, std::nullopt)) fail_as(*fault);
        placed_of_segment_.clear();
        for (const AdapterSegment& s : batch.segments)
            placed_of_segment_.push_back(s.adapter == AdapterId::base ? nullptr : &placed_.at(s.adapter));
        batch_factors(result);
        if (merger_) {
            CHECK(batch.segments.size() == 1 && batch.segments[0].adapter == merged_);
            transformer_.set_merged(merger_->weights());
        }
        transformer_.forward(batch, placed_of_segment_, reinterpret_cast<T*>(pool_.get()), keep_going, logits, result);
        to_microseconds(result.times);
        count_bytes(batch, result.bytes);
    }

    Result<std::shared_ptr<const HostAdapter>> host_adapter(std::shared_ptr<const Adapter> adapter) const override {
        if (!adapter->skew.empty()) {
            TRY_ASSIGN(folded, fold_rotations(*adapter, Progress()));
            adapter = std::move(folded);
        }
        return std::make_shared<const HostAdapter>(std::move(adapter));
    }
    void load_adapter(AdapterId id, PageRun run, std::shared_ptr<const HostAdapter> host) override {
        const auto begin = std::chrono::steady_clock::now();
        std::shared_ptr<const Adapter> adapter = host->adapter;
        CHECK(int64_t(adapter->blob.size()) <= run.count * page_bytes_);
        std::byte* data = pool_.get() + run.first * page_bytes_;
        std::memcpy(data, adapter->blob.data(), adapter->blob.size());
        std::vector<int32_t> index = index_parts(*adapter, model_->config().num_layers);
        std::vector<const float*> norms = index_norms(*adapter, data, model_->config().num_layers);
        placed_[id] = {data, std::move(adapter), std::move(index), std::move(norms)};
        const auto took = std::chrono::steady_clock::now() - begin;
        arrivals_.push_back({id, begin, std::chrono::duration_cast<std::chrono::microseconds>(took).count()});
    }

    std::vector<AdapterArrival> take_arrivals() override { return std::exchange(arrivals_, {}); }

    void drop_adapter(AdapterId id) override {
        placed_.erase(id);
        if (id != merged_) return;
        merged_ = AdapterId::base;
        merger_->unmerge();
    }

    void place_batched(AdapterId id, PageRun run) override {
        PlacedAdapter& placed = placed_.at(id);
        CHECK(placed.adapter->factor_bytes <= run.count * page_bytes_);
        placed.batched = pool_.get() + run.first * page_bytes_;
        placed.cell = 0;
    }

    int64_t merge(AdapterId id, const KeepGoing& keep_going) override {
        if (id == merged_) return 0;
        merged_ = AdapterId::base;
        merger_->unmerge();
        if (id == AdapterId::base) return 0;
        const int64_t written = merger_->merge(device_, *placed_.at(id).adapter, keep_going);
        if (written >= 0) merged_ = id;
        return written;
    }

    void fill_pages(PageRun run, std::byte value) override {
        std::memset(pool_.get() + run.first * page_bytes_, int(value), size_t(run.count * page_bytes_));
    }

    int64_t workspace_bytes() const override {
        return transformer_.workspace_bytes() + (merger_ ? merger_->bytes() : 0);
    }

    void cause_fault(Fault fault) override { fault_ = fault; }

private:
    const Weights<T>& weights() const { return std::get<Weights<T>>(model_->weights); }
    KvLayout layout(int64_t block_tokens) const {
        const ModelConfig& c = model_->config();
        return {c.num_heads, c.num_kv_heads, c.head_dim, block_tokens};
    }

    // common_block: cuts what the batch's adapters brought to the size that they have in common. Those that were cut to
    // it for an earlier batch, and have run since, lie there still.
    void batch_factors(ForwardResult& result) {
        result.common_block = 0;
        for (const PlacedAdapter* placed : placed_of_segment_)
            if (placed) result.common_block = std::gcd(result.common_block, common_block_of(*placed->adapter));
        transformer_.set_cell(result.common_block);
        PhaseClock clock;
        clock.start();
        for (auto& entry : placed_) {
            PlacedAdapter& placed = entry.second;
            const bool used =
                std::find(placed_of_segment_.begin(), placed_of_segment_.end(), &placed) != placed_of_segment_.end();
            if (!used || placed.adapter->factor_bytes == 0 || placed.cell == result.common_block) continue;
            CHECK(placed.batched);
            for_each_factor_run(*placed.adapter, [&](int64_t offset, int64_t count, int64_t block) {
                cut_blocks(device_, reinterpret_cast<T*>(placed.batched + offset), placed.template at<T>(offset), count,
                           block, result.common_block);
            });
            placed.cell = result.common_block;
            result.bytes.staging += placed.adapter->factor_bytes;
        }
        clock.mark(result.times.transfer);
    }

    static void to_microseconds(StepTimes& t) {
        for (int64_t* phase :
             {&t.transfer, &t.rotate, &t.lora, &t.products, &t.attention, &t.other, &t.head, &t.sample})
            *phase = (*phase + 500) / 1000;
    }

    static void fail_as(Fault fault) {
        if (fault == Fault::stall) std::this_thread::sleep_for(std::chrono::seconds(kStallSeconds));
        if (fault == Fault::device_lost) throw DeviceError("the device is lost, as a test wanted it");
        if (fault == Fault::out_of_memory) throw OutOfDeviceMemory("no memory, as a test wanted it");
    }

    void count_bytes(const Batch& batch, StepBytes& bytes) const {
        const ModelConfig& c = model_->config();
        bytes.weights = layer_bytes_ + batch.num_rows() * c.hidden_size * int64_t(sizeof(T));
        if (!batch.heads.empty()) bytes.weights += weights().output().bytes() + c.hidden_size * int64_t(sizeof(float));
        for (const PlacedAdapter* placed : placed_of_segment_)
            if (placed)
                bytes.adapters +=
                    merger_ ? bytes_beside_merged(*placed->adapter) : int64_t(placed->adapter->blob.size());
        bytes.kv = kv_tokens_read(batch, c) * 2 * c.kv_size() * int64_t(sizeof(T));
    }

    std::shared_ptr<const Model> model_;
    CpuDevice device_;
    Memory pool_;
    int64_t page_bytes_;
    Transformer<CpuDevice, T> transformer_;
    std::map<AdapterId, PlacedAdapter> placed_;
    std::vector<AdapterArrival> arrivals_;
    std::vector<const PlacedAdapter*> placed_of_segment_;
    std::unique_ptr<CpuMerger<T>> merger_;  // with `merged`
    AdapterId merged_ = AdapterId::base;
    int64_t layer_bytes_ = 0;
    std::optional<Fault> fault_;  // of the next step
};

}  // namespace

int64_t kv_tokens_read(const Batch& batch, const ModelConfig& config) {
    int64_t all = 0;
    for (int64_t layer = 0; layer < config.num_layers; ++layer) {
        all += batch.context_tokens;
        const int64_t window = config.window_of(layer);
        for (const BatchSequence& s : batch.sequences)
            if (window > 0) all -= std::max<int64_t>(0, s.first_position + 1 - window);  // behind the first row's
    }
    return all;
}

int64_t page_bytes_of(const Model& model, int64_t block_tokens) {
    return 2 * model.config().kv_size() * block_tokens * size_of(model.dtype);
}

int32_t adapter_pages_of(const Adapter& adapter, int64_t page_bytes) {
    return int32_t(divide_up(adapter.bytes(), page_bytes));
}

int32_t batched_pages_of(const Adapter& adapter, int64_t page_bytes) {
    return int32_t(divide_up(adapter.factor_bytes, page_bytes));
}

Result<std::unique_ptr<ModelRunner>> make_cpu_runner(std::shared_ptr<const Model> model, const RunnerLimits& limits) {
    if (model->dtype == DType::f16) return f16_on_cpu();
    // Adapter parts are 64-byte aligned within their blob, so pages have to be as well.
    const int64_t page_bytes = page_bytes_of(*model, limits.block_tokens);
    CHECK(page_bytes % 64 == 0);
    const int64_t bytes = page_bytes * limits.total_pages;
    Memory pool = allocate_memory(bytes);
    if (!pool) return Error{"", "pool_bytes", format_bytes(bytes), "as much memory as the system grants"};
    try {
        if (model->dtype == DType::f32)
            return std::unique_ptr<ModelRunner>(std::make_unique<CpuRunner<float>>(model, limits, std::move(pool)));
        return std::unique_ptr<ModelRunner>(std::make_unique<CpuRunner<bf16>>(model, limits, std::move(pool)));
    } catch (const std::bad_alloc&) {
        return Error{"", "max_batch_tokens", std::to_string(limits.max_tokens), "a workspace that fits into memory"};
    }
}

}  // namespace spartan
