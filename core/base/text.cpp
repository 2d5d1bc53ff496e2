#include "core/base/text.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>

namespace spartan {
namespace {

// Length in bytes of the valid UTF-8 character at s[i], with its code point; 0 when the bytes there are not valid
// (overlong forms, surrogates and values past U+10FFFF are not).
size_t decode_utf8(std::string_view s, size_t i, uint32_t& code) {
    const auto byte = [&](size_t k) { return uint32_t(uint8_t(s[k])); };
    const uint32_t lead = byte(i);
    if (lead < 0x80) {
        code = lead;
        return 1;
    }
    const size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    if (lead < 0xc2 || lead > 0xf4 || i + length > s.size()) return 0;
    code = lead & (0xffu >> (length + 1));
    for (size_t k = 1; k < length; ++k) {
        if ((byte(i + k) & 0xc0) != 0x80) return 0;
        code = code << 6 | (byte(i + k) & 0x3f);
    }
    constexpr std::array<uint32_t, 5> least = {0, 0, 0x80, 0x800, 0x10000};
    if (code < least[length] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return 0;
    return length;
}

// Characters that move the cursor, hide text or reorder it.
bool is_unsafe(uint32_t code) {
    return code < 0x20 || (code >= 0x7f && code < 0xa0) || code == 0x61c || code == 0x200e || code == 0x200f ||
           (code >= 0x2028 && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069) || code == 0xfeff;
}

void append_escaped(std::string& out, uint32_t code, bool raw_byte) {
    if (!raw_byte) {
        if (code == '\n') {
            out += "\\n";
            return;
        }
        if (code == '\t') {
            out += "\\t";
            return;
        }
        if (code == '\r') {
            out += "\\r";
            return;
        }
    }
    std::array<char, 16> text{};
    std::snprintf(text.data(), text.size(), raw_byte || code < 0x80 ? "\\x%02x" : "\\u%04x", code);
    out += text.data();
}

bool is_plain_number(std::string_view s) {
    if (s.size() > 1 && s[0] == '+') s.remove_prefix(1);
    double value = 0;
    const auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), value);
    return error == std::errc() && end == s.data() + s.size() && std::isfinite(value);
}

}  // namespace

std::string escape_control(std::string_view s) {
    std::string out;
    out.reserve(s.size());
    for (size_t i = 0; i < s.size();) {
        uint32_t code = 0;
        const size_t length = decode_utf8(s, i, code);
        if (length == 0) {
            append_escaped(out, uint8_t(s[i]), true);
            ++i;
            continue;
        }
        if (is_unsafe(code))
            append_escaped(out, code, false);
        else
            out.append(s, i, length);
        i += length;
    }
    return out;
}

std::string escape_html(std::string_view s) {
    std::string out;
    out.reserve(s.size());
    for (const char c : s) switch (c) {
            case '&':
                out += "&amp;";
                break;
            case '<':
                out += "&lt;";
                break;
            case '>':
                out += "&gt;";
                break;
            case '"':
                out += "&quot;";
                break;
            case '\'':
                out += "&#39;";
                break;
            default:
                out += c;
        }
    return out;
}

std::string csv_cell(std::string_view s) {
    std::string cell(s);
    constexpr std::string_view formula_starts = "=+-@\t\r";
    if (!s.empty() && formula_starts.find(s[0]) != std::string_view::npos && !is_plain_number(s))
        cell.insert(0, 1, '\'');
    if (cell.find_first_of(",\"\r\n") == std::string::npos) return cell;
    std::string quoted = "\"";
    for (const char c : cell) {
        if (c == '"') quoted += '"';
        quoted += c;
    }
    return quoted + '"';
}

std::string format_bytes(int64_t bytes) {
    constexpr std::array<const char*, 7> units = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
    double value = double(bytes);
    size_t unit = 0;
    while (std::abs(value) >= (unit == 0 ? 1000.0 : 999.95) && unit + 1 < units.size()) {
        value /= 1000;
        ++unit;
    }
    std::array<char, 48> text{};
    std::snprintf(text.data(), text.size(), unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
    return text.data();
}

std::string shorten(std::string_view s, size_t max_bytes) {
    if (s.size() <= max_bytes) return std::string(s);
    size_t end = max_bytes;
    while (end > 0 && (uint8_t(s[end]) & 0xc0) == 0x80) --end;
    return std::string(s.substr(0, end)) + "…";
}

bool is_valid_utf8(std::string_view s) { return valid_utf8_bytes(s) == s.size(); }

size_t valid_utf8_bytes(std::string_view s) {
    for (size_t i = 0; i < s.size();) {
        uint32_t code = 0;
        const size_t length = decode_utf8(s, i, code);
        if (length == 0) return i;
        i += length;
    }
    return s.size();
}

std::string nearest_word(std::string_view word, const std::vector<std::string>& words) {
    std::string nearest;
    size_t fewest = std::max<size_t>(word.size() / 3, 1) + 1;
    for (const std::string& other : words) {
        std::vector<size_t> edits(other.size() + 1);  // from what was read of `word` to each start of `other`
        for (size_t j = 0; j < edits.size(); ++j) edits[j] = j;
        for (const char c : word) {
            size_t before = edits[0]++;
            for (size_t j = 1; j < edits.size(); ++j) {
                const size_t replaced = before + (other[j - 1] != c);
                before = edits[j];
                edits[j] = std::min({replaced, edits[j] + 1, edits[j - 1] + 1});
            }
        }
        if (edits.back() >= fewest) continue;
        fewest = edits.back();
        nearest = other;
    }
    return nearest;
}

}  // namespace spartan
