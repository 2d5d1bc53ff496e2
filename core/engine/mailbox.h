// Commands on their way to the engine's thread, in order.
#pragma once

#include "core/engine/engine.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

namespace spartan {

struct SubmitCommand {
    Request request;
};
struct CancelCommand {
    RequestId id{};
};
struct CancelAdapterCommand {  // every request that uses it
    AdapterId id{};
};
struct CancelAllCommand {};
struct StartCommand {
    std::shared_ptr<RequestSource> source;
    std::function<void(const Request&)> on_request;
    int64_t start_us = 0;
    uint64_t number = 0;  // of the source
};
struct StopSourceCommand {};
struct HoldCommand {
    bool hold = true;
};
struct PhaseTimesCommand {
    bool on = false;
};
struct FaultCommand {  // of a test
    Fault fault{};
};
struct CollectCommand {};  // an adapter may have become free to leave
struct QuitCommand {};

using Command =
    std::variant<SubmitCommand, CancelCommand, CancelAdapterCommand, CancelAllCommand, StartCommand, StopSourceCommand,
                 HoldCommand, PhaseTimesCommand, FaultCommand, CollectCommand, QuitCommand>;

class Mailbox {
public:
    void post(Command command) {
        // What ends requests cannot wait for a long step to end.
        const bool ends_requests =
            std::holds_alternative<CancelCommand>(command) || std::holds_alternative<CancelAdapterCommand>(command) ||
            std::holds_alternative<CancelAllCommand>(command) || std::holds_alternative<StopSourceCommand>(command) ||
            std::holds_alternative<QuitCommand>(command);
        std::lock_guard lock(mutex_);
        commands_.push_back(std::move(command));
        ++posted_;
        if (ends_requests) urgent_.store(true, std::memory_order_relaxed);
        if (std::holds_alternative<QuitCommand>(commands_.back())) quitting_.store(true, std::memory_order_relaxed);
        wake_.notify_one();
    }

    // Everything posted so far, without waiting. `seen` becomes the number of commands ever taken.
    std::vector<Command> take(uint64_t& seen) {
        std::lock_guard lock(mutex_);
        urgent_.store(false, std::memory_order_relaxed);
        seen = posted_;
        return std::exchange(commands_, {});
    }

    // Somebody wants the thread to end, whether the command has been taken or not.
    bool quitting() const { return quitting_.load(std::memory_order_relaxed); }
    bool urgent() const { return urgent_.load(std::memory_order_relaxed); }

    // Until a command is there, or until `deadline`.
    void wait(std::optional<std::chrono::steady_clock::time_point> deadline) {
        std::unique_lock lock(mutex_);
        const auto ready = [&] { return !commands_.empty(); };
        if (deadline)
            wake_.wait_until(lock, *deadline, ready);
        else
            wake_.wait(lock, ready);
    }

    uint64_t posted() const {
        std::lock_guard lock(mutex_);
        return posted_;
    }

private:
    mutable std::mutex mutex_;
    std::condition_variable wake_;
    std::vector<Command> commands_;
    uint64_t posted_ = 0;
    std::atomic<bool> urgent_{false}, quitting_{false};
};

}  // namespace spartan
