// Summary figures of a run. The one place where they are defined (exact percentiles, no sampling):
//
//   ttft   arrival to first token            e2e    arrival to last token
//   itl    every gap between two tokens      tpot   (e2e - ttft) / (n - 1) of a request with n > 1 tokens
//   queue  arrival to first scheduled
//   percentiles interpolate linearly as numpy does; std divides by n
//   duration       first arrival to last token, warm-up left out; over repeats, the sum of each one's
//   throughputs    completed requests, their output tokens, and their prompt + output tokens, per second of duration
//   attainment     requests that completed and met every SLO, over all;  goodput: those per second
//   an SLO is met  when ttft, the longest gap between two tokens, and e2e are each at most their limit
//   hit rate       requests for an adapter that found it in the pool: 1 - loads / requests with an adapter, at least 0
#pragma once

#include "core/base/json.h"
#include "core/engine/step_record.h"

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

namespace spartan {

struct Stats {
    double mean = 0, std = 0, p50 = 0, p90 = 0, p95 = 0, p99 = 0, min = 0, max = 0;
    int64_t n = 0;
};
Stats stats_of(std::vector<double> values);
double percentile(const std::vector<double>& sorted, double p);  // p in [0, 100]; 0 when empty

// Every value of a whole-microsecond measure, kept as how often each occurred: exact, and small however many there are.
class MicrosCounts {
public:
    void add(int64_t us, int64_t times = 1) {
        counts_[us] += times;
        n_ += times;
    }
    void merge(const MicrosCounts& other);
    int64_t n() const { return n_; }
    Stats stats_ms() const;  // in milliseconds
    // The values that occurred, in order, with their counts.
    std::vector<std::pair<int64_t, int64_t>> sorted() const;

private:
    std::unordered_map<int64_t, int64_t> counts_;
    int64_t n_ = 0;
};

// {mean, std, p50, p90, p95, p99, n}; null figures when n is 0.
Json stats_json(const Stats&);

// The sentence that a tooltip shows for a metric: "ttft", "itl", "tpot", "e2e", "queue", "attainment", "goodput",
// "duration", "throughput", "hit_rate".
std::string metric_definition(const std::string& metric);

// Half the width of the 95 % interval of the mean of `values` (Student's t, n - 1 degrees of freedom); 0 below two
// values.
double confidence_half_width(const std::vector<double>& values);

}  // namespace spartan
