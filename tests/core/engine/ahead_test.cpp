// Steps that are launched before the results of the step before are known.
#include "check_records.h"
#include "kernels/check.h"
#include "kernels/device_memory_error.h"
#include "loop_engine.h"

#include <QtTest>
#include <atomic>
#include <deque>
#include <set>

using namespace spartan;
using namespace spartan::test;

namespace {

// A device that is given work ahead: it has done everything in the order in which it was told to, but its tokens are
// seen only when they are collected.
class AheadRunner final : public ModelRunner {
public:
    // Calls on_step, if it is one, before every step with its number. `refuses_again`: memory for an adapter that was
    // here before.
    AheadRunner(std::unique_ptr<ModelRunner> runner, const std::function<void(int64_t)>& on_step, bool refuses_again)
        : runner_(std::move(runner)), on_step_(on_step), refuses_again_(refuses_again) {}

    bool runs_ahead() const override { return !phase_times_; }
    void launch(const Batch& batch, const KeepGoing& keep_going, const HeadLogits& logits,
                ForwardResult& result) override {
        CHECK(in_flight_.size() < 2);
        count_step();
        Batch known = batch;
        for (Token& id : known.ids) {
            if (id >= 0) continue;
            id = std::max(picked_.at(size_t(head_of(id))), 0);
            ++followed;
        }
        runner_->forward(known, keep_going, logits, result);
        result.times = {};  // it waits for none of this while it is launched
        if (!result.completed) return;
        picked_.assign(batch.heads.size(), 0);
        for (size_t s = 0; s < batch.sequences.size(); ++s)
            if (batch.picking_head[s] >= 0) picked_[size_t(batch.picking_head[s])] = result.tokens[s];
        if (in_flight_.size() == 1) ++launched_ahead;
        in_flight_.push_back({std::exchange(result.tokens, {}), std::exchange(result.not_finite, {})});
    }
    void collect(const Batch& batch, ForwardResult& result) override {
        CHECK(!in_flight_.empty() && result.completed);
        auto& [tokens, not_finite] = in_flight_.front();
        result.tokens = std::move(tokens);
        result.not_finite = std::move(not_finite);
        in_flight_.pop_front();
        for (size_t s = 0; s < batch.sequences.size(); ++s)
            if (*batch.sequences[s].over) result.tokens[s] = -1;
    }
    void forward(const Batch& batch, const KeepGoing& keep_going, const HeadLogits& logits,
                 ForwardResult& result) override {
        CHECK(in_flight_.empty() && !batch.follows);
        ++not_ahead;
        count_step();
        runner_->forward(batch, keep_going, logits, result);
    }
    bool loads_in_background() const override { return runner_->loads_in_background(); }
    void load_adapter(AdapterId id, PageRun run, std::shared_ptr<const HostAdapter> host) override {
        if (!seen_.insert(id).second && refuses_again_) throw OutOfDeviceMemory("its tables were refused");
        runner_->load_adapter(id, run, std::move(host));
    }
    std::vector<AdapterArrival> take_arrivals() override { return runner_->take_arrivals(); }
    void drop_adapter(AdapterId id) override { runner_->drop_adapter(id); }
    void place_batched(AdapterId id, PageRun run) override { runner_->place_batched(id, run); }
    void fill_pages(PageRun run, std::byte value) override { runner_->fill_pages(run, value); }
    int64_t workspace_bytes() const override { return runner_->workspace_bytes(); }
    void set_phase_times(bool on) override { phase_times_ = on; }
    void cause_fault(Fault fault) override { runner_->cause_fault(fault); }

    std::atomic<int64_t> followed{0}, launched_ahead{0}, not_ahead{0};

private:
    void count_step() {
        if (++steps_; on_step_) on_step_(steps_);
    }

