// Pieces of the self-contained HTML reports: one file, no scripts, no network, light and dark.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace spartan {

// Everything between <body> tags goes in as `body`, already escaped; `title` is escaped here.
std::string html_page(std::string_view title, const std::string& body);
// `numeric` columns are right-aligned. Cells are escaped.
std::string html_table(const std::vector<std::string>& header, const std::vector<std::vector<std::string>>& rows,
                       size_t first_numeric_column = 1);
// Bars over [x of the first point, x of the last]; labels are escaped.
std::string svg_bars(const std::vector<std::pair<double, double>>& points, const std::string& x_label,
                     const std::string& y_label);

std::string format_figure(double value);  // three significant digits or whole: "0.0123", "4.56", "1,234"

}  // namespace spartan
