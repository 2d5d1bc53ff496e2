// What one rendering may use. Counted, not timed: the same template fails at the same place on every machine.
#pragma once

#include "core/tokenizer/jinja_error.h"

#include <cstddef>
#include <cstdint>

namespace spartan::jinja {

class Budget {
public:
    static constexpr uint64_t max_work = 10'000'000;           // one evaluated node, or 32 bytes looked at: about 1 s
    static constexpr uint64_t max_made_bytes = 64ull << 20;    // of all values made, whether or not they still live
    static constexpr uint64_t max_output_bytes = 16ull << 20;  // of the text
    static constexpr int max_depth = 400;                      // evaluations inside each other
    static constexpr int max_value_depth = 100;                // lists in lists
    static constexpr int64_t max_range = 100'000;              // as Jinja's sandbox

    // `given_bytes`: of the conversation, which is copied a few times however harmless the template.
    explicit Budget(uint64_t given_bytes) : more_(64 * given_bytes) {}

    void work(uint64_t units) {
        work_ += units;
        if (work_ > max_work + more_) fail(Failure::Kind::limit, "the template runs too long");
    }
    void look_at(size_t bytes) { work(1 + bytes / 32); }
    void make(uint64_t bytes) {
        made_ += bytes;
        if (made_ > max_made_bytes + more_) fail(Failure::Kind::limit, "the template makes too much data");
    }
    void write(uint64_t bytes) {
        make(bytes);
        written_ += bytes;
        if (written_ > max_output_bytes + more_) fail(Failure::Kind::limit, "the template writes too much text");
    }
    void check_value_depth(int depth) const {
        if (depth > max_value_depth) fail(Failure::Kind::limit, "the template nests values too deep");
    }

    // One evaluation inside another.
    class Level {
    public:
        explicit Level(Budget& budget) : budget_(budget) {
            if (++budget_.depth_ > max_depth) {
                --budget_.depth_;
                fail(Failure::Kind::limit, "the template recurses too deep");
            }
        }
        ~Level() { --budget_.depth_; }
        Level(const Level&) = delete;
        Level& operator=(const Level&) = delete;

    private:
        Budget& budget_;
    };

private:
    uint64_t more_, work_ = 0, made_ = 0, written_ = 0;
    int depth_ = 0;
};

}  // namespace spartan::jinja
