// UTF-8 and the few Unicode properties that tokenizers ask for.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace spartan {

enum class Utf8Status : uint8_t {
    valid,
    invalid,     // the bytes can never become a character
    incomplete,  // the text ends inside a character
};

struct Utf8Step {
    char32_t code;  // U+FFFD unless valid
    uint32_t size;  // bytes to advance: at least 1
    Utf8Status status;
};

// The character at text[at]. An invalid one covers the longest prefix of a valid sequence ("maximal subpart",
// Unicode 3.9), which is what Rust's from_utf8_lossy replaces by one U+FFFD. Requires at < text.size().
Utf8Step utf8_step(std::string_view text, size_t at);
// The byte length of the character at text[at], where `text` is valid UTF-8.
size_t utf8_size(std::string_view text, size_t at);
// The last character of valid, non-empty text.
char32_t last_character(std::string_view text);

void append_utf8(std::string& out, char32_t code);
// `text` with every invalid part replaced by U+FFFD.
std::string utf8_lossy(std::string_view text);

inline constexpr std::string_view replacement_character = "\xEF\xBF\xBD";

bool is_white_space(char32_t c);  // White_Space
bool is_numeric(char32_t c);      // Nd, Nl, No: Rust's char::is_numeric
bool is_word(char32_t c);         // \w of Unicode TR 18: Alphabetic, M, Nd, Pc, Join_Control

std::string lower_case(std::string_view text);     // character by character, as Rust's to_lowercase()
std::string without_marks(std::string_view text);  // without categories Mn, Mc and Me

enum class NormalForm : uint8_t { nfc, nfd, nfkc, nfkd };

// O(n log n) whatever the text: long runs of combining marks are sorted, not bubbled. Requires valid UTF-8.
std::string normalize(std::string_view text, NormalForm form);

}  // namespace spartan
