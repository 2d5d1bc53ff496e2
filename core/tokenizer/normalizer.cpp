#include "core/tokenizer/normalizer.h"

namespace spartan {

namespace {

struct Apply {
    const std::string& text;
    PatternScratch& scratch;

    std::string operator()(const UnicodeForm& step) const { return normalize(text, step.form); }
    std::string operator()(const Prepend& step) const { return text.empty() ? text : step.text + text; }
    std::string operator()(const Lowercase&) const { return lower_case(text); }
    std::string operator()(const StripAccents&) const { return without_marks(text); }
    std::string operator()(const StripSpaces& step) const {
        std::string_view rest = text;
        while (step.left && !rest.empty() && is_white_space(utf8_step(rest, 0).code))
            rest.remove_prefix(utf8_step(rest, 0).size);
        while (step.right && !rest.empty() && is_white_space(last_character(rest))) {
            do {
                rest.remove_suffix(1);
            } while ((static_cast<uint8_t>(rest.data()[rest.size()]) & 0xC0u) == 0x80u);
        }
        return std::string(rest);
    }
    std::string operator()(const ReplaceAll& step) const { return step.pattern.replace(text, step.content, scratch); }
};

}  // namespace

std::string apply_normalizer(const std::vector<NormalizerStep>& steps, std::string_view text, PatternScratch& scratch) {
    std::string out(text);
    for (const NormalizerStep& step : steps) out = std::visit(Apply{out, scratch}, step);
    return out;
}

}  // namespace spartan
