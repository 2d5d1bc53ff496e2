#include "core/run/metrics.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace spartan {
namespace {

// The value at a fractional rank, given access to the value at a whole one.
template <class At>
double interpolate(int64_t n, double p, At at) {
    const double rank = p / 100 * double(n - 1);
    const auto low = int64_t(std::floor(rank));
    const int64_t high = std::min(low + 1, n - 1);
    const double a = at(low), b = at(high), t = rank - double(low);
    return a + (b - a) * t;
}

}  // namespace

double percentile(const std::vector<double>& sorted, double p) {
    if (sorted.empty()) return 0;
    return interpolate(int64_t(sorted.size()), p, [&](int64_t i) { return sorted[size_t(i)]; });
}

Stats stats_of(std::vector<double> values) {
    Stats s;
    s.n = int64_t(values.size());
    if (values.empty()) return s;
    std::sort(values.begin(), values.end());
    long double sum = 0, squares = 0;
    for (const double v : values) sum += v;
    s.mean = double(sum / s.n);
    for (const double v : values) squares += (long double)(v - s.mean) * (v - s.mean);
    s.std = std::sqrt(double(squares / s.n));
    s.p50 = percentile(values, 50);
    s.p90 = percentile(values, 90);
    s.p95 = percentile(values, 95);
    s.p99 = percentile(values, 99);
    s.min = values.front();
    s.max = values.back();
    return s;
}

void MicrosCounts::merge(const MicrosCounts& other) {
    for (const auto& [us, times] : other.counts_) add(us, times);
}

std::vector<std::pair<int64_t, int64_t>> MicrosCounts::sorted() const {
    std::vector<std::pair<int64_t, int64_t>> all(counts_.begin(), counts_.end());
    std::sort(all.begin(), all.end());
    return all;
}

Stats MicrosCounts::stats_ms() const {
    Stats s;
    s.n = n_;
    if (n_ == 0) return s;
    const auto values = sorted();
    std::vector<int64_t> up_to;  // how many values lie at or before each distinct one
    up_to.reserve(values.size());
    long double sum = 0, squares = 0;
    int64_t seen = 0;
    for (const auto& [us, times] : values) {
        sum += (long double)us * times;
        up_to.push_back(seen += times);
    }
    const long double mean = sum / n_;
    for (const auto& [us, times] : values) squares += ((long double)us - mean) * ((long double)us - mean) * times;
    const auto at = [&](int64_t rank) {
        return double(values[size_t(std::upper_bound(up_to.begin(), up_to.end(), rank) - up_to.begin())].first) / 1e3;
    };
    s.mean = double(mean / 1e3L);
    s.std = double(std::sqrt(squares / n_) / 1e3L);
    s.p50 = interpolate(n_, 50, at);
    s.p90 = interpolate(n_, 90, at);
    s.p95 = interpolate(n_, 95, at);
    s.p99 = interpolate(n_, 99, at);
    s.min = at(0);
    s.max = at(n_ - 1);
    return s;
}

Json stats_json(const Stats& s) {
    const auto figure = [&](double v) { return s.n == 0 ? Json(nullptr) : Json(v); };
    return {{"mean", figure(s.mean)},
            {"std", figure(s.std)},
            {"p50", figure(s.p50)},
            {"p90", figure(s.p90)},
            {"p95", figure(s.p95)},
            {"p99", figure(s.p99)},
            {"n", s.n}};
}

std::string metric_definition(const std::string& metric) {
    static const std::array<std::array<const char*, 2>, 10> definitions{{
        {"ttft", "Time to first token: from a request's arrival to its first token."},
        {"itl", "Inter-token latency: every gap between two tokens of a request."},
        {"tpot", "Time per output token of a request: (end-to-end - time to first token) / (output tokens - 1)."},
        {"e2e", "End-to-end latency: from a request's arrival to its last token."},
        {"queue", "Queue time: from a request's arrival to the first step that worked on it."},
        {"attainment",
         "Requests that completed and met every SLO (time to first token, longest gap between two tokens, end-to-end), "
         "over all requests."},
        {"goodput", "Requests a second that completed and met every SLO."},
        {"duration", "From the first arrival to the last token, warm-up and held time left out."},
        {"throughput", "Of completed requests, per second of the duration."},
        {"hit_rate", "Requests for an adapter that found it in the pool: 1 - loads / requests with an adapter."},
    }};
    for (const auto& [name, sentence] : definitions)
        if (metric == name) return sentence;
    return "";
}

double confidence_half_width(const std::vector<double>& values) {
    const size_t n = values.size();
    if (n < 2) return 0;
    // Student's t at 97.5 % for 1 to 30 degrees of freedom; beyond, the expansion of Cornish and Fisher to 1/df².
    static const std::array<double, 30> table{12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
                                              2.201,  2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
                                              2.080,  2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042};
    const double z = 1.959964;
    const double df = double(n - 1), z3 = z * z * z, z5 = z3 * z * z;
    const double t =
        n - 1 <= table.size() ? table[n - 2] : z + (z3 + z) / (4 * df) + (5 * z5 + 16 * z3 + 3 * z) / (96 * df * df);
    const Stats s = stats_of(values);
    return t * s.std * std::sqrt(double(n) / double(n - 1)) / std::sqrt(double(n));
}

}  // namespace spartan
