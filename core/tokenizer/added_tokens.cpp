#include "core/tokenizer/added_tokens.h"

#include "core/tokenizer/unicode.h"

#include <algorithm>

namespace spartan {

namespace {

size_t space_end(std::string_view text, size_t at) {
    while (at < text.size()) {
        const Utf8Step step = utf8_step(text, at);
        if (!is_white_space(step.code)) break;
        at += step.size;
    }
    return at;
}

// Where the white space that ends at `at` begins, not before `floor`.
size_t space_begin(std::string_view text, size_t at, size_t floor) {
    while (at > floor && is_white_space(last_character(text.substr(0, at)))) {
        do {
            --at;
        } while (at > floor && (static_cast<uint8_t>(text[at]) & 0xC0u) == 0x80u);
    }
    return at;
}

bool word_touches(std::string_view text, size_t begin, size_t end) {
    return (begin > 0 && is_word(last_character(text.substr(0, begin)))) ||
           (end < text.size() && is_word(utf8_step(text, end).code));
}

}  // namespace

void TokenMatcher::add(std::string_view content, size_t token) {
    if (content.empty()) return;
    if (nodes_.empty()) nodes_.emplace_back();
    uint64_t node = 0;
    for (char c : content) {
        const uint64_t edge = node << 8 | static_cast<uint8_t>(c);
        if (const uint32_t* next = edges_.find(edge)) {
            node = *next;
        } else {
            edges_.insert_or_assign(edge, static_cast<uint32_t>(nodes_.size()));
            node = nodes_.size();
            nodes_.emplace_back();
        }
    }
    if (nodes_[node].token < 0) nodes_[node].token = static_cast<int64_t>(token);
    starts_[static_cast<uint8_t>(content[0])] = true;
}

bool TokenMatcher::find(std::string_view text, size_t from, Match& match) const {
    if (empty()) return false;
    for (size_t begin = from; begin < text.size(); ++begin) {
        if (!starts_[static_cast<uint8_t>(text[begin])]) continue;
        bool found = false;
        uint64_t node = 0;
        for (size_t at = begin; at < text.size(); ++at) {
            const uint32_t* next = edges_.find(node << 8 | static_cast<uint8_t>(text[at]));
            if (!next) break;
            node = *next;
            if (nodes_[node].token < 0) continue;
            match = {static_cast<size_t>(nodes_[node].token), begin, at + 1};
            found = true;
        }
        if (found) return true;
    }
    return false;
}

AddedTokens::AddedTokens(std::vector<AddedToken> tokens, const std::function<std::string(std::string_view)>& normalize)
    : tokens_(std::move(tokens)) {
    for (size_t i = 0; i < tokens_.size(); ++i) {
        const AddedToken& t = tokens_[i];
        if (t.normalized) {
            normalized_.add(normalize(t.content), i);
        } else {
            raw_.add(t.content, i);
        }
        if (t.special || !t.normalized) mixed_.add(t.content, i);
    }
}

std::vector<Segment> AddedTokens::split_raw(std::string_view text, const Allow& allow) const {
    return split(raw_, text, allow);
}
std::vector<Segment> AddedTokens::split_normalized(std::string_view text, const Allow& allow) const {
    return split(normalized_, text, allow);
}
std::vector<Segment> AddedTokens::split_raw_mixed(std::string_view text, const Allow& allow) const {
    return split(mixed_, text, allow);
}

std::vector<Segment> AddedTokens::split(const TokenMatcher& matcher, std::string_view text, const Allow& allow) const {
    std::vector<Segment> out;
    size_t covered = 0, from = 0;
    TokenMatcher::Match m{};
    while (matcher.find(text, from, m)) {
        const AddedToken& token = tokens_[m.token];
        from = m.end;  // a match that is not taken hides what lies inside it, as in the reference
        if (token.special && !allow(m.begin, m.end)) continue;
        if (token.single_word && word_touches(text, m.begin, m.end)) continue;
        const size_t begin = token.lstrip ? space_begin(text, m.begin, std::min(covered, m.begin)) : m.begin;
        const size_t end = token.rstrip ? space_end(text, m.end) : m.end;
        if (covered < begin) out.push_back({covered, begin, -1});
        out.push_back({std::min(begin, end), end, token.id});
        covered = end;
    }
    if (covered < text.size()) out.push_back({covered, text.size(), -1});
    return out;
}

}  // namespace spartan
