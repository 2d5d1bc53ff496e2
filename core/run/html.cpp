#include "core/run/html.h"

#include "core/base/text.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace spartan {
namespace {

constexpr const char* kStyle = R"(
:root{color-scheme:light dark;--ink:#3a3a3a;--quiet:#767676;--line:#dcdcdc;--bar:#0072b2;--page:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e6e6e6;--quiet:#9a9a9a;--line:#3c3c3c;--bar:#3e9bdc;--page:#1e1e1e}}
body{font:14px/1.5 Inter,system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:1040px;margin:32px auto;padding:0 24px;
font-variant-numeric:tabular-nums}
h1{font-size:22px;font-weight:600;margin:0}h2{font-size:15px;font-weight:600;margin:32px 0 8px}p{color:var(--quiet);margin:4px 0}
table{border-collapse:collapse;width:100%}th,td{padding:4px 12px 4px 0;border-bottom:1px solid var(--line);text-align:left;
font-weight:400;overflow-wrap:anywhere}th{color:var(--quiet)}td.n,th.n{text-align:right;white-space:nowrap}
.tiles{display:flex;flex-wrap:wrap;gap:24px;margin:16px 0}.tile b{display:block;font-size:24px;font-weight:600}.tile{color:var(--quiet)}
.tile b{color:var(--ink)}svg{width:100%;height:auto}svg text{fill:var(--quiet);font-size:11px}svg .bar{fill:var(--bar)}
svg .axis{stroke:var(--line)}
)";

std::string with_commas(long long value) {
    std::string s = std::to_string(value);
    for (size_t i = s.size(); i > 3 + (s[0] == '-' ? 1u : 0u); i -= 3) s.insert(i - 3, ",");
    return s;
}

std::string cell(const char* tag, const std::string& text, bool numeric) {
    return "<" + std::string(tag) + (numeric ? " class=\"n\">" : ">") + escape_html(text) + "</" + tag + ">";
}

std::string text_at(double x, double y, const char* anchor, const std::string& text) {
    char place[96];
    std::snprintf(place, sizeof place, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">", x, y, anchor);
    return place + escape_html(text) + "</text>";
}

}  // namespace

std::string format_figure(double v) {
    if (!std::isfinite(v)) return "–";
    if (std::abs(v) >= 1000) return with_commas(std::llround(v));
    if (v == std::floor(v)) return std::to_string((long long)v);
    char text[32];
    const int decimals = std::abs(v) >= 100 ? 0 : std::abs(v) >= 10 ? 1 : std::abs(v) >= 1 ? 2 : 4;
    std::snprintf(text, sizeof text, "%.*f", decimals, v);
    return text;
}

std::string html_page(std::string_view title, const std::string& body) {
    const std::string name = escape_html(title);
    return "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
           "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
           "<meta name=\"viewport\" content=\"width=device-width\"><title>" +
           name + "</title><style>" + kStyle + "</style></head><body>\n<h1>" + name + "</h1>\n" + body +
           "</body></html>\n";
}

std::string html_table(const std::vector<std::string>& header, const std::vector<std::vector<std::string>>& rows,
                       size_t first_numeric_column) {
    std::string out = "<table><thead><tr>";
    for (size_t i = 0; i < header.size(); ++i) out += cell("th", header[i], i >= first_numeric_column);
    out += "</tr></thead><tbody>\n";
    for (const auto& row : rows) {
        out += "<tr>";
        for (size_t i = 0; i < row.size(); ++i) out += cell("td", row[i], i >= first_numeric_column);
        out += "</tr>\n";
    }
    return out + "</tbody></table>\n";
}

std::string svg_bars(const std::vector<std::pair<double, double>>& points, const std::string& x_label,
                     const std::string& y_label) {
    if (points.empty()) return "<p>no data</p>\n";
    constexpr double kLeft = 64, kTop = 16, kWidth = 916, kHeight = 160;
    double top = 0;
    for (const auto& [x, y] : points) top = std::max(top, y);
    if (top <= 0) top = 1;
    std::string out = "<svg viewBox=\"0 0 1000 220\" role=\"img\">";
    const double step = kWidth / double(points.size());
    for (size_t i = 0; i < points.size(); ++i) {
        const double height = kHeight * points[i].second / top;
        char bar[160];
        std::snprintf(bar, sizeof bar, "<rect class=\"bar\" x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\"/>",
                      kLeft + step * double(i), kTop + kHeight - height, std::max(step - 1, 0.5), height);
        out += bar;
    }
    char axis[160];
    std::snprintf(axis, sizeof axis, "<line class=\"axis\" x1=\"%g\" y1=\"%g\" x2=\"%g\" y2=\"%g\"/>", kLeft,
                  kTop + kHeight, kLeft + kWidth, kTop + kHeight);
    out += axis;
    out += text_at(kLeft - 8, kTop + 8, "end", format_figure(top)) + text_at(kLeft - 8, kTop + kHeight, "end", "0");
    out += text_at(kLeft, kTop + kHeight + 16, "start", format_figure(points.front().first));
    out += text_at(kLeft + kWidth, kTop + kHeight + 16, "end", format_figure(points.back().first));
    out += text_at(kLeft + kWidth / 2, kTop + kHeight + 32, "middle", x_label + "; bars: " + y_label);
    return out + "</svg>\n";
}

}  // namespace spartan
