// What the program says, and to whom: results to standard output, everything else to standard error.
#pragma once

#include "core/base/json.h"
#include "core/base/progress.h"
#include "core/base/result.h"

#include <string>
#include <string_view>
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

int report(const Error& error);  // one line on standard error; kFailed, or kInterrupted for a cancellation
int bad_arguments(const std::string& sentence);
// At most three lines on standard error; the third says how many more there are.
void warn(const std::vector<std::string>& warnings);

// While it lives, Ctrl-C cancels `progress` (a second one ends the program at once).
class InterruptGuard {
public:
    explicit InterruptGuard(Progress& progress);
    ~InterruptGuard();
    InterruptGuard(const InterruptGuard&) = delete;
    InterruptGuard& operator=(const InterruptGuard&) = delete;
};

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

}  // namespace spartan
