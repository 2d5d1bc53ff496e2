#include "ui/run_model.h"

#include <algorithm>
#include <utility>

namespace spartan {

namespace {

constexpr size_t kMaxHeldSpans = 4'096;

size_t bytesOf(const StepRecord& r) {
    size_t n = sizeof r + r.rows.capacity() * sizeof(StepRow) + r.page_changes.capacity() * sizeof(PageChange) +
               r.arrivals.capacity() * sizeof(Arrival) + r.waiting_for.capacity() * sizeof(WaitCount) +
               r.finished.capacity() * sizeof(RequestRecord);
    for (const RequestRecord& f : r.finished)
        n += f.token_us.capacity() * sizeof(int64_t) + f.output.capacity() * sizeof(Token) + f.error.capacity();
    return n;
}

void addTo(StepBin& into, const StepBin& bin) {
    into.t1_us = std::max(into.t1_us, bin.t1_us);
    into.steps += bin.steps;
    into.prefill_tokens += bin.prefill_tokens;
    into.decode_tokens += bin.decode_tokens;
    into.padding_tokens += bin.padding_tokens;
    into.emitted_tokens += bin.emitted_tokens;
    into.step_us += bin.step_us;
    into.longest_step_us = std::max(into.longest_step_us, bin.longest_step_us);
    into.transfer_bytes += bin.transfer_bytes;
    into.running_max = std::max(into.running_max, bin.running_max);
    into.waiting_max = std::max(into.waiting_max, bin.waiting_max);
    into.rows_max = std::max(into.rows_max, bin.rows_max);
    into.preempted += bin.preempted;
    if (bin.pool.total_pages > 0) into.pool = bin.pool;
    if (bin.device.total > 0) into.device = bin.device;
    into.kv_pages_max = std::max(into.kv_pages_max, bin.kv_pages_max);
    into.adapter_pages_max = std::max(into.adapter_pages_max, bin.adapter_pages_max);
    into.transient_pages_max = std::max(into.transient_pages_max, bin.transient_pages_max);
}

}  // namespace

RunModel::RunModel() : RunModel(Limits()) {}
RunModel::RunModel(Limits limits) : limits_(limits), bin_us_(limits.first_bin_us) {}

void RunModel::reset(RunHeader header) {
    const uint64_t version = version_ + 1;
    *this = RunModel(limits_);
    version_ = version;
    header_ = std::move(header);
    indexAdapters();
}

void RunModel::setHeader(RunHeader header) {
    header_ = std::move(header);
    indexAdapters();
    ++version_;
}

void RunModel::indexAdapters() {
    adapter_index_.clear();
    for (size_t i = 0; i < header_.adapters.size(); ++i) adapter_index_[header_.adapters[i].id] = i;
}

void RunModel::setFailure(std::string message) {
    failure_ = std::move(message);
    ++version_;
}

void RunModel::append(const StepRecordPtr& record) {
    if (!steps_.empty() && record->step <= steps_.back().step) return;  // a damaged file; the engine counts upwards
    // A playground's engine may have idled long before its first step: its silence is not part of the picture.
    if (total_steps_ == 0 && record->start_us > 10'000'000) {
        origin_us_ = record->start_us;
        for (const Arrival& a : record->arrivals) origin_us_ = std::min(origin_us_, a.arrival_us);
        origin_us_ = std::max<int64_t>(0, origin_us_);
    }
    ++version_;
    ++total_steps_;
    end_us_ = std::max(end_us_, record->end_us);
    takeSummary(*record);
    takeCopies(*record);
    takeArrivals(*record);
    takeRows(*record);
    takeFinished(*record);
    takePages(*record);
    keepRecord(record);
}

void RunModel::takeSummary(const StepRecord& r) {
    StepSummary s;
    s.step = r.step;
    s.start_us = r.start_us;
    s.end_us = r.end_us;
    s.held_us = r.held_us;
    s.rows = int32_t(r.rows.size());
    s.prefill_tokens = r.prefill_tokens;
    s.decode_tokens = r.decode_tokens;
    s.padding_tokens = r.padding_tokens;
    s.running = r.running;
    s.waiting = r.waiting;
    s.preempted = int32_t(r.preempted.size());
    s.times = r.times;
    s.bytes = r.bytes;
    s.pool = r.pool;
    s.device = r.device.total > 0 || steps_.empty() ? r.device : steps_.back().device;
    std::unordered_set<AdapterId> distinct;
    for (const StepRow& row : r.rows) {
        s.emitted_tokens += row.token >= 0;
        if (row.adapter != AdapterId::base) distinct.insert(row.adapter);
    }
    s.adapters = int32_t(distinct.size());

    const int64_t held_before = heldUs();
    if (s.held_us > held_before && held_.size() < kMaxHeldSpans) held_.push_back({s.start_us, s.held_us - held_before});

    StepBin one;
    one.steps = 1;
    one.prefill_tokens = s.prefill_tokens;
    one.decode_tokens = s.decode_tokens;
    one.padding_tokens = s.padding_tokens;
    one.emitted_tokens = s.emitted_tokens;
    one.step_us = one.longest_step_us = s.end_us - s.start_us;
    one.transfer_bytes = s.bytes.transfer;
    one.running_max = s.running;
    one.waiting_max = s.waiting;
    one.rows_max = s.rows;
    one.preempted = s.preempted;
    one.pool = s.pool;
    one.device = s.device;
    one.kv_pages_max = s.pool.kv_pages;
    one.adapter_pages_max = s.pool.adapter_pages;
    one.transient_pages_max = s.pool.transient_pages;
    addTo(binAt(s.end_us).totals, one);

    steps_.push_back(s);
    if (steps_.size() > limits_.steps) steps_.pop_front();
}

void RunModel::takeCopies(const StepRecord& r) {
    for (const AdapterEvent& e : r.adapter_events)
        if (e.kind == AdapterEvent::Kind::load) copies_.push_back({e.adapter, r.step, e.bytes, e.begin_us, e.us});
    while (!copies_.empty() && (copies_.size() > limits_.copies || copies_.front().step < steps_.front().step))
        copies_.pop_front();
}

RunModel::Bin& RunModel::binAt(int64_t us) {
    // Steps end in rising order; a bin before the newest could only come from a damaged file and is folded into the
    // newest.
    const int64_t since = std::max<int64_t>(0, us - origin_us_);
    while (since / bin_us_ >= int64_t(limits_.bins)) pairBins();
    const size_t index = size_t(since / bin_us_);
    while (bins_.size() <= index) {
        Bin bin;
        bin.totals.t0_us = origin_us_ + int64_t(bins_.size()) * bin_us_;
        bin.totals.t1_us = bin.totals.t0_us + bin_us_;
        if (!bins_.empty()) {
            bin.totals.pool = bins_.back().totals.pool;
            bin.totals.device = bins_.back().totals.device;
        }
        bins_.push_back(std::move(bin));
    }
    return bins_.back();
}

void RunModel::pairBins() {
    bin_us_ *= 2;
    for (auto& cache : quantile_cache_) cache.clear();
    std::vector<Bin> paired((bins_.size() + 1) / 2);
    for (size_t i = 0; i < bins_.size(); ++i) {
        Bin& into = paired[i / 2];
        if (i % 2 == 0) {
            into = std::move(bins_[i]);
            into.totals.t1_us = into.totals.t0_us + bin_us_;
            continue;
        }
        addTo(into.totals, bins_[i].totals);
        for (size_t m = 0; m < kNumMetrics; ++m) into.metrics[m].merge(bins_[i].metrics[m]);
    }
    bins_ = std::move(paired);
}

void RunModel::addValue(Metric metric, AdapterId adapter, double ms) {
    const size_t m = size_t(metric);
    Distribution& in_bin = bins_.back().metrics[m];
    in_bin.add(float(ms));
    if (in_bin.exact() && ++exact_values_[m] > limits_.exact_values) limitExactValues(metric);
    Distribution& of_adapter = adapters_[adapter].metrics[m];
    of_adapter.add(float(ms));
    if (of_adapter.values() > limits_.exact_values_adapter) of_adapter.compact();
}

void RunModel::limitExactValues(Metric metric) {
    const size_t m = size_t(metric);
    size_t kept = 0;
    for (const Bin& bin : bins_) kept += bin.metrics[m].values();
    for (Bin& bin : bins_) {
        if (kept <= limits_.exact_values / 2) break;
        kept -= bin.metrics[m].values();
        if (bin.metrics[m].values() > 0) bin.metrics[m].compact();
    }
    exact_values_[m] = kept;
    quantile_cache_[m].clear();
}

void RunModel::takeArrivals(const StepRecord& r) {
    for (const Arrival& a : r.arrivals) {
        RequestSummary& q = open_[a.request];
        q.id = a.request;
        q.adapter = a.adapter;
        q.arrival_us = a.arrival_us;
        q.prompt_tokens = a.prompt_tokens;
        q.max_tokens = a.max_tokens;
        q.warmup = a.warmup;
        ++counts_.arrived;
        if (!q.warmup) ++adapters_[a.adapter].requests;
    }
}

void RunModel::takeRows(const StepRecord& r) {
    counts_.prompt_tokens += r.prefill_tokens;
    for (const StepRow& row : r.rows) {
        const auto found = open_.find(row.request);
        if (found == open_.end()) continue;  // arrived before this recording began
        RequestSummary& q = found->second;
        if (q.first_scheduled_us < 0) q.first_scheduled_us = r.start_us;
        if (row.token < 0) continue;
        ++counts_.output_tokens;
        ++q.output_tokens;
        if (!q.warmup) {
            if (q.first_token_us < 0)
                addValue(Metric::ttft, q.adapter, double(r.end_us - q.arrival_us) / 1000.0);
            else
                addValue(Metric::itl, q.adapter, double(r.end_us - q.last_token_us) / 1000.0);
        }
        if (q.first_token_us < 0) q.first_token_us = r.end_us;
        q.last_token_us = r.end_us;
    }
    for (const RequestId id : r.preempted)
        if (const auto found = open_.find(id); found != open_.end()) ++found->second.preemptions;
}

void RunModel::takeFinished(const StepRecord& r) {
    for (const RequestRecord& f : r.finished) {
        RequestSummary q;
        if (const auto found = open_.find(f.id); found != open_.end()) {
            q = std::move(found->second);
            open_.erase(found);
        }
        q.id = f.id;
        q.adapter = f.adapter;
        q.arrival_us = f.arrival_us;
        q.first_scheduled_us = f.first_scheduled_us;
        q.first_token_us = f.first_token_us;
        q.last_token_us = f.last_token_us;
        q.prompt_tokens = f.prompt_tokens;
        q.output_tokens = f.output_tokens;
        q.preemptions = f.preemptions;
        q.finish = f.finish;
        q.error = f.error;
        q.warmup = f.warmup;
        const bool failed = f.finish == FinishReason::error, cancelled = f.finish == FinishReason::cancelled;
        ++(failed ? counts_.failed : cancelled ? counts_.cancelled : counts_.completed);
        if (!f.warmup) {
            AdapterTotals& totals = adapters_[f.adapter];
            if (failed)
                ++totals.failed;
            else if (!cancelled)
                ++totals.completed;
            totals.prompt_tokens += f.prompt_tokens;
            totals.output_tokens += f.output_tokens;
            if (!failed && !cancelled && f.e2e_us() >= 0) addValue(Metric::e2e, f.adapter, double(f.e2e_us()) / 1000.0);
        }
        finished_.push_back(std::move(q));
        if (finished_.size() > limits_.requests) finished_.pop_front();
    }
    for (const AdapterEvent& e : r.adapter_events)
        ++(e.kind == AdapterEvent::Kind::load ? adapters_[e.adapter].loads : adapters_[e.adapter].evictions);
}

void RunModel::takePages(const StepRecord& r) {
    if (r.pool.total_pages <= 0 || r.pool.total_pages > PageMap::kMaxPages) return;
    if (pages_.size() != r.pool.total_pages) {
        pages_.resize(r.pool.total_pages);
        adapter_pages_.clear();
        keyframes_.clear();
        keyframe_bytes_ = 0;
        rewound_step_ = -1;
        pages_known_ = true;
    }
    for (const PageChange& c : r.page_changes) {
        // Which adapters lie in the pool is asked for every row of the library on every tick: keep the count.
        const int64_t first = std::max<int64_t>(c.first, 0),
                      last = std::min<int64_t>(int64_t(c.first) + c.count, pages_.size());
        for (int64_t i = first; i < last; ++i) {
            const PageCell& cell = pages_.cells()[size_t(i)];
            if (cell.owner == PageOwner::adapter) --adapter_pages_[AdapterId(cell.id)];
        }
        pages_.apply(c);
        if (c.owner == PageOwner::adapter && last > first) adapter_pages_[AdapterId(c.id)] += int32_t(last - first);
    }
    if (keyframes_.empty() || r.step - keyframes_.back().step >= limits_.keyframe_steps) {
        keyframes_.push_back({r.step, pages_.runs()});
        keyframe_bytes_ += keyframes_.back().runs.size() * sizeof(PageChange);
    }
}

void RunModel::keepRecord(const StepRecordPtr& record) {
    records_.emplace_back(record, bytesOf(*record));
    record_bytes_ += records_.back().second;
    while (records_.size() > 1 && (records_.size() > limits_.steps || record_bytes_ > limits_.detail_bytes)) {
        record_bytes_ -= records_.front().second;
        records_.pop_front();
    }
    dropOldKeyframes();
}

void RunModel::dropOldKeyframes() {
    // A keyframe is of use while a kept record follows it before the next one.
    const int64_t first = records_.front().first->step;
    while (keyframes_.size() > 1 && (keyframes_[1].step < first || keyframe_bytes_ > limits_.keyframe_bytes)) {
        keyframe_bytes_ -= keyframes_.front().runs.size() * sizeof(PageChange);
        keyframes_.pop_front();
    }
}

const StepSummary* RunModel::summary(int64_t step) const {
    const auto at = std::lower_bound(steps_.begin(), steps_.end(), step,
                                     [](const StepSummary& s, int64_t wanted) { return s.step < wanted; });
    return at != steps_.end() && at->step == step ? &*at : nullptr;
}

int64_t RunModel::stepAt(int64_t us) const {
    if (steps_.empty()) return -1;
    const auto at = std::lower_bound(steps_.begin(), steps_.end(), us,
                                     [](const StepSummary& s, int64_t wanted) { return s.end_us < wanted; });
    return at == steps_.end() ? steps_.back().step : at->step;
}

StepRecordPtr RunModel::record(int64_t step) const {
    const auto at = std::lower_bound(records_.begin(), records_.end(), step,
                                     [](const auto& r, int64_t wanted) { return r.first->step < wanted; });
    return at != records_.end() && at->first->step == step ? at->first : nullptr;
}

int64_t RunModel::firstDetailedStep() const { return records_.empty() ? -1 : records_.front().first->step; }

size_t RunModel::groupFor(int64_t t0_us, int64_t t1_us, size_t points) const {
    const int64_t bins = std::max<int64_t>(1, (std::max(t1_us, t0_us) - t0_us) / bin_us_);
    size_t group = 1;
    while (bins / int64_t(group) > int64_t(std::max<size_t>(points, 1))) group *= 2;
    return group;
}

std::vector<StepBin> RunModel::stepBins(int64_t t0_us, int64_t t1_us, size_t points) const {
    const size_t group = groupFor(t0_us, t1_us, points);
    std::vector<StepBin> out;
    for (size_t i = 0; i < bins_.size(); i += group) {
        const size_t last = std::min(i + group, bins_.size()) - 1;
        if (bins_[last].totals.t1_us < t0_us || bins_[i].totals.t0_us > t1_us) continue;
        StepBin bin = bins_[i].totals;
        for (size_t j = i + 1; j <= last; ++j) addTo(bin, bins_[j].totals);
        bin.t1_us = last + 1 == bins_.size() ? std::max(bin.t0_us + 1, end_us_) : bins_[last].totals.t1_us;
        out.push_back(bin);
    }
    return out;
}

std::vector<QuantilePoint> RunModel::quantiles(Metric metric, int64_t t0_us, int64_t t1_us, size_t points) const {
    const size_t m = size_t(metric), group = groupFor(t0_us, t1_us, points);
    QuantileCache& cache = quantile_cache_[m][group];
    // Values only ever join the newest bin: every group that ends before it is final.
    cache.points.resize(cache.closed);
    for (size_t g = cache.closed; g * group < bins_.size(); ++g) {
        const size_t first = g * group, last = std::min(first + group, bins_.size()) - 1;
        Distribution merged;
        for (size_t j = first; j <= last; ++j) merged.merge(bins_[j].metrics[m]);
        cache.points.push_back(merged.point(bins_[first].totals.t0_us, bins_[last].totals.t1_us));
        if (last + 1 < bins_.size()) cache.closed = g + 1;
    }
    std::vector<QuantilePoint> out;
    for (const QuantilePoint& p : cache.points)
        if (p.n > 0 && p.t1_us >= t0_us && p.t0_us <= t1_us) out.push_back(p);
    return out;
}

QuantilePoint RunModel::overall(Metric metric, int64_t t0_us, int64_t t1_us) const {
    Distribution merged;
    for (const Bin& bin : bins_)
        if (bin.totals.t1_us >= t0_us && bin.totals.t0_us <= t1_us) merged.merge(bin.metrics[size_t(metric)]);
    return merged.point(t0_us, t1_us);
}

const RunAdapter* RunModel::adapter(AdapterId id) const {
    const auto found = adapter_index_.find(id);
    return found == adapter_index_.end() ? nullptr : &header_.adapters[found->second];
}

std::string RunModel::adapterName(AdapterId id) const {
    if (id == AdapterId::base) return "base";
    const RunAdapter* a = adapter(id);
    return a ? a->name : "adapter " + std::to_string(uint32_t(id));
}

const PageMap* RunModel::pagesAt(int64_t step) const {
    if (!pages_known_ || records_.empty() || keyframes_.empty()) return nullptr;
    if (step >= lastStep()) return &pages_;
    const int64_t target = std::max({step, records_.front().first->step, keyframes_.front().step});
    const auto after = std::upper_bound(keyframes_.begin(), keyframes_.end(), target,
                                        [](int64_t wanted, const Keyframe& k) { return wanted < k.step; });
    const Keyframe& base = *std::prev(after);
    // Going forward from where the last rewind ended is the common case while scrubbing.
    int64_t done = rewound_step_;
    if (done < base.step || done > target || rewound_.size() != pages_.size()) {
        rewound_.resize(pages_.size());
        for (const PageChange& run : base.runs) rewound_.apply(run);
        done = base.step;
    }
    auto at = std::lower_bound(records_.begin(), records_.end(), done + 1,
                               [](const auto& r, int64_t wanted) { return r.first->step < wanted; });
    for (; at != records_.end() && at->first->step <= target; ++at)
        for (const PageChange& c : at->first->page_changes) rewound_.apply(c);
    rewound_step_ = target;
    return &rewound_;
}

int32_t RunModel::pagesOf(AdapterId id) const {
    const auto found = adapter_pages_.find(id);
    return found == adapter_pages_.end() ? 0 : found->second;
}

size_t RunModel::approximateBytes() const {
    size_t n = record_bytes_ + steps_.size() * sizeof(StepSummary) + copies_.size() * sizeof(AdapterCopy) +
               keyframe_bytes_ + (finished_.size() + open_.size()) * sizeof(RequestSummary) +
               held_.capacity() * sizeof(HeldSpan) + 2 * pages_.cells().capacity() * sizeof(PageCell);
    for (const Bin& bin : bins_) {
        n += sizeof bin;
        for (const Distribution& d : bin.metrics) n += d.bytes();
    }
    for (const auto& [id, totals] : adapters_) {
        n += sizeof totals;
        for (const Distribution& d : totals.metrics) n += d.bytes();
    }
    return n;
}

}  // namespace spartan
