// Concurrent users of one engine, without Qt, so that ThreadSanitizer sees every line: submits, cancels, holds,
// adapters that come and go, sources, snapshots. Bounded to SECONDS (first argument, default 10). Exits 0 when every
// request that was taken ended exactly once and no page stayed behind.
#include "fixture.h"

#include <atomic>
#include <chrono>
#include <set>
#include <thread>

using namespace spartan;
using namespace spartan::test;

namespace {

#define REQUIRE(cond)                                                                       \
    do {                                                                                    \
        if (!(cond)) {                                                                      \
            std::fprintf(stderr, "%s:%d: REQUIRE(%s) failed\n", __FILE__, __LINE__, #cond); \
            return 1;                                                                       \
        }                                                                                   \
    } while (0)

class Burst : public RequestSource {
public:
    Burst(int64_t count, AdapterId adapter) : left_(count), adapter_(adapter) {}
    std::optional<Request> next(int64_t, int64_t unfinished) override {
        if (left_ == 0 || unfinished >= 6) return std::nullopt;
        --left_;
        return make_request({1, 2, Token(left_ % 50)}, adapter_, 4);
    }
    std::optional<int64_t> next_due_us() const override { return std::nullopt; }
    bool exhausted() const override { return left_ == 0; }

private:
    int64_t left_;
    AdapterId adapter_;
};

struct Shared {
    Shared(std::shared_ptr<const Model> m, const EngineOptions& options) : e(m, options), model(std::move(m)) {}

    TestEngine e;
    std::shared_ptr<const Model> model;
    std::atomic<bool> over{false};
    std::atomic<uint64_t> newest{0};
    std::atomic<uint32_t> adapter{0};
    std::mutex mutex;
    std::set<RequestId> taken;
};

void submit_some(Shared& s, uint64_t seed) {
    Random random(seed);
    while (!s.over) {
        const auto adapter = AdapterId(random() % 2 ? s.adapter.load() : 0);
        Request r =
            make_request(random_prompt(random, pick(random, 1, 60), 256), adapter, int32_t(pick(random, 0, 12)));
        r.sampling.temperature = float(random() % 3);
        if (random() % 4 == 0) r.sampling.stop = {"a", "bc"};
        // Refusals are part of the game: the adapter may have left, the queue may be full.
        if (const auto id = s.e->submit(std::move(r))) {
            s.newest = uint64_t(*id);
            std::lock_guard lock(s.mutex);
            s.taken.insert(*id);
        }
        std::this_thread::sleep_for(std::chrono::microseconds(random() % 1500));
    }
}

void disturb(Shared& s, uint64_t seed) {
    Random random(seed);
    while (!s.over) {
        switch (random() % 8) {
            case 0:
                s.e->hold();
                s.e->release();
                break;
            case 1:
                (void)s.e->start(std::make_shared<Burst>(pick(random, 1, 20), AdapterId(s.adapter.load())));
                break;
            case 2:
                if (random() % 8 == 0) s.e->stop_source();
                break;
            case 3:
                if (random() % 16 == 0) s.e->cancel_all();
                break;
            case 4:
                (void)s.e->status();
                break;
            case 5:
                (void)s.e->adapters();
                break;
            case 6:
                (void)s.e->wait_idle(1);
                break;
            default:
                s.e->cancel(RequestId(s.newest.load() - random() % 4));
                break;
        }
        std::this_thread::sleep_for(std::chrono::microseconds(random() % 1000));
    }
}

void change_adapters(Shared& s) {
    Random random(99);
    for (uint64_t i = 0; !s.over; ++i) {
        const AdapterShape shape{.group = i % 2 ? 8 : 0, .rank = i % 2 ? 0 : pick(random, 1, 12), .gain = i % 3 == 0};
        const auto id = s.e->add_adapter(make_adapter(*s.model, "a" + std::to_string(i), shape, i));
        const auto before = AdapterId(s.adapter.exchange(id ? uint32_t(*id) : 0));
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        if (before != AdapterId::base) expect(s.e->remove_adapter(before, random() % 2));
    }
}

}  // namespace

int main(int argc, char** argv) {
    const int seconds = argc > 1 ? std::atoi(argv[1]) : 10;
    const auto model = make_model();
    EngineOptions options = TestEngine::small_options();
    options.threads = 2;
    options.max_batch_tokens = 48;
    options.max_waiting = 64;
    options.pool_bytes = page_bytes(*model, 16) * 120;
    Shared s(model, options);
    std::vector<std::thread> threads;
    for (uint64_t i = 0; i < 2; ++i) threads.emplace_back([&s, i] { submit_some(s, i); });
    for (uint64_t i = 0; i < 2; ++i) threads.emplace_back([&s, i] { disturb(s, 10 + i); });
    threads.emplace_back([&s] { change_adapters(s); });
    std::this_thread::sleep_for(std::chrono::seconds(seconds));
    s.over = true;
    for (auto& t : threads) t.join();
    s.e->release();
    s.e->stop_source();
    REQUIRE(s.e->wait_idle(60'000));
    const EngineStatus status = s.e->status();
    REQUIRE(status.state == EngineState::idle);
    REQUIRE(status.pool.kv_pages == 0);

    std::map<RequestId, int> ended;
    int64_t tokens = 0, preemptions = 0, evictions = 0, refused = 0, step = 0;
    for (const auto& r : s.e.records.all()) {
        REQUIRE(r->step == step++);
        for (const auto& f : r->finished) {
            ++ended[f.id];
            tokens += f.output_tokens;
            preemptions += f.preemptions;
            REQUIRE(f.finish != FinishReason::none);
            // Only this can go wrong: a source delivers for an adapter that has left meanwhile.
            const bool adapter_left = !s.taken.contains(f.id) && f.error.starts_with("adapter: found id");
            if (f.finish == FinishReason::error && !adapter_left) {
                std::fprintf(stderr, "request %llu: %s\n", (unsigned long long)f.id, f.error.c_str());
                return 1;
            }
            refused += f.finish == FinishReason::error;
        }
        for (const auto& event : r->adapter_events) evictions += event.kind == AdapterEvent::Kind::evict;
    }
    for (const auto& [id, times] : ended) REQUIRE(times == 1);
    for (const RequestId id : s.taken) REQUIRE(ended.contains(id));
    std::printf("%zu requests, %lld tokens, %lld records, %lld preemptions, %lld adapter evictions, %lld refused\n",
                ended.size(), (long long)tokens, (long long)step, (long long)preemptions, (long long)evictions,
                (long long)refused);
    return 0;
}
