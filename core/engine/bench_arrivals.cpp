#include "core/engine/bench_arrivals.h"

#include "core/engine/bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <thread>

namespace spartan {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kMostGuests = 24;
constexpr int64_t kAlone = 12;  // adapters timed with nothing beside
constexpr int kWarmup = 3;

// One adapter in all of a runner's places for guests: each is loaded again as soon as it has arrived.
class Arrivals {
public:
    Arrivals(BenchRunner& bench, std::shared_ptr<const HostAdapter> adapter)
        : bench_(bench), adapter_(std::move(adapter)) {}

    void begin(int64_t count) {
        for (int64_t i = 0; i < count; ++i) begin_one(i);
    }
    // Those that have come in; each begins anew if `again`.
    int64_t take(bool again) {
        int64_t count = 0;
        for (const AdapterArrival& arrival : bench_.take_arrivals()) {
            ms_.push_back(double(arrival.us) / 1e3);
            --moving_;
            ++count;
            if (again) begin_one(bench_.guest_of(arrival.id));
        }
        return count;
    }
    void await_all() {
        while (moving_ > 0)
            if (take(false) == 0) std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    int64_t moving() const { return moving_; }
    std::vector<double> take_ms() { return std::exchange(ms_, {}); }

private:
    void begin_one(int64_t guest) {
        bench_.load_guest(guest, adapter_);
        ++moving_;
    }
    BenchRunner& bench_;
    std::shared_ptr<const HostAdapter> adapter_;
    int64_t moving_ = 0;
    std::vector<double> ms_;
};

struct ArrivalCase {
    std::string kind;
    std::shared_ptr<const Adapter> adapter;
    double pace_ms = 0;
};

Result<ArrivalFigure> measure_case(BenchRunner& bench, const ArrivalCase& c, const Batch& batch, int64_t guests,
                                   const ArrivalBenchOptions& o, Progress& progress) {
    ArrivalFigure f;
    f.kind = c.kind;
    f.pace_ms = c.pace_ms;
    f.host_bytes = c.adapter->host_bytes();
    f.pool_bytes = c.adapter->bytes();
    TRY_ASSIGN(host, bench.host_adapter(c.adapter));
    Arrivals arrivals(bench, std::move(host));

    arrivals.begin(1);  // first of all: kernels are loaded
    arrivals.await_all();
    arrivals.take_ms();
    for (int64_t i = 0; i < kAlone; ++i) {
        arrivals.begin(1);
        arrivals.await_all();
    }
    f.alone_ms = median(arrivals.take_ms());

    std::vector<double> alone, beside;
    for (int64_t i = -kWarmup; i < o.steps; ++i) {
        const double ms = bench.forward_ms(batch);
        if (i >= 0) alone.push_back(ms);
        progress.add(1);
        if (progress.cancelled()) return cancelled_error();
    }
    f.step_ms = median(alone);
    // Without a pause: so many on their way that the last is not there when a slower step ends.
    const double wanted =
        c.pace_ms > 0 ? std::round(f.step_ms / c.pace_ms) : std::ceil(1.5 * f.step_ms / std::max(f.alone_ms, 0.01)) + 1;
    arrivals.begin(std::clamp<int64_t>(int64_t(wanted), 1, guests));
    auto begin = Clock::now();
    int64_t arrived = 0, streaming = 0;
    for (int64_t i = -kWarmup; i < o.steps; ++i) {
        if (i == 0) {
            begin = Clock::now();
            arrived = 0;
            arrivals.take_ms();
        }
        const double ms = bench.forward_ms(batch);
        const int64_t were_moving = arrivals.moving(), came = arrivals.take(true);
        arrived += came;
        if (i >= 0) {
            beside.push_back(ms);
            streaming += came < were_moving;
        }
        progress.add(1);
        if (progress.cancelled()) break;
    }
    f.every_ms = milliseconds(Clock::now() - begin) / double(std::max<int64_t>(arrived, 1));
    f.beside_ms = median(arrivals.take_ms());
    arrivals.await_all();
    if (progress.cancelled()) return cancelled_error();
    f.step_beside_ms = median(beside);
    f.slower = f.step_beside_ms / f.step_ms - 1;
    f.streaming_share = double(streaming) / double(o.steps);
    return f;
}

}  // namespace

Result<std::vector<ArrivalFigure>> measure_arrivals(std::shared_ptr<const Model> model,
                                                    const ArrivalBenchOptions& options, Progress& progress) {
    ArrivalBenchOptions o = options;
    if (o.cuda_device < 0) return Error{"", "device", "the CPU", "a GPU: on a CPU nothing comes in beside a step"};
    const BenchSizes standard = default_bench_sizes(o.cuda_device);
    if (o.sizes.boft.empty()) o.sizes.boft = standard.boft;
    if (o.sizes.lora.empty()) o.sizes.lora = standard.lora;
    const Deal deal = deal_adapters(BatchKind::boft, o.rows, o.adapters);
    TRY_ASSIGN(used, make_bench_adapters(*model, o.sizes, deal.boft, 0, o.seed, progress, AdapterForm::skew));
    TRY_ASSIGN(left, make_bench_adapters(*model, o.sizes, 1, 1, o.seed + 1, progress, AdapterForm::skew));
    TRY_ASSIGN(folded, fold_rotations(*left.all[0], progress));
    std::vector<ArrivalCase> cases;
    for (const double pace : o.paces) {
        cases.push_back({"boft", left.all[0], pace});
        cases.push_back({"boft folded", folded, pace});
        cases.push_back({"lora", left.all[1], pace});
    }
    int64_t largest = 0;
    for (const ArrivalCase& c : cases) largest = std::max(largest, c.adapter->bytes());

    const BenchRunner::Room room{o.rows, o.rows, o.context + 1, kMostGuests, largest};
    TRY_ASSIGN(bench, BenchRunner::make(model, o.cuda_device, {}, room, used.all));
    const Batch batch = bench->decode(o.context, used.ids(deal));
    progress.done = 0;
    progress.total = int64_t(cases.size()) * 2 * (o.steps + kWarmup);
    std::vector<ArrivalFigure> figures;
    for (const ArrivalCase& c : cases) {
        TRY_ASSIGN(figure, measure_case(*bench, c, batch, kMostGuests, o, progress));
        figures.push_back(std::move(figure));
    }
    return figures;
}

Json to_json(const std::vector<ArrivalFigure>& figures) {
    Json out = Json::array();
    for (const ArrivalFigure& f : figures)
        out.push_back({{"kind", f.kind},
                       {"pace_ms", f.pace_ms},
                       {"host_bytes", f.host_bytes},
                       {"pool_bytes", f.pool_bytes},
                       {"alone_ms", f.alone_ms},
                       {"beside_ms", f.beside_ms},
                       {"every_ms", f.every_ms},
                       {"step_ms", f.step_ms},
                       {"step_beside_ms", f.step_beside_ms},
                       {"slower", f.slower},
                       {"streaming_share", f.streaming_share}});
    return out;
}

}  // namespace spartan
