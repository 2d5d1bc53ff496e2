// Values as text: Python's str() and repr(), and json.dumps().
#include "core/tokenizer/jinja_operations.h"

#include <utf8proc.h>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

namespace spartan::jinja {

namespace {

using Kind = Value::Kind;

// Python's repr(): the shortest digits that read back as the same number.
std::string real_text(double d) {
    if (std::isnan(d)) return "nan";
    if (std::isinf(d)) return d < 0 ? "-inf" : "inf";
    char buffer[64];
    const auto scientific = std::to_chars(buffer, buffer + sizeof buffer, d, std::chars_format::scientific);
    const std::string s(buffer, scientific.ptr);
    const size_t e = s.find('e');
    const int exponent = std::stoi(s.substr(e + 1));
    if (exponent < -4 || exponent >= 16) {
        std::string out = s.substr(0, e) + (exponent < 0 ? "e-" : "e+");
        const int size = std::abs(exponent);
        return out + (size < 10 ? "0" : "") + std::to_string(size);
    }
    const auto fixed = std::to_chars(buffer, buffer + sizeof buffer, d, std::chars_format::fixed);
    std::string out(buffer, fixed.ptr);
    return out.find('.') == std::string::npos ? out + ".0" : out;
}

std::string hex_escape(char32_t c, bool json) {
    char buffer[16];
    if (json && c >= 0x10000) {
        const auto high = static_cast<unsigned>(0xD800 + ((c - 0x10000) >> 10));
        const auto low = static_cast<unsigned>(0xDC00 + ((c - 0x10000) & 0x3FF));
        std::snprintf(buffer, sizeof buffer, "\\u%04x\\u%04x", high, low);
    } else {
        const char* format = json || (c >= 0x100 && c < 0x10000) ? "\\u%04x" : c < 0x100 ? "\\x%02x" : "\\U%08x";
        std::snprintf(buffer, sizeof buffer, format, static_cast<unsigned>(c));
    }
    return buffer;
}

bool is_printable(char32_t c) {
    if (c == ' ') return true;
    switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
        case UTF8PROC_CATEGORY_CC:
        case UTF8PROC_CATEGORY_CF:
        case UTF8PROC_CATEGORY_CS:
        case UTF8PROC_CATEGORY_CO:
        case UTF8PROC_CATEGORY_CN:
        case UTF8PROC_CATEGORY_ZS:
        case UTF8PROC_CATEGORY_ZL:
        case UTF8PROC_CATEGORY_ZP:
            return false;
        default:
            return true;
    }
}

// "" where the character stands for itself.
std::string json_escape(char32_t c, bool ascii) {
    constexpr std::string_view special = "\"\\\n\r\t\b\f", letters = "\"\\nrtbf";
    const size_t k = c < 0x80 ? special.find(static_cast<char>(c)) : std::string_view::npos;
    if (k != std::string_view::npos) return {'\\', letters[k]};
    return c < 0x20 || (ascii && c >= 0x7F + 1) ? hex_escape(c, true) : "";
}

std::string python_escape(char32_t c, char quote) {
    if (c == '\n') return "\\n";
    if (c == '\r') return "\\r";
    if (c == '\t') return "\\t";
    if (c == '\\' || c == static_cast<char32_t>(quote)) return {'\\', static_cast<char>(c)};
    return is_printable(c) ? "" : hex_escape(c, false);
}

// `text` with escape(code) for each character, marks kept.
template <class Escape>
void append_escaped(Budget& budget, Text& out, const Text& text, Escape&& escape) {
    budget.make(text.size());
    budget.work(text.size() / 4);
    size_t from = 0;
    const std::string& bytes = text.bytes();
    for (size_t at = 0; at < bytes.size();) {
        const Utf8Step step = utf8_step(bytes, at);
        if (const std::string escaped = escape(step.code); !escaped.empty()) {
            out.append(text, from, at);
            out.append(escaped, text.quoted_at(at));
            from = at + step.size;
        }
        at += step.size;
    }
    out.append(text, from, bytes.size());
}

class Printer {
public:
    Printer(Budget& budget, Text& out) : budget_(budget), out_(out) {}

    void repr(const Value& v) {
        budget_.work(1);
        switch (v.kind()) {
            case Kind::text:
                return quoted(v.text());
            case Kind::list:
            case Kind::tuple:
                return items(v);
            case Kind::dict:
                return dict(v.dict());
            case Kind::undefined:
                return put("Undefined");
            default:
                out_.append(str(budget_, v));
        }
    }

private:
    void put(std::string_view bytes) { out_.append(bytes, false); }

