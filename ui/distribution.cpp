#include "ui/distribution.h"

#include <algorithm>
#include <cmath>

namespace spartan {

namespace {
const double kLogGrowth = std::log(1.01);
constexpr double kSmallest = 1e-6;
}  // namespace

void Distribution::add(float value) {
    min_ = n_ ? std::min(min_, double(value)) : value;
    max_ = n_ ? std::max(max_, double(value)) : value;
    ++n_;
    sum_ += value;
    if (!exact_) return addToBucket(value, 1);
    sorted_ = sorted_ && (values_.empty() || values_.back() <= value);
    values_.push_back(value);
}

void Distribution::addToBucket(double value, int64_t count) {
    const auto index = int32_t(std::lround(std::log(std::max(value, kSmallest)) / kLogGrowth));
    const auto at = std::lower_bound(buckets_.begin(), buckets_.end(), std::pair<int32_t, int64_t>(index, 0));
    if (at != buckets_.end() && at->first == index)
        at->second += count;
    else
        buckets_.insert(at, {index, count});
}

void Distribution::merge(const Distribution& other) {
    if (other.n_ == 0) return;
    min_ = n_ ? std::min(min_, other.min_) : other.min_;
    max_ = n_ ? std::max(max_, other.max_) : other.max_;
    n_ += other.n_;
    sum_ += other.sum_;
    if (!other.exact()) compact();
    if (!exact_) {
        for (const float v : other.values_) addToBucket(v, 1);
        for (const auto& [index, count] : other.buckets_) addToBucket(std::exp(index * kLogGrowth), count);
        return;
    }
    values_.insert(values_.end(), other.values_.begin(), other.values_.end());
    sorted_ = values_.size() == other.values_.size() && other.sorted_;
}

void Distribution::compact() {
    for (const float v : values_) addToBucket(v, 1);
    std::vector<float>().swap(values_);
    exact_ = false;
    sorted_ = true;
}

double Distribution::quantile(double q) const {
    if (n_ == 0) return 0;
    const double at = q * double(n_ - 1);
    if (exact()) {
        if (!sorted_) std::sort(values_.begin(), values_.end());
        sorted_ = true;
        const auto low = size_t(at);
        const size_t high = std::min(low + 1, values_.size() - 1);
        return values_[low] + (double(values_[high]) - values_[low]) * (at - double(low));
    }
    int64_t seen = 0;
    for (const auto& [index, count] : buckets_) {
        seen += count;
        if (double(seen) > at) return std::clamp(std::exp(index * kLogGrowth), min_, max_);
    }
    return max_;
}

QuantilePoint Distribution::point(int64_t t0_us, int64_t t1_us) const {
    return {t0_us, t1_us, n_, min_, quantile(0.5), quantile(0.95), quantile(0.99), max_, mean(), exact()};
}

size_t Distribution::bytes() const {
    return values_.capacity() * sizeof(float) + buckets_.capacity() * sizeof(buckets_[0]);
}

}  // namespace spartan
