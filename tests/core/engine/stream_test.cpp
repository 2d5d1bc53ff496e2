// labels: gpu
// Residency `stream`, and adapters that are on their way while others compute.
#include "loop_engine.h"

#include <QtTest>
#include <set>

using namespace spartan;
using namespace spartan::test;

namespace {

TinyShape small_shape() {
    return {.vocab = 64, .hidden = 32, .intermediate = 32, .layers = 2, .heads = 4, .kv_heads = 2, .head_dim = 8};
}

std::vector<std::shared_ptr<Adapter>> some_adapters(const Model& model, int count) {
    std::vector<std::shared_ptr<Adapter>> adapters;
    for (int i = 0; i < count; ++i) {
        const AdapterShape shape = i % 2 ? AdapterShape{.rank = 4} : AdapterShape{.group = 16, .gain = i % 4 == 0};
        adapters.push_back(make_adapter(model, "a" + std::to_string(i), shape, uint64_t(i)));
    }
    return adapters;
}

// An engine's loop with a slow runner.
struct SlowEngine : LoopEngine {
    SlowEngine(std::shared_ptr<const Model> model, const EngineOptions& wanted, int asks)
        : LoopEngine(std::move(model), wanted, [&](std::unique_ptr<ModelRunner> cpu) {
              return std::make_unique<SlowRunner>(std::move(cpu), asks);
          }) {}
    const SlowRunner* runner = static_cast<const SlowRunner*>(&loop->runner());
};

// Adapters in the pool after each record, at most, and loads in all.
std::pair<int64_t, int64_t> most_at_once(const std::vector<StepRecordPtr>& records) {
    std::set<AdapterId> there;
    int64_t most = 0, loads = 0;
    for (const auto& r : records)
        for (const AdapterEvent& e : r->adapter_events) {
            const bool load = e.kind == AdapterEvent::Kind::load;
            loads += load;
            if (load)
                there.insert(e.adapter);
            else
                there.erase(e.adapter);
            most = std::max(most, int64_t(there.size()));
        }
    return {most, loads};
}

}  // namespace

class StreamTest : public QObject {
    Q_OBJECT
private slots:
    void init() { SKIP_WITHOUT_TEST_DEVICE(); }

    void answers_as_when_all_are_resident_data() {
        QTest::addColumn<int>("dtype");
        QTest::addColumn<int>("places");
        QTest::addColumn<bool>("graphs");
        for (const DType dtype : test_dtypes())
            for (const int places : {0, 1, 3})
                for (const bool graphs : {true, false})
                    QTest::addRow("%s %d places%s", name_of(dtype), places, graphs ? "" : " eager")
                        << int(dtype) << places << graphs;
    }
    void answers_as_when_all_are_resident() {
        QFETCH(int, dtype);
        QFETCH(int, places);
        QFETCH(bool, graphs);
        const auto model = make_model(DType(dtype), small_shape());
        const auto adapters = some_adapters(*model, 8);
        std::vector<std::vector<Token>> outputs[2];
        for (const bool stream : {false, true}) {
            EngineOptions options = TestEngine::small_options();
            options.graphs = graphs;
            options.batch_invariant = true;
            options.residency = stream ? "stream" : "resident";
            options.adapter_slots = stream ? places : 0;
            TestEngine e(model, options);
            std::vector<AdapterId> ids{AdapterId::base};
            for (const auto& a : adapters) ids.push_back(expect(e->add_adapter(a)));
            Random random(3);
            std::vector<Request> requests;
            for (size_t i = 0; i < 45; ++i)
                requests.push_back(make_request(random_prompt(random, pick(random, 1, 30), 64), ids[i % 9],
                                                int32_t(pick(random, 1, 12))));
            const auto submitted = e.run(requests);
            const auto done = e.records.finished();
            for (const RequestId id : submitted) outputs[stream].push_back(done.at(id).output);
            const auto [most, loads] = most_at_once(e.records.all());
            QVERIFY(loads >= 8);
            QVERIFY2(!stream || places == 0 || most == places, qPrintable(QString::number(most)));
            for (const auto& r : e.records.all())
                for (const AdapterEvent& event : r->adapter_events) {
                    QVERIFY(event.begin_us >= 0 && event.us >= 0 && event.bytes > 0);
                    QVERIFY(event.begin_us <= r->end_us);
                }
        }
        QCOMPARE(outputs[1], outputs[0]);
    }

