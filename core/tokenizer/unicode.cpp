#include "core/tokenizer/unicode.h"

#include "kernels/check.h"

#include <utf8proc.h>
#include <algorithm>
#include <vector>

namespace spartan {

namespace {

struct Lead {
    uint32_t size;      // 0: cannot begin a character
    uint8_t low, high;  // range of the second byte
};

Lead lead_of(uint8_t b) {
    if (b < 0x80) return {1, 0, 0};
    if (b < 0xC2) return {0, 0, 0};
    if (b < 0xE0) return {2, 0x80, 0xBF};
    if (b == 0xE0) return {3, 0xA0, 0xBF};
    if (b == 0xED) return {3, 0x80, 0x9F};
    if (b < 0xF0) return {3, 0x80, 0xBF};
    if (b == 0xF0) return {4, 0x90, 0xBF};
    if (b < 0xF4) return {4, 0x80, 0xBF};
    if (b == 0xF4) return {4, 0x80, 0x8F};
    return {0, 0, 0};
}

bool is_ascii(std::string_view text) {
    return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<uint8_t>(c) < 0x80; });
}

int combining_class(int32_t c) { return utf8proc_get_property(c)->combining_class; }

// Canonical ordering: within each run of characters of a class above 0, a stable sort by class.
void order_combining(std::vector<int32_t>& codes) {
    for (size_t i = 0; i < codes.size();) {
        if (combining_class(codes[i]) == 0) {
            ++i;
            continue;
        }
        size_t end = i;
        while (end < codes.size() && combining_class(codes[end]) != 0) ++end;
        std::stable_sort(codes.begin() + static_cast<ptrdiff_t>(i), codes.begin() + static_cast<ptrdiff_t>(end),
                         [](int32_t a, int32_t b) { return combining_class(a) < combining_class(b); });
        i = end;
    }
}

}  // namespace

Utf8Step utf8_step(std::string_view text, size_t at) {
    const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
    const uint8_t first = byte(at);
    if (first < 0x80) return {first, 1, Utf8Status::valid};
    const Lead lead = lead_of(first);
    if (lead.size == 0) return {0xFFFD, 1, Utf8Status::invalid};
    char32_t code = first & (0x7Fu >> lead.size);
    for (uint32_t k = 1; k < lead.size; ++k) {
        if (at + k >= text.size()) return {0xFFFD, k, Utf8Status::incomplete};
        const uint8_t b = byte(at + k);
        if (b < (k == 1 ? lead.low : 0x80) || b > (k == 1 ? lead.high : 0xBF)) return {0xFFFD, k, Utf8Status::invalid};
        code = code << 6 | (b & 0x3Fu);
    }
    return {code, lead.size, Utf8Status::valid};
}

size_t utf8_size(std::string_view text, size_t at) { return lead_of(static_cast<uint8_t>(text[at])).size; }

char32_t last_character(std::string_view text) {
    size_t at = text.size() - 1;
    while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0u) == 0x80u) --at;
    return utf8_step(text, at).code;
}

void append_utf8(std::string& out, char32_t code) {
    const auto put = [&](char32_t byte) { out.push_back(static_cast<char>(static_cast<uint8_t>(byte))); };
    if (code < 0x80) {
        put(code);
    } else if (code < 0x800) {
        put(0xC0 | code >> 6);
        put(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
        put(0xE0 | code >> 12);
        put(0x80 | (code >> 6 & 0x3F));
        put(0x80 | (code & 0x3F));
    } else {
        put(0xF0 | code >> 18);
        put(0x80 | (code >> 12 & 0x3F));
        put(0x80 | (code >> 6 & 0x3F));
        put(0x80 | (code & 0x3F));
    }
}

std::string utf8_lossy(std::string_view text) {
    std::string out;
    out.reserve(text.size());
    for (size_t i = 0; i < text.size();) {
        const Utf8Step step = utf8_step(text, i);
        out += step.status == Utf8Status::valid ? text.substr(i, step.size) : replacement_character;
        i += step.size;
    }
    return out;
}

bool is_white_space(char32_t c) {
    return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_numeric(char32_t c) {
    if (c < 0x80) return c >= '0' && c <= '9';
    const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
    return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL || category == UTF8PROC_CATEGORY_NO;
}

bool is_word(char32_t c) {
    switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
        case UTF8PROC_CATEGORY_LU:
        case UTF8PROC_CATEGORY_LL:
        case UTF8PROC_CATEGORY_LT:
        case UTF8PROC_CATEGORY_LM:
        case UTF8PROC_CATEGORY_LO:
        case UTF8PROC_CATEGORY_MN:
        case UTF8PROC_CATEGORY_MC:
        case UTF8PROC_CATEGORY_ME:
        case UTF8PROC_CATEGORY_ND:
        case UTF8PROC_CATEGORY_NL:
        case UTF8PROC_CATEGORY_PC:
            return true;
        default:
            break;
    }
    // Join_Control, and the symbols that Other_Alphabetic adds (circled and squared letters).
    return c == 0x200C || c == 0x200D || (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
           (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
}

std::string lower_case(std::string_view text) {
    std::string out;
    out.reserve(text.size());
    for (size_t i = 0; i < text.size();) {
        const Utf8Step step = utf8_step(text, i);
        i += step.size;
        if (step.code == 0x130) {
            out += "i\u0307";  // the one character whose lower case is two
        } else {
            append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(step.code))));
        }
    }
    return out;
}

std::string without_marks(std::string_view text) {
    std::string out;
    out.reserve(text.size());
    for (size_t i = 0; i < text.size();) {
        const Utf8Step step = utf8_step(text, i);
        const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(step.code));
        const bool mark = category >= UTF8PROC_CATEGORY_MN && category <= UTF8PROC_CATEGORY_ME;
        if (!mark) out += text.substr(i, step.size);
        i += step.size;
    }
    return out;
}

std::string normalize(std::string_view text, NormalForm form) {
    if (is_ascii(text)) return std::string(text);
    const bool compatible = form == NormalForm::nfkc || form == NormalForm::nfkd;
    const bool compose = form == NormalForm::nfc || form == NormalForm::nfkc;
    const auto decompose =
        static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : 0));
    std::vector<int32_t> codes;
    codes.reserve(text.size());
    for (size_t i = 0; i < text.size();) {
        const Utf8Step step = utf8_step(text, i);
        i += step.size;
        int32_t parts[32];  // the longest decomposition in Unicode has 18 characters
        int boundary = 0;
        const auto n = utf8proc_decompose_char(static_cast<int32_t>(step.code), parts, 32, decompose, &boundary);
        CHECK(n >= 0 && n <= 32);
        codes.insert(codes.end(), parts, parts + n);
    }
    order_combining(codes);
    if (compose) {
        const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        const auto n = utf8proc_normalize_utf32(codes.data(), static_cast<utf8proc_ssize_t>(codes.size()), options);
        CHECK(n >= 0);
        codes.resize(static_cast<size_t>(n));
    }
    std::string out;
    out.reserve(text.size());
    for (int32_t c : codes) append_utf8(out, static_cast<char32_t>(c));
    return out;
}

}  // namespace spartan
