#include "core/engine/stop_matcher.h"

#include <algorithm>

namespace spartan {

StopMatcher::StopMatcher(std::shared_ptr<const Tokenizer> tokenizer, std::vector<std::string> stops)
    : decoder_(std::move(tokenizer)), stops_(std::move(stops)) {
    for (const auto& s : stops_) longest_ = std::max(longest_, s.size());
}

bool StopMatcher::push(Token token) {
    tail_ += decoder_.push(token);
    size_t first = std::string::npos;
    for (const auto& s : stops_) first = std::min(first, tail_.find(s));
    if (first != std::string::npos) {
        visible_ = tail_begin_ + int64_t(first);
        return true;
    }
    // A stop string that is not complete yet starts within the last longest_ - 1 bytes.
    if (tail_.size() >= longest_) {
        const size_t cut = tail_.size() - longest_ + 1;
        tail_.erase(0, cut);
        tail_begin_ += int64_t(cut);
    }
    return false;
}

}  // namespace spartan
