#include "core/engine/cuda/cuda_runner.h"

#include "core/base/text.h"
#include "core/engine/cuda/forward.h"
#include "core/engine/cuda/step_tables.h"
#include "core/engine/cuda/strategy_factors.h"
#include "core/engine/cuda/strategy_merge.h"
#include "core/engine/cuda_backend.h"
#include "core/engine/device_fit.h"
#include "kernels/check.h"
#include "kernels/cuda/follow.h"
#include "kernels/cuda/graph.h"
#include "kernels/cuda/trap.h"
#include "kernels/device_memory_error.h"
#include "kernels/rounding.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <functional>
#include <iterator>
#include <map>
#include <optional>
#include <tuple>
#include <utility>

namespace spartan {
namespace {

// Decode batches are padded to one of these row counts, so that few graphs serve all of them.
constexpr int64_t kRowBuckets[] = {1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256};
constexpr int kMostGraphs = 128;
constexpr int64_t kMostInFlight = 2;  // steps
constexpr int64_t kMoreThanAnyGpu = int64_t(1) << 48;

int64_t bucket_of(int64_t rows) {  // 0: more than any holds
    for (const int64_t bucket : kRowBuckets)
        if (bucket >= rows) return bucket;
    return 0;
}

ForwardLimits limits_of(const ModelConfig& c, const RunnerLimits& l) {
    return {l.max_tokens,      l.block_tokens, std::max<int64_t>(l.total_pages * l.block_tokens / c.num_layers, 1),
            l.batch_invariant, l.plan_file,    l.strategy == AdapterStrategy::common_block};
}

int64_t most_rank(const Adapter& adapter) {
    int64_t rank = 0;
    for (const AdapterPart& part : adapter.parts) rank = std::max(rank, part.rank);
    for (const auto* table : {&adapter.embedding, &adapter.head})
        if (*table) rank = std::max(rank, (*table)->part.rank);
    return rank;
}

template <class T>
class CudaRunner final : public ModelRunner {
public:
    CudaRunner(int ordinal, std::shared_ptr<const Model> model, const RunnerLimits& limits, DeviceMemoryUse before)
        : model_(std::move(model)),
          ordinal_(ordinal),
          memory_before_(before),
          device_(ordinal),
          weights_(device_, std::get<Weights<T>>(model_->weights), limits.threads),
          merger_(limits.strategy == AdapterStrategy::merged
                      ? std::make_unique<DeviceMerger<T>>(device_, model_->config(), weights_)
                      : nullptr),
          page_bytes_(page_bytes_of(*model_, limits.block_tokens)),
          block_tokens_(limits.block_tokens),
          most_rows_(limits.max_tokens),
          pool_(page_bytes_ * limits.total_pages),
          forward_(device_, model_->config(), weights_, limits_of(model_->config(), limits)),
          adapters_(device_, model_->config(), limits.strategy),
          factors_(device_, model_->config()),
          timer_(device_),
          tables_(device_, model_->config().num_layers, limits.batch_invariant) {
        const int64_t most_heads = std::max<int64_t>(limits.max_tokens, forward_.head_block());
        for (Lane& lane : lanes_) lane.tokens = PinnedMemory(most_heads * int64_t(sizeof(int32_t)));
        set_phase_times(limits.phase_times);
        set_switches({.graphs = limits.graphs});
        forward_.prepare_products(limits.max_tokens);
        device_.synchronize();
    }
    ~CudaRunner() override { cudaStreamSynchronize(device_.stream()); }

    void forward(const Batch& batch, const KeepGoing& keep_going, const HeadLogits& logits,
                 ForwardResult& result) override {
        launch(batch, keep_going, logits, result);
        if (result.completed) collect(batch, result);
    }

    // Events between the launches belong to one step at a time, and so does a merged copy of the weights.
    bool runs_ahead() const override { return !phase_times_ && !merger_ && !switches_.timed; }