    std::unique_ptr<ModelRunner> runner_;
    const std::function<void(int64_t)>& on_step_;
    bool refuses_again_, phase_times_ = false;
    int64_t steps_ = 0;
    std::set<AdapterId> seen_;
    std::vector<Token> picked_;  // [heads] of the last step
    std::deque<std::pair<std::vector<Token>, std::vector<uint8_t>>> in_flight_;
};

// loads: asks until a load has ended; 0: at once.
struct AheadEngine : LoopEngine {
    explicit AheadEngine(std::shared_ptr<const Model> model, const EngineOptions& wanted, int loads = 0,
                         bool refuses_again = false)
        : LoopEngine(std::move(model), wanted, [&](std::unique_ptr<ModelRunner> cpu) {
              if (loads > 0) cpu = std::make_unique<SlowRunner>(std::move(cpu), loads);
              return std::make_unique<AheadRunner>(std::move(cpu), on_step, refuses_again);
          }) {}
    std::function<void(int64_t)> on_step;  // on the engine's thread; to be set before go()
    const AheadRunner* runner = static_cast<const AheadRunner*>(&loop->runner());

    std::map<RequestId, RequestRecord> run(const std::vector<Request>& requests) {
        for (const Request& r : requests) submit(r);
        go();
        if (!wait_finished(requests.size())) return {};
        wait([&] { return status().state == EngineState::idle; });
        return records.finished();
    }
};

// One in eight tokens ends an answer, unless it is told not to.
std::shared_ptr<const Model> model_that_ends() {
    const auto model = std::const_pointer_cast<Model>(make_model());
    for (Token t = 0; t < 260; t += 8) model->info.config.eos.push_back(t);
    return model;
}

using Adapters = std::vector<std::shared_ptr<const Adapter>>;

Adapters four_adapters(const Model& model) {
    return {make_adapter(model, "rotates", {.group = 16}, 1), make_adapter(model, "low rank", {.rank = 4}, 2),
            make_adapter(model, "both", {.group = 8, .rank = 2, .gain = true}, 3),
            make_adapter(model, "tables", {.rank = 4, .tables = true}, 4)};
}

// With factors to batch, of sizes that are cut.
Adapters four_factored_adapters(const Model& model) {
    Adapters adapters;
    for (const char* spec : {"boft:1:b=8,m=2", "boft:1:b=4,m=3", "oft:1:b=16", "lora:1:r=4"})
        adapters.push_back(
            expect(make_synthetic_adapter(expect(parse_synthetic_spec(std::string("synthetic:") + spec)), 0,
                                          int64_t(adapters.size()), 5, model, AdapterForm::factored)));
    return adapters;
}

// Adapter i is the base for 0, else the i-th that was added.
std::vector<Request> various_requests(int count, uint64_t seed) {
    Random random(seed);
    std::vector<Request> requests;
    for (int i = 0; i < count; ++i) {
        Request r = make_request(random_prompt(random, pick(random, 1, 40), 256), AdapterId(pick(random, 0, 4)),
                                 int32_t(pick(random, 0, 24)));
        r.sampling.temperature = float(pick(random, 0, 2)) * 0.8f;
        r.sampling.top_k = int32_t(pick(random, 0, 1)) * 20;
        r.sampling.seed = random();
        r.sampling.ignore_eos = i % 3 == 0;
        if (i % 5 == 0) r.sampling.stop = {"e", "\x80", std::string(1, char(pick(random, 'a', 'z')))};
        requests.push_back(std::move(r));
    }
    return requests;
}

int64_t computed_rows(const Records& records) {
    int64_t rows = 0;
    for (const auto& r : records.all()) rows += int64_t(r->rows.size());
    return rows;
}

bool same_answer(const RequestRecord& a, const RequestRecord& b) {
    return a.output == b.output && a.finish == b.finish && a.visible_bytes == b.visible_bytes;
}

QString difference(const RequestRecord& a, const RequestRecord& b) {
    const auto text = [](const RequestRecord& r) {
        QString tokens;
        for (const Token t : r.output) tokens += QString::number(t) + ' ';
        return QString("%1(%2, %3 visible)").arg(tokens, name_of(r.finish)).arg(r.visible_bytes);
    };
    return QString("request %1: %2; wanted: %3").arg(uint64_t(a.id)).arg(text(a), text(b));
}

}  // namespace

