// The steps that rewrite text before it is split (the "normalizer" of tokenizer.json).
#pragma once

#include "core/tokenizer/pattern.h"
#include "core/tokenizer/unicode.h"

#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace spartan {

struct UnicodeForm {
    NormalForm form;
};
struct Prepend {
    std::string text;  // put before text that is not empty
};
struct ReplaceAll {
    Pattern pattern;
    std::string content;
};
struct Lowercase {};
struct StripAccents {};  // combining marks go
struct StripSpaces {     // white space at the text's ends
    bool left = false, right = false;
};
using NormalizerStep = std::variant<UnicodeForm, Prepend, ReplaceAll, Lowercase, StripAccents, StripSpaces>;

std::string apply_normalizer(const std::vector<NormalizerStep>& steps, std::string_view text, PatternScratch& scratch);

}  // namespace spartan