    void launch(const Batch& batch, const KeepGoing& keep_going, const HeadLogits& logits,
                ForwardResult& result) override {
        CHECK(launched_ - collected_ < kMostInFlight);
        device_.make_current();
        result.times = {};
        result.bytes = {};
        result.device_ms = 0;
        result.gap_us = -1;
        result.tokens.assign(batch.sequences.size(), -1);
        result.not_finite.assign(batch.sequences.size(), 0);
        result.completed = keep_going();
        if (!result.completed) return;
        if (causes(Fault::out_of_memory)) DeviceMemory too_much(kMoreThanAnyGpu);
        Lane& lane = lanes_[launched_ % std::size(lanes_)];
        lane.launched = std::chrono::steady_clock::now();
        lane.at_once = launched_ > collected_;
        lane.phases = phase_times_;
        collect_adapters(batch);
        const StepTables::Plan& plan = tables_.plan(batch, adapter_of_segment_);
        const bool wants_logits =
            std::any_of(batch.heads.begin(), batch.heads.end(), [](const HeadRow& h) { return h.logits; });
        if (switches_.timed) stopwatch_.start(device_);
        result.passes = 1;
        if (!factors_.empty()) lane.uncut.record(device_);
        result.bytes.staging = factors_.batch(batch.segments, factor_shape_);
        lane.cuts = result.bytes.staging > 0;
        if (lane.cuts) lane.cut.record(device_);
        result.common_block = factor_shape_.cell;
        forward_.set_factors(factor_shape_);
        CHECK(!merger_ || (batch.segments.size() == 1 && batch.segments[0].adapter == merged_));
        const bool replays = switches_.graphs && !phase_times_ && plan.decode_only && !wants_logits &&
                             !needs_.own_head && bucket_of(batch.num_rows()) > 0 &&
                             rows_of_graph(batch.num_rows()) <= forward_.head_block();
        try {
            if (replays)
                replay(batch, plan, lane);
            else
                launch_all(batch, plan, logits, lane);
            lane.computed.record(device_);
            send_tokens(batch, lane);
        } catch (...) {  // what was launched still reads the tables, which the next step writes
            cudaStreamSynchronize(device_.stream());
            throw;
        }
        count_bytes(batch, result.bytes);
        result.trouble = std::exchange(trouble_, {});
        ++launched_;
    }

    void collect(const Batch& batch, ForwardResult& result) override {
        CHECK(collected_ < launched_);
        device_.make_current();
        const Lane& lane = lanes_[collected_ % std::size(lanes_)];
        const Lane& before = lanes_[(collected_ + std::size(lanes_) - 1) % std::size(lanes_)];
        ++collected_;
        lane.sent.wait();
        hand_out_tokens(batch, lane, result);
        const auto now = std::chrono::steady_clock::now();
        if (switches_.timed) result.device_ms = stopwatch_.ms();
        if (lane.phases)
            timer_.read(result.times);
        else  // the GPU's whole step
            result.times.other =
                std::chrono::duration_cast<std::chrono::microseconds>(now - std::max(lane.launched, ended_)).count();
        if (lane.at_once) {
            const double cutting_ms = lane.cuts ? lane.cut.ms_since(lane.uncut) : 0;  // it does not idle meanwhile
            result.gap_us =
                std::max<int64_t>(std::llround((lane.begun.ms_since(before.computed) - cutting_ms) * 1e3), 0);
        }
        ended_ = now;
    }

