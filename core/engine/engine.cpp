#include "core/engine/engine.h"

#include "core/base/text.h"
#include "core/engine/engine_loop.h"

#include <thread>

namespace spartan {

struct Engine::Impl {
    EngineShared shared;
    std::unique_ptr<EngineLoop> loop;
    std::thread thread;
};

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<Engine>> Engine::create(std::shared_ptr<const Model> model, EngineOptions options,
                                               RecordSink sink, LogitsSink logits) {
    TRY_ASSIGN(checked, check_options(std::move(options), *model));
    const PoolShape shape = pool_shape(checked, *model);
    TRY_ASSIGN(runner, make_runner(model, runner_limits(checked, shape.total_pages), checked.cuda_device));
    std::unique_ptr<Impl> impl(
        new Impl{.shared = {model, checked, std::move(sink), std::move(logits)}, .loop = nullptr, .thread = {}});
    impl->loop = std::make_unique<EngineLoop>(impl->shared, std::move(runner));
    impl->thread = std::thread([loop = impl->loop.get()] { loop->run(); });
    return std::unique_ptr<Engine>(new Engine(std::move(impl)));
}

Engine::~Engine() {
    impl_->shared.mailbox.post(QuitCommand{});
    impl_->thread.join();
}

const Model& Engine::model() const { return *impl_->shared.model; }
const EngineOptions& Engine::options() const { return impl_->shared.options; }

Result<AdapterId> Engine::add_adapter(std::shared_ptr<const Adapter> adapter) {
    TRY_VOID(check_adapter(*adapter, model()));
    TRY_VOID(check_strategy(*adapter, *parse_adapter_strategy(options().adapter_strategy)));
    TRY_ASSIGN(host, impl_->loop->runner().host_adapter(std::move(adapter)));
    return impl_->shared.registry.add(std::move(host));
}

Result<void> Engine::remove_adapter(AdapterId id, bool cancel_requests) {
    TRY_VOID(impl_->shared.registry.begin_removal(id));
    if (cancel_requests)
        impl_->shared.mailbox.post(CancelAdapterCommand{id});
    else
        impl_->shared.mailbox.post(CollectCommand{});
    return {};
}

std::vector<AdapterStatus> Engine::adapters() const { return impl_->shared.registry.status(); }

Result<RequestId> Engine::submit(Request request) {
    EngineShared& shared = impl_->shared;
    const EngineStatus now = status();
    if (now.state == EngineState::failed) return make_error("the engine has failed: " + now.failure);
    TRY_ASSIGN(pages, shared.registry.acquire(request.adapter));
    const auto refuse = [&](Error error) {
        shared.registry.release(request.adapter);
        shared.mailbox.post(CollectCommand{});
        return error;
    };
    if (auto fits = check_request(request, model(), shared.pool_shape, pages.blob + pages.batched, bool(shared.logits));
        !fits)
        return refuse(fits.error());
    if (shared.queued.fetch_add(1) >= shared.options.max_waiting) {
        --shared.queued;
        return refuse(Error{"", "queue", std::to_string(shared.options.max_waiting) + " requests waiting",
                            "fewer than " + std::to_string(shared.options.max_waiting) + " (max_waiting)"});
    }
    const auto id = RequestId(shared.next_request.fetch_add(1));
    request.id = id;
    if (request.arrival_us < 0) request.arrival_us = shared.clock.now_us();
    shared.mailbox.post(SubmitCommand{std::move(request)});
    return id;
}

void Engine::cancel(RequestId id) { impl_->shared.mailbox.post(CancelCommand{id}); }
void Engine::cancel_all() {
    impl_->shared.source_number = 0;
    impl_->shared.mailbox.post(CancelAllCommand{});
}

Result<void> Engine::start(std::shared_ptr<RequestSource> source, std::function<void(const Request&)> on_request) {
    EngineShared& shared = impl_->shared;
    const EngineStatus now = status();
    if (now.state == EngineState::failed) return make_error("the engine has failed: " + now.failure);
    const uint64_t number = shared.next_source.fetch_add(1);
    uint64_t none = 0;
    if (!shared.source_number.compare_exchange_strong(none, number)) return make_error("a workload is already running");
    shared.mailbox.post(StartCommand{std::move(source), std::move(on_request), shared.clock.now_us(), number});
    return {};
}

void Engine::stop_source() {
    impl_->shared.source_number = 0;
    impl_->shared.mailbox.post(StopSourceCommand{});
}
void Engine::hold() { impl_->shared.mailbox.post(HoldCommand{true}); }
void Engine::time_phases(bool on) { impl_->shared.mailbox.post(PhaseTimesCommand{on}); }
void Engine::cause_fault(Fault fault) { impl_->shared.mailbox.post(FaultCommand{fault}); }
void Engine::release() { impl_->shared.mailbox.post(HoldCommand{false}); }

std::shared_ptr<const Watchdog> Engine::watchdog() const { return impl_->shared.watchdog; }

EngineStatus Engine::status() const {
    StatusBoard& board = impl_->shared.board;
    std::lock_guard lock(board.mutex);
    EngineStatus status = board.status;
    status.now_us = now_us();
    return status;
}

int64_t Engine::now_us() const { return impl_->shared.clock.now_us(); }

bool Engine::wait_idle(int64_t timeout_ms) {
    StatusBoard& board = impl_->shared.board;
    std::unique_lock lock(board.mutex);
    const auto idle = [&] {
        return board.idle_after == impl_->shared.mailbox.posted() || board.status.state == EngineState::failed;
    };
    if (timeout_ms < 0) {
        board.changed.wait(lock, idle);
        return true;
    }
    return board.changed.wait_for(lock, std::chrono::milliseconds(timeout_ms), idle);
}

}  // namespace spartan
