#define PCRE2_CODE_UNIT_WIDTH 8
#include "core/tokenizer/pattern.h"

#include "core/tokenizer/unicode.h"
#include "kernels/check.h"

#include <pcre2.h>
#include <algorithm>

namespace spartan {

namespace {

constexpr size_t max_expression_bytes = 64 << 10;
constexpr uint32_t min_match_limit = 10'000'000;
constexpr uint32_t heap_limit_kib = 256 << 10;
constexpr size_t jit_stack_min = 32 << 10, jit_stack_max = 8 << 20;
constexpr size_t starts_per_search = 4096;

template <auto Free>
struct Freer {
    void operator()(auto* p) const { Free(p); }
};
using CompileContext = std::unique_ptr<pcre2_compile_context, Freer<pcre2_compile_context_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Freer<pcre2_match_context_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Freer<pcre2_match_data_free>>;
using JitStack = std::unique_ptr<pcre2_jit_stack, Freer<pcre2_jit_stack_free>>;

std::string pcre2_message(int code) {
    PCRE2_UCHAR buffer[256];
    pcre2_get_error_message(code, buffer, sizeof buffer);
    return reinterpret_cast<const char*>(buffer);
}

}  // namespace

struct PatternScratch::Machine {
    MatchContext context{pcre2_match_context_create(nullptr)};
    JitStack stack{pcre2_jit_stack_create(jit_stack_min, jit_stack_max, nullptr)};
    MatchData data{pcre2_match_data_create(1, nullptr)};
};

PatternScratch::PatternScratch(size_t text_bytes)
    : text_bytes_(text_bytes), started_(std::chrono::steady_clock::now()) {}
PatternScratch::~PatternScratch() = default;

PatternScratch::Machine& PatternScratch::machine() {
    if (!machine_) {
        machine_ = std::make_unique<Machine>();
        CHECK(machine_->context && machine_->data);
        const auto limit = std::min<size_t>(std::max<size_t>(min_match_limit, 16 * text_bytes_), UINT32_MAX);
        pcre2_set_match_limit(machine_->context.get(), static_cast<uint32_t>(limit));
        pcre2_set_heap_limit(machine_->context.get(), heap_limit_kib);
        if (machine_->stack) pcre2_jit_stack_assign(machine_->context.get(), nullptr, machine_->stack.get());
    }
    return *machine_;
}

// The match limit stops exponential expressions; this stops quadratic ones. The allowance is linear in the text and
// some two hundred times what any tokenizer in use takes, so it does not decide anything on a sane file.
bool PatternScratch::out_of_time() {
    if (++searches_ % 64 != 0) return false;
    using namespace std::chrono;
    return steady_clock::now() - started_ > seconds(5) + microseconds(20) * static_cast<int64_t>(text_bytes_);
}

struct Pattern::Code {
    explicit Code(pcre2_code* p) : code(p) {}
    ~Code() { pcre2_code_free(code); }
    Code(const Code&) = delete;
    Code& operator=(const Code&) = delete;
    pcre2_code* code;
};

Pattern Pattern::literal(std::string text) {
    CHECK(!text.empty());
    Pattern p;
    p.text_ = std::move(text);
    return p;
}

Result<Pattern> Pattern::regex(const std::string& expression, const std::string& file, const std::string& field) {
    const auto refuse = [&](std::string found, std::string expected) {
        return Error{file, field, std::move(found), std::move(expected), false};
    };
    if (expression.empty()) return refuse("an empty expression", "a regular expression");
    if (expression.size() > max_expression_bytes)
        return refuse(std::to_string(expression.size()) + " bytes", "a regular expression of at most 65,536 bytes");
    Result<std::string> translated = translate_oniguruma(expression);
    if (!translated) return refuse(translated.error().found, translated.error().expected);

    CompileContext context(pcre2_compile_context_create(nullptr));
    CHECK(context);
    pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
    int code = 0;
    size_t at = 0;
    // MULTILINE: in the Ruby dialect ^ and $ are always line anchors.
    pcre2_code* compiled =
        pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated->data()), translated->size(),
                      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C | PCRE2_USE_OFFSET_LIMIT, &code,
                      &at, context.get());
    if (!compiled) return refuse(pcre2_message(code) + " in " + expression, "a valid regular expression");
    pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE);  // without it (no executable memory) the interpreter runs
    Pattern p;
    p.text_ = expression;
    p.code_ = std::make_shared<const Code>(compiled);
    return p;
}