    Result<std::shared_ptr<const HostAdapter>> host_adapter(std::shared_ptr<const Adapter> adapter) const override {
        if (const int64_t rank = most_rank(*adapter); rank > kMostCudaRank)
            return Error{adapter->path, "rank", std::to_string(rank),
                         "at most " + std::to_string(kMostCudaRank) + " on a GPU"};
        try {
            CHECK_CUDA(cudaSetDevice(ordinal_));
            return std::shared_ptr<const HostAdapter>(PinnedAdapter::make(adapter, model_->config()));
        } catch (const DeviceError& e) {
            return Error{adapter->path, "adapter " + adapter->name, e.what(),
                         format_bytes(adapter->host_bytes()) + " of pinned host memory"};
        }
    }
    bool loads_in_background() const override { return true; }
    void load_adapter(AdapterId id, PageRun run, std::shared_ptr<const HostAdapter> adapter) override {
        CHECK(adapter->adapter->bytes() <= run.count * page_bytes_);
        device_.make_current();
        std::byte* data = pool_.data() + run.first * page_bytes_;
        const CudaFactors* factors = factors_.add(id, adapter->adapter, data);
        try {
            adapters_.load(id, data, std::move(adapter), factors);
        } catch (...) {
            factors_.drop(id);
            throw;
        }
    }
    std::vector<AdapterArrival> take_arrivals() override { return adapters_.take_arrivals(); }
    void drop_adapter(AdapterId id) override {
        if (merger_ && id == merged_) merge(AdapterId::base, [] { return true; });
        factors_.drop(id);
        adapters_.drop(id);
    }
    void place_batched(AdapterId id, PageRun run) override {
        device_.make_current();
        factors_.place(id, pool_.data() + run.first * page_bytes_);
    }
    int64_t merge(AdapterId id, const KeepGoing& keep_going) override {
        if (id == merged_) return 0;
        device_.make_current();
        merged_ = AdapterId::base;
        const DeviceAdapter* adapter = id == AdapterId::base ? nullptr : &adapters_.use(id);
        const int64_t written = adapter ? merger_->merge(adapter->adapter.get(), adapter->data, keep_going)
                                        : merger_->merge(nullptr, nullptr, keep_going);
        if (written >= 0) merged_ = id;
        return written;
    }

    void fill_pages(PageRun run, std::byte value) override {
        device_.make_current();
        CHECK_CUDA(cudaMemsetAsync(pool_.data() + run.first * page_bytes_, int(value), size_t(run.count * page_bytes_),
                                   device_.stream()));
    }

    int64_t workspace_bytes() const override { return forward_.device_bytes() + (merger_ ? merger_->bytes() : 0); }

    void set_switches(const RunnerSwitches& switches) override {
        switches_ = switches;
        device_.set_overlap_launches(switches.overlap);
        forward_.set_ahead(switches.ahead_bytes);
    }

    void set_phase_times(bool on) override {
        phase_times_ = on;
        forward_.set_timer(on ? &timer_ : nullptr);
    }

    DeviceMemoryUse device_memory() const override {
        size_t free_bytes = 0, total_bytes = 0;
        if (cudaSetDevice(ordinal_) != cudaSuccess || cudaMemGetInfo(&free_bytes, &total_bytes) != cudaSuccess)
            return {};
        return {int64_t(total_bytes), int64_t(total_bytes - free_bytes)};
    }
    DeviceMemoryUse device_memory_before() const override { return memory_before_; }

    void cause_fault(Fault fault) override {
        if (fault == Fault::device_lost)
            trap(device_);
        else if (fault == Fault::stall)
            stall(device_, kStallSeconds);
        else
            fault_ = fault;
    }

private:
    // What a step in flight is collected from.
    struct Lane {
        PinnedMemory tokens;
        Milestone uncut, cut;             // before the batch's factors were cut to one size and after
        Milestone begun, computed, sent;  // before the layers' kernels, after the last, with the tokens on the host
        std::chrono::steady_clock::time_point launched;
        bool at_once = false;  // launched while the step before was in flight
        bool phases = false, cuts = false;
    };

    // All that launches depend on apart from the tables.
    struct GraphKey {
        int64_t rows, max_blocks, heads, ahead_bytes;
        bool overlap;
        AdapterNeeds needs;
        FactorShape factors;
        auto tie() const {
            return std::tie(factors, overlap, ahead_bytes, rows, max_blocks, heads, needs.rotations,
                            needs.plain_rotations, needs.low_ranks, needs.gains, needs.max_group, needs.max_rank,
                            needs.own_norms, needs.own_embedding);
        }
        bool operator<(const GraphKey& other) const { return tie() < other.tie(); }
    };

