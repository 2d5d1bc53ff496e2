// A bag of values with exact quantiles while it is small, and quantiles within 0.5 % once it has been compacted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace spartan {

struct QuantilePoint {
    int64_t t0_us = 0, t1_us = 0;  // the bin, on the run's clock
    int64_t n = 0;                 // values in it; the rest is meaningless when 0
    double min = 0, p50 = 0, p95 = 0, p99 = 0, max = 0, mean = 0;
    bool exact = true;  // false: quantiles come from a histogram with 1 % wide buckets (min, max, mean, n stay exact)
};

class Distribution {
public:
    void add(float value);
    void merge(const Distribution& other);
    void compact();  // gives the single values up for a histogram

    int64_t n() const { return n_; }
    bool exact() const { return exact_; }
    double min() const { return min_; }
    double max() const { return max_; }
    double mean() const { return n_ ? sum_ / double(n_) : 0; }
    // q in [0, 1]; linear interpolation as numpy does; 0 when empty.
    double quantile(double q) const;
    QuantilePoint point(int64_t t0_us, int64_t t1_us) const;
    size_t values() const { return values_.size(); }
    size_t bytes() const;

private:
    void addToBucket(double value, int64_t count);

    int64_t n_ = 0;
    double sum_ = 0, min_ = 0, max_ = 0;
    mutable std::vector<float> values_;  // sorted on demand
    mutable bool sorted_ = true;
    bool exact_ = true;
    std::vector<std::pair<int32_t, int64_t>> buckets_;  // sorted by index; value = 1.01^index
};

}  // namespace spartan