// One search over at most `starts_per_search` starting points.
Pattern::Found Pattern::search(std::string_view text, size_t from, PatternScratch& scratch) const {
    auto& machine = scratch.machine();
    const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    pcre2_set_offset_limit(machine.context.get(), from + starts_per_search);
    const auto run = [&](uint32_t options) {
        return pcre2_match(code_->code, subject, text.size(), from, options | PCRE2_NO_UTF_CHECK, machine.data.get(),
                           machine.context.get());
    };
    int rc = run(0);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) rc = run(PCRE2_NO_JIT);  // the interpreter keeps its frames on the heap
    if (rc == PCRE2_ERROR_NOMATCH) return {Found::none, 0, 0};
    if (rc < 0) return {Found::gave_up, 0, 0};
    const size_t* ends = pcre2_get_ovector_pointer(machine.data.get());
    if (ends[0] > ends[1] || ends[0] < from) return {Found::gave_up, 0, 0};  // \K in a look-around
    return {Found::match, ends[0], ends[1]};
}

Pattern::Found Pattern::find(std::string_view text, size_t from, PatternScratch& scratch) const {
    if (!code_) {
        const size_t at = text.find(text_, from);
        if (at == std::string_view::npos) return {Found::none, 0, 0};
        return {Found::match, at, at + text_.size()};
    }
    for (;;) {
        if (scratch.gave_up_ || scratch.out_of_time()) {
            scratch.gave_up_ = true;
            return {Found::gave_up, 0, 0};
        }
        const Found found = search(text, from, scratch);
        if (found.kind == Found::gave_up) scratch.gave_up_ = true;
        if (found.kind != Found::none) return found;
        from += starts_per_search + 1;
        if (from > text.size()) return found;
        while (from < text.size() && (static_cast<uint8_t>(text[from]) & 0xC0u) == 0x80u) ++from;
    }
}

void Pattern::spans(std::string_view text, PatternScratch& scratch, std::vector<Span>& out) const {
    size_t covered = 0, from = 0;
    bool matched_before = false;
    while (from <= text.size() && !text.empty()) {
        const Found found = find(text, from, scratch);
        if (found.kind != Found::match) break;
        if (found.begin == found.end && matched_before && found.end == covered) {  // nothing right after a match
            if (from >= text.size()) break;
            from += utf8_size(text, from);
            continue;
        }
        if (covered < found.begin) out.push_back({covered, found.begin, false});
        out.push_back({found.begin, found.end, true});
        covered = from = found.end;
        matched_before = true;
    }
    if (covered < text.size()) out.push_back({covered, text.size(), false});
}

std::string Pattern::replace(std::string_view text, std::string_view content, PatternScratch& scratch) const {
    std::vector<Span> found;
    spans(text, scratch, found);
    std::string out;
    out.reserve(text.size());
    for (const Span& s : found) out += s.match ? content : text.substr(s.begin, s.end - s.begin);
    return out;
}

// ---- dialect --------------------------------------------------------------------------------------------------------

