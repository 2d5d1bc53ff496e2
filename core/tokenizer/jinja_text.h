// A string that remembers which of its bytes a person wrote: what a template quotes from a conversation never becomes a
// special token, however the template cuts and joins it.
#pragma once

#include "core/tokenizer/unicode.h"

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace spartan::jinja {

class Text {
public:
    struct Stretch {
        size_t end;  // begins where the one before ends
        bool quoted;
    };

    Text() = default;
    explicit Text(std::string_view bytes, bool quoted = false) { append(bytes, quoted); }

    const std::string& bytes() const { return bytes_; }
    size_t size() const { return bytes_.size(); }
    bool empty() const { return bytes_.empty(); }
    const std::vector<Stretch>& stretches() const { return stretches_; }
    bool quoted_at(size_t at) const;  // at < size()

    void append(std::string_view bytes, bool quoted);
    void append(const Text& other) { append(other, 0, other.size()); }
    void append(const Text& other, size_t begin, size_t end);
    Text slice(size_t begin, size_t end) const;
    // map(bytes) of each stretch, with its mark.
    template <class Map>
    Text mapped(Map&& map) const {
        Text out;
        size_t begin = 0;
        for (const Stretch& s : stretches_) {
            out.append(map(std::string_view(bytes_).substr(begin, s.end - begin)), s.quoted);
            begin = s.end;
        }
        return out;
    }

private:
    std::string bytes_;
    std::vector<Stretch> stretches_;  // neighbours differ
};

// Code points of valid UTF-8, and where the one of an index begins (index <= count).
size_t count_characters(std::string_view text);
size_t character_offset(std::string_view text, size_t index);

// Python's str.isspace() of one character.
bool is_python_space(char32_t c);
// The part of `text` between leading and trailing characters that `drop(code)` wants gone.
template <class Drop>
std::pair<size_t, size_t> stripped_range(std::string_view text, bool left, bool right, Drop&& drop) {
    size_t begin = 0, end = text.size();
    while (left && begin < end) {
        const Utf8Step step = utf8_step(text, begin);
        if (!drop(step.code)) break;
        begin += step.size;
    }
    while (right && end > begin) {
        const char32_t last = last_character(text.substr(begin, end - begin));
        if (!drop(last)) break;
        do {
            --end;
        } while ((static_cast<uint8_t>(text[end]) & 0xC0u) == 0x80u);
    }
    return {begin, end};
}

// Linear whatever the texts; npos when absent.
size_t find_bytes(std::string_view text, std::string_view what, size_t from = 0);

}  // namespace spartan::jinja
