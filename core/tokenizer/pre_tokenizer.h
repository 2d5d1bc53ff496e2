// The steps that cut normalised text into the pieces the model merges within (the "pre_tokenizer" of tokenizer.json).
// Each follows the file of its name under tokenizers/src/pre_tokenizers.
#pragma once

#include "core/tokenizer/pattern.h"

#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace spartan {

// A text and the pieces of it that are still in play, in order.
struct Pieces {
    std::string text;
    std::vector<std::pair<size_t, size_t>> ranges;  // [begin, end), never empty
    bool starts_text = false;                       // text[0] is where the whole input begins
};

enum class SplitBehavior : uint8_t { removed, isolated, merged_with_previous, merged_with_next, contiguous };

struct SplitStep {
    Pattern pattern;
    SplitBehavior behavior = SplitBehavior::isolated;
    bool invert = false;
};
struct DigitsStep {
    bool individual = false;
};
// GPT-2's bytes as printable characters.
struct ByteLevelStep {
    bool add_prefix_space = false;
    std::vector<Pattern> split;  // GPT-2's expression, or none
};
struct MetaspaceStep {
    enum class Prefix : uint8_t { never, first, always };
    std::string replacement;  // one character, usually U+2581
    Prefix prefix = Prefix::always;
    bool split = true;
};
using PreTokenizerStep = std::variant<SplitStep, DigitsStep, ByteLevelStep, MetaspaceStep>;

inline constexpr const char* gpt2_expression =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

void apply_pre_tokenizer(const std::vector<PreTokenizerStep>& steps, Pieces& pieces, PatternScratch& scratch);

// Bytes as the characters of a byte-level vocabulary.
void append_byte_level(std::string& out, std::string_view bytes);

// Regroups spans as the behaviour says; a removed span has match = true, all others false.
std::vector<Span> group_spans(const std::vector<Span>& spans, SplitBehavior behavior);

}  // namespace spartan