namespace {

// White_Space, spelled out: PCRE2's \s also takes U+180E, which stopped being a space in Unicode 6.3.
constexpr std::string_view space_set =
    "\\t-\\r\\x{20}\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}";
constexpr std::string_view non_space_set =
    "\\x{0}-\\x{8}\\x{E}-\\x{1F}\\x{21}-\\x{84}\\x{86}-\\x{9F}\\x{A1}-\\x{167F}\\x{1681}-\\x{1FFF}\\x{200B}-\\x{2027}"
    "\\x{202A}-\\x{202E}\\x{2030}-\\x{205E}\\x{2060}-\\x{2FFF}\\x{3001}-\\x{10FFFF}";

// Alphabetic, marks, decimal digits, connectors: Oniguruma's \w, which is wider than PCRE2's and narrower in numbers.
constexpr std::string_view word_set =
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{"
    "1F189}";

// Outside a set, Oniguruma's own table for U+0080..U+00FF also counts superscript digits and fractions as word
// characters.
constexpr std::string_view word_alone_extra = "\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}";

class Translator {
public:
    explicit Translator(std::string_view in) : in_(in) {}

    Result<std::string> run() {
        while (at_ < in_.size()) {
            const char c = in_[at_];
            if (c == '\\') {
                escape();
            } else if (c == '[') {
                open_class();
            } else if (c == ']' && depth_ > 0) {
                close_class();
            } else if (depth_ > 0 && in_.substr(at_, 2) == "&&") {
                fail("a set intersection (&&)");
            } else if (depth_ == 0 && c == '(') {
                open_group();
            } else if (depth_ == 0 && c == '}' && in_.substr(at_, 2) == "}+") {
                fail("}+, which repeats in one dialect and is possessive in the other");
            } else {
                out_ += c;
                ++at_;
            }
            if (!error_.empty())
                return Error{"", "", error_ + " in " + std::string(in_), "an expression without it", false};
        }
        return out_;
    }

private:
    void fail(std::string what) { error_ = std::move(what); }

    // A set, or its complement, which may be unknown inside another set.
    void set(std::string_view inside, std::string_view complement_inside, bool negated) {
        if (depth_ > 0 && negated && complement_inside.empty()) return fail("\\W inside a set");
        if (depth_ > 0) {
            out_ += negated ? complement_inside : inside;
        } else {
            out_ += negated ? "[^" : "[";
            out_ += inside;
            out_ += ']';
        }
    }

    void escape() {
        if (at_ + 1 >= in_.size()) return fail("a trailing backslash");
        const char c = in_[at_ + 1];
        at_ += 2;
        switch (c) {
            case 's':
            case 'S':
                return set(space_set, non_space_set, c == 'S');
            case 'h':
                return set("0-9a-fA-F", "", false);
            case 'w':
            case 'W':
                return set(depth_ > 0 ? word_set : word_alone_, "", c == 'W');
            case 'b':
            case 'B':
                return word_boundary(c == 'B');
            case 'v':
                out_ += "\\x{0B}";
                return;
            case 'p':
            case 'P':
                return property(c);
            case 'u':
                return code_point();
            default:
                break;
        }
        constexpr std::string_view same = "rntfaedDAzZGRXx0123456789";
        const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (letter && same.find(c) == std::string_view::npos) return fail(std::string("\\") + c);
        out_ += '\\';
        out_ += c;
    }

    void word_boundary(bool negated) {
        if (depth_ > 0) return fail("\\b inside a set");
        const std::string w = "[" + word_alone_ + "]";
        out_ += negated ? "(?:(?<=" + w + ")(?=" + w + ")|(?<!" + w + ")(?!" + w + "))"
                        : "(?:(?<=" + w + ")(?!" + w + ")|(?<!" + w + ")(?=" + w + "))";
    }

    // \uHHHH
    void code_point() {
        const std::string_view digits = in_.substr(at_, 4);
        if (digits.size() < 4 || digits.find_first_not_of("0123456789abcdefABCDEF") != std::string_view::npos)
            return fail("\\u without four hexadecimal digits");
        out_ += "\\x{" + std::string(digits) + "}";
        at_ += 4;
    }

    // Categories mean the same; a script name means the script alone, where PCRE2 would take script extensions.
    void property(char letter) {
        const size_t end = in_.find('}', at_);
        if (at_ >= in_.size() || in_[at_] != '{' || end == std::string_view::npos) return fail("\\p without {name}");
        std::string name(in_.substr(at_ + 1, end - at_ - 1));
        at_ = end + 1;
        std::string caret;
        if (!name.empty() && name[0] == '^') {
            caret = "^";
            name.erase(0, 1);
        }
        constexpr std::string_view majors = "LMNPSZC";
        const bool category = (name.size() == 1 || name.size() == 2) && majors.find(name[0]) != std::string_view::npos;
        out_ += std::string("\\") + letter + "{" + caret + (category || name == "Any" ? "" : "sc:") + name + "}";
    }

    // A nested class is a union, so its brackets can go.
    void open_class() {
        // Its classes are wider in Oniguruma than in PCRE2.
        if (depth_ > 0 && in_.substr(at_, 2) == "[:") return fail("a POSIX class ([:name:])");
        const bool negated = in_.substr(at_, 2) == "[^";
        if (depth_ > 0 && negated) return fail("a negated set inside a set");
        if (depth_++ == 0) out_ += negated ? "[^" : "[";
        at_ += negated ? 2 : 1;
        if (at_ < in_.size() && in_[at_] == ']') {  // a literal at this place in both dialects
            out_ += "\\]";
            ++at_;
        }
    }

    void close_class() {
        if (--depth_ == 0) out_ += ']';
        ++at_;
    }

    void open_group() {
        if (in_.substr(at_, 2) == "(*") return fail("a (*VERB)");
        if (in_.substr(at_, 2) == "(?") {
            const char c = at_ + 2 < in_.size() ? in_[at_ + 2] : '\0';
            constexpr std::string_view known = ":=!<>#i-";
            if (known.find(c) == std::string_view::npos) return fail(std::string("(?") + c);
            const size_t end = in_.find_first_of(":)", at_ + 2);
            const std::string_view options = in_.substr(at_ + 2, end - at_ - 2);
            if ((c == 'i' || c == '-') && options.find_first_not_of("i-") != std::string_view::npos)
                return fail("the options (?" + std::string(options) + ")");
        }
        out_ += '(';
        ++at_;
    }

    const std::string word_alone_ = std::string(word_set) + std::string(word_alone_extra);
    std::string_view in_;
    size_t at_ = 0;
    int depth_ = 0;
    std::string out_, error_;
};

}  // namespace

Result<std::string> translate_oniguruma(std::string_view expression) { return Translator(expression).run(); }

}  // namespace spartan
