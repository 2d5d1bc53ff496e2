// Tables for a terminal.
#pragma once

#include <string>
#include <vector>

namespace spartan {

// Columns from `first_numeric_column` on are right-aligned. Control characters are escaped; widths count characters.
std::string text_table(const std::vector<std::string>& header, const std::vector<std::vector<std::string>>& rows,
                       size_t first_numeric_column = 1);

}  // namespace spartan
