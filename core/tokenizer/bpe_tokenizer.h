// Every tokenizer this program has: a chain of steps around byte-pair encoding or the unigram model. The readers fill
// TokenizerParts.
#pragma once

#include "core/tokenizer/added_tokens.h"
#include "core/tokenizer/bpe.h"
#include "core/tokenizer/decoder.h"
#include "core/tokenizer/normalizer.h"
#include "core/tokenizer/pre_tokenizer.h"
#include "core/tokenizer/tokenizer.h"
#include "core/tokenizer/unigram.h"

#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

namespace spartan {

struct TokenizerParts {
    std::variant<RankedBpe, ScoredBpe, Unigram> model;
    std::vector<AddedToken> added;
    std::vector<NormalizerStep> normalizer;
    std::vector<PreTokenizerStep> pre_tokenizer;
    std::vector<DecoderStep> decoder;
    std::vector<Token> prefix, suffix;  // what the post-processor puts around a text
    std::string kind;                   // "byte-level BPE"
};

class BpeTokenizer : public Tokenizer {
public:
    explicit BpeTokenizer(TokenizerParts parts);

    std::vector<Token> encode(std::string_view text, bool add_special, SpecialTokens mode) const override;
    std::vector<Token> encode_parts(std::span<const TextPart> parts, bool add_special) const override;
    std::string decode(std::span<const Token> ids, bool skip_special) const override;
    std::unique_ptr<TextStream> stream(bool skip_special) const override;
    int64_t vocab_size() const override { return static_cast<int64_t>(special_.size()); }
    bool is_special(Token id) const override { return id >= 0 && size_t(id) < special_.size() && special_[size_t(id)]; }
    std::string_view token_text(Token id) const override;
    Token find(std::string_view token) const override;
    std::string description() const override;

private:
    class Run;
    class Stream;
    const Vocabulary& vocabulary() const;

    TokenizerParts parts_;
    AddedTokens added_;
    Vocabulary added_vocabulary_;  // added tokens by content
    // What added tokens that are looked for in normalised text decode to (tokenizers 0.23; before, their plain
    // content).
    std::unordered_map<Token, std::string> normalized_texts_;
    std::vector<bool> special_;  // by id, up to the highest
};

}  // namespace spartan