class AheadTest : public QObject {
    Q_OBJECT
private slots:
    void answers_as_step_by_step_data();
    void answers_as_step_by_step();
    void whose_end_is_known_computes_nothing_in_vain();
    void whose_end_is_not_known_computes_one_row_in_vain();
    void cancelled_at_any_time();
    void nan_touches_only_its_own();
    void out_of_memory_goes_on();
    void a_refused_adapter_leaves_alone_who_ends_in_flight();
    void a_lost_device_ends_all();
    void hands_out_logits();
    void goes_on_while_phases_are_timed();
    void stands_still_when_held();
};

void AheadTest::answers_as_step_by_step_data() {
    QTest::addColumn<int>("pages");
    QTest::addColumn<int>("rows");
    QTest::addColumn<int>("tokens");
    QTest::addColumn<QString>("strategy");
    QTest::addColumn<int>("places");
    QTest::addColumn<int>("loads");
    QTest::newRow("roomy") << 4000 << 256 << 512 << "folded" << 0 << 0;
    QTest::newRow("few rows") << 4000 << 3 << 512 << "folded" << 0 << 0;
    QTest::newRow("small chunks") << 4000 << 16 << 7 << "folded" << 0 << 0;
    QTest::newRow("preempting") << 150 << 16 << 64 << "folded" << 0 << 0;
    QTest::newRow("factored") << 4000 << 16 << 64 << "common_block" << 0 << 0;
    QTest::newRow("adapter by adapter") << 4000 << 16 << 64 << "sequential" << 0 << 0;
    QTest::newRow("two places") << 4000 << 8 << 64 << "folded" << 2 << 0;
    QTest::newRow("one place, slow loads") << 4000 << 8 << 64 << "folded" << 1 << 5;
    QTest::newRow("preempting, slow loads") << 150 << 16 << 64 << "folded" << 0 << 3;
}

void AheadTest::answers_as_step_by_step() {
    QFETCH(int, pages);
    QFETCH(int, rows);
    QFETCH(int, tokens);
    QFETCH(QString, strategy);
    QFETCH(int, places);
    QFETCH(int, loads);
    const auto model = model_that_ends();
    const auto adapters = strategy == "common_block" ? four_factored_adapters(*model) : four_adapters(*model);
    EngineOptions options = cpu_options(*model);
    options.block_tokens = 4;
    options.pool_bytes = page_bytes(*model, options.block_tokens) * pages;
    options.max_batch_rows = rows;
    options.max_batch_tokens = tokens;
    options.adapter_strategy = strategy.toStdString();
    options.residency = places > 0 ? "stream" : "resident";
    options.adapter_slots = places;
    EngineOptions plain_options = cpu_options(*model);
    plain_options.pool_bytes = 8 << 20;
    plain_options.adapter_strategy = options.adapter_strategy;
    int64_t preempted = 0, batched = 0;
    std::set<FinishReason> reasons;
    for (const uint64_t seed : {1, 2, 3}) {
        const auto requests = various_requests(60, seed);
        AheadEngine e(model, options, loads);
        TestEngine plain(model, plain_options);
        for (const auto& a : adapters) QCOMPARE(e.add(a), expect(plain->add_adapter(a)));
        const auto got = e.run(requests);
        QCOMPARE(got.size(), requests.size());
        const auto ids = plain.run(requests);
        const auto want = plain.records.finished();
        for (size_t i = 0; i < ids.size(); ++i) {
            const RequestRecord &a = got.at(RequestId(i + 1)), &b = want.at(ids[i]);
            QVERIFY2(same_answer(a, b), qPrintable(difference(a, b)));
            reasons.insert(a.finish);
            preempted += a.preemptions;
        }
        check_records(e.records.all(), true);
        for (const auto& r : e.records.all()) batched += r->bytes.staging;
        QVERIFY(e.runner->followed > 0 && e.runner->launched_ahead > 20);
        QCOMPARE(e.status().pool.kv_pages, 0);
    }
    QCOMPARE(reasons.size(), size_t(3));  // length, eos, stop
    QCOMPARE(preempted > 0, pages < 1000);
    QCOMPARE(batched > 0, strategy == "common_block");
}

