// Summary figures of a run. The one place where they are defined (exact percentiles, no sampling):
//
//   ttft   arrival to first token            e2e    arrival to last token
//   itl    every gap between two tokens      tpot   (e2e - ttft) / (n - 1) of a request with n > 1 tokens
//   queue  arrival to first scheduled
//   percentiles interpolate linearly as numpy does; std divides by n
//   duration       first arrival to last token, warm-up left out
//   attainment     requests that completed and met every SLO, over all;  goodput: those per second
#pragma once

#include "core/base/json.h"
#include "core/engine/step_record.h"

#include <map>
#include <string>
#include <vector>

namespace spartan {

struct Stats {
    double mean = 0, std = 0, p50 = 0, p90 = 0, p95 = 0, p99 = 0, min = 0, max = 0;
    int64_t n = 0;
};
Stats stats_of(std::vector<double> values);
double percentile(const std::vector<double>& sorted, double p);  // p in [0, 100]

// The sentence that a tooltip shows for a metric: "ttft", "itl", "tpot", "e2e", "queue", "attainment", "goodput".
std::string metric_definition(const std::string& metric);

}  // namespace spartan
