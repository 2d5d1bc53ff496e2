#include "core/tokenizer/unigram.h"

#include "core/tokenizer/unicode.h"
#include "kernels/check.h"

#include <algorithm>

namespace spartan {

namespace {

constexpr double unknown_penalty = 10;

bool allowed(Token id, const std::vector<bool>* forbidden) {
    return !forbidden || size_t(id) >= forbidden->size() || !(*forbidden)[size_t(id)];
}

}  // namespace

void Unigram::finish() {
    CHECK(unknown.unknown >= 0 && scores.size() == size_t(vocabulary.end()));
    unknown_score_ = *std::min_element(scores.begin(), scores.end()) - unknown_penalty;
    nodes_.emplace_back();
    for (Token id = 0; id < vocabulary.end(); ++id) {
        uint64_t node = 0;
        for (char c : vocabulary.text(id)) {
            const uint64_t edge = node << 8 | static_cast<uint8_t>(c);
            if (const uint32_t* next = edges_.find(edge)) {
                node = *next;
                continue;
            }
            edges_.insert_or_assign(edge, static_cast<uint32_t>(nodes_.size()));
            node = nodes_.size();
            nodes_.emplace_back();
        }
        nodes_[node].id = id;
    }
    nodes_[0].id = -1;  // an empty token matches nothing
}

void Unigram::encode(std::string_view piece, const std::vector<bool>* forbidden, BpeScratch&,
                     std::vector<Token>& out) const {
    CHECK(piece.size() < UINT32_MAX);
    std::vector<Cut> cuts(piece.size() + 1);
    const auto offer = [&](size_t begin, size_t end, double score, Token id) {
        Cut& cut = cuts[end];
        const double sum = cuts[begin].score + score;
        if (cut.begin == UINT32_MAX || sum > cut.score) cut = {sum, static_cast<uint32_t>(begin), id};
    };
    for (size_t begin = 0; begin < piece.size();) {
        const size_t character = utf8_size(piece, begin);
        bool single = false;
        uint64_t node = 0;
        for (size_t at = begin; at < piece.size(); ++at) {
            const uint32_t* next = edges_.find(node << 8 | static_cast<uint8_t>(piece[at]));
            if (!next) break;
            node = *next;
            const Token id = nodes_[node].id;
            if (id < 0 || !allowed(id, forbidden)) continue;
            offer(begin, at + 1, scores[size_t(id)], id);
            single = single || at + 1 == begin + character;
        }
        if (!single) offer(begin, begin + character, unknown_score_, unknown.unknown);
        begin += character;
    }
    // Backwards along the best cuts; unknown neighbours become one.
    std::vector<std::pair<size_t, size_t>> tokens;
    bool after_unknown = false;
    for (size_t end = piece.size(); end > 0; end = cuts[end].begin) {
        const bool is_unknown = cuts[end].id == unknown.unknown;
        if (is_unknown && after_unknown) {
            tokens.back().first = cuts[end].begin;
        } else {
            tokens.emplace_back(cuts[end].begin, end);
        }
        after_unknown = is_unknown;
    }
    for (auto t = tokens.rbegin(); t != tokens.rend(); ++t) {
        const std::string_view text = piece.substr(t->first, t->second - t->first);
        const Token id = cuts[t->second].id;
        const Token whole = id != unknown.unknown ? id : vocabulary.find(text);
        if (whole >= 0 && allowed(whole, forbidden)) {
            out.push_back(whole);
        } else {
            append(text, out);
        }
    }
}

// What the vocabulary lacks: its bytes, where all have their token.
void Unigram::append(std::string_view text, std::vector<Token>& out) const {
    const auto byte_token = [&](char c) { return unknown.byte_tokens[static_cast<uint8_t>(c)]; };
    const bool bytes =
        unknown.byte_fallback && std::all_of(text.begin(), text.end(), [&](char c) { return byte_token(c) >= 0; });
    if (!bytes) return out.push_back(unknown.unknown);
    for (char c : text) out.push_back(byte_token(c));
}

}  // namespace spartan
