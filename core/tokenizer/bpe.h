// Byte-pair encoding of one piece of text. A queue of candidate merges over a linked list of symbols: O(n log n) for
// any piece, with no recursion. Two ways to rank a merge: by its place in a list (tokenizers/src/models/bpe), or by the
// score of the token it makes (SentencePiece, as in GGUF files of model "llama").
#pragma once

#include "core/base/ids.h"
#include "core/tokenizer/hash_table.h"

#include <array>
#include <cstdint>
#include <string_view>
#include <variant>
#include <vector>

namespace spartan {

// Smallest key first. Eight children to a node, which is one cache line: a piece of a megabyte is seven levels deep.
class MinQueue {
public:
    void clear() { keys_.clear(); }
    bool empty() const { return keys_.empty(); }
    void append(uint64_t key) { keys_.push_back(key); }  // to be followed by order() before anything else
    void order();
    void push(uint64_t key);
    uint64_t pop();

private:
    static constexpr size_t children = 8;
    void sift_down(size_t at);

    std::vector<uint64_t> keys_;
};

// Working memory, kept over the pieces of one text.
struct BpeScratch {
    struct Symbol {
        uint32_t begin, size;     // bytes of the piece; size 0: merged away
        uint32_t previous, next;  // indices; none: end of the list
        Token id;                 // -1: not in the vocabulary
    };
    std::vector<Symbol> symbols;
    MinQueue queue;
};

// What both kinds do with a character that the vocabulary lacks.
struct UnknownRule {
    std::array<Token, 256> byte_tokens = no_byte_tokens();  // <0x00> … <0xFF>
    bool byte_fallback = false;                             // only where all bytes of a character have their token
    Token unknown = -1;                                     // -1: the character is dropped
    bool fuse = false;                                      // one token for a run of unknown characters

    static constexpr std::array<Token, 256> no_byte_tokens() {
        std::array<Token, 256> none{};
        none.fill(-1);
        return none;
    }
};

struct RankedBpe {
    struct Merge {
        uint32_t rank;
        Token merged;
    };
    static uint64_t key(Token left, Token right) { return uint64_t{uint32_t(left)} << 32 | uint32_t(right); }

    Vocabulary vocabulary;
    FlatMap<Merge> merges;
    UnknownRule unknown;
    bool ignore_merges = false;  // a piece that is a token as a whole stays whole

    // Appends the ids of `piece`. Ids marked in `forbidden` (by id, may be shorter) are never made from text, save by
    // byte fallback; null: none are forbidden.
    void encode(std::string_view piece, const std::vector<bool>* forbidden, BpeScratch&, std::vector<Token>& out) const;
};

struct ScoredBpe {
    Vocabulary vocabulary;
    std::vector<uint32_t> rank;     // by id: position of its score, highest first; equal scores share one
    std::vector<bool> unmergeable;  // by id: control, unknown and byte tokens, which text never becomes by merging
    UnknownRule unknown;

    void encode(std::string_view piece, const std::vector<bool>* forbidden, BpeScratch&, std::vector<Token>& out) const;
};

}  // namespace spartan
