// labels: alone
#include "core/engine/engine.h"

#include "check_records.h"
#include "fixture.h"

#include <QtTest>
#include <atomic>
#include <chrono>
#include <limits>
#include <thread>

using namespace spartan;
using namespace spartan::test;

namespace {

// Delivers one request every `gap_us`, at most `concurrency` unfinished.
class TestSource : public RequestSource {
public:
    TestSource(std::vector<Request> requests, int64_t gap_us, int64_t concurrency = 1 << 30)
        : requests_(std::move(requests)), gap_us_(gap_us), concurrency_(concurrency) {}
    std::optional<Request> next(int64_t now_us, int64_t unfinished) override {
        most_unfinished = std::max<int64_t>(most_unfinished, unfinished);
        if (exhausted() || unfinished >= concurrency_ || now_us < due()) return std::nullopt;
        Request r = requests_[next_];
        r.arrival_us = due();
        ++next_;
        return r;
    }
    std::optional<int64_t> next_due_us() const override { return exhausted() ? std::nullopt : std::optional(due()); }
    bool exhausted() const override { return next_ >= requests_.size(); }
    std::atomic<int64_t> most_unfinished{0};

private:
    int64_t due() const { return int64_t(next_) * gap_us_; }
    std::vector<Request> requests_;
    int64_t gap_us_, concurrency_;
    size_t next_ = 0;
};

// Knows no time at which it is due, and takes a while to make each request.
struct SlowClosedSource : RequestSource {
    std::optional<Request> next(int64_t, int64_t) override {
        if (exhausted()) return std::nullopt;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        ++given;
        return make_request({}, AdapterId::base, 1);  // refused: no tokens
    }
    std::optional<int64_t> next_due_us() const override { return std::nullopt; }
    bool exhausted() const override { return given == 60; }
    int given = 0;
};

struct ThrowingSource : RequestSource {
    std::optional<Request> next(int64_t now_us, int64_t) override {
        if (now_us > 30'000) throw DeviceError("the device is lost");
        return std::nullopt;
    }
    std::optional<int64_t> next_due_us() const override { return 0; }
    bool exhausted() const override { return false; }
};

// A model whose prefill takes seconds on one thread.
std::shared_ptr<const Model> slow_model() {
    return make_model(DType::f32, {.vocab = 300,
                                   .hidden = 1024,
                                   .intermediate = 4096,
                                   .layers = 8,
                                   .heads = 16,
                                   .kv_heads = 4,
                                   .head_dim = 64,
                                   .max_position = 4096,
                                   .qkv_bias = false});
}

int64_t milliseconds_since(std::chrono::steady_clock::time_point t) {
    return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - t).count();
}

bool wait_for(const std::function<bool()>& what, int64_t timeout_ms = 20'000) {
    const auto begin = std::chrono::steady_clock::now();
    while (!what()) {
        if (milliseconds_since(begin) > timeout_ms) return false;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return true;
}

}  // namespace

class EngineTest : public QObject {
    Q_OBJECT
private slots:
    void generates_and_records();
    void refuses_options_that_are_not_built();
    void refuses_bad_requests_and_adapters();
    void full_queue_is_refused();
    void hands_out_the_logits_of_every_prompt_position();
    void ends_at_eos_and_at_stop_strings();
    void sampling_depends_on_the_seed_only();
    void cancels_within_100_ms_in_every_state();
    void hold_stops_the_clock();
    void removed_adapters_leave_with_their_last_request();
    void nan_adapter_ends_its_request_only();
    void source_delivers_on_time();
    void source_respects_concurrency_and_stops();
    void refused_requests_do_not_stop_a_source();
    void full_sink_is_waited_for_and_recorded();
    void ends_although_nobody_reads();
    void device_error_fails_the_engine_not_the_process();
    void ten_thousand_loads_through_four_slots();
    void times_and_bytes_are_filled();
};

void EngineTest::generates_and_records() {
    const auto model = make_model();
    TestEngine e(model);
    Random random(3);
    const AdapterId a = expect(e->add_adapter(make_adapter(*model, "a", {.group = 16}, 5)));
    const AdapterId b = expect(e->add_adapter(make_adapter(*model, "b", {.rank = 4, .gain = true}, 6)));
    std::vector<Request> requests;
    for (int i = 0; i < 12; ++i) {
        requests.push_back(
            make_request(random_prompt(random, 1 + i * 3, 256), std::array{AdapterId::base, a, b}[size_t(i % 3)], 10));
        requests.back().origin.repeat = i;
    }
    const auto ids = e.run(requests);
    const auto done = e.records.finished();
    QCOMPARE(done.size(), size_t(12));
    for (int i = 0; i < 12; ++i) {
        const RequestRecord& r = done.at(ids[size_t(i)]);
        QVERIFY(r.finish == FinishReason::length);
        QCOMPARE(r.output_tokens, 10);
        QCOMPARE(r.prompt_tokens, 1 + i * 3);
        QCOMPARE(r.origin.repeat, i);
    }
    check_records(e.records.all());
    const EngineStatus status = e->status();
    QVERIFY(status.state == EngineState::idle);
    QCOMPARE(status.pool.kv_pages, 0);
    QVERIFY(status.pool.adapter_pages > 0);
    QVERIFY(status.workspace_bytes > 0);
    for (const AdapterStatus& s : e->adapters()) {
        QVERIFY(s.residency == Residency::pool);
        QCOMPARE(s.unfinished, 0);
    }
}

void EngineTest::refuses_options_that_are_not_built() {
    const auto model = make_model();
    Records records;
    const auto error = [&](const std::function<void(EngineOptions&)>& change) {
        EngineOptions o = TestEngine::small_options();
        change(o);
        const auto engine = Engine::create(model, o, records.sink());
        return engine ? std::string() : engine.error().message();
    };
    QVERIFY(error([](auto& o) { o.adapter_strategy = "paper"; }).find("adapter_strategy") != std::string::npos);
    QVERIFY(error([](auto& o) { o.residency = "paged"; }).find("residency") != std::string::npos);
    QVERIFY(error([](auto& o) { o.adapter_slots = 2; }).find("adapter_slots") != std::string::npos);  // but `stream`
    QVERIFY(error([](auto& o) { o.memory = "split"; }).find("memory") != std::string::npos);
    QVERIFY(error([](auto& o) { o.scheduler = "vtc"; }).find("scheduler") != std::string::npos);
    QVERIFY(error([](auto& o) { o.batch_invariant = false; }).find("batch_invariant") != std::string::npos);
    QVERIFY(error([](auto& o) { o.max_batch_tokens = 0; }).find("max_batch_tokens") != std::string::npos);
    QVERIFY(error([](auto& o) { o.pool_bytes = 100; }).find("pool_bytes") != std::string::npos);
    QVERIFY(error([](auto& o) { o.pool_bytes = int64_t(1) << 49; }).find("pool_bytes") != std::string::npos);
    QVERIFY(error([](auto& o) { o.threads = -1; }).find("threads") != std::string::npos);
    QCOMPARE(error([](auto& o) { o.graphs = false; }), std::string());
    EngineOptions on_cpu = TestEngine::small_options();
    on_cpu.cuda_device = -1;
    const auto half = Engine::create(make_model(DType::f16), on_cpu, records.sink());
    QVERIFY(!half &&
            half.error().message().find("dtype: found f16, expected f32, bf16 or auto on a CPU") != std::string::npos);
    EngineOptions defaults;
    defaults.threads = 1;
    const auto engine = expect(Engine::create(model, defaults, records.sink()));
    QVERIFY(engine->options().pool_bytes > 0 && engine->options().adapter_bytes > 0);
}

void EngineTest::refuses_bad_requests_and_adapters() {
    const auto model = make_model();
    EngineOptions options = TestEngine::small_options();
    options.pool_bytes = page_bytes(*model, 16) * 2 * 10;  // 160 tokens
    TestEngine e(model, options);
    const auto refused = [&](const std::function<void(Request&)>& change, const char* word) {
        Request r = make_request({1, 2, 3}, AdapterId::base, 4);
        change(r);
        const auto id = e->submit(r);
        if (id) return false;
        const bool named = id.error().message().find(word) != std::string::npos;
        if (!named) qWarning("%s", id.error().message().c_str());
        return named;
    };
    QVERIFY(refused([](auto& r) { r.prompt.clear(); }, "prompt"));
    QVERIFY(refused([](auto& r) { r.prompt[1] = -1; }, "prompt[1]"));
    QVERIFY(refused([](auto& r) { r.prompt[2] = 260; }, "prompt[2]"));
    QVERIFY(refused([](auto& r) { r.adapter = AdapterId(9); }, "adapter"));
    QVERIFY(refused([](auto& r) { r.prompt.assign(510, 1); }, "context"));
    QVERIFY(refused([](auto& r) { r.prompt.assign(158, 1); }, "pool"));
    QVERIFY(refused([](auto& r) { r.sampling.max_tokens = -1; }, "max_tokens"));
    QVERIFY(refused([](auto& r) { r.sampling.max_tokens = std::numeric_limits<int32_t>::max(); }, "context"));
    QVERIFY(refused([](auto& r) { r.sampling.temperature = std::numeric_limits<float>::quiet_NaN(); }, "temperature"));
    QVERIFY(refused([](auto& r) { r.sampling.top_p = 0; }, "top_p"));
    QVERIFY(refused([](auto& r) { r.sampling.top_k = -1; }, "top_k"));
    QVERIFY(refused([](auto& r) { r.sampling.num_logprobs = 3; }, "num_logprobs"));
    QVERIFY(refused([](auto& r) { r.sampling.stop = {""}; }, "stop"));
    QCOMPARE(e.run({make_request(std::vector<Token>(157, 1), AdapterId::base, 4)}).size(), size_t(1));  // just fits

    auto wrong_dtype = make_adapter(*make_model(DType::bf16), "bf16", {.rank = 2}, 1);
    QVERIFY(!e->add_adapter(wrong_dtype));
    auto wrong_shape = make_adapter(*model, "shape", {.rank = 2}, 1);
    wrong_shape->parts[0].in = 47;
    QVERIFY(!e->add_adapter(wrong_shape));
    auto outside = make_adapter(*model, "outside", {.rank = 2}, 1);
    outside->blob.resize(outside->blob.size() / 2);
    QVERIFY(!e->add_adapter(outside));
    const auto large = make_adapter(*model, "large", {.rank = 64}, 1);
    const auto result = e->add_adapter(large);
    QVERIFY(!result && result.error().message().find("pool_bytes") != std::string::npos);
    QVERIFY(!e->remove_adapter(AdapterId(7), false));
}

void EngineTest::full_queue_is_refused() {
    EngineOptions options = TestEngine::small_options();
    options.max_waiting = 5;
    TestEngine e(make_model(), options);
    e->hold();
    QVERIFY(wait_for([&] { return e->status().state == EngineState::held; }));
    for (int i = 0; i < 5; ++i) e.submit(make_request({1}, AdapterId::base, 3));
    const auto refused = e->submit(make_request({1}, AdapterId::base, 3));
    QVERIFY(!refused && refused.error().message().find("max_waiting") != std::string::npos);
    e->release();
    QVERIFY(e->wait_idle(20'000));
    e.submit(make_request({1}, AdapterId::base, 3));
    QVERIFY(e->wait_idle(20'000));
    QCOMPARE(e.records.finished().size(), size_t(6));
}

void EngineTest::hands_out_the_logits_of_every_prompt_position() {
    const auto model = make_model();
    EngineOptions options = TestEngine::small_options();
    options.max_batch_tokens = 7;
    TestEngine e(model, options);
    Random random(1);
    Request r = make_request(random_prompt(random, 40, 256), AdapterId::base, 0);
    r.want_logits = true;
    const RequestId id = e.run({r})[0];
    const auto logits = e.records.logits(id);
    QCOMPARE(logits.size(), size_t(40 * 260));
    QVERIFY(e.records.finished().at(id).finish == FinishReason::length);
    QCOMPARE(e.records.finished().at(id).output_tokens, 0);
    // The greedy token is the largest of the last position's.
    r.sampling.max_tokens = 1;
    const RequestId greedy = e.run({r})[0];
    const auto last = logits.end() - 260;
    QCOMPARE(e.records.finished().at(greedy).output[0], Token(std::max_element(last, logits.end()) - last));
}

void EngineTest::ends_at_eos_and_at_stop_strings() {
    const auto model = make_model();
    TestEngine e(model);
    Random random(2);
    // Sampled at a high temperature, so that all bytes and the eos turn up.
    Request r = make_request(random_prompt(random, 8, 256), AdapterId::base, 400);
    r.sampling.temperature = 50;
    r.sampling.ignore_eos = false;
    std::vector<Request> requests;
    for (uint64_t seed = 0; seed < 20; ++seed) {
        r.sampling.seed = seed;
        requests.push_back(r);
    }
    int eos = 0;
    for (const RequestId id : e.run(requests)) {
        const RequestRecord f = e.records.finished().at(id);
        const auto at = std::find(f.output.begin(), f.output.end(), 256);
        eos += f.finish == FinishReason::eos;
        QVERIFY(f.finish == FinishReason::eos ? at + 1 == f.output.end() : at == f.output.end());
        QCOMPARE(f.visible_bytes, int64_t(-1));
    }
    QVERIFY(eos > 0);

    r.sampling.ignore_eos = true;
    r.sampling.seed = 4;
    const RequestRecord whole = e.run_one(r);
    QCOMPARE(whole.output_tokens, 400);
    const std::string text = model->info.tokenizer->decode(whole.output, true);
    // Any piece of the text is a good stop string: the answer ends where it is first found.
    int stopped = 0, cut = 0;
    for (const size_t length : {1, 3, 6}) {
        for (size_t from = 40; from + length < text.size(); from += 97) {
            const std::string stop = text.substr(from, length);
            r.sampling.stop = {"no such text", stop};
            const RequestRecord f = e.run_one(r);
            if (f.finish != FinishReason::stop) {  // cut through a character
                ++cut;
                continue;
            }
            ++stopped;
            QCOMPARE(f.visible_bytes, int64_t(text.find(stop)));
            QVERIFY(std::equal(f.output.begin(), f.output.end(), whole.output.begin()));
            QVERIFY(int64_t(model->info.tokenizer->decode(f.output, true).size()) >= f.visible_bytes + int64_t(length));
        }
    }
    QVERIFY2(stopped > 0 && stopped >= cut, qPrintable(QString("%1 stopped, %2 not").arg(stopped).arg(cut)));
    check_records(e.records.all());
}

void EngineTest::sampling_depends_on_the_seed_only() {
    TestEngine e(make_model());
    Request r = make_request({1, 2, 3}, AdapterId::base, 30);
    r.sampling.temperature = 2;
    r.sampling.seed = 7;
    Request other = r;
    other.sampling.seed = 8;
    const auto ids = e.run({r, other, r});
    const auto done = e.records.finished();
    QCOMPARE(done.at(ids[0]).output, done.at(ids[2]).output);
    QVERIFY(done.at(ids[0]).output != done.at(ids[1]).output);
}

void EngineTest::cancels_within_100_ms_in_every_state() {
    EngineOptions options = TestEngine::small_options();
    options.pool_bytes = 256 << 20;
    options.max_batch_rows = 2;
    options.max_batch_tokens = 2048;
    TestEngine e(slow_model(), options);
    Random random(1);
    const auto cancel = [&](RequestId id) {
        const auto begin = std::chrono::steady_clock::now();
        e->cancel(id);
        if (!wait_for([&] { return e.records.finished().contains(id); })) return int64_t(1'000'000);
        return milliseconds_since(begin);
    };
    const auto submit = [&](int64_t prompt, int32_t max_tokens) {
        return e.submit(make_request(random_prompt(random, prompt, 256), AdapterId::base, max_tokens));
    };
    // Other programs may hold the processor: the best of a few tries counts.
    int64_t best_ms = 1'000'000;
    for (int attempt = 0; attempt < 5 && best_ms >= 100; ++attempt) {
        const RequestId prefill = submit(2000, 4), second = submit(2000, 4), queued = submit(2000, 4);
        QVERIFY(wait_for([&] { return e->status().running > 0; }));
        std::this_thread::sleep_for(std::chrono::milliseconds(30));
        int64_t slowest_ms = std::max({cancel(queued), cancel(second), cancel(prefill)});
        QVERIFY(e->wait_idle(20'000));
        QCOMPARE(e->status().pool.kv_pages, 0);

        const RequestId decoding = submit(2, 2000);
        QVERIFY(wait_for([&] {
            for (const auto& r : e.records.all())
                for (const auto& row : r->rows)
                    if (row.request == decoding && row.token >= 0) return true;
            return false;
        }));
        slowest_ms = std::max(slowest_ms, cancel(decoding));
        QVERIFY(e->wait_idle(20'000));
        const auto done = e.records.finished();
        for (const RequestId id : {prefill, second, queued, decoding})
            QVERIFY(done.at(id).finish == FinishReason::cancelled);
        QVERIFY(done.at(decoding).output_tokens > 0);
        e->cancel(decoding);  // over already: nothing happens
        e->cancel(RequestId(999'999));
        QVERIFY(e->wait_idle(20'000));
        QCOMPARE(e->status().pool.kv_pages, 0);
        best_ms = std::min(best_ms, slowest_ms);
    }
    check_records(e.records.all());
    QVERIFY2(best_ms < 100, qPrintable(QString("%1 ms").arg(best_ms)));
}

void EngineTest::hold_stops_the_clock() {
    TestEngine e(make_model());
    const RequestId id = e.submit(make_request({1, 2, 3}, AdapterId::base, 400));
    QVERIFY(wait_for([&] { return e->status().running > 0; }));
    e->hold();
    QVERIFY(wait_for([&] { return e->status().state == EngineState::held; }));
    const int64_t steps = int64_t(e.records.all().size()), at = e->now_us();
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    QCOMPARE(e->now_us(), at);
    QCOMPARE(int64_t(e.records.all().size()), steps);
    QVERIFY(!e->wait_idle(10));
    e->cancel(RequestId(77));
    const RequestId late = e.submit(make_request({1}, AdapterId::base, 2));
    e->cancel(late);  // also while held
    QVERIFY(wait_for([&] { return e.records.finished().contains(late); }));
    e->release();
    QVERIFY(e->wait_idle(20'000));
    const RequestRecord r = e.records.finished().at(id);
    for (size_t i = 1; i < r.token_us.size(); ++i) QVERIFY(r.token_us[i] - r.token_us[i - 1] < 150'000);
    QVERIFY(e.records.all().back()->held_us >= 190'000);
    check_records(e.records.all());
}

void EngineTest::removed_adapters_leave_with_their_last_request() {
    const auto model = make_model();
    TestEngine e(model);
    const AdapterId a = expect(e->add_adapter(make_adapter(*model, "a", {.group = 8}, 1)));
    const AdapterId b = expect(e->add_adapter(make_adapter(*model, "b", {.rank = 8}, 1)));
    e->hold();
    std::vector<RequestId> of_a, of_b;
    for (int i = 0; i < 10; ++i) {
        of_a.push_back(e.submit(make_request({1, Token(i)}, a, 20)));
        of_b.push_back(e.submit(make_request({1, Token(i)}, b, 20)));
    }
    expect(e->remove_adapter(a, false));
    QVERIFY(!e->remove_adapter(a, false));
    QVERIFY(!e->submit(make_request({1}, a, 1)));
    QVERIFY(e->adapters()[0].leaving);
    QCOMPARE(e->adapters()[0].unfinished, 10);
    expect(e->remove_adapter(b, true));
    e->release();
    QVERIFY(e->wait_idle(20'000));
    const auto done = e.records.finished();
    for (const RequestId id : of_a) QVERIFY(done.at(id).finish == FinishReason::length);
    for (const RequestId id : of_b) QVERIFY(done.at(id).finish == FinishReason::cancelled);
    QVERIFY(e->adapters().empty());
    QCOMPARE(e->status().pool.adapter_pages, 0);
    // The same weights again are a new identity with the same answers.
    const AdapterId again = expect(e->add_adapter(make_adapter(*model, "a", {.group = 8}, 1)));
    QVERIFY(again != a);
    const RequestId id = e.run({make_request({1, 3}, again, 20)})[0];
    QCOMPARE(e.records.finished().at(id).output, done.at(of_a[3]).output);
    check_records(e.records.all());
}

void EngineTest::nan_adapter_ends_its_request_only() {
    const auto model = make_model();
    TestEngine e(model);
    auto poisoned = make_adapter(*model, "poisoned", {.rank = 2, .gain = true}, 1);
    const float nan = std::numeric_limits<float>::quiet_NaN();
    std::memcpy(poisoned->blob.data() + poisoned->parts.back().gain, &nan, sizeof nan);
    const AdapterId bad = expect(e->add_adapter(poisoned));
    const AdapterId good = expect(e->add_adapter(make_adapter(*model, "good", {.rank = 2}, 1)));
    const Request base = make_request({5, 6, 7}, AdapterId::base, 12), other = make_request({5, 6}, good, 12);
    const auto alone = e.run({base}), alone_other = e.run({other});
    const auto mixed = e.run({base, make_request({5, 6}, bad, 12), other});
    const auto done = e.records.finished();
    QVERIFY(done.at(mixed[1]).finish == FinishReason::error);
    QVERIFY(done.at(mixed[1]).error.find("poisoned") != std::string::npos);
    QVERIFY(done.at(mixed[1]).error.find("step") != std::string::npos);
    QCOMPARE(done.at(mixed[1]).output_tokens, 0);
    QCOMPARE(done.at(mixed[0]).output, done.at(alone[0]).output);
    QCOMPARE(done.at(mixed[2]).output, done.at(alone_other[0]).output);
    check_records(e.records.all());
}

void EngineTest::source_delivers_on_time() {
    TestEngine e(make_model());
    std::vector<Request> requests;
    for (int i = 0; i < 20; ++i) requests.push_back(make_request({1, Token(i)}, AdapterId::base, 3));
    requests[7].prompt.clear();  // refused when it falls due
    std::vector<RequestId> told;
    expect(e->start(std::make_shared<TestSource>(requests, 10'000), [&](const Request& r) { told.push_back(r.id); }));
    QVERIFY(!e->start(std::make_shared<TestSource>(requests, 10'000)));  // one at a time
    QVERIFY(e->wait_idle(20'000));
    QVERIFY(!e->status().source_active);
    const auto done = e.records.finished();
    QCOMPARE(told.size(), size_t(20));
    QCOMPARE(done.size(), size_t(20));
    int errors = 0;
    for (size_t i = 0; i < told.size(); ++i) {
        const RequestRecord& r = done.at(told[i]);
        errors += r.finish == FinishReason::error;
        QCOMPARE(r.arrival_us - done.at(told[0]).arrival_us, int64_t(i) * 10'000);
    }
    QCOMPARE(errors, 1);
    QVERIFY(done.at(told[7]).error.find("prompt") != std::string::npos);
    expect(e->start(std::make_shared<TestSource>(requests, 0)));
    QVERIFY(e->wait_idle(20'000));
    QCOMPARE(e.records.finished().size(), size_t(40));
    check_records(e.records.all());
}

void EngineTest::source_respects_concurrency_and_stops() {
    TestEngine e(make_model());
    std::vector<Request> requests;
    for (int i = 0; i < 30; ++i) requests.push_back(make_request({1, Token(i)}, AdapterId::base, 5));
    const auto source = std::make_shared<TestSource>(requests, 0, 4);
    expect(e->start(source));
    QVERIFY(e->wait_idle(20'000));
    QCOMPARE(e.records.finished().size(), size_t(30));
    QCOMPARE(source->most_unfinished.load(), int64_t(4));
    for (const auto& r : e.records.all()) QVERIFY(r->running <= 4);

    for (auto& r : requests) r.sampling.max_tokens = 400;
    const RequestId own = e.submit(make_request({9}, AdapterId::base, 500));
    expect(e->start(std::make_shared<TestSource>(requests, 0, 4)));
    QVERIFY(wait_for([&] { return e->status().running > 1; }));
    e->stop_source();
    expect(e->start(std::make_shared<TestSource>(std::vector<Request>(3, make_request({2}, AdapterId::base, 2)), 0)));
    QVERIFY(e->wait_idle(20'000));
    const auto done = e.records.finished();
    QVERIFY(done.at(own).finish == FinishReason::length);
    int cancelled = 0, complete = 0;
    for (const auto& [id, r] : done) {
        cancelled += r.finish == FinishReason::cancelled;
        complete += r.finish == FinishReason::length;
    }
    QVERIFY(cancelled >= 1 && cancelled <= 8);
    QCOMPARE(complete, 30 + 1 + 3);
    check_records(e.records.all());
}

void EngineTest::refused_requests_do_not_stop_a_source() {
    TestEngine e(make_model());
    expect(e->start(std::make_shared<SlowClosedSource>()));
    QVERIFY(e->wait_idle(20'000));
    QCOMPARE(e.records.finished().size(), size_t(60));
    check_records(e.records.all());
}

void EngineTest::ends_although_nobody_reads() {
    auto e = std::make_unique<TestEngine>(make_model());
    e->records.set_full(true);
    e->submit(make_request({1, 2}, AdapterId::base, 5));
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    std::atomic<bool> ended{false};
    std::thread ending([&] {
        e.reset();
        ended = true;
    });
    if (!wait_for([&] { return ended.load(); })) qFatal("the engine's thread does not end");
    ending.join();
}

void EngineTest::full_sink_is_waited_for_and_recorded() {
    Records records;
    std::atomic<bool> full{true}, refused{false};
    const auto sink = [&, accept = records.sink()](const StepRecordPtr& r) {
        if (full) refused = true;
        return !full && accept(r);
    };
    const auto engine = expect(Engine::create(make_model(), TestEngine::small_options(), sink));
    expect(engine->submit(make_request({1, 2}, AdapterId::base, 5)));
    QVERIFY(wait_for([&] { return refused.load(); }));
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    full = false;
    QVERIFY(engine->wait_idle(20'000));
    int64_t waited = 0;
    for (const auto& r : records.all()) waited += r->times.publish_wait;
    QVERIFY2(waited > 45'000, qPrintable(QString::number(waited)));
    check_records(records.all());
}

void EngineTest::device_error_fails_the_engine_not_the_process() {
    TestEngine e(make_model());
    const RequestId id = e.submit(make_request({1, 2}, AdapterId::base, 500));
    expect(e->start(std::make_shared<ThrowingSource>()));
    QVERIFY(wait_for([&] { return e->status().state == EngineState::failed; }));
    QVERIFY(e->wait_idle(1000));
    QCOMPARE(e->status().failure, std::string("the device is lost"));
    const RequestRecord r = e.records.finished().at(id);
    QVERIFY(r.finish == FinishReason::error || r.finish == FinishReason::length);
    const auto refused = e->submit(make_request({1}, AdapterId::base, 1));
    QVERIFY(!refused && refused.error().message().find("the device is lost") != std::string::npos);
    QVERIFY(!e->start(std::make_shared<ThrowingSource>()));
    QCOMPARE(e->status().pool.kv_pages, 0);
}

// Reliability row 102: evictions and reloads, large and small in turn, give what a cold start gives.
void EngineTest::ten_thousand_loads_through_four_slots() {
    TinyShape shape{
        .vocab = 64, .hidden = 16, .intermediate = 16, .layers = 1, .heads = 2, .kv_heads = 2, .head_dim = 8};
    const auto model = make_model(DType::f32, shape);
    std::vector<std::shared_ptr<Adapter>> adapters;
    for (uint64_t i = 0; i < 12; ++i)
        adapters.push_back(make_adapter(*model, "a" + std::to_string(i), {.rank = i % 2 ? 1 : 8}, i));
    int64_t slot = 0;
    for (const auto& a : adapters) slot = std::max(slot, int64_t(a->blob.size()));
    EngineOptions options = TestEngine::small_options();
    options.pool_bytes = slot * 4 + page_bytes(*model, 16) * 4;
    TestEngine e(model, options);
    std::vector<AdapterId> ids;
    for (const auto& a : adapters) ids.push_back(expect(e->add_adapter(a)));
    std::vector<std::vector<Token>> cold;
    for (size_t i = 0; i < ids.size(); ++i) {
        TestEngine fresh(model);
        const AdapterId id = expect(fresh->add_adapter(adapters[i]));
        cold.push_back(fresh.run_one(make_request({3, 1, 4}, id, 3)).output);
    }
    Random random(5);
    int64_t loads = 0, evictions = 0;
    for (int round = 0; round < 200 && loads < 10'000; ++round) {
        std::vector<Request> requests;
        std::vector<size_t> which;
        for (int i = 0; i < 100; ++i) {
            which.push_back(size_t(pick(random, 0, 11)));
            requests.push_back(make_request({3, 1, 4}, ids[which.back()], 3));
        }
        e.records.clear();
        const auto submitted = e.run(requests);
        const auto done = e.records.finished();
        for (size_t i = 0; i < submitted.size(); ++i) QCOMPARE(done.at(submitted[i]).output, cold[which[i]]);
        for (const auto& r : e.records.all())
            for (const auto& event : r->adapter_events) ++(event.kind == AdapterEvent::Kind::load ? loads : evictions);
    }
    QVERIFY2(loads >= 10'000, qPrintable(QString::number(loads)));
    QVERIFY(loads - evictions <= 12);
}

void EngineTest::times_and_bytes_are_filled() {
    const auto model = make_model();
    TestEngine e(model);
    const AdapterId a = expect(e->add_adapter(make_adapter(*model, "a", {.group = 16, .rank = 4}, 5)));
    e.run({make_request(std::vector<Token>(64, 1), a, 8)});
    StepTimes sum;
    const auto adapter_bytes = int64_t(e->adapters()[0].adapter->blob.size());
    int64_t transferred = 0;
    for (const auto& r : e.records.all()) {
        sum.rotate += r->times.rotate;
        sum.lora += r->times.lora;
        sum.products += r->times.products;
        sum.attention += r->times.attention;
        sum.head += r->times.head;
        transferred += r->bytes.transfer;
        if (r->rows.empty()) continue;
        QCOMPARE(r->bytes.adapters, adapter_bytes);
        const int64_t tokens = r->rows[0].context + r->rows[0].num_tokens;
        QCOMPARE(r->bytes.kv, tokens * 2 * 2 * 16 * 4);
        QVERIFY(r->bytes.weights > 100'000);
        QCOMPARE(r->padding_tokens, 0);
    }
    QCOMPARE(transferred, adapter_bytes);
    QVERIFY(sum.products > 0 && sum.rotate > 0 && sum.lora > 0 && sum.attention > 0);
}

QTEST_GUILESS_MAIN(EngineTest)
#include "engine_test.moc"