    void collect_adapters(const Batch& batch) {
        adapter_of_segment_.clear();
        needs_ = {};
        for (const AdapterSegment& s : batch.segments) {
            const DeviceAdapter* adapter = s.adapter == AdapterId::base ? nullptr : &adapters_.use(s.adapter);
            adapter_of_segment_.push_back(adapter);
            if (adapter) needs_.merge(adapter->needs);
        }
        // Graphs are shared by batches whose largest rank is about the same.
        if (needs_.max_rank > 0) needs_.max_rank = int(std::bit_ceil(unsigned(std::max(needs_.max_rank, 8))));
    }

    int64_t low_rank_rows(const Batch& batch) const {
        int64_t rows = 0;
        for (size_t i = 0; i < batch.segments.size(); ++i)
            if (const DeviceAdapter* adapter = adapter_of_segment_[i]; adapter && adapter->needs.low_ranks != 0)
                rows += batch.segments[i].row_end - batch.segments[i].row_begin;
        return rows;
    }

    T* pool() const { return pool_.template as<T>(); }

    void own_parts_of(StepShape& shape) const {
        shape.norms = needs_.own_norms;
        shape.embeddings = needs_.own_embedding;
        shape.output_heads = needs_.own_head;
    }

    // Which of the heads [first, first + count) are multiplied with an adapter's own table. Heads lie in the order of
    // their rows, and segments as well.
    std::vector<typename Forward<T>::OwnHead> own_tables(const Batch& batch, int64_t first, int64_t count) const {
        std::vector<typename Forward<T>::OwnHead> own;
        if (!needs_.own_head) return own;
        size_t segment = 0;
        for (int64_t i = first; i < first + count; ++i) {
            while (batch.segments[segment].row_end <= batch.heads[size_t(i)].row) ++segment;
            const DeviceAdapter* adapter = adapter_of_segment_[segment];
            const T* table = adapter ? static_cast<const T*>(adapter->head_copy) : nullptr;
            if (!table) continue;
            if (!own.empty() && own.back().table == table && own.back().begin + own.back().count == i)
                ++own.back().count;
            else
                own.push_back({i, 1, table});
        }
        return own;
    }

    // The batch's tables on the device, with the tokens of the step before in their places. Kernels that overlap what
    // is launched before them, and read tables early, may come next.
    StepView send_tables(const Batch& batch, const StepShape& shape) {
        const bool beside_copies = adapters_.copying();
        if (!tables_.send(batch, shape, beside_copies)) graphs_.clear();
        const StepView view = tables_.view(shape);
        if (batch.follows || beside_copies)
            follow(device_, const_cast<Token*>(view.ids), batch.num_rows(), forward_.tokens());
        return view;
    }

    void launch_all(const Batch& batch, const StepTables::Plan& plan, const HeadLogits& logits, Lane& lane) {
        StepShape shape;
        shape.rows = batch.num_rows();
        shape.tiles = int64_t(plan.tiles.size());
        shape.sequences = int64_t(plan.sequences.size());
        shape.max_blocks = plan.max_blocks;
        shape.heads = int64_t(batch.heads.size());
        shape.low_rank_rows = low_rank_rows(batch);
        own_parts_of(shape);
        shape.attention = {shape.rows, int64_t(plan.attention.decode.size()), int64_t(plan.attention.prefill.size())};
        const StepView view = send_tables(batch, shape);
        lane.begun.record(device_);
        if (phase_times_) timer_.begin();
        forward_.layers(shape, view, needs_, pool());
        for (int64_t first = 0; first < shape.heads; first += forward_.head_block()) {
            const int64_t count = std::min(forward_.head_block(), shape.heads - first);
            forward_.heads(shape, view, first, count, own_tables(batch, first, count));
            hand_out_logits(batch, size_t(first), size_t(count), logits);
        }
    }