    void others_decode_while_an_adapter_is_on_its_way() {
        const auto model = make_model(DType::f32, small_shape());
        SlowEngine e(model, cpu_options(*model), 10);
        const auto adapter = some_adapters(*model, 1)[0];
        const AdapterId id = e.add(adapter);
        const RequestId with = e.submit(make_request({1, 2, 3}, id, 4));
        const RequestId base = e.submit(make_request({1, 2, 3}, AdapterId::base, 40));
        e.go();
        QVERIFY(e.wait_finished(2));
        int64_t before = 0, arrived = 0;
        bool started = false;
        for (const auto& r : e.records.all()) {
            for (const StepRow& row : r->rows) started |= row.request == with;
            for (const AdapterEvent& event : r->adapter_events) {
                ++arrived;
                QVERIFY(event.adapter == id && event.kind == AdapterEvent::Kind::load && event.begin_us >= 0);
                QCOMPARE(event.us, int64_t(1234));
                QCOMPARE(event.bytes, int64_t(adapter->blob.size()));
                QCOMPARE(r->bytes.transfer, event.bytes);
            }
            if (started || r->rows.empty()) continue;
            QVERIFY(r->rows.size() == 1 && r->rows[0].request == base);
            QVERIFY(r->waiting_for.size() == 1 && r->waiting_for[0].reason == WaitReason::adapter_loading);
            ++before;
        }
        QCOMPARE(arrived, int64_t(1));
        QVERIFY2(before >= 5, qPrintable(QString::number(before)));
        QVERIFY(!e.runner->used_too_early);
        TestEngine plain(model);
        const AdapterId same = expect(plain->add_adapter(adapter));
        QVERIFY(agree(e.records.finished().at(with).output, plain.run_one(make_request({1, 2, 3}, same, 4)).output,
                      DType::f32));
    }

    void an_adapter_may_be_removed_while_it_is_on_its_way() {
        const auto model = make_model(DType::f32, small_shape());
        SlowEngine e(model, cpu_options(*model), 300);
        const auto adapters = some_adapters(*model, 2);
        const AdapterId first = e.add(adapters[0]), second = e.add(adapters[1]);
        const RequestId with = e.submit(make_request({1, 2, 3}, first, 4));
        const RequestId cancelled = e.submit(make_request({1, 2, 3}, second, 4));
        e.go();
        QVERIFY(e.wait([&] { return e.shared.registry.status()[0].residency == Residency::moving; }));
        expect(e.shared.registry.begin_removal(first));
        expect(e.shared.registry.begin_removal(second));
        e.shared.mailbox.post(CollectCommand{});
        e.shared.mailbox.post(CancelAdapterCommand{second});
        QVERIFY(e.wait_finished(2));
        QVERIFY(e.wait([&] { return e.shared.registry.status().empty(); }));
        const auto done = e.records.finished();
        QCOMPARE(done.at(with).finish, FinishReason::length);
        QCOMPARE(done.at(cancelled).finish, FinishReason::cancelled);
        QVERIFY(!e.runner->used_too_early && !e.runner->dropped_too_early);
        QVERIFY(e.wait([&] { return e.status().state == EngineState::idle && e.status().pool.adapter_pages == 0; }));
    }

    void random_loads_beside_the_steps_change_no_answer() {
        const auto model = make_model(DType::f32, small_shape());
        const auto adapters = some_adapters(*model, 7);
        for (const int places : {1, 2, 4}) {
            EngineOptions options = cpu_options(*model);
            options.residency = "stream";
            options.adapter_slots = places;
            options.max_batch_rows = 6;
            SlowEngine e(model, options, 3);
            TestEngine plain(model);
            std::vector<AdapterId> ids, same;
            for (const auto& a : adapters) {
                ids.push_back(e.add(a));
                same.push_back(expect(plain->add_adapter(a)));
            }
            Random random{uint64_t(places)};
            std::vector<RequestId> submitted, expected;
            std::vector<Request> twins;
            for (int i = 0; i < 60; ++i) {
                const auto which = size_t(pick(random, 0, 6));
                Request r = make_request(random_prompt(random, pick(random, 1, 20), 64), ids[which], 6);
                twins.push_back(r);
                twins.back().adapter = same[which];
                submitted.push_back(e.submit(std::move(r)));
            }
            e.go();
            QVERIFY(e.wait_finished(60));
            expected = plain.run(twins);
            const auto got = e.records.finished(), want = plain.records.finished();
            for (size_t i = 0; i < submitted.size(); ++i)
                QVERIFY(agree(got.at(submitted[i]).output, want.at(expected[i]).output, DType::f32));
            QVERIFY(!e.runner->used_too_early && !e.runner->dropped_too_early);
            QVERIFY(most_at_once(e.records.all()).first <= places);
        }
    }
};

QTEST_GUILESS_MAIN(StreamTest)
#include "stream_test.moc"
