#include "core/run/compare.h"

#include "core/base/text.h"
#include "core/run/html.h"
#include "core/run/run_dir.h"
#include "core/run/table.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>

namespace spartan {
namespace {

struct Metric {
    std::string path;  // dotted, within the summary
    const char* unit;
    const char* better;  // "higher", "lower" or ""
};

std::vector<Metric> metrics() {
    std::vector<Metric> all{{"requests", "", ""},
                            {"completed", "", "higher"},
                            {"failed", "", "lower"},
                            {"duration_s", "s", "lower"},
                            {"request_throughput", "requests/s", "higher"},
                            {"output_throughput", "tokens/s", "higher"},
                            {"total_throughput", "tokens/s", "higher"}};
    for (const char* latency : {"ttft_ms", "itl_ms", "tpot_ms", "e2e_ms", "queue_ms"})
        for (const char* figure : {"mean", "p50", "p90", "p95", "p99"})
            all.push_back({std::string(latency) + "." + figure, "ms", "lower"});
    all.push_back({"goodput", "requests/s", "higher"});
    all.push_back({"attainment", "", "higher"});
    all.push_back({"adapters.loads", "", "lower"});
    all.push_back({"adapters.evictions", "", "lower"});
    all.push_back({"adapters.hit_rate", "", "higher"});
    all.push_back({"pool.peak_used", "pages", "lower"});
    return all;
}

Json at_path(const Json& json, const std::string& path) {
    const Json* at = &json;
    for (size_t begin = 0;;) {
        const size_t end = std::min(path.find('.', begin), path.size());
        const auto it = at->is_object() ? at->find(path.substr(begin, end - begin)) : at->end();
        if (!at->is_object() || it == at->end()) return nullptr;
        at = &*it;
        if (end == path.size()) return *at;
        begin = end + 1;
    }
}

Json metric_differences(const Metric& metric, const Json& runs) {
    Json values = Json::array(), absolute = Json::array(), relative = Json::array();
    for (const Json& run : runs) {
        const Json value = at_path(run["summary"], metric.path);
        const Json& base = values.empty() ? value : values[0];
        const bool both = value.is_number() && base.is_number();
        const double difference = both ? value.get<double>() - base.get<double>() : 0;
        absolute.push_back(both ? Json(difference) : Json(nullptr));
        const bool has_ratio = both && base.get<double>() != 0;
        relative.push_back(has_ratio                 ? Json(difference / base.get<double>())
                           : both && difference == 0 ? Json(0.0)
                                                     : Json(nullptr));
        values.push_back(value);
    }
    return {{"metric", metric.path},
            {"unit", metric.unit},
            {"better", *metric.better ? Json(metric.better) : Json(nullptr)},
            {"values", values},
            {"absolute", absolute},
            {"relative", relative}};
}

void flatten(const Json& json, const std::string& path, std::map<std::string, Json>& out) {
    if (!json.is_object()) {
        out[path] = json;
        return;
    }
    for (const auto& [key, value] : json.items()) flatten(value, path.empty() ? key : path + "." + key, out);
}

std::map<std::string, Json> settings_of(const RunInfo& run) {
    std::map<std::string, Json> out;
    for (const char* section : {"workload", "engine", "device", "model", "version", "commit"})
        if (run.json.contains(section)) flatten(run.json[section], section, out);
    for (const Json& adapter : run.json.contains("adapters") ? run.json["adapters"] : Json::array())
        out["adapter." + adapter["name"].get<std::string>()] =
            adapter.contains("hash") ? adapter["hash"] : Json("loaded");
    return out;
}

Json setting_differences(const std::vector<std::map<std::string, Json>>& settings) {
    std::map<std::string, Json> names;
    for (const auto& one : settings)
        for (const auto& [key, value] : one) names[key] = nullptr;
    Json list = Json::array();
    for (const auto& [key, unused] : names) {
        Json values = Json::array();
        bool differs = false;
        for (const auto& one : settings) {
            const auto it = one.find(key);
            values.push_back(it == one.end() ? Json(nullptr) : it->second);
            differs |= values.back() != values.front();
        }
        if (differs) list.push_back({{"setting", key}, {"values", values}});
    }
    return list;
}

std::string shown(const Json& value) {
    if (value.is_number()) return format_figure(value.get<double>());
    if (value.is_null()) return "–";
    return value.is_string() ? value.get<std::string>() : value.dump();
}

std::string percent(const Json& metric, size_t run) {
    const Json& relative = metric["relative"][run];
    if (run == 0 || !relative.is_number()) return "";
    const double r = relative.get<double>();
    if (r == 0) return "  =";
    char text[32];
    std::snprintf(text, sizeof text, "%s %+.1f %%", r > 0 ? "▲" : "▼", r * 100);
    std::string out = text;
    if (metric["better"].is_string()) {
        const bool better = (r > 0) == (metric["better"] == "higher");
        out += better ? " better" : " worse";
    }
    return out;
}

bool all_differ(std::vector<std::string> texts) {
    std::sort(texts.begin(), texts.end());
    return std::adjacent_find(texts.begin(), texts.end()) == texts.end();
}

// Recordings of one workload have one name: then their folders tell them apart.
std::vector<std::string> labels_of(const Json& comparison) {
    std::vector<std::string> names, folders, paths;
    for (const Json& run : comparison["runs"]) {
        paths.push_back(run["dir"].get<std::string>());
        names.push_back(run["name"].get<std::string>());
        const std::filesystem::path folder = std::filesystem::path(paths.back()).lexically_normal();
        folders.push_back((folder.has_filename() ? folder : folder.parent_path()).filename().string());
    }
    return all_differ(names) ? names : all_differ(folders) ? folders : paths;
}

std::vector<std::string> header_of(const Json& comparison) {
    std::vector<std::string> header{"metric"};
    const std::vector<std::string> labels = labels_of(comparison);
    for (size_t i = 0; i < labels.size(); ++i) {
        header.push_back(labels[i] + (comparison["runs"][i]["complete"].get<bool>() ? "" : " (incomplete)"));
        if (header.size() > 2) header.push_back("against the first");
    }
    return header;
}

std::vector<std::vector<std::string>> metric_rows(const Json& comparison) {
    std::vector<std::vector<std::string>> rows;
    for (const Json& metric : comparison["differences"]["metrics"]) {
        const std::string unit = metric["unit"].get<std::string>();
        std::vector<std::string> row{metric["metric"].get<std::string>() + (unit.empty() ? "" : ", " + unit)};
        bool any = false;
        for (size_t i = 0; i < metric["values"].size(); ++i) {
            any |= !metric["values"][i].is_null();
            row.push_back(shown(metric["values"][i]));
            if (i > 0) row.push_back(percent(metric, i));
        }
        if (any) rows.push_back(std::move(row));
    }
    return rows;
}

std::vector<std::vector<std::string>> setting_rows(const Json& comparison) {
    std::vector<std::vector<std::string>> rows;
    for (const Json& setting : comparison["differences"]["settings"]) {
        std::vector<std::string> row{setting["setting"].get<std::string>()};
        for (const Json& value : setting["values"]) row.push_back(shorten(shown(value), 60));
        rows.push_back(std::move(row));
    }
    return rows;
}

std::vector<std::string> setting_header(const Json& comparison) {
    std::vector<std::string> header{"setting that differs"};
    for (std::string& label : labels_of(comparison)) header.push_back(std::move(label));
    return header;
}

}  // namespace

Result<Json> compare_runs(const std::vector<std::string>& dirs, Progress* progress) {
    Json runs = Json::array();
    std::vector<std::map<std::string, Json>> settings;
    for (const std::string& dir : dirs) {
        TRY_ASSIGN(run, open_run(dir));
        TRY_ASSIGN(summary, summarise_run(run, progress));
        const Json model = run.json.contains("model") ? run.json["model"] : Json(nullptr);
        const Json started = run.json.contains("started") ? run.json["started"] : Json(nullptr);
        runs.push_back({{"dir", dir},
                        {"name", run.name},
                        {"complete", run.complete},
                        {"started", started},
                        {"model", model},
                        {"summary", summary}});
        settings.push_back(settings_of(run));
    }
    Json list = Json::array();
    for (const Metric& metric : metrics()) list.push_back(metric_differences(metric, runs));
    Json differences{{"baseline", dirs.empty() ? Json(nullptr) : Json(dirs[0])},
                     {"metrics", list},
                     {"settings", setting_differences(settings)}};
    return Json{{"runs", runs}, {"differences", differences}};
}

std::string comparison_text(const Json& comparison) {
    std::string out = text_table(header_of(comparison), metric_rows(comparison));
    const auto settings = setting_rows(comparison);
    if (!settings.empty()) out += "\n" + text_table(setting_header(comparison), settings, 99);
    return out;
}

std::string comparison_html(const Json& comparison) {
    std::string body = "<p>Differences are against the first run.</p>\n<h2>Metrics</h2>\n" +
                       html_table(header_of(comparison), metric_rows(comparison));
    const auto settings = setting_rows(comparison);
    if (!settings.empty()) body += "<h2>Settings</h2>\n" + html_table(setting_header(comparison), settings, 99);
    return html_page("Comparison of runs", body);
}

}  // namespace spartan
