// What the program says, and to whom: results to standard output, everything else to standard error.
#pragma once

#include "core/base/json.h"
#include "core/base/progress.h"
#include "core/base/result.h"

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace spartan {

constexpr int kDone = 0, kFailed = 1, kBadArguments = 2, kInterrupted = 130;

void print(std::string_view text);  // to standard output
// Text from outside, as a terminal may show it: control characters escaped except line ends and tabs. Unchanged when
// standard output is not a terminal.
std::string for_output(std::string_view text);
void print_json(const Json& json);  // one document, one line end

// Standard output could not take everything: the exit code of a command that thinks it succeeded.
int finish_output(int code);

// Without taking anything down: a device that does not answer would never let go.
[[noreturn]] void leave_at_once(int code);

int report(const Error& error);  // one line on standard error; kFailed, or kInterrupted for a cancellation
int bad_arguments(const std::string& sentence);
// "the first (and 2 more)"; for several reasons of one failure, of which there must be one.
std::string first_of(const std::vector<std::string>& reasons);
// At most three lines on standard error; the third says how many more there are.
void warn(const std::vector<std::string>& warnings);

// For the whole program: Ctrl-C ends it with kInterrupted wherever no InterruptGuard lives.
void handle_interrupts();

// While it lives, Ctrl-C cancels `progress` (a second one ends the program at once).
class InterruptGuard {
public:
    explicit InterruptGuard(Progress& progress);
    ~InterruptGuard();
    InterruptGuard(const InterruptGuard&) = delete;
    InterruptGuard& operator=(const InterruptGuard&) = delete;
};

// Runs a command's work, a Result<int> or Result<void> of (Progress&), under an InterruptGuard, and reports its error;
// the exit code.
template <class Work>
int perform(const Work& work) {
    Progress progress;
    const InterruptGuard guard(progress);
    const auto done = work(progress);
    if (!done) return report(done.error());
    if (progress.cancelled()) return kInterrupted;
    if constexpr (requires { int(*done); })
        return *done;
    else
        return kDone;
}

// One line that is written over itself, on standard error and only on a terminal.
class ProgressLine {
public:
    static bool visible();
    ~ProgressLine() { clear(); }
    void show(const std::string& text);
    void clear();

private:
    size_t shown_ = 0;
};

// Runs `work` beside a line that shows how far it is, where there is a terminal to show it.
template <class Work>
auto with_progress(ProgressLine& line, const std::string& what, Progress& progress, Work work) {
    progress.done = 0;
    progress.total = 0;
    if (!ProgressLine::visible()) return work();
    std::mutex mutex;
    std::condition_variable wake;
    bool over = false;
    std::thread watcher([&] {
        std::unique_lock lock(mutex);
        while (!wake.wait_for(lock, std::chrono::milliseconds(100), [&] { return over; })) {
            const int64_t total = progress.total, done = progress.done;
            line.show(what + (total > 0 ? " " + std::to_string(done * 100 / total) + " %" : ""));
        }
    });
    auto result = work();
    {
        const std::lock_guard lock(mutex);
        over = true;
    }
    wake.notify_one();
    watcher.join();
    line.clear();
    return result;
}

}  // namespace spartan
