// Prompts for workloads: sensible English of exactly the wanted number of ids, so that answers can be read; random ids
// where a model has no tokenizer.
#pragma once

#include "core/base/ids.h"
#include "core/run/random.h"

#include <cstdint>
#include <memory>
#include <vector>

namespace spartan {

struct Model;
class Tokenizer;

// Sentences, from a pool that is written in prompts.cpp, tokenised once; a prompt is then only a choice among them.
class PromptMaker {
public:
    explicit PromptMaker(const Model& model);
    ~PromptMaker();

    // Exactly `tokens` ids, the same for the same seed; one seed has one topic. Through the model's chat template when
    // it has one and `tokens` leaves room for it and a question; else as plain text.
    std::vector<Token> make(int64_t tokens, uint64_t seed) const;

private:
    struct Frame {  // ids around the text: BOS, or a chat template
        std::vector<Token> before, after;
        int64_t size() const { return int64_t(before.size() + after.size()); }
    };
    using Ids = std::vector<Token>;

    void tokenise_pool(const Tokenizer& tokenizer);
    void find_frames(const Model& model);
    void fill(std::vector<Token>& out, int64_t tokens, RandomStream& random) const;
    std::vector<Token> random_ids(int64_t tokens, RandomStream& random) const;

    int64_t vocab_size_ = 0;
    std::vector<Token> avoid_;  // ids that random prompts leave out
    bool has_text_ = false;
    Frame plain_, chat_;
    // Each as the first thing of a text, and as what follows a sentence.
    std::vector<Ids> questions_, questions_after_, facts_, facts_after_;
};

}  // namespace spartan
