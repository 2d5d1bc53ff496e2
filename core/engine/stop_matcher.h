// Finds the first stop string in the text of a growing output.
#pragma once

#include "core/base/ids.h"
#include "core/tokenizer/tokenizer.h"

#include <memory>
#include <string>
#include <vector>

namespace spartan {

class StopMatcher {
public:
    // `stops` holds no empty string.
    StopMatcher(std::shared_ptr<const Tokenizer> tokenizer, std::vector<std::string> stops);

    // True once the text holds a stop string.
    bool push(Token token);
    // UTF-8 bytes of text (specials skipped) before the stop string that starts first; -1: none yet.
    int64_t visible_bytes() const { return visible_; }

private:
    StreamingDecoder decoder_;
    std::vector<std::string> stops_;
    size_t longest_ = 0;
    std::string tail_;        // the last longest_ - 1 bytes and what push() added
    int64_t tail_begin_ = 0;  // where tail_ starts in the text
    int64_t visible_ = -1;
};

}  // namespace spartan
