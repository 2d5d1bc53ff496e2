#include "core/tokenizer/bpe.h"

#include "core/tokenizer/unicode.h"
#include "kernels/check.h"

#include <algorithm>
#include <optional>

namespace spartan {

namespace {

using Symbol = BpeScratch::Symbol;

constexpr uint32_t none = UINT32_MAX;

struct Proposal {
    uint32_t rank;
    Token merged;
};

bool allowed(Token id, const std::vector<bool>* forbidden) {
    return !forbidden || size_t(id) >= forbidden->size() || !(*forbidden)[size_t(id)];
}

// Merges until no pair of neighbours has a proposal. propose(left, right) -> optional<Proposal>. A queued merge is
// rank << 32 | left symbol, so ties go left.
template <class Propose>
void merge_all(BpeScratch& scratch, Propose&& propose) {
    auto& symbols = scratch.symbols;
    MinQueue& queue = scratch.queue;
    const auto key = [](uint32_t rank, uint32_t left) { return uint64_t{rank} << 32 | left; };
    queue.clear();
    for (uint32_t i = 0; i + 1 < symbols.size(); ++i)
        if (const auto p = propose(symbols[i], symbols[i + 1])) queue.append(key(p->rank, i));
    queue.order();
    const auto push = [&](uint32_t left) {
        if (const auto p = propose(symbols[left], symbols[symbols[left].next])) queue.push(key(p->rank, left));
    };
    while (!queue.empty()) {
        const uint64_t top = queue.pop();
        const auto at = static_cast<uint32_t>(top);
        Symbol& left = symbols[at];
        if (left.size == 0 || left.next == none) continue;
        Symbol& right = symbols[left.next];
        // The neighbours may have changed since the merge was queued; theirs, if any, has an entry of its own.
        const std::optional<Proposal> now = propose(left, right);
        if (!now || key(now->rank, at) != top) continue;
        left.size += right.size;
        left.id = now->merged;
        right.size = 0;
        left.next = right.next;
        if (left.next != none) symbols[left.next].previous = at;
        if (left.previous != none) push(left.previous);
        if (left.next != none) push(at);
    }
}

void link(std::vector<Symbol>& symbols) {
    const auto n = static_cast<uint32_t>(symbols.size());
    for (uint32_t i = 0; i < n; ++i) {
        symbols[i].previous = i == 0 ? none : i - 1;
        symbols[i].next = i + 1 == n ? none : i + 1;
    }
}

bool has_all_bytes(const UnknownRule& rule, std::string_view character) {
    return rule.byte_fallback && std::all_of(character.begin(), character.end(),
                                             [&](char c) { return rule.byte_tokens[static_cast<uint8_t>(c)] >= 0; });
}

}  // namespace

void MinQueue::sift_down(size_t at) {
    const uint64_t key = keys_[at];
    const size_t n = keys_.size();
    for (size_t first; (first = at * children + 1) < n;) {
        size_t least = first;
        for (size_t i = first + 1; i < std::min(first + children, n); ++i)
            if (keys_[i] < keys_[least]) least = i;
        if (keys_[least] >= key) break;
        keys_[at] = keys_[least];
        at = least;
    }
    keys_[at] = key;
}

void MinQueue::order() {
    if (keys_.size() < 2) return;
    for (size_t at = (keys_.size() - 2) / children + 1; at-- > 0;) sift_down(at);
}

void MinQueue::push(uint64_t key) {
    size_t at = keys_.size();
    keys_.push_back(key);
    while (at > 0 && keys_[(at - 1) / children] > key) {
        keys_[at] = keys_[(at - 1) / children];
        at = (at - 1) / children;
    }
    keys_[at] = key;
}

uint64_t MinQueue::pop() {
    const uint64_t top = keys_[0];
    keys_[0] = keys_.back();
    keys_.pop_back();
    if (!keys_.empty()) sift_down(0);
    return top;
}

void RankedBpe::encode(std::string_view piece, const std::vector<bool>* forbidden, BpeScratch& scratch,
                       std::vector<Token>& out) const {
    CHECK(piece.size() < none);
    if (ignore_merges) {
        const Token whole = vocabulary.find(piece);
        if (whole >= 0 && allowed(whole, forbidden)) {
            out.push_back(whole);
            return;
        }
    }
    auto& symbols = scratch.symbols;
    symbols.clear();
    const auto add = [&](Token id, size_t begin, size_t size) {
        symbols.push_back({static_cast<uint32_t>(begin), static_cast<uint32_t>(size), none, none, id});
    };
    // As in the reference, an unknown token waits until a known character or the end, so bytes may overtake it.
    size_t unknown_begin = 0, unknown_size = 0;
    const auto flush_unknown = [&] {
        if (unknown_size > 0) add(unknown.unknown, unknown_begin, unknown_size);
        unknown_size = 0;
    };
    for (size_t at = 0; at < piece.size();) {
        const size_t size = utf8_size(piece, at);
        const std::string_view character = piece.substr(at, size);
        const Token id = vocabulary.find(character);
        if (id >= 0 && allowed(id, forbidden)) {
            flush_unknown();
            add(id, at, size);
        } else if (has_all_bytes(unknown, character)) {
            for (size_t k = 0; k < size; ++k) add(unknown.byte_tokens[static_cast<uint8_t>(piece[at + k])], at + k, 1);
        } else if (unknown.unknown >= 0) {
            if (!unknown.fuse) flush_unknown();
            if (unknown_size == 0) unknown_begin = at;
            unknown_size += size;
        }
        at += size;
    }
    flush_unknown();
    link(symbols);
    merge_all(scratch, [&](const Symbol& left, const Symbol& right) -> std::optional<Proposal> {
        const Merge* merge = merges.find(key(left.id, right.id));
        if (!merge || !allowed(merge->merged, forbidden)) return std::nullopt;
        return Proposal{merge->rank, merge->merged};
    });
    for (uint32_t i = symbols.empty() ? none : 0; i != none; i = symbols[i].next) out.push_back(symbols[i].id);
}

void ScoredBpe::encode(std::string_view piece, const std::vector<bool>* forbidden, BpeScratch& scratch,
                       std::vector<Token>& out) const {
    CHECK(piece.size() < none);
    auto& symbols = scratch.symbols;
    symbols.clear();
    const auto find = [&](std::string_view text) {
        const Token id = text.size() > vocabulary.longest_bytes() ? -1 : vocabulary.find(text);
        return id >= 0 && !unmergeable[size_t(id)] && allowed(id, forbidden) ? id : -1;
    };
    for (size_t at = 0; at < piece.size();) {
        const size_t size = utf8_size(piece, at);
        symbols.push_back(
            {static_cast<uint32_t>(at), static_cast<uint32_t>(size), none, none, find(piece.substr(at, size))});
        at += size;
    }
    link(symbols);
    merge_all(scratch, [&](const Symbol& left, const Symbol& right) -> std::optional<Proposal> {
        const Token id = find(piece.substr(left.begin, left.size + right.size));
        if (id < 0) return std::nullopt;
        return Proposal{rank[size_t(id)], id};
    });
    bool after_unknown = false;
    for (uint32_t i = symbols.empty() ? none : 0; i != none; i = symbols[i].next) {
        const Symbol& s = symbols[i];
        const std::string_view text = piece.substr(s.begin, s.size);
        const bool is_unknown = s.id < 0 && !has_all_bytes(unknown, text);
        if (s.id >= 0) {
            out.push_back(s.id);
        } else if (!is_unknown) {
            for (char c : text) out.push_back(unknown.byte_tokens[static_cast<uint8_t>(c)]);
        } else if (unknown.unknown >= 0 && !(unknown.fuse && after_unknown)) {
            out.push_back(unknown.unknown);
        }
        after_unknown = is_unknown;
    }
}

}  // namespace spartan
