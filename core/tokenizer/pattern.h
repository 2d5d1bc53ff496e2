// The search patterns of tokenizer files: plain strings, and regular expressions in Oniguruma's Ruby dialect, which is
// what Hugging Face's tokenizers runs. They are rewritten for PCRE2 where the dialects differ, or refused.
#pragma once

#include "core/base/result.h"

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace spartan {

// Working memory of one call to encode() or decode(); also the bound on its time. A pattern that backtracks beyond its
// limits gives up: from there on the text of this call is left unsplit, which is slower to read but still decodes to
// itself.
class PatternScratch {
public:
    explicit PatternScratch(size_t text_bytes);
    ~PatternScratch();
    PatternScratch(const PatternScratch&) = delete;
    PatternScratch& operator=(const PatternScratch&) = delete;

private:
    friend class Pattern;
    struct Machine;
    Machine& machine();
    bool out_of_time();

    size_t text_bytes_;
    bool gave_up_ = false;
    uint32_t searches_ = 0;
    std::chrono::steady_clock::time_point started_;
    std::unique_ptr<Machine> machine_;
};

struct Span {
    size_t begin, end;
    bool match;
};

class Pattern {
public:
    static Pattern literal(std::string text);  // not empty
    // `file` and `field` name the expression in errors.
    static Result<Pattern> regex(const std::string& expression, const std::string& file, const std::string& field);

    // Covers `text` (valid UTF-8) with alternating or adjacent spans, matches and what lies between; empty text gives
    // none.
    void spans(std::string_view text, PatternScratch& scratch, std::vector<Span>& out) const;
    // `text` with each match replaced by `content`.
    std::string replace(std::string_view text, std::string_view content, PatternScratch& scratch) const;

    bool is_literal() const { return !code_; }
    const std::string& text() const { return text_; }

private:
    struct Code;
    struct Found {
        enum { none, match, gave_up } kind;
        size_t begin, end;
    };
    Found find(std::string_view text, size_t from, PatternScratch& scratch) const;
    Found search(std::string_view text, size_t from, PatternScratch& scratch) const;

    std::string text_;
    std::shared_ptr<const Code> code_;
};

// The PCRE2 form of an Oniguruma expression; an Error's `found` says what cannot be carried over. Exposed for tests.
Result<std::string> translate_oniguruma(std::string_view expression);

}  // namespace spartan