    void replay(const Batch& batch, const StepTables::Plan& plan, Lane& lane) {
        StepShape shape;
        shape.rows = rows_of_graph(batch.num_rows());
        shape.tiles = shape.sequences = shape.heads = shape.rows;
        shape.max_blocks = int64_t(std::bit_ceil(uint64_t(plan.max_blocks)));
        own_parts_of(shape);
        const int64_t items = shape.rows * divide_up(shape.max_blocks * block_tokens_, kSplitKeys);
        shape.attention = {shape.rows, std::min(items, forward_.largest_attention().decode_items), 0};
        const StepView view = send_tables(batch, shape);
        const GraphKey key{shape.rows,        shape.max_blocks, shape.heads,  switches_.ahead_bytes,
                           switches_.overlap, needs_,           factor_shape_};
        auto found = graphs_.find(key);
        if (found == graphs_.end()) {
            if (graphs_.size() >= kMostGraphs) {
                device_.synchronize();  // one may be in flight
                graphs_.clear();
            }
            const auto launches = [&] {
                forward_.layers(shape, view, needs_, pool());
                forward_.heads(shape, view, 0, shape.heads);
            };
            found = capture(key, launches);
            if (found == graphs_.end()) {
                lane.begun.record(device_);
                return launches();
            }
        }
        lane.begun.record(device_);
        try {
            found->second.launch(device_);
        } catch (...) {
            graphs_.erase(found);
            throw;
        }
    }
    int64_t rows_of_graph(int64_t rows) const { return std::min(bucket_of(rows), most_rows_); }

    // The end when there is no memory for it; then no others are tried either, and steps of new shapes are launched one
    // kernel at a time, which takes a little longer.
    auto capture(const GraphKey& key, const std::function<void()>& launches) {
        if (!captures_) return graphs_.end();
        try {
            if (causes(Fault::no_memory_for_graphs)) DeviceMemory too_much(kMoreThanAnyGpu);
            return graphs_.emplace(key, CudaGraph(device_, launches)).first;
        } catch (const OutOfDeviceMemory& e) {
            captures_ = false;
            trouble_ = std::string("out of device memory for graphs, so that new shapes run without: ") + e.what();
            return graphs_.end();
        }
    }

    bool causes(Fault fault) {
        if (fault_ != fault) return false;
        fault_.reset();
        return true;
    }

    void send_tokens(const Batch& batch, Lane& lane) {
        const size_t bytes = batch.heads.size() * sizeof(int32_t);
        if (bytes > 0)
            CHECK_CUDA(cudaMemcpyAsync(lane.tokens.data(), forward_.tokens(), bytes, cudaMemcpyDeviceToHost,
                                       device_.stream()));
        if (switches_.timed) stopwatch_.stop(device_);
        lane.sent.record(device_);
    }

    void hand_out_tokens(const Batch& batch, const Lane& lane, ForwardResult& result) {
        const auto* tokens = reinterpret_cast<const int32_t*>(lane.tokens.data());
        for (size_t i = 0; i < batch.heads.size(); ++i) {
            const HeadRow& head = batch.heads[i];
            const auto s = size_t(head.sequence);
            if (!head.sample || *batch.sequences[s].over) continue;
            result.tokens[s] = tokens[i];
            result.not_finite[s] = tokens[i] < 0;
        }
    }

    void hand_out_logits(const Batch& batch, size_t first, size_t count, const HeadLogits& logits) {
        const int64_t vocab = model_->config().vocab_size;
        for (size_t i = 0; i < count;) {
            const HeadRow& head = batch.heads[first + i];
            const size_t begin = i++;
            if (!head.logits) continue;
            while (i < count && batch.heads[first + i].sequence == head.sequence && batch.heads[first + i].logits) ++i;
            const BatchSequence& s = batch.sequences[size_t(head.sequence)];
            if (*s.over) continue;
            host_logits_.resize((i - begin) * size_t(vocab));
            CHECK_CUDA(cudaMemcpyAsync(host_logits_.data(), forward_.logits() + int64_t(begin) * vocab,
                                       host_logits_.size() * sizeof(float), cudaMemcpyDeviceToHost, device_.stream()));
            device_.synchronize();
            logits(head.sequence, s.first_position + head.row - s.row_begin, int64_t(i - begin), host_logits_.data());
        }
    }

