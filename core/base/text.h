// Small text helpers shared by messages, exports and reports.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace spartan {

// Control characters (also C1 and bidirectional overrides) as \n, \t, \x1b, \u202e; invalid UTF-8 as \xNN. For
// terminals and one-line messages.
std::string escape_control(std::string_view s);
std::string escape_html(std::string_view s);
// A CSV cell: quoted where needed; a cell that a spreadsheet would run as a formula (= + - @ tab) gets a leading quote
// mark. Plain numbers are left alone.
std::string csv_cell(std::string_view s);

std::string format_bytes(int64_t bytes);  // "98.4 MB", powers of ten
std::string join(const auto& parts, std::string_view separator) {
    std::string out;
    for (const auto& p : parts) {
        if (!out.empty()) out += separator;
        out += p;
    }
    return out;
}

// The word that the fewest edits of single bytes make of `word`; none when even that takes more than a third of it.
std::string nearest_word(std::string_view word, const std::vector<std::string>& words);

// Cuts at a character boundary and appends "…" when longer than `max_bytes`.
std::string shorten(std::string_view s, size_t max_bytes);
bool is_valid_utf8(std::string_view s);
size_t valid_utf8_bytes(std::string_view s);  // how many bytes come before the first that are not UTF-8

}  // namespace spartan
