#include "core/run/trace.h"

#include "core/base/text.h"
#include "core/run/csv.h"
#include "core/run/random.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <unordered_map>

namespace spartan {
namespace {

constexpr int64_t kMaxRows = 10'000'000, kMaxTokens = 1 << 20;
constexpr double kMaxArrival = 1e9;  // seconds
constexpr size_t kMaxLabel = 256;
constexpr uint16_t kPromptPurpose = 64;

enum Column { request_id, arrival_s, adapter, prompt_tokens, output_tokens, session_id, prompt_seed, slo_ttft_ms };
constexpr std::array<const char*, 8> kColumns{"request_id",    "arrival_s",  "adapter",     "prompt_tokens",
                                              "output_tokens", "session_id", "prompt_seed", "slo_ttft_ms"};
constexpr int kRequired = 5;

uint64_t hash_of(std::string_view s) {  // FNV-1a
    uint64_t h = 0xcbf29ce484222325u;
    for (const char c : s) h = (h ^ uint8_t(c)) * 0x100000001b3u;
    return h;
}

template <class T>
bool parse_whole(const std::string& text, T& out) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
    return error == std::errc() && end == text.data() + text.size();
}

class TraceReader {
public:
    TraceReader(CsvReader csv, const std::vector<std::string>& adapter_names, uint64_t seed)
        : csv_(std::move(csv)), names_(adapter_names), seed_(seed) {
        for (size_t i = 0; i < names_.size(); ++i) index_.emplace(names_[i], int32_t(i));
    }

    Result<Plan> read() {
        TRY_VOID(read_header());
        // A row takes ten bytes at the least; reserving costs address space only until it is used.
        requests_.reserve(size_t(std::min(csv_.file_bytes() / 10 + 1, kMaxRows)));
        for (;;) {
            TRY_ASSIGN(more, csv_.next(row_));
            if (!more) break;
            TRY_VOID(read_row());
        }
        if (requests_.empty()) return csv_.error_at(csv_.line(), 1, "no rows after the header", "one row per request");
        TRY_VOID(check_unique());
        Plan plan;
        plan.requests = std::move(requests_);
        plan.labels = std::make_shared<TraceLabels>(std::move(labels_));
        return plan;
    }

private:
    Error wrong(const CsvCell& cell, Column column, const std::string& expected) const {
        Error e = csv_.error_at(cell.line, cell.column, "\"" + shorten(cell.text, 60) + "\"", expected);
        e.field += std::string(" (") + kColumns[column] + ")";
        return e;
    }

    Result<void> read_header() {
        TRY_ASSIGN(any, csv_.next(row_));
        if (!any) return csv_.error_at(1, 1, "an empty file", "a header line: " + join(kColumns, ","));
        at_.fill(-1);
        for (size_t i = 0; i < row_.size(); ++i) {
            const auto it = std::find(kColumns.begin(), kColumns.end(), row_[i].text);
            if (it == kColumns.end())
                return csv_.error_at(row_[i].line, row_[i].column,
                                     "an unknown column \"" + shorten(row_[i].text, 60) + "\"",
                                     "columns among " + join(kColumns, ","));
            int& place = at_[size_t(it - kColumns.begin())];
            if (place >= 0)
                return csv_.error_at(row_[i].line, row_[i].column, std::string("the column ") + *it + " twice",
                                     "each column once");
            place = int(i);
        }
        columns_ = row_.size();
        for (size_t c = 0; c < kRequired; ++c)
            if (at_[c] < 0)
                return csv_.error_at(
                    1, 1, std::string("no column ") + kColumns[c],
                    "at least " + join(std::vector<std::string>(kColumns.begin(), kColumns.begin() + kRequired), ","));
        return {};
    }

    const CsvCell& cell(Column c) const { return row_[size_t(at_[c])]; }
    bool given(Column c) const { return at_[c] >= 0 && !cell(c).text.empty(); }

    Result<int32_t> tokens(Column c) const {
        int64_t n = 0;
        if (!parse_whole(cell(c).text, n) || n < 1 || n > kMaxTokens)
            return wrong(cell(c), c, "an integer from 1 to " + std::to_string(kMaxTokens));
        return int32_t(n);
    }

    Result<void> read_row() {
        if (row_.size() != columns_)
            return csv_.error_at(
                row_[0].line, row_.back().column,
                row_.size() == 1 && row_[0].text.empty() ? "an empty line" : std::to_string(row_.size()) + " cells",
                std::to_string(columns_) + " cells, as in the header");
        if (int64_t(requests_.size()) == kMaxRows)
            return csv_.error_at(row_[0].line, 1, "more than " + std::to_string(kMaxRows) + " requests",
                                 "at most that many");
        PlannedRequest r;
        TRY_VOID(read_arrival(r));
        TRY_VOID(read_adapter(r));
        TRY_ASSIGN(prompt, tokens(prompt_tokens));
        TRY_ASSIGN(output, tokens(output_tokens));
        r.prompt_tokens = prompt;
        r.output_tokens = output;
        TRY_VOID(read_label());
        TRY_VOID(read_seed(r));
        TRY_VOID(read_slo(r));
        requests_.push_back(r);
        return {};
    }

