// The unigram model of SentencePiece as tokenizers runs it (tokenizers/src/models/unigram): of all ways to cut a piece
// into tokens the one of the highest sum of scores, by one pass over the text. O(bytes × longest token).
#pragma once

#include "core/tokenizer/bpe.h"
#include "core/tokenizer/hash_table.h"

#include <string_view>
#include <vector>

namespace spartan {

struct Unigram {
    Vocabulary vocabulary;
    std::vector<double> scores;  // by id
    UnknownRule unknown;         // `unknown` >= 0; runs of unknown characters are one token

    void finish();  // call when the vocabulary and scores are in, before encode()

    // As RankedBpe::encode.
    void encode(std::string_view piece, const std::vector<bool>* forbidden, BpeScratch&, std::vector<Token>& out) const;

private:
    struct Node {
        Token id = -1;
    };
    struct Cut {
        double score = 0;
        uint32_t begin = UINT32_MAX;  // of the token that ends here; UINT32_MAX: none does
        Token id = -1;
    };
    void append(std::string_view text, std::vector<Token>& out) const;

    std::vector<Node> nodes_;  // a tree of the tokens' bytes
    FlatMap<uint32_t> edges_;  // node << 8 | byte -> node
    double unknown_score_ = 0;
};

}  // namespace spartan
