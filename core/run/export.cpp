#include "core/run/export.h"

#include "core/base/text.h"
#include "core/run/html.h"
#include "core/run/metrics.h"
#include "core/run/output_file.h"
#include "core/run/run_files.h"

#include <algorithm>
#include <cstdio>
#include <map>

namespace spartan {
namespace {

std::string decimal(double value, int decimals) {
    char text[40];
    std::snprintf(text, sizeof text, "%.*f", decimals, value);
    return text;
}

std::string ms_cell(int64_t us) { return us < 0 ? "" : decimal(double(us) / 1e3, 3); }

std::string tpot_cell(const RequestRecord& r) {
    if (r.output_tokens < 2 || r.ttft_us() < 0) return "";
    return decimal(double(r.e2e_us() - r.ttft_us()) / 1e3 / (r.output_tokens - 1), 3);
}

std::string adapter_name(const RunInfo& run, AdapterId id) {
    if (id == AdapterId::base) return "";
    const auto i = size_t(id);
    return i < run.adapter_names.size() ? run.adapter_names[i] : "adapter " + std::to_string(i);
}

std::string csv_row(const RunInfo& run, const RequestRecord& r, int64_t first_arrival_us) {
    const std::string id = r.origin.label.empty() ? std::to_string(uint64_t(r.id)) : csv_cell(r.origin.label);
    return join(std::vector<std::string>{id, csv_cell(adapter_name(run, r.adapter)),
                                         decimal(double(r.arrival_us - first_arrival_us) / 1e6, 6),
                                         ms_cell(r.queue_us()), ms_cell(r.ttft_us()), tpot_cell(r), ms_cell(r.e2e_us()),
                                         std::to_string(r.prompt_tokens), std::to_string(r.output_tokens),
                                         finish_word(r.finish), csv_cell(r.error)},
                ",") +
           "\n";
}

Result<void> each_request(const RunInfo& run, Progress* progress,
                          const std::function<void(const RequestRecord&)>& each) {
    Progress none;
    return read_steps(run, progress ? *progress : none, [&](StepRecordPtr step) {
        for (const RequestRecord& r : step->finished)
            if (!r.warmup) each(r);
    });
}

std::string figure(const Json& value) { return value.is_number() ? format_figure(value.get<double>()) : "–"; }

std::string text_of(const Json& value) {
    return value.is_string() ? value.get<std::string>() : value.is_null() ? "–" : value.dump();
}

std::string tile(const std::string& value, const std::string& label) {
    return "<div class=\"tile\"><b>" + escape_html(value) + "</b>" + escape_html(label) + "</div>";
}

std::string latency_table(const Json& document) {
    std::vector<std::vector<std::string>> rows;
    for (const char* key : {"ttft_ms", "itl_ms", "tpot_ms", "e2e_ms", "queue_ms"}) {
        std::vector<std::string> row{key};
        for (const char* column : {"mean", "std", "p50", "p90", "p95", "p99", "n"})
            row.push_back(figure(document[key][column]));
        rows.push_back(std::move(row));
    }
    std::string out = html_table({"milliseconds", "mean", "std", "p50", "p90", "p95", "p99", "n"}, rows);
    for (const char* metric : {"ttft", "itl", "tpot", "e2e", "queue"})
        out += "<p>" + std::string(metric) + ": " + escape_html(metric_definition(metric)) + "</p>\n";
    return out;
}

std::string adapter_table(const Json& document) {
    std::vector<std::vector<std::string>> rows;
    for (const Json& a : document["per_adapter"])
        rows.push_back({a["adapter"].is_null() ? "base" : text_of(a["adapter"]), figure(a["requests"]),
                        figure(a["completed"]), figure(a["output_tokens"]), figure(a["ttft_ms"]["p50"]),
                        figure(a["ttft_ms"]["p99"]), figure(a["itl_ms"]["p50"]), figure(a["e2e_ms"]["p99"])});
    return html_table(
        {"adapter", "requests", "completed", "output tokens", "ttft p50 ms", "ttft p99 ms", "itl p50 ms", "e2e p99 ms"},
        rows);
}

std::string facts_table(const RunInfo& run) {
    std::vector<std::vector<std::string>> rows;
    for (const char* section : {"model", "device", "engine", "workload"}) {
        if (!run.json.contains(section) || !run.json[section].is_object()) continue;
        for (const auto& [key, value] : run.json[section].items())
            rows.push_back({std::string(section) + "." + key, text_of(value)});
    }
    for (const char* key : {"started", "version", "commit", "workload_hash", "command"})
        if (run.json.contains(key)) rows.push_back({key, text_of(run.json[key])});
    return html_table({"setting", "value"}, rows, 2);
}

// Output tokens per second over the run, in at most 200 bars.
class Throughput {
public:
    void add(const StepRecord& step) {
        if (first_us_ < 0) first_us_ = step.start_us;
        int64_t tokens = 0;
        for (const StepRow& row : step.rows) tokens += row.token >= 0;
        if (tokens > 0) by_tenth_[(step.end_us - first_us_) / 100'000] += tokens;
    }
    std::vector<std::pair<double, double>> bars() const {
        if (by_tenth_.empty()) return {};
        const int64_t last = by_tenth_.rbegin()->first, width = last / 200 + 1;
        std::vector<std::pair<double, double>> out(size_t(last / width + 1));
        for (size_t i = 0; i < out.size(); ++i) out[i].first = double(int64_t(i) * width) / 10;
        for (const auto& [tenth, tokens] : by_tenth_)
            out[size_t(tenth / width)].second += double(tokens) * 10 / double(width);
        return out;
    }

private:
    int64_t first_us_ = -1;
    std::map<int64_t, int64_t> by_tenth_;  // tenths of a second
};

// How often each latency occurred, in at most 80 bars.
std::vector<std::pair<double, double>> histogram(const MicrosCounts& counts) {
    const auto values = counts.sorted();
    if (values.empty()) return {};
    const int64_t low = values.front().first, high = values.back().first;
    const int64_t bins = std::min<int64_t>(80, high - low + 1);
    std::vector<std::pair<double, double>> out(static_cast<size_t>(bins));
    for (int64_t i = 0; i < bins; ++i)
        out[size_t(i)].first = (double(low) + double(high - low) * double(i) / double(bins)) / 1e3;
    for (const auto& [us, times] : values)
        out[size_t(std::min(bins - 1, (us - low) * bins / std::max<int64_t>(1, high - low)))].second += double(times);
    return out;
}

Result<std::string> report(const RunInfo& run, Progress* progress) {
    TRY_ASSIGN(document, summarise_run(run, progress));
    Throughput throughput;
    MicrosCounts ttft;
    Progress none;
    TRY_VOID(read_steps(run, progress ? *progress : none, [&](StepRecordPtr step) {
        throughput.add(*step);
        for (const RequestRecord& r : step->finished)
            if (!r.warmup && r.ttft_us() >= 0) ttft.add(r.ttft_us());
    }));
    std::string body = "<p>" +
                       escape_html(run.complete ? "Complete recording" : "Recording that was stopped or cut off") +
                       "</p>\n<div class=\"tiles\">";
    body += tile(figure(document["completed"]) + " / " + figure(document["requests"]), "requests completed");
    body += tile(figure(document["duration_s"]) + " s", "duration");
    body += tile(figure(document["output_throughput"]), "output tokens a second");
    body += tile(figure(document["ttft_ms"]["p50"]) + " ms", "time to first token, p50");
    body += tile(figure(document["itl_ms"]["p50"]) + " ms", "between tokens, p50");
    if (document.contains("attainment")) {
        body += tile(figure(document["attainment"]), "SLO attainment");
        body += tile(figure(document["goodput"]), "good requests a second");
    }
    body += "</div>\n<h2>Throughput</h2>\n" + svg_bars(throughput.bars(), "seconds", "output tokens a second");
    body += "<h2>Time to first token</h2>\n" + svg_bars(histogram(ttft), "milliseconds", "requests");
    body += "<h2>Latency</h2>\n" + latency_table(document);
    body += "<h2>Adapters</h2>\n" + adapter_table(document);
    body += "<h2>Settings</h2>\n" + facts_table(run);
    return html_page(run.name, body);
}

Result<void> write_whole(const std::string& path, const std::string& text) {
    TRY_ASSIGN(file, OutputFile::create(path));
    file.write(text);
    return file.commit();
}

}  // namespace

Result<void> export_csv(const RunInfo& run, const std::string& path, Progress* progress) {
    std::map<int32_t, int64_t> first_arrival;  // of each repeat
    TRY_VOID(each_request(run, progress, [&](const RequestRecord& r) {
        auto [it, added] = first_arrival.try_emplace(r.origin.repeat, r.arrival_us);
        it->second = std::min(it->second, r.arrival_us);
    }));
    TRY_ASSIGN(file, OutputFile::create(path));
    file.write(
        "request_id,adapter,arrival_s,queue_ms,ttft_ms,tpot_ms,e2e_ms,prompt_tokens,output_tokens,finish,error\n");
    TRY_VOID(each_request(
        run, progress, [&](const RequestRecord& r) { file.write(csv_row(run, r, first_arrival[r.origin.repeat])); }));
    return file.commit();
}

Result<void> export_json(const RunInfo& run, const std::string& path, Progress* progress) {
    TRY_ASSIGN(document, summarise_run(run, progress));
    return write_whole(path, document.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

Result<void> export_html(const RunInfo& run, const std::string& path, Progress* progress) {
    TRY_ASSIGN(page, report(run, progress));
    return write_whole(path, page);
}

}  // namespace spartan
