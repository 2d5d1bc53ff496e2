#include "app/spartan/console.h"

#include "core/base/text.h"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <unistd.h>

namespace spartan {
namespace {

// A signal handler can reach nothing but statics.
std::atomic<Progress*> interruptible{nullptr};
static_assert(std::atomic<Progress*>::is_always_lock_free);

void on_interrupt(int) {
    Progress* progress = interruptible.load();
    if (!progress || progress->cancel.exchange(true)) ::_exit(kInterrupted);
}

bool on_terminal(int fd) {
    const char* kind = std::getenv("TERM");
    return ::isatty(fd) == 1 && !(kind && std::strcmp(kind, "dumb") == 0);
}

void complain(const std::string& line) { std::fprintf(stderr, "%s\n", escape_control(line).c_str()); }

}  // namespace

void print(std::string_view text) { std::fwrite(text.data(), 1, text.size(), stdout); }

std::string for_output(std::string_view text) {
    if (::isatty(STDOUT_FILENO) != 1) return std::string(text);
    std::string out;
    while (!text.empty()) {
        const size_t plain = std::min(text.find_first_of("\n\t"), text.size());
        out += escape_control(text.substr(0, plain));
        if (plain < text.size()) out += text[plain];
        text.remove_prefix(std::min(plain + 1, text.size()));
    }
    return out;
}

void print_json(const Json& json) { print(json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n"); }

int finish_output(int code) {
    const bool failed = std::fflush(stdout) != 0 || std::ferror(stdout) != 0;
    if (!failed || code != kDone) return code;
    complain(std::string("standard output: ") + std::strerror(errno));
    return kFailed;
}

void leave_at_once(int code) {
    std::fflush(nullptr);
    std::_Exit(code);
}

int report(const Error& error) {
    if (error.cancelled) return kInterrupted;
    complain("spartan: " + error.message());
    return kFailed;
}

int bad_arguments(const std::string& sentence) {
    complain("spartan: " + sentence);
    return kBadArguments;
}

std::string first_of(const std::vector<std::string>& reasons) {
    const size_t more = reasons.size() - 1;
    return reasons[0] + (more > 0 ? " (and " + std::to_string(more) + " more)" : "");
}

void warn(const std::vector<std::string>& warnings) {
    constexpr size_t kLines = 3;
    for (size_t i = 0; i < warnings.size() && i < kLines; ++i) {
        const size_t more = warnings.size() - i - 1;
        const bool last = i + 1 == kLines && more > 0;
        complain("warning: " + shorten(warnings[i], 400) + (last ? " (and " + std::to_string(more) + " more)" : ""));
    }
}

void handle_interrupts() {
    struct sigaction action {};
    action.sa_handler = on_interrupt;
    ::sigaction(SIGINT, &action, nullptr);
    ::sigaction(SIGTERM, &action, nullptr);
}

InterruptGuard::InterruptGuard(Progress& progress) { interruptible = &progress; }
InterruptGuard::~InterruptGuard() { interruptible = nullptr; }

bool ProgressLine::visible() { return on_terminal(STDERR_FILENO); }

void ProgressLine::show(const std::string& text) {
    if (!visible()) return;
    const std::string line = shorten(escape_control(text), 110);
    std::fprintf(stderr, "\r\x1b[2K%s", line.c_str());
    shown_ = line.size();
}

void ProgressLine::clear() {
    if (shown_ > 0) std::fprintf(stderr, "\r\x1b[2K");
    shown_ = 0;
}

}  // namespace spartan