    void count_bytes(const Batch& batch, StepBytes& bytes) const {
        const ModelConfig& c = model_->config();
        bytes.weights = weights_.layer_bytes() + batch.num_rows() * c.hidden_size * int64_t(sizeof(T));
        if (!batch.heads.empty()) bytes.weights += c.vocab_size * c.hidden_size * int64_t(sizeof(T));
        for (const DeviceAdapter* adapter : adapter_of_segment_)
            if (adapter) bytes.adapters += merger_ ? bytes_beside_merged(*adapter->adapter) : adapter->adapter->bytes();
        bytes.kv = kv_tokens_read(batch, c) * 2 * c.kv_size() * int64_t(sizeof(T));
    }

    std::shared_ptr<const Model> model_;
    int ordinal_;
    DeviceMemoryUse memory_before_;
    CudaDevice device_;
    DeviceWeights<T> weights_;
    std::unique_ptr<DeviceMerger<T>> merger_;  // with `merged`; weights_ is its copy then
    AdapterId merged_ = AdapterId::base;
    int64_t page_bytes_, block_tokens_, most_rows_;
    bool phase_times_ = false, captures_ = true;
    std::optional<Fault> fault_;
    std::string trouble_;  // of this step, got over
    RunnerSwitches switches_;
    Stopwatch stopwatch_;
    DeviceMemory pool_;
    Forward<T> forward_;
    DeviceAdapters<T> adapters_;
    DeviceFactors<T> factors_;
    FactorShape factor_shape_;  // of the step in progress
    PhaseTimer timer_;
    StepTables tables_;
    Lane lanes_[kMostInFlight + 1];  // and the one before those in flight
    int64_t launched_ = 0, collected_ = 0;
    std::chrono::steady_clock::time_point ended_{};  // when the last step was collected
    std::vector<float> host_logits_;
    std::map<GraphKey, CudaGraph> graphs_;

    // Of the step in progress.
    std::vector<const DeviceAdapter*> adapter_of_segment_;
    AdapterNeeds needs_;
};

template <class T>
int64_t bytes_needed(const Model& model, const RunnerLimits& limits) {
    constexpr int64_t kContextBytes = 512 << 20;  // CUDA's own, kernels, cuBLASLt's workspace, graphs, tables
    return DeviceWeights<T>::bytes_of(std::get<Weights<T>>(model.weights)) +
           Forward<T>::workspace_bytes(model.config(), limits_of(model.config(), limits)) + kContextBytes +
           (limits.strategy == AdapterStrategy::merged ? DeviceMerger<T>::bytes_of(model.config()) : 0);
}

}  // namespace

int64_t cuda_bytes_needed(const Model& model, const RunnerLimits& limits) {
    return with_type(model.dtype, [&]<class T>(T) { return bytes_needed<T>(model, limits); });
}

Result<std::unique_ptr<ModelRunner>> make_cuda_runner(int ordinal, std::shared_ptr<const Model> model,
                                                      const RunnerLimits& limits) {
    CHECK_CUDA(cudaSetDevice(ordinal));
    size_t free_bytes = 0, total_bytes = 0;
    CHECK_CUDA(cudaMemGetInfo(&free_bytes, &total_bytes));
    const DeviceMemoryUse before{int64_t(total_bytes), int64_t(total_bytes - free_bytes)};
    const int64_t pool = page_bytes_of(*model, limits.block_tokens) * limits.total_pages;
    const int64_t needed = cuda_bytes_needed(*model, limits) + pool;
    if (needed > int64_t(free_bytes))
        return Error{"", "device memory", free_of_total(int64_t(free_bytes), int64_t(total_bytes)),
                     format_bytes(needed) + " for weights, workspace and a pool of " + format_bytes(pool) +
                         " (smaller engine.pool_bytes or engine.max_batch_tokens)"};
    return with_type(model->dtype, [&]<class T>(T) {
        return std::unique_ptr<ModelRunner>(std::make_unique<CudaRunner<T>>(ordinal, model, limits, before));
    });
}

}  // namespace spartan
