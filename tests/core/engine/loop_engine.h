// An engine's loop on a thread of its own, with a runner around the CPU's. No Qt.
#pragma once

#include "core/engine/engine_loop.h"
#include "fixture.h"

#include <functional>
#include <thread>

namespace spartan::test {

// Loads end only when the engine has asked so many times, and until then the pages hold NaN.
class SlowRunner final : public ModelRunner {
public:
    SlowRunner(std::unique_ptr<ModelRunner> runner, int asks) : runner_(std::move(runner)), asks_(asks) {}

    void forward(const Batch& batch, const KeepGoing& keep_going, const HeadLogits& logits,
                 ForwardResult& result) override {
        for (const AdapterSegment& s : batch.segments)
            for (const Moving& m : moving_) used_too_early |= m.id == s.adapter;
        runner_->forward(batch, keep_going, logits, result);
    }
    bool loads_in_background() const override { return true; }
    void load_adapter(AdapterId id, PageRun run, std::shared_ptr<const HostAdapter> host) override {
        runner_->fill_pages(run, std::byte{0xff});
        moving_.push_back({id, run, std::move(host), asks_});
    }
    std::vector<AdapterArrival> take_arrivals() override {
        std::vector<AdapterArrival> arrived;
        while (!moving_.empty() && moving_.front().asks == 0) {
            runner_->load_adapter(moving_.front().id, moving_.front().run, moving_.front().host);
            for (const AdapterArrival& a : runner_->take_arrivals()) arrived.push_back({a.id, a.begin, 1234});
            moving_.erase(moving_.begin());
        }
        for (Moving& m : moving_) m.asks = std::max(m.asks - 1, 0);
        return arrived;
    }
    void drop_adapter(AdapterId id) override {
        for (const Moving& m : moving_) dropped_too_early |= m.id == id;
        runner_->drop_adapter(id);
    }
    void fill_pages(PageRun run, std::byte value) override { runner_->fill_pages(run, value); }
    int64_t workspace_bytes() const override { return runner_->workspace_bytes(); }
    void cause_fault(Fault fault) override { runner_->cause_fault(fault); }

    bool used_too_early = false, dropped_too_early = false;

private:
    struct Moving {
        AdapterId id{};
        PageRun run;
        std::shared_ptr<const HostAdapter> host;
        int asks = 0;
    };
    std::unique_ptr<ModelRunner> runner_;
    int asks_;
    std::vector<Moving> moving_;
};

struct LoopEngine {
    using Wrap = std::function<std::unique_ptr<ModelRunner>(std::unique_ptr<ModelRunner>)>;

    Records records;
    EngineShared shared;
    std::unique_ptr<EngineLoop> loop;
    std::thread thread;
    uint64_t next = 1;

    // Held at first.
    LoopEngine(std::shared_ptr<const Model> model, const EngineOptions& wanted, const Wrap& wrap)
        : shared(model, expect(check_options(wanted, *model)), records.sink(),
                 records.logits_sink(model->config().vocab_size)) {
        loop = std::make_unique<EngineLoop>(
            shared, wrap(expect(make_runner(model, runner_limits(shared.options, shared.pool_shape.total_pages), -1))));
        shared.mailbox.post(HoldCommand{true});
        thread = std::thread([this] { loop->run(); });
    }
    ~LoopEngine() {
        shared.mailbox.post(QuitCommand{});
        thread.join();
    }
    AdapterId add(std::shared_ptr<const Adapter> adapter) {
        return expect(shared.registry.add(std::make_shared<const HostAdapter>(std::move(adapter))));
    }
    RequestId submit(Request r) {
        expect(shared.registry.acquire(r.adapter));
        r.id = RequestId(next++);
        r.arrival_us = 0;
        ++shared.queued;
        const RequestId id = r.id;
        shared.mailbox.post(SubmitCommand{std::move(r)});
        return id;
    }
    void go() { shared.mailbox.post(HoldCommand{false}); }
    bool wait(const std::function<bool()>& until) const {
        for (int i = 0; i < 20'000 && !until(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        return until();
    }
    bool wait_finished(size_t count) const {
        return wait([&] { return records.finished().size() == count; });
    }
    EngineStatus status() const {
        std::lock_guard lock(shared.board.mutex);
        return shared.board.status;
    }
};

inline EngineOptions cpu_options(const Model& model) {
    EngineOptions o = TestEngine::small_options();
    o.cuda_device = -1;
    o.pool_bytes = page_bytes(model, o.block_tokens) * 200;
    return o;
}

}  // namespace spartan::test
