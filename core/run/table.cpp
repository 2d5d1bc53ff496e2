#include "core/run/table.h"

#include "core/base/text.h"

#include <algorithm>

namespace spartan {
namespace {

size_t width_of(const std::string& s) {
    return size_t(std::count_if(s.begin(), s.end(), [](char c) { return (uint8_t(c) & 0xc0) != 0x80; }));
}

std::string line_of(const std::vector<std::string>& cells, const std::vector<size_t>& widths, size_t first_numeric) {
    std::string line;
    for (size_t i = 0; i < cells.size(); ++i) {
        const std::string pad(widths[i] - width_of(cells[i]), ' ');
        if (i > 0) line += "  ";
        line += i >= first_numeric ? pad + cells[i] : cells[i] + pad;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    return line + "\n";
}

}  // namespace

std::string text_table(const std::vector<std::string>& header, const std::vector<std::vector<std::string>>& rows,
                       size_t first_numeric_column) {
    std::vector<std::vector<std::string>> lines{header};
    lines.insert(lines.end(), rows.begin(), rows.end());
    std::vector<size_t> widths(header.size());
    for (auto& line : lines) {
        widths.resize(std::max(widths.size(), line.size()));
        for (size_t i = 0; i < line.size(); ++i) {
            line[i] = escape_control(line[i]);
            widths[i] = std::max(widths[i], width_of(line[i]));
        }
    }
    std::string out;
    for (const auto& line : lines) out += line_of(line, widths, first_numeric_column);
    return out;
}

}  // namespace spartan
