#include "core/tokenizer/jinja_text.h"

#include "core/tokenizer/unicode.h"

#include <algorithm>
#include <cstring>

namespace spartan::jinja {

bool Text::quoted_at(size_t at) const {
    const auto s = std::upper_bound(stretches_.begin(), stretches_.end(), at,
                                    [](size_t value, const Stretch& stretch) { return value < stretch.end; });
    return s->quoted;
}

void Text::append(std::string_view bytes, bool quoted) {
    if (bytes.empty()) return;
    bytes_ += bytes;
    if (!stretches_.empty() && stretches_.back().quoted == quoted) {
        stretches_.back().end = bytes_.size();
    } else {
        stretches_.push_back({bytes_.size(), quoted});
    }
}

void Text::append(const Text& other, size_t begin, size_t end) {
    if (begin >= end) return;
    const auto first = std::upper_bound(other.stretches_.begin(), other.stretches_.end(), begin,
                                        [](size_t value, const Stretch& stretch) { return value < stretch.end; });
    for (auto s = first; s != other.stretches_.end() && begin < end; ++s) {
        const size_t stop = std::min(s->end, end);
        append(std::string_view(other.bytes_).substr(begin, stop - begin), s->quoted);
        begin = stop;
    }
}

Text Text::slice(size_t begin, size_t end) const {
    Text out;
    out.append(*this, begin, end);
    return out;
}

size_t count_characters(std::string_view text) {
    return static_cast<size_t>(
        std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xC0u) != 0x80u; }));
}

size_t character_offset(std::string_view text, size_t index) {
    size_t at = 0;
    for (; index > 0 && at < text.size(); --index) at += utf8_size(text, at);
    return at;
}

bool is_python_space(char32_t c) { return is_white_space(c) || (c >= 0x1C && c <= 0x1F); }

size_t find_bytes(std::string_view text, std::string_view what, size_t from) {
    if (from > text.size()) return std::string_view::npos;
    if (what.empty()) return from;
    const void* found = memmem(text.data() + from, text.size() - from, what.data(), what.size());
    return found ? static_cast<size_t>(static_cast<const char*>(found) - text.data()) : std::string_view::npos;
}

}  // namespace spartan::jinja
