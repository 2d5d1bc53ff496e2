#include "core/tokenizer/jinja_lexer.h"

#include "core/tokenizer/jinja_error.h"
#include "core/tokenizer/jinja_text.h"

#include <algorithm>
#include <array>

namespace spartan::jinja {

namespace {

using Kind = Lexeme::Kind;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_start(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || static_cast<uint8_t>(c) >= 0x80;
}
bool is_name_part(char c) { return is_name_start(c) || is_digit(c); }
bool is_ascii_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

// Every line end as \n, and without the one that ends the text.
std::string normalise_lines(std::string_view source) {
    std::string out;
    out.reserve(source.size());
    for (size_t i = 0; i < source.size(); ++i) {
        if (source[i] != '\r') {
            out += source[i];
            continue;
        }
        out += '\n';
        if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    }
    if (!out.empty() && out.back() == '\n') out.pop_back();
    return out;
}

class Lexer {
public:
    explicit Lexer(std::string_view source) : source_(normalise_lines(source)), s_(source_) {}

    std::vector<Lexeme> run() {
        while (at_ < s_.size()) {
            const size_t tag = next_tag();
            if (tag == std::string_view::npos) {
                data(s_.substr(at_));
                break;
            }
            const char kind = s_[tag + 1];
            size_t inside = tag + 2;
            const char sign = inside < s_.size() && (s_[inside] == '-' || s_[inside] == '+') ? s_[inside++] : '\0';
            data(left_of_tag(s_.substr(at_, tag - at_), sign, kind));
            advance(inside);
            if (kind == '#') {
                comment();
            } else if (kind == '%' && begins_raw()) {
                raw();
            } else {
                tokens_.push_back({kind == '{' ? Kind::print_begin : Kind::tag_begin, "", line_});
                expression(kind == '{');
            }
        }
        tokens_.push_back({Kind::end, "", line_});
        return std::move(tokens_);
    }

private:
    [[noreturn]] void syntax(std::string message) const { fail(Failure::Kind::syntax, std::move(message), line_); }

    void advance(size_t to) {
        line_ += static_cast<int>(
            std::count(s_.begin() + static_cast<ptrdiff_t>(at_), s_.begin() + static_cast<ptrdiff_t>(to), '\n'));
        line_starts_ = to > 0 && s_[to - 1] == '\n';
        at_ = to;
    }

    void data(std::string_view text) {
        if (!text.empty()) tokens_.push_back({Kind::data, std::string(text), line_});
    }

    size_t next_tag() const {
        for (size_t at = s_.find('{', at_); at != std::string_view::npos; at = s_.find('{', at + 1))
            if (at + 1 < s_.size() && (s_[at + 1] == '{' || s_[at + 1] == '%' || s_[at + 1] == '#')) return at;
        return std::string_view::npos;
    }

    // What stays of the text before a tag: "-" takes all white space, lstrip_blocks that since the line's beginning.
    std::string_view left_of_tag(std::string_view text, char sign, char kind) const {
        if (sign == '-') return text.substr(0, stripped_range(text, false, true, is_python_space).second);
        if (sign == '+' || kind == '{') return text;
        const size_t newline = text.rfind('\n');
        const size_t begin = newline == std::string_view::npos ? 0 : newline + 1;
        if (begin == 0 && !line_starts_) return text;
        const size_t kept = stripped_range(text.substr(begin), false, true, is_python_space).second;
        return kept == 0 ? text.substr(0, begin) : text;
    }

    // Past the end of a tag whose closing mark begins at `close`; `sign` stood before it.
    void after_tag(size_t close, char sign, bool trims) {
        size_t to = close + 2;
        if (sign == '-') {
            to += stripped_range(s_.substr(to), true, false, is_python_space).first;
        } else if (sign != '+' && trims && to < s_.size() && s_[to] == '\n') {
            ++to;
        }
        advance(to);
    }