    Result<void> read_arrival(PlannedRequest& r) {
        double s = 0;
        const CsvCell& c = cell(arrival_s);
        if (!parse_whole(c.text, s) || !std::isfinite(s) || s < 0 || s > kMaxArrival)
            return wrong(c, arrival_s, "seconds from 0 to 1e9");
        r.arrival_us = std::llround(s * 1e6);
        if (!requests_.empty() && s < last_arrival_)
            return wrong(c, arrival_s, "rows sorted by arrival: the row before arrives later");
        last_arrival_ = s;
        return {};
    }

    Result<void> read_adapter(PlannedRequest& r) {
        const CsvCell& c = cell(adapter);
        if (c.text.empty()) return {};
        const auto it = index_.find(c.text);
        if (it == index_.end())
            return wrong(c, adapter,
                         names_.empty()
                             ? "an empty cell: the workload has no adapters"
                             : "empty or one of the workload's adapters: " + shorten(join(names_, ", "), 200));
        r.adapter = it->second;
        return {};
    }

    Result<void> read_label() {
        const CsvCell& c = cell(request_id);
        if (c.text.empty() || c.text.size() > kMaxLabel) return wrong(c, request_id, "1 to 256 bytes of text");
        labels_.text += c.text;
        if (labels_.text.size() > UINT32_MAX) return wrong(c, request_id, "less than 4 GB of ids in all");
        labels_.end.push_back(uint32_t(labels_.text.size()));
        return {};
    }

    Result<void> read_seed(PlannedRequest& r) {
        if (given(session_id) && cell(session_id).text.size() > kMaxLabel)
            return wrong(cell(session_id), session_id, "at most 256 bytes of text");
        if (given(prompt_seed)) {
            if (!parse_whole(cell(prompt_seed).text, r.prompt_seed))
                return wrong(cell(prompt_seed), prompt_seed, "an integer from 0 to 2^64 - 1");
            return {};
        }
        const uint64_t index = given(session_id) ? hash_of(cell(session_id).text) : requests_.size();
        r.prompt_seed = RandomStream(seed_, kPromptPurpose + (given(session_id) ? 1 : 0), 0, index).bits();
        return {};
    }

    Result<void> read_slo(PlannedRequest& r) {
        if (!given(slo_ttft_ms)) return {};
        double ms = 0;
        if (!parse_whole(cell(slo_ttft_ms).text, ms) || !std::isfinite(ms) || ms <= 0 || ms > 1e9)
            return wrong(cell(slo_ttft_ms), slo_ttft_ms, "milliseconds above 0, at most 1e9, or nothing");
        r.slo_ttft_ms = float(ms);
        return {};
    }

    // Sorted digests instead of a hash set of strings: 16 bytes a row however long the ids are.
    Result<void> check_unique() const {
        struct Entry {
            uint64_t digest;
            uint32_t row;
        };
        std::vector<Entry> all(requests_.size());
        for (size_t i = 0; i < all.size(); ++i) all[i] = {hash_of(labels_.of(i)), uint32_t(i)};
        std::sort(all.begin(), all.end(), [](const Entry& a, const Entry& b) {
            return a.digest != b.digest ? a.digest < b.digest : a.row < b.row;
        });
        size_t twice = SIZE_MAX;
        for (size_t i = 1; i < all.size(); ++i)
            for (size_t j = i; j > 0 && all[j - 1].digest == all[i].digest; --j)
                if (labels_.of(all[j - 1].row) == labels_.of(all[i].row)) {
                    twice = std::min(twice, size_t(all[i].row));
                    break;
                }
        if (twice == SIZE_MAX) return {};
        // Rows are lines unless quoted cells span lines; then only the row is known.
        const bool lines_are_rows = csv_.line() <= int64_t(requests_.size()) + 2;
        const std::string place = lines_are_rows ? "line " + std::to_string(twice + 2)
                                                 : "row " + std::to_string(twice + 1) + " after the header";
        return Error{csv_.error_at(1, 1, "", "").file, place + " (request_id)",
                     "\"" + shorten(labels_.of(twice), 60) + "\" a second time", "ids that are unique"};
    }

    CsvReader csv_;
    const std::vector<std::string>& names_;
    uint64_t seed_;
    std::unordered_map<std::string, int32_t> index_;
    std::array<int, kColumns.size()> at_{};
    size_t columns_ = 0;
    std::vector<CsvCell> row_;
    double last_arrival_ = 0;
    std::vector<PlannedRequest> requests_;
    TraceLabels labels_;
};

}  // namespace

Result<Plan> read_trace(const std::string& path, const std::vector<std::string>& adapter_names, uint64_t seed) {
    TRY_ASSIGN(csv, CsvReader::open(path));
    return TraceReader(std::move(csv), adapter_names, seed).read();
}

}  // namespace spartan