void AheadTest::whose_end_is_known_computes_nothing_in_vain() {
    const auto model = make_model();
    std::vector<Request> requests;
    for (int i = 0; i < 12; ++i) requests.push_back(make_request({1, 2, Token(i)}, AdapterId::base, i % 5));
    EngineOptions options = cpu_options(*model);
    options.max_batch_rows = 3;
    AheadEngine e(model, options);
    QCOMPARE(e.run(requests).size(), requests.size());
    TestEngine plain(model, options);
    plain.run(requests);
    QCOMPARE(computed_rows(e.records), computed_rows(plain.records));
    // The places of those who end are taken at once.
    const auto steps = [](const Records& records) {
        int64_t count = 0;
        for (const auto& r : records.all()) count += !r->rows.empty();
        return count;
    };
    QCOMPARE(steps(e.records), steps(plain.records));
}

void AheadTest::whose_end_is_not_known_computes_one_row_in_vain() {
    const auto model = model_that_ends();
    std::vector<Request> requests;
    for (int i = 0; i < 30; ++i) {
        requests.push_back(make_request({1, 2, Token(i)}, AdapterId::base, 200));
        requests.back().sampling.ignore_eos = false;
        requests.back().sampling.temperature = 1.5f;
        requests.back().sampling.seed = uint64_t(i);
    }
    AheadEngine e(model, cpu_options(*model));
    const auto done = e.run(requests);
    QCOMPARE(done.size(), requests.size());
    TestEngine plain(model);
    plain.run(requests);
    for (const auto& [id, r] : done) QCOMPARE(r.finish, FinishReason::eos);
    QCOMPARE(computed_rows(e.records), computed_rows(plain.records) + int64_t(requests.size()));
}

void AheadTest::cancelled_at_any_time() {
    const auto model = model_that_ends();
    const auto adapters = four_adapters(*model);
    auto requests = various_requests(80, 7);
    requests[0] = make_request({1, 2, 3}, AdapterId(1), 300);  // it is cancelled while it runs
    TestEngine plain(model);
    EngineOptions options = cpu_options(*model);
    options.max_batch_rows = 10;
    AheadEngine e(model, options);
    for (const auto& a : adapters) QCOMPARE(e.add(a), expect(plain->add_adapter(a)));
    const auto ids = plain.run(requests);
    const auto want = plain.records.finished();
    for (const Request& r : requests) e.submit(r);
    e.shared.mailbox.post(CancelCommand{RequestId(70)});  // it never runs
    e.on_step = [&](int64_t step) {
        if (step == 20) e.shared.mailbox.post(CancelCommand{RequestId(1)});
    };
    e.go();
    Random random(1);
    for (int i = 0; i < 30; ++i) {
        e.shared.mailbox.post(CancelCommand{RequestId(pick(random, 2, 80))});
        std::this_thread::sleep_for(std::chrono::microseconds(pick(random, 0, 2000)));
    }
    QVERIFY(e.wait_finished(requests.size()));
    QVERIFY(e.wait([&] { return e.status().state == EngineState::idle; }));
    const auto got = e.records.finished();
    QCOMPARE(got.at(RequestId(70)).finish, FinishReason::cancelled);
    QVERIFY(got.at(RequestId(70)).output.empty());
    QCOMPARE(got.at(RequestId(1)).finish, FinishReason::cancelled);
    QVERIFY(got.at(RequestId(1)).output.size() > 10 && got.at(RequestId(1)).output.size() <= 20);
    for (size_t i = 0; i < ids.size(); ++i) {
        const RequestRecord &a = got.at(RequestId(i + 1)), &b = want.at(ids[i]);
        if (a.finish == FinishReason::cancelled)
            QVERIFY(a.output.size() <= b.output.size() &&
                    std::equal(a.output.begin(), a.output.end(), b.output.begin()));
        else
            QVERIFY2(same_answer(a, b), qPrintable(difference(a, b)));
    }
    check_records(e.records.all(), true);
    QCOMPARE(e.status().pool.kv_pages, 0);
    for (const AdapterStatus& a : e.shared.registry.status()) QCOMPARE(a.unfinished, int64_t(0));
}

