#include "core/tokenizer/normalizer.h"

namespace spartan {

namespace {

struct Apply {
    const std::string& text;
    PatternScratch& scratch;

    std::string operator()(const UnicodeForm& step) const { return normalize(text, step.form); }
    std::string operator()(const Prepend& step) const { return text.empty() ? text : step.text + text; }
    std::string operator()(const ReplaceAll& step) const { return step.pattern.replace(text, step.content, scratch); }
};

}  // namespace

std::string apply_normalizer(const std::vector<NormalizerStep>& steps, std::string_view text, PatternScratch& scratch) {
    std::string out(text);
    for (const NormalizerStep& step : steps) out = std::visit(Apply{out, scratch}, step);
    return out;
}

}  // namespace spartan
