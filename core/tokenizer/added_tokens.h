// Tokens that are found in the text before the model sees it: special tokens, and words added after training.
// Follows tokenizers/src/tokenizer/added_vocabulary.rs.
#pragma once

#include "core/base/ids.h"
#include "core/tokenizer/hash_table.h"

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace spartan {

struct AddedToken {
    std::string content;
    Token id = -1;
    bool single_word = false;             // only where no word character touches it
    bool lstrip = false, rstrip = false;  // takes the white space on that side with it
    bool normalized = false;              // looked for in the normalised text, in its own normalised form
    bool special = false;
};

struct Segment {
    size_t begin, end;
    Token id;  // -1: text between added tokens
};

// Finds the leftmost-longest of a set of strings.
class TokenMatcher {
public:
    struct Match {
        size_t token, begin, end;  // index given to add()
    };

    void add(std::string_view content, size_t token);  // an empty or repeated content is never found again
    bool find(std::string_view text, size_t from, Match& match) const;
    bool empty() const { return nodes_.empty(); }

private:
    struct Node {
        int64_t token = -1;
    };
    std::vector<Node> nodes_;
    FlatMap<uint32_t> edges_;  // node << 8 | byte -> node
    bool starts_[256] = {};
};

class AddedTokens {
public:
    // `normalize` is the tokenizer's normaliser.
    AddedTokens() = default;
    AddedTokens(std::vector<AddedToken> tokens, const std::function<std::string(std::string_view)>& normalize);

    // Whether the special token at [begin, end) of the text may be taken.
    using Allow = std::function<bool(size_t begin, size_t end)>;

    // Tokens that are looked for in the text as it came.
    std::vector<Segment> split_raw(std::string_view text, const Allow& allow_special) const;
    // The rest, in normalised text.
    std::vector<Segment> split_normalized(std::string_view text, const Allow& allow_special) const;
    // For text with parts of different modes: special tokens are all looked for in the text as it came, because
    // normalising loses the parts' borders.
    std::vector<Segment> split_raw_mixed(std::string_view text, const Allow& allow_special) const;

    const std::vector<AddedToken>& tokens() const { return tokens_; }
    bool any_normalized() const { return !normalized_.empty(); }

private:
    std::vector<Segment> split(const TokenMatcher& matcher, std::string_view text, const Allow& allow_special) const;

    std::vector<AddedToken> tokens_;
    TokenMatcher raw_, normalized_, mixed_;
};

}  // namespace spartan