void AheadTest::nan_touches_only_its_own() {
    const auto model = make_model();
    const auto bad = make_adapter(*model, "bad", {.rank = 4}, 2);
    for (const AdapterPart& part : bad->parts) std::memset(bad->blob.data() + part.a, 0xff, 4);
    const auto good = make_adapter(*model, "good", {.rank = 4}, 3);
    AheadEngine e(model, cpu_options(*model));
    TestEngine plain(model);
    const AdapterId bad_id = e.add(bad), good_id = e.add(good);
    expect(plain->add_adapter(bad));
    expect(plain->add_adapter(good));
    std::vector<Request> requests;
    for (int i = 0; i < 30; ++i) {
        const AdapterId adapters[] = {AdapterId::base, good_id, bad_id};
        requests.push_back(make_request({1, 2, Token(i)}, adapters[i % 3], 5 + i));
    }
    const auto got = e.run(requests);
    QCOMPARE(got.size(), requests.size());
    const auto ids = plain.run(requests);
    const auto want = plain.records.finished();
    for (size_t i = 0; i < ids.size(); ++i) {
        QVERIFY(same_answer(got.at(RequestId(i + 1)), want.at(ids[i])));
        QCOMPARE(got.at(RequestId(i + 1)).finish, i % 3 == 2 ? FinishReason::error : FinishReason::length);
    }
}

void AheadTest::out_of_memory_goes_on() {
    const auto model = make_model();
    std::vector<Request> requests;
    for (int i = 0; i < 8; ++i) requests.push_back(make_request({1, 2, Token(i)}, AdapterId::base, 150));
    AheadEngine e(model, cpu_options(*model));
    e.on_step = [&](int64_t step) {  // 8 requests at once, then 4, then 2
        if (step == 20 || step == 50 || step == 80) e.shared.mailbox.post(FaultCommand{Fault::out_of_memory});
    };
    QCOMPARE(e.run(requests).size(), requests.size());
    TestEngine plain(model);
    const auto ids = plain.run(requests);
    const auto got = e.records.finished(), want = plain.records.finished();
    for (size_t i = 0; i < ids.size(); ++i) QVERIFY(same_answer(got.at(RequestId(i + 1)), want.at(ids[i])));
    check_records(e.records.all(), true);
    int troubles = 0;
    for (const auto& r : e.records.all()) troubles += !r->trouble.empty();
    QCOMPARE(troubles, 3);
}

// An adapter leaves when the last who uses it have their last tokens in flight, and is asked for again in the same
// step, for which its memory is refused: that is none of theirs.
void AheadTest::a_refused_adapter_leaves_alone_who_ends_in_flight() {
    const auto model = make_model();
    EngineOptions options = cpu_options(*model);
    const int64_t page = page_bytes(*model, options.block_tokens);
    Adapters adapters;
    for (const char* name : {"a", "b", "c"})
        adapters.push_back(make_adapter(*model, name, {.rank = 8}, adapters.size()));
    const int64_t pages = adapter_pages_of(*adapters[0], page);
    options.pool_bytes =
        page * (2 * pages + 8);  // two adapters, and two requests of one block in two layers, with a reserve
    QVERIFY(pages > 6);
    AheadEngine e(model, options, 2, true);
    TestEngine plain(model);
    std::vector<AdapterId> ids;
    for (const auto& a : adapters) {
        ids.push_back(e.add(a));
        QCOMPARE(ids.back(), expect(plain->add_adapter(a)));
    }
    std::vector<Request> requests;
    for (const size_t i : {0, 1, 2, 0}) requests.push_back(make_request({1, 2, 3}, ids[i], 4));
    const auto got = e.run(requests);
    QCOMPARE(got.size(), requests.size());
    const auto plain_ids = plain.run(requests);
    const auto want = plain.records.finished();
    for (const size_t i : {0, 1, 2})
        QVERIFY2(same_answer(got.at(RequestId(i + 1)), want.at(plain_ids[i])),
                 qPrintable(difference(got.at(RequestId(i + 1)), want.at(plain_ids[i]))));
    QCOMPARE(got.at(RequestId(4)).error, std::string("adapter a finds no device memory: its tables were refused"));
    check_records(e.records.all(), true);
}