    void quoted(const Text& text) {
        const bool single = text.bytes().find('\'') != std::string::npos;
        const char quote = single && text.bytes().find('"') == std::string::npos ? '"' : '\'';
        put({&quote, 1});
        append_escaped(budget_, out_, text, [quote](char32_t c) { return python_escape(c, quote); });
        put({&quote, 1});
    }
    void items(const Value& v) {
        const bool tuple = v.is(Kind::tuple);
        const auto& values = v.items().values;
        put(tuple ? "(" : "[");
        for (size_t i = 0; i < values.size(); ++i) {
            if (i > 0) put(", ");
            repr(values[i]);
        }
        put(tuple && values.size() == 1 ? ",)" : tuple ? ")" : "]");
    }
    void dict(const Dict& d) {
        put("{");
        for (size_t i = 0; i < d.entries.size(); ++i) {
            if (i > 0) put(", ");
            repr(d.entries[i].first);
            put(": ");
            repr(d.entries[i].second);
        }
        put("}");
    }

    Budget& budget_;
    Text& out_;
};

class JsonWriter {
public:
    JsonWriter(Budget& budget, const JsonStyle& style, Text& out) : budget_(budget), style_(style), out_(out) {}

    void write(const Value& v, int level) {
        budget_.work(1);
        switch (v.kind()) {
            case Kind::none:
                return put("null");
            case Kind::boolean:
                return put(v.boolean() ? "true" : "false");
            case Kind::integer:
                return put(std::to_string(v.integer()));
            case Kind::real:
                return put(real(v.real()));
            case Kind::text:
                return quoted(v.text());
            case Kind::list:
            case Kind::tuple:
                return list(v.items().values, level);
            case Kind::dict:
                return dict(v.dict(), level);
            default:
                fail_runtime(std::string("an object of type ") + v.type_name() + " is not JSON serializable");
        }
    }

private:
    void put(std::string_view bytes) {
        budget_.make(bytes.size());
        out_.append(bytes, false);
    }
    static std::string real(double d) {
        return std::isnan(d) ? "NaN" : std::isinf(d) ? (d < 0 ? "-Infinity" : "Infinity") : real_text(d);
    }
    void quoted(const Text& text) {
        put("\"");
        append_escaped(budget_, out_, text, [this](char32_t c) { return json_escape(c, style_.ascii); });
        put("\"");
    }
    void line(int level) {
        if (!style_.lines) return;
        put("\n");
        for (int i = 0; i < level; ++i) put(style_.indent);
    }
    void separator(size_t i) {
        if (i > 0) put(style_.item_separator);
    }

    void list(const std::vector<Value>& values, int level) {
        put("[");
        for (size_t i = 0; i < values.size(); ++i) {
            separator(i);
            line(level + 1);
            write(values[i], level + 1);
        }
        if (!values.empty()) line(level);
        put("]");
    }

    void key(const Value& v) {
        if (v.is_text()) return quoted(v.text());
        if (!v.is_number() && !v.is_none())
            fail_runtime(std::string("a key of type ") + v.type_name() + " is not JSON serializable");
        put("\"");
        write(v, 0);
        put("\"");
    }
    void dict(const Dict& d, int level) {
        auto entries = d.entries;
        budget_.make(entries.size() * 64);
        if (style_.sorted)
            std::stable_sort(entries.begin(), entries.end(),
                             [this](const auto& a, const auto& b) { return order(budget_, a.first, b.first) < 0; });
        put("{");
        for (size_t i = 0; i < entries.size(); ++i) {
            separator(i);
            line(level + 1);
            key(entries[i].first);
            put(style_.key_separator);
            write(entries[i].second, level + 1);
        }
        if (!entries.empty()) line(level);
        put("}");
    }

    Budget& budget_;
    const JsonStyle& style_;
    Text& out_;
};

}  // namespace

Text str(Budget& budget, const Value& v) {
    budget.work(1);
    switch (v.kind()) {
        case Kind::undefined:
            return Text();
        case Kind::none:
            return Text("None");
        case Kind::boolean:
            return Text(v.boolean() ? "True" : "False");
        case Kind::integer:
            return Text(std::to_string(v.integer()));
        case Kind::real:
            return Text(real_text(v.real()));
        case Kind::text:
            budget.look_at(v.text().size());
            return v.text();
        case Kind::list:
        case Kind::tuple:
        case Kind::dict: {
            Text out;
            Printer(budget, out).repr(v);
            budget.make(out.size());
            return out;
        }
        default:
            fail_runtime(std::string("an object of type ") + v.type_name() + " has no text");
    }
}

Text to_json(Budget& budget, const Value& v, const JsonStyle& style) {
    Text out;
    JsonWriter(budget, style, out).write(v, 0);
    return out;
}

}  // namespace spartan::jinja
