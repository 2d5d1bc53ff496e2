#include "core/engine/by_adapter_runner.h"

#include "kernels/check.h"

#include <algorithm>
#include <chrono>

namespace spartan {
namespace {

void add(StepTimes& sum, const StepTimes& t) {
    for (int64_t StepTimes::*us : {&StepTimes::transfer, &StepTimes::rotate, &StepTimes::lora, &StepTimes::products,
                                   &StepTimes::attention, &StepTimes::other, &StepTimes::head, &StepTimes::sample})
        sum.*us += t.*us;
}

void add(StepBytes& sum, const StepBytes& b) {
    for (int64_t StepBytes::*bytes : {&StepBytes::weights, &StepBytes::adapters, &StepBytes::kv, &StepBytes::staging})
        sum.*bytes += b.*bytes;
}

class ByAdapterRunner final : public ModelRunner {
public:
    ByAdapterRunner(std::unique_ptr<ModelRunner> inner, AdapterStrategy strategy)
        : inner_(std::move(inner)), merges_(strategy == AdapterStrategy::merged) {}

    void forward(const Batch& batch, const KeepGoing& keep_going, const HeadLogits& logits,
                 ForwardResult& result) override {
        result = {};
        result.tokens.assign(batch.sequences.size(), -1);
        result.not_finite.assign(batch.sequences.size(), 0);
        result.passes = int32_t(batch.segments.size());
        for (size_t i = 0; i < batch.segments.size(); ++i) {
            if (merges_ && !merge_for(batch.segments[i].adapter, keep_going, result)) return;
            int32_t first = 0;
            const Batch pass = batch_of_segment(batch, i, first);
            inner_->forward(
                pass, keep_going,
                [&](int32_t s, int64_t begin, int64_t count, const float* values) {
                    logits(first + s, begin, count, values);
                },
                pass_);
            if (!pass_.completed) return;
            std::copy(pass_.tokens.begin(), pass_.tokens.end(), result.tokens.begin() + first);
            std::copy(pass_.not_finite.begin(), pass_.not_finite.end(), result.not_finite.begin() + first);
            add(result.times, pass_.times);
            add(result.bytes, pass_.bytes);
            result.device_ms += pass_.device_ms;
            if (!pass_.trouble.empty()) result.trouble = pass_.trouble;
        }
        result.completed = true;
    }

    Result<std::shared_ptr<const HostAdapter>> host_adapter(std::shared_ptr<const Adapter> adapter) const override {
        return inner_->host_adapter(std::move(adapter));
    }
    bool loads_in_background() const override { return inner_->loads_in_background(); }
    void load_adapter(AdapterId id, PageRun run, std::shared_ptr<const HostAdapter> adapter) override {
        inner_->load_adapter(id, run, std::move(adapter));
    }
    std::vector<AdapterArrival> take_arrivals() override { return inner_->take_arrivals(); }
    void drop_adapter(AdapterId id) override { inner_->drop_adapter(id); }
    void fill_pages(PageRun run, std::byte value) override { inner_->fill_pages(run, value); }
    int64_t workspace_bytes() const override { return inner_->workspace_bytes(); }
    void set_switches(const RunnerSwitches& switches) override { inner_->set_switches(switches); }
    void set_phase_times(bool on) override { inner_->set_phase_times(on); }
    DeviceMemoryUse device_memory() const override { return inner_->device_memory(); }
    DeviceMemoryUse device_memory_before() const override { return inner_->device_memory_before(); }
    void cause_fault(Fault fault) override { inner_->cause_fault(fault); }

private:
    // False: the step was abandoned.
    bool merge_for(AdapterId id, const KeepGoing& keep_going, ForwardResult& result) {
        const auto begin = std::chrono::steady_clock::now();
        const int64_t written = inner_->merge(id, keep_going);
        if (written < 0) return false;
        result.bytes.staging += written;
        result.times.transfer +=
            std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - begin).count();
        return true;
    }

    std::unique_ptr<ModelRunner> inner_;
    bool merges_;
    ForwardResult pass_;
};

}  // namespace

Batch batch_of_segment(const Batch& batch, size_t index, int32_t& first_sequence) {
    const AdapterSegment& segment = batch.segments[index];
    const int32_t begin = segment.row_begin, end = segment.row_end;
    Batch part;
    part.ids.assign(batch.ids.begin() + begin, batch.ids.begin() + end);
    part.positions.assign(batch.positions.begin() + begin, batch.positions.begin() + end);
    part.segments.push_back({segment.adapter, 0, end - begin});
    first_sequence = -1;
    for (size_t i = 0; i < batch.sequences.size(); ++i) {
        BatchSequence s = batch.sequences[i];
        if (s.row_begin < begin || s.row_begin >= end) continue;
        if (first_sequence < 0) first_sequence = int32_t(i);
        CHECK(int32_t(i) == first_sequence + int32_t(part.sequences.size()));  // sequences lie in the order of rows
        part.context_tokens += s.first_position + s.row_end - s.row_begin;
        s.row_begin -= begin;
        s.row_end -= begin;
        part.sequences.push_back(s);
        part.sampling.push_back(batch.sampling[i]);
        part.sample_position.push_back(batch.sample_position[i]);
    }
    for (HeadRow head : batch.heads) {
        if (head.row < begin || head.row >= end) continue;
        head.row -= begin;
        head.sequence -= first_sequence;
        part.heads.push_back(head);
    }
    return part;
}

std::unique_ptr<ModelRunner> make_by_adapter_runner(std::unique_ptr<ModelRunner> inner, AdapterStrategy strategy) {
    return std::make_unique<ByAdapterRunner>(std::move(inner), strategy);
}

}  // namespace spartan