void AheadTest::a_lost_device_ends_all() {
    const auto model = make_model();
    AheadEngine e(model, cpu_options(*model));
    for (int i = 0; i < 8; ++i) e.submit(make_request({1, 2, Token(i)}, AdapterId::base, 400));
    e.go();
    QVERIFY(e.wait([&] { return computed_rows(e.records) >= 100; }));
    e.shared.mailbox.post(FaultCommand{Fault::device_lost});
    QVERIFY(e.wait_finished(8));
    for (const auto& [id, r] : e.records.finished()) QCOMPARE(r.finish, FinishReason::error);
    QVERIFY(e.wait([&] { return e.status().state == EngineState::failed; }));
    QCOMPARE(e.status().pool.kv_pages, 0);
}

void AheadTest::hands_out_logits() {
    const auto model = make_model();
    EngineOptions options = cpu_options(*model);
    options.max_batch_tokens = 16;
    AheadEngine e(model, options);
    TestEngine plain(model, options);
    Random random(1);
    std::vector<Request> requests;
    for (int i = 0; i < 6; ++i) {
        requests.push_back(make_request(random_prompt(random, 20 + i, 256), AdapterId::base, i));
        requests.back().want_logits = i % 2 == 0;
    }
    QCOMPARE(e.run(requests).size(), requests.size());
    const auto ids = plain.run(requests);
    for (size_t i = 0; i < ids.size(); ++i) {
        const auto want = plain.records.logits(ids[i]);
        QCOMPARE(want.size(), i % 2 == 0 ? requests[i].prompt.size() * 260 : size_t(0));
        QVERIFY(e.records.logits(RequestId(i + 1)) == want);
    }
}

// A runner may cease to run ahead while a step is in flight.
void AheadTest::goes_on_while_phases_are_timed() {
    const auto model = model_that_ends();
    const auto requests = various_requests(40, 11);
    AheadEngine e(model, cpu_options(*model));
    TestEngine plain(model);
    for (const auto& a : four_adapters(*model)) QCOMPARE(e.add(a), expect(plain->add_adapter(a)));
    e.on_step = [&](int64_t step) {
        if (step % 3 == 0) e.shared.mailbox.post(PhaseTimesCommand{step % 2 == 0});
    };
    QCOMPARE(e.run(requests).size(), requests.size());
    QVERIFY(e.runner->not_ahead >= 6 && e.runner->launched_ahead >= 6);
    const auto ids = plain.run(requests);
    const auto got = e.records.finished(), want = plain.records.finished();
    for (size_t i = 0; i < ids.size(); ++i) QVERIFY(same_answer(got.at(RequestId(i + 1)), want.at(ids[i])));
    check_records(e.records.all(), true);
}

// What is in flight when a run is held is recorded then, and nothing else until it goes on.
void AheadTest::stands_still_when_held() {
    const auto model = make_model();
    AheadEngine e(model, cpu_options(*model));
    e.submit(make_request({1, 2, 3}, AdapterId::base, 400));
    e.go();
    QVERIFY(e.wait([&] { return computed_rows(e.records) >= 10; }));
    e.shared.mailbox.post(HoldCommand{true});
    QVERIFY(e.wait([&] { return e.status().state == EngineState::held; }));
    const int64_t rows = computed_rows(e.records);
    QVERIFY(rows < 400);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    QCOMPARE(computed_rows(e.records), rows);
    e.go();
    QVERIFY(e.wait_finished(1));
    QCOMPARE(computed_rows(e.records), int64_t(400));
    check_records(e.records.all(), true);
}

QTEST_GUILESS_MAIN(AheadTest)
#include "ahead_test.moc"