    void comment() {
        const size_t close = s_.find("#}", at_);
        if (close == std::string_view::npos) syntax("a comment without #}");
        const char before = close > at_ ? s_[close - 1] : '\0';
        after_tag(close, before, true);
    }

    size_t skip_spaces(size_t at) const {
        while (at < s_.size() && is_ascii_space(s_[at])) ++at;
        return at;
    }

    bool begins_raw() const {
        size_t at = skip_spaces(at_);
        if (s_.substr(at, 3) != "raw") return false;
        at = skip_spaces(at + 3);
        return s_.substr(at, 2) == "%}" || s_.substr(at, 3) == "-%}";
    }

    void raw() {
        const size_t open = skip_spaces(skip_spaces(at_) + 3);
        const bool minus = s_[open] == '-';
        after_tag(open + (minus ? 1 : 0), minus ? '-' : '\0', false);
        for (size_t tag = s_.find("{%", at_); tag != std::string_view::npos; tag = s_.find("{%", tag + 2)) {
            size_t at = tag + 2;
            const char sign = at < s_.size() && (s_[at] == '-' || s_[at] == '+') ? s_[at++] : '\0';
            at = skip_spaces(at);
            if (s_.substr(at, 6) != "endraw") continue;
            at = skip_spaces(at + 6);
            const char end = at < s_.size() && (s_[at] == '-' || s_[at] == '+') ? s_[at++] : '\0';
            if (s_.substr(at, 2) != "%}") continue;
            data(left_of_tag(s_.substr(at_, tag - at_), sign, '%'));
            after_tag(at, end, true);
            return;
        }
        syntax("raw without endraw");
    }

    // Tokens up to the tag's own end.
    void expression(bool print) {
        const std::string_view close = print ? "}}" : "%}";
        std::string open;
        for (;;) {
            advance(skip_spaces(at_));
            if (at_ >= s_.size()) syntax(print ? "{{ without }}" : "{% without %}");
            const char c = s_[at_];
            const bool sign = (c == '-' || (c == '+' && !print)) && s_.substr(at_ + 1, 2) == close;
            if (open.empty() && (sign || s_.substr(at_, 2) == close)) {
                tokens_.push_back({print ? Kind::print_end : Kind::tag_end, "", line_});
                return after_tag(at_ + (sign ? 1 : 0), sign ? c : '\0', !print);
            }
            if (is_name_start(c)) {
                name();
            } else if (is_digit(c)) {
                number();
            } else if (c == '\'' || c == '"') {
                string();
            } else {
                op(open);
            }
        }
    }

    void name() {
        size_t end = at_;
        while (end < s_.size() && is_name_part(s_[end])) ++end;
        tokens_.push_back({Kind::name, std::string(s_.substr(at_, end - at_)), line_});
        advance(end);
    }

    size_t digits_end(size_t at) const {
        while (at < s_.size() && (is_digit(s_[at]) || (s_[at] == '_' && at + 1 < s_.size() && is_digit(s_[at + 1]))))
            ++at;
        return at;
    }

    void number() {
        const char second = at_ + 1 < s_.size() ? s_[at_ + 1] : '\0';
        if (s_[at_] == '0' && std::string_view("xXoObB").find(second) != std::string_view::npos && second != '\0')
            syntax("a number that is not decimal");
        size_t end = digits_end(at_);
        Kind kind = Kind::integer;
        const bool after_dot = at_ > 0 && s_[at_ - 1] == '.';  // a.1.2 is two look-ups
        if (!after_dot && end + 1 < s_.size() && s_[end] == '.' && is_digit(s_[end + 1])) {
            kind = Kind::real;
            end = digits_end(end + 1);
        }
        if (!after_dot && end < s_.size() && (s_[end] == 'e' || s_[end] == 'E')) {
            size_t exponent = end + 1;
            if (exponent < s_.size() && (s_[exponent] == '+' || s_[exponent] == '-')) ++exponent;
            if (exponent < s_.size() && is_digit(s_[exponent])) {
                kind = Kind::real;
                end = digits_end(exponent);
            }
        }
        std::string digits(s_.substr(at_, end - at_));
        std::erase(digits, '_');
        tokens_.push_back({kind, std::move(digits), line_});
        advance(end);
    }

