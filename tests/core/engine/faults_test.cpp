// labels: gpu
// What goes wrong while an engine runs, and what it must not touch: NaN in an adapter, memory that is refused, a device
// that is lost.
#include "core/engine/cuda_backend.h"
#include "core/engine/engine_loop.h"
#include "fixture.h"
#include "kernels/device_memory_error.h"

#include <QtTest>
#include <atomic>
#include <future>
#include <limits>
#include <set>
#include <thread>

using namespace spartan;
using namespace spartan::test;

namespace {

// Bits that do not depend on the batch, on a GPU too.
EngineOptions invariant_options() {
    EngineOptions o = TestEngine::small_options();
    o.batch_invariant = true;
    return o;
}

// The same adapter with one value of every part NaN: `what` of all of them.
std::shared_ptr<Adapter> poisoned(const Adapter& healthy, int64_t AdapterPart::*what) {
    auto adapter = std::make_shared<Adapter>(healthy);
    adapter->name = "poisoned";
    adapter->content_hash = "poisoned";
    for (const AdapterPart& part : adapter->parts)
        if (part.*what >= 0) std::memset(adapter->blob.data() + part.*what, 0xff, 4);  // one f32, or two of 16 bits
    return adapter;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

std::vector<Request> many_requests(int count, int32_t max_tokens, AdapterId adapter = AdapterId::base) {
    Random random(3);
    std::vector<Request> requests;
    for (int i = 0; i < count; ++i)
        requests.push_back(make_request(random_prompt(random, 5 + i, 260), adapter, max_tokens));
    return requests;
}

std::string troubles_of(const Records& records) {
    std::string all;
    for (const auto& r : records.all()) all += r->trouble;
    return all;
}

std::shared_ptr<const HostAdapter> on_host(std::shared_ptr<const Adapter> adapter) {
    return std::make_shared<const HostAdapter>(std::move(adapter));
}

// It takes until then to let go of it.
struct SlowToLeave final : HostAdapter {
    SlowToLeave(std::shared_ptr<const Adapter> of, std::shared_future<void> when)
        : HostAdapter(std::move(of)), until(std::move(when)) {}
    ~SlowToLeave() override { until.wait(); }
    std::shared_future<void> until;
};

// A CPU's runner that refuses one adapter's memory while it is told to, with a part of it already there, and, once its
// device is lost, everything, as a GPU's does then.
class RefusingRunner final : public ModelRunner {
public:
    RefusingRunner(std::unique_ptr<ModelRunner> runner, std::string refused, const std::atomic<bool>& refuses)
        : runner_(std::move(runner)), refused_(std::move(refused)), refuses_(refuses) {}
    void forward(const Batch& batch, const KeepGoing& keep_going, const HeadLogits& logits,
                 ForwardResult& result) override {
        check();
        runner_->forward(batch, keep_going, logits, result);
    }
    void load_adapter(AdapterId id, PageRun run, std::shared_ptr<const HostAdapter> host) override {
        check();
        if (parts_.contains(id)) throw DeviceError("a part of the adapter is still there");
        if (refuses_ && host->adapter->name == refused_) {
            parts_.insert(id);
            throw OutOfDeviceMemory("its tables were refused");
        }
        runner_->load_adapter(id, run, std::move(host));
    }
    std::vector<AdapterArrival> take_arrivals() override {
        check();
        return runner_->take_arrivals();
    }
    void drop_adapter(AdapterId id) override {
        check();
        parts_.erase(id);
        runner_->drop_adapter(id);
    }
    void place_batched(AdapterId id, PageRun run) override {
        check();
        if (refuses_) throw OutOfDeviceMemory("its maps were refused");
        runner_->place_batched(id, run);
    }
    void fill_pages(PageRun run, std::byte value) override {
        check();
        runner_->fill_pages(run, value);
    }
    int64_t workspace_bytes() const override { return runner_->workspace_bytes(); }
    void cause_fault(Fault) override { lost_ = true; }

private:
    void check() const {
        if (lost_) throw DeviceError("the device is lost");
    }

    std::unique_ptr<ModelRunner> runner_;
    std::string refused_;
    const std::atomic<bool>& refuses_;
    std::set<AdapterId> parts_;  // of adapters that were refused
    bool lost_ = false;
};

// An engine's loop on that runner.
struct RefusingLoop {
    EngineOptions wanted;
    std::shared_ptr<const Model> model = make_model();
    Records records;
    EngineOptions options = expect(check_options(wanted, *model));
    EngineShared shared{model, options, records.sink(), {}};
    std::atomic<bool> refuses{true};
    EngineLoop loop{shared, std::make_unique<RefusingRunner>(
                                expect(make_runner(model, runner_limits(options, shared.pool_shape.total_pages), -1)),
                                "big", refuses)};
    std::thread thread;
    std::atomic<bool> ended{false};
    uint64_t next = 1;

    explicit RefusingLoop(EngineOptions of = TestEngine::small_options()) : wanted(std::move(of)) {}
    AdapterId add(const std::string& name) {
        return expect(shared.registry.add(on_host(make_adapter(*model, name, {.rank = 4}, next))));
    }
    void submit(AdapterId adapter) {
        expect(shared.registry.acquire(adapter));
        Request r = make_request({1, 2, 3}, adapter, 4);
        r.id = RequestId(next++);
        r.arrival_us = 0;
        ++shared.queued;
        shared.mailbox.post(SubmitCommand{r});
    }
    void start() {
        thread = std::thread([this] {
            loop.run();
            ended = true;
        });
    }
    bool finishes(size_t requests) {
        for (int i = 0; i < 2000 && records.finished().size() < requests; ++i)
            std::this_thread::sleep_for(std::chrono::milliseconds(5));
        return records.finished().size() == requests;
    }
    bool quits() {
        shared.mailbox.post(QuitCommand{});
        for (int i = 0; i < 2000 && !ended; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(5));
        if (ended) thread.join();
        return ended;
    }
};

}  // namespace

class FaultsTest : public QObject {
    Q_OBJECT
private slots:
    void init() { SKIP_WITHOUT_TEST_DEVICE(); }
    void nan_in_an_adapter_touches_only_its_own_requests_data();
    void nan_in_an_adapter_touches_only_its_own_requests();
    void pages_that_held_nan_serve_the_next_user();
    void out_of_memory_preempts_and_goes_on();
    void a_request_that_finds_no_memory_alone_ends();
    void no_memory_for_graphs_goes_on();
    void an_adapter_that_finds_no_memory_ends_its_requests();
    void factors_that_find_no_memory_end_their_requests();
    void an_adapter_leaves_beside_the_steps();
    void an_adapter_that_leaves_is_counted_until_it_is_gone();
    void a_lost_device_is_left_alone();
    void a_gpu_tells_of_its_memory_and_phases();
    void a_lost_device_ends_the_engine_and_another_can_be_made();  // the last: a GPU's context ends with it
};

void FaultsTest::nan_in_an_adapter_touches_only_its_own_requests_data() {
    QTest::addColumn<int>("dtype");
    QTest::addColumn<int>("part");
    QTest::addColumn<bool>("logits");
    const char* parts[] = {"rotation", "a", "b", "gain", "bias"};
    for (const DType dtype : test_dtypes())
        for (int part = 0; part < 5; ++part)
            for (const bool logits : {false, true})  // a GPU replays a graph where nobody wants logits
                QTest::addRow("%s %s%s", name_of(dtype), parts[part], logits ? " logits" : "")
                    << int(dtype) << part << logits;
}

void FaultsTest::nan_in_an_adapter_touches_only_its_own_requests() {
    QFETCH(int, dtype);
    QFETCH(int, part);
    QFETCH(bool, logits);
    int64_t AdapterPart::*const offsets[] = {&AdapterPart::rotation, &AdapterPart::a, &AdapterPart::b_t,
                                             &AdapterPart::gain, &AdapterPart::bias};
    const auto model = make_model(DType(dtype));
    const AdapterShape shape{.group = 16, .rank = 8, .gain = true, .bias = true};
    const auto twin = make_adapter(*model, "twin", shape, 5);
    Outcome outcomes[2];
    for (const bool bad : {false, true}) {
        TestEngine e(model, invariant_options());
        const AdapterId subject = expect(e->add_adapter(bad ? poisoned(*twin, offsets[part]) : twin));
        const AdapterId boft = expect(e->add_adapter(make_adapter(*model, "boft", {.group = 16}, 1)));
        const AdapterId lora = expect(e->add_adapter(make_adapter(*model, "lora", {.rank = 8, .gain = true}, 2)));
        Random random(9);
        std::vector<Request> requests;
        // Prompts longer than a tile of rows and than a page, and neighbours on both sides of the subject.
        for (const AdapterId adapter : {AdapterId::base, subject, boft, subject, lora, AdapterId::base})
            requests.push_back(make_request(random_prompt(random, 37, 260), adapter, 16));
        for (Request& r : requests) r.want_logits = logits;
        outcomes[bad] = run_all(e, requests);
    }
    for (size_t i = 0; i < outcomes[0].requests.size(); ++i) {
        const RequestRecord &healthy = outcomes[0].requests[i], &beside = outcomes[1].requests[i];
        QCOMPARE(healthy.finish, FinishReason::length);
        if (i == 1 || i == 3) {
            QCOMPARE(beside.finish, FinishReason::error);
            QCOMPARE(beside.output_tokens, 0);
            QVERIFY2(beside.error.find("adapter poisoned: logits are not finite in step") != std::string::npos,
                     beside.error.c_str());
            continue;
        }
        QCOMPARE(beside.finish, FinishReason::length);
        QCOMPARE(beside.output, healthy.output);
        QVERIFY(same_bits(outcomes[1].logits[i], outcomes[0].logits[i]));
    }
}

// As many pages as the poisoned requests had, to the last one, half filled ones among them.
void FaultsTest::pages_that_held_nan_serve_the_next_user() {
    for (const DType dtype : test_dtypes()) {
        const auto model = make_model(dtype);
        const auto healthy = make_adapter(*model, "lora", {.rank = 4, .gain = true}, 2);
        EngineOptions options = invariant_options();
        options.pool_bytes = page_bytes(*model, options.block_tokens) * 40;
        Random random(11);
        std::vector<Request> requests;
        for (const int64_t length : {37, 20, 90, 33}) {
            Request r = make_request(random_prompt(random, length, 260), AdapterId::base, 20);
            r.want_logits = true;
            requests.push_back(r);
        }
        TestEngine clean(model, options), used(model, options);
        for (int round = 0; round < 2; ++round) {
            const AdapterId bad = expect(used->add_adapter(poisoned(*healthy, &AdapterPart::b_t)));
            std::vector<Request> poison;
            for (int i = 0; i < 3; ++i) poison.push_back(make_request(random_prompt(random, 95, 260), bad, 8));
            for (const RequestRecord& r : run_all(used, poison).requests) QCOMPARE(r.finish, FinishReason::error);
            expect(used->remove_adapter(bad, false));
            const Outcome want = run_all(clean, requests), got = run_all(used, requests);
            for (size_t i = 0; i < requests.size(); ++i) {
                QCOMPARE(got.requests[i].output, want.requests[i].output);
                QVERIFY(same_bits(got.logits[i], want.logits[i]));
            }
        }
    }
}

void FaultsTest::out_of_memory_preempts_and_goes_on() {
    const auto model = make_model();
    TestEngine undisturbed(model, invariant_options()), e(model, invariant_options());
    const auto requests = many_requests(8, 150);
    const Outcome want = run_all(undisturbed, requests);
    e->cause_fault(Fault::out_of_memory);
    const Outcome got = run_all(e, requests);
    size_t preempted = 0, most_rows = 0, rows_at_last = 0;
    bool failed = false;
    int steps_since = 0;
    for (const auto& r : e.records.all()) {
        preempted += r->preempted.size();
        if (!r->trouble.empty()) {
            failed = true;
            QVERIFY2(r->trouble.find("at most 4 requests") != std::string::npos, r->trouble.c_str());
            QVERIFY(r->rows.empty());
        } else if (failed && ++steps_since <= 60) {
            most_rows = std::max(most_rows, r->rows.size());
        }
        if (r->rows.size() > 4) rows_at_last = r->rows.size();
    }
    QVERIFY(failed);
    QCOMPARE(preempted, size_t(4));
    QCOMPARE(most_rows, size_t(4));  // so many at once, for a while
    QVERIFY(rows_at_last > 4);       // and then more again
    for (size_t i = 0; i < requests.size(); ++i) {
        QCOMPARE(got.requests[i].finish, FinishReason::length);
        QCOMPARE(got.requests[i].output, want.requests[i].output);
    }
    QCOMPARE(e->status().pool.kv_pages, 0);
}

void FaultsTest::a_request_that_finds_no_memory_alone_ends() {
    TestEngine e(make_model(), invariant_options());
    e->cause_fault(Fault::out_of_memory);
    const RequestRecord r = e.run_one(make_request({1, 2, 3}, AdapterId::base, 4));
    QCOMPARE(r.finish, FinishReason::error);
    QVERIFY2(r.error.find("out of device memory") != std::string::npos, r.error.c_str());
    QCOMPARE(e->status().state, EngineState::idle);
    QCOMPARE(e.run_one(make_request({1, 2, 3}, AdapterId::base, 4)).finish, FinishReason::length);
}

void FaultsTest::no_memory_for_graphs_goes_on() {
    const auto model = make_model();
    TestEngine undisturbed(model, invariant_options()), e(model, invariant_options());
    const auto requests = many_requests(4, 20);
    const Outcome want = run_all(undisturbed, requests);
    e->cause_fault(Fault::no_memory_for_graphs);
    const Outcome got = run_all(e, requests);
    for (size_t i = 0; i < requests.size(); ++i) QCOMPARE(got.requests[i].output, want.requests[i].output);
    const std::string trouble = troubles_of(e.records);
    if (test_device() < 0)
        QCOMPARE(trouble, std::string());  // nothing is captured there
    else
        QVERIFY2(trouble.find("graphs") != std::string::npos, trouble.c_str());
}

void FaultsTest::an_adapter_that_finds_no_memory_ends_its_requests() {
    if (test_device() >= 0) QSKIP("on the CPU alone, with a runner of its own");
    RefusingLoop e;
    const AdapterId big = e.add("big"), small = e.add("small");
    for (const AdapterId adapter : {AdapterId::base, big, small, big}) e.submit(adapter);
    e.start();
    QVERIFY(e.finishes(4));
    for (const auto& [id, r] : e.records.finished()) {
        QCOMPARE(r.finish, r.adapter == big ? FinishReason::error : FinishReason::length);
        if (r.adapter == big)
            QCOMPARE(r.error, std::string("adapter big finds no device memory: its tables were refused"));
    }
    e.refuses = false;  // memory has come free: the next one that asks for the adapter has it
    e.submit(big);
    QVERIFY(e.finishes(5));
    QVERIFY(e.quits());
    QCOMPARE(e.records.finished().at(RequestId(5)).finish, FinishReason::length);
    QCOMPARE(e.shared.queued.load(), int64_t(0));
    for (const AdapterStatus& a : e.shared.registry.status()) QCOMPARE(a.unfinished, int64_t(0));
}

// Where the factors of adapters are batched a device keeps tables too.
void FaultsTest::factors_that_find_no_memory_end_their_requests() {
    if (test_device() >= 0) QSKIP("on the CPU alone, with a runner of its own");
    EngineOptions wanted = TestEngine::small_options();
    wanted.adapter_strategy = "common_block";
    RefusingLoop e(wanted);
    const auto spec = expect(parse_synthetic_spec("synthetic:boft:1:b=8,m=2"));
    const AdapterId factored = expect(
        e.shared.registry.add(on_host(expect(make_synthetic_adapter(spec, 0, 0, 5, *e.model, AdapterForm::factored)))));
    for (const AdapterId adapter : {AdapterId::base, factored, factored}) e.submit(adapter);
    e.start();
    QVERIFY(e.finishes(3));
    for (const auto& [id, r] : e.records.finished()) {
        QCOMPARE(r.finish, r.adapter == factored ? FinishReason::error : FinishReason::length);
        if (r.adapter == factored)
            QVERIFY2(r.error.ends_with(" finds no device memory: its maps were refused"), r.error.c_str());
    }
    e.refuses = false;
    e.submit(factored);
    QVERIFY(e.finishes(4));
    QVERIFY(e.quits());
    QCOMPARE(e.records.finished().at(RequestId(4)).finish, FinishReason::length);
    for (const AdapterStatus& a : e.shared.registry.status()) QCOMPARE(a.unfinished, int64_t(0));
}

// To unpin an adapter's memory takes as long as the device pleases: the steps go on meanwhile.
void FaultsTest::an_adapter_leaves_beside_the_steps() {
    if (test_device() >= 0) QSKIP("on the CPU alone, with adapters of its own");
    std::promise<void> leave;
    RefusingLoop e;
    const auto adapter = make_adapter(*e.model, "slow", {.rank = 4}, 1);
    const AdapterId slow =
        expect(e.shared.registry.add(std::make_shared<const SlowToLeave>(adapter, leave.get_future().share())));
    e.submit(slow);
    e.start();
    QVERIFY(e.finishes(1));
    expect(e.shared.registry.begin_removal(slow));
    e.shared.mailbox.post(CollectCommand{});
    for (int i = 0; i < 2000 && !e.shared.registry.status().empty(); ++i)
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
    e.submit(AdapterId::base);
    const bool went_on = e.finishes(2);
    leave.set_value();
    QVERIFY(went_on);
    QVERIFY(e.quits());
}

// Adapters never take more memory together than they may.
void FaultsTest::an_adapter_that_leaves_is_counted_until_it_is_gone() {
    const auto model = make_model();
    const auto adapter = make_adapter(*model, "a", {.rank = 4}, 1);
    const auto bytes = int64_t(adapter->blob.size());
    AdapterRegistry registry(bytes * 3 / 2, 1024, 10'000);
    std::promise<void> leave;
    const AdapterId slow =
        expect(registry.add(std::make_shared<const SlowToLeave>(adapter, leave.get_future().share())));
    const auto refusal = [&] {
        const auto added = registry.add(on_host(adapter));
        return added ? std::string() : added.error().message();
    };
    QVERIFY2(refusal().find("of other adapters, expected") != std::string::npos, refusal().c_str());
    expect(registry.begin_removal(slow));
    Disposal disposal;
    disposal.take(registry.forget(slow));
    const std::string leaving = refusal();
    leave.set_value();
    QVERIFY2(leaving.find("of them about to leave, expected") != std::string::npos, leaving.c_str());
    std::string after = leaving;
    for (int i = 0; i < 2000 && !after.empty(); ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        after = refusal();
    }
    QCOMPARE(after, std::string());
}

// Whatever is still asked of it fails: commands are served nevertheless, and the engine's thread ends.
void FaultsTest::a_lost_device_is_left_alone() {
    if (test_device() >= 0) QSKIP("on the CPU alone, with a runner of its own");
    RefusingLoop e;
    const AdapterId small = e.add("small");
    e.submit(small);
    e.start();
    QVERIFY(e.finishes(1));  // the adapter lies in the pool now
    e.shared.mailbox.post(FaultCommand{Fault::device_lost});
    e.submit(small);
    QVERIFY(e.finishes(2));
    e.submit(small);  // ends at once
    QVERIFY(e.finishes(3));
    expect(e.shared.registry.begin_removal(small));
    e.shared.mailbox.post(CollectCommand{});
    for (int i = 0; i < 2000 && !e.shared.registry.status().empty(); ++i)
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
    QVERIFY(e.shared.registry.status().empty());
    QVERIFY(e.quits());
    QCOMPARE(e.records.finished().at(RequestId(2)).error, std::string("the device is lost"));
}

void FaultsTest::a_gpu_tells_of_its_memory_and_phases() {
    TestEngine e(make_model(), invariant_options());
    const auto requests = many_requests(3, 60);
    e.run(requests);
    e->time_phases(true);
    e.run(requests);
    e->time_phases(false);
    e.run(requests);
    int64_t asked = 0, timed = 0;
    for (const auto& r : e.records.all()) {
        asked += r->device.total > 0;
        timed += r->times.products > 0;
        QVERIFY(r->device.used <= r->device.total);
    }
    const EngineStatus status = e->status();
    const int64_t steps = int64_t(e.records.all().size());
    if (test_device() < 0) {
        QCOMPARE(asked + status.device_before.total, int64_t(0));
        return;
    }
    QVERIFY(asked > 0 && asked < steps);  // about once a second
    QVERIFY(status.device_before.total > 0 && status.device_before.used < status.device_before.total);
    QVERIFY2(timed >= 50 && timed < 130, qPrintable(QString::number(timed)));  // the second run's alone
}

void FaultsTest::a_lost_device_ends_the_engine_and_another_can_be_made() {
    const auto model = make_model();
    const auto requests = many_requests(6, 400);
    std::vector<Token> want;
    {
        TestEngine e(model, invariant_options());
        want = e.run_one(requests[0]).output;
        const AdapterId adapter = expect(e->add_adapter(make_adapter(*model, "early", {.rank = 4}, 1)));
        e->hold();
        std::vector<RequestId> ids;
        for (Request r : requests) {
            if (ids.size() % 2 == 1) r.adapter = adapter;  // on its way when the device goes
            ids.push_back(e.submit(r));
        }
        e->cause_fault(Fault::device_lost);
        e->release();
        QVERIFY(e->wait_idle(20'000));
        QCOMPARE(e->status().state, EngineState::failed);
        const std::string why = e->status().failure;
        QVERIFY(!why.empty());
        const auto done = e.records.finished();
        for (const RequestId id : ids) {
            QCOMPARE(done.at(id).finish, FinishReason::error);
            QCOMPARE(done.at(id).error, why);
        }
        const auto refused = e->submit(requests[0]);
        QVERIFY(!refused && refused.error().message().find(why) != std::string::npos);
        QCOMPARE(e->status().pool.kv_pages, 0);
        // What else is asked of it does not end the program.
        e->cause_fault(Fault::device_lost);
        e->time_phases(true);
        expect(e->remove_adapter(adapter, true));
        const auto late = e->add_adapter(make_adapter(*model, "late", {.rank = 4}, 1));
        if (late) expect(e->remove_adapter(*late, true));  // a GPU has no pinned memory for it any more
        e->cancel_all();
    }
    const auto recovered = recover_device(test_device());
    // CUDA promises no more than that another process can go on, which is what the window then starts.
    if (!recovered && test_device() >= 0)
        QSKIP(("this driver gives the device to another process only: " + recovered.error().message()).c_str());
    QVERIFY(recovered);
    TestEngine again(model, invariant_options());
    QCOMPARE(again.run_one(requests[0]).output, want);
}

QTEST_GUILESS_MAIN(FaultsTest)
#include "faults_test.moc"