    void string() {
        const char quote = s_[at_];
        size_t end = at_ + 1;
        while (end < s_.size() && s_[end] != quote) end += s_[end] == '\\' ? 2 : 1;
        if (end >= s_.size()) syntax("a string without its closing quote");
        tokens_.push_back({Kind::string, unescape(s_.substr(at_ + 1, end - at_ - 1)), line_});
        advance(end + 1);
    }

    // Python's escapes; an unknown one stands for itself.
    std::string unescape(std::string_view raw) const {
        std::string out;
        for (size_t i = 0; i < raw.size(); ++i) {
            if (raw[i] != '\\') {
                out += raw[i];
                continue;
            }
            const char c = raw[++i];
            constexpr std::string_view plain = "\\'\"abfnrtv", means = "\\'\"\a\b\f\n\r\t\v";
            if (const size_t k = plain.find(c); k != std::string_view::npos) {
                out += means[k];
            } else if (c == 'x' || c == 'u' || c == 'U') {
                const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
                append_code(out, raw.substr(std::min(raw.size(), i + 1), digits), digits, 16);
                i += digits;
            } else if (c >= '0' && c <= '7') {
                size_t n = 1;
                while (n < 3 && i + n < raw.size() && raw[i + n] >= '0' && raw[i + n] <= '7') ++n;
                append_code(out, raw.substr(i, n), n, 8);
                i += n - 1;
            } else if (c == 'N') {
                fail(Failure::Kind::unsupported, "\\N{…} in a string is not supported", line_);
            } else if (c != '\n') {
                out += '\\';
                out += c;
            }
        }
        return out;
    }

    void append_code(std::string& out, std::string_view digits, size_t expected, char32_t base) const {
        char32_t code = 0;
        for (char c : digits) {
            const char32_t digit = is_digit(c)            ? static_cast<char32_t>(c - '0')
                                   : c >= 'a' && c <= 'f' ? static_cast<char32_t>(c - 'a' + 10)
                                   : c >= 'A' && c <= 'F' ? static_cast<char32_t>(c - 'A' + 10)
                                                          : 99;
            if (digit >= base) syntax("a broken escape in a string");
            code = code * base + digit;
        }
        if (digits.size() != expected || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
            syntax("a broken escape in a string");
        append_utf8(out, code);
    }

    void op(std::string& open) {
        constexpr std::array<std::string_view, 6> pairs = {"//", "**", "==", "!=", ">=", "<="};
        const bool pair = std::find(pairs.begin(), pairs.end(), s_.substr(at_, 2)) != pairs.end();
        const char c = s_[at_];
        if (!pair && std::string_view("+-/*%~[](){}><=.:|,;").find(c) == std::string_view::npos)
            syntax(std::string("the character ") + c + " in an expression");
        if (c == '(' || c == '[' || c == '{') open += c == '(' ? ')' : c == '[' ? ']' : '}';
        if (c == ')' || c == ']' || c == '}') {
            if (open.empty() || open.back() != c) syntax(std::string("a ") + c + " that closes nothing");
            open.pop_back();
        }
        tokens_.push_back({Kind::op, std::string(s_.substr(at_, pair ? 2 : 1)), line_});
        advance(at_ + (pair ? 2 : 1));
    }

    const std::string source_;
    const std::string_view s_;
    size_t at_ = 0;
    int line_ = 1;
    bool line_starts_ = true;
    std::vector<Lexeme> tokens_;
};

}  // namespace

std::vector<Lexeme> lex(std::string_view source) { return Lexer(source).run(); }

}  // namespace spartan::jinja
