// labels: gpu
// The strategies against each other: whichever way adapters meet the weights, the answers are the same up to rounding,
// for every kind of adapter, mixed in a batch and in chunks; and the records say what was done for them.
#include "core/engine/adapter_strategy.h"
#include "core/engine/by_adapter_runner.h"
#include "core/engine/common_block.h"
#include "fixture.h"

#include <QtTest>

#include <numeric>

using namespace spartan;
using namespace spartan::test;

namespace {

constexpr AdapterStrategy kAll[] = {AdapterStrategy::folded, AdapterStrategy::common_block, AdapterStrategy::sequential,
                                    AdapterStrategy::merged};

TinyShape wide_shape() {
    return {.vocab = 260, .hidden = 96, .intermediate = 96, .layers = 2, .heads = 6, .kv_heads = 2, .head_dim = 16};
}

std::shared_ptr<const Adapter> synthetic(const Model& model, const std::string& spec, int64_t index, AdapterForm form) {
    return expect(make_synthetic_adapter(expect(parse_synthetic_spec("synthetic:" + spec)), 0, index, 5, model, form));
}

const std::vector<std::string>& rotating_specs() {
    static const std::vector<std::string> specs{"boft:1:b=8,m=1",  "boft:1:b=16,m=2", "boft:1:b=8,m=3",
                                                "boft:1:b=12,m=4", "boft:1:b=6,m=3",  "oft:1:b=32",
                                                "oft:1:b=3"};
    return specs;
}

// Every kind in one batch; parts that no strategy treats in its own way (tables, norms, biases) as well.
std::vector<std::shared_ptr<const Adapter>> make_adapters(const Model& model, AdapterStrategy strategy) {
    std::vector<std::shared_ptr<const Adapter>> adapters;
    for (const std::string& spec : rotating_specs())
        adapters.push_back(synthetic(model, spec, int64_t(adapters.size()), form_of(strategy, test_device())));
    adapters.push_back(synthetic(model, "lora:1:r=8", 20, AdapterForm::folded));
    const AdapterShape shapes[] = {{.rank = 5, .gain = true},  // as DoRA is served
                                   {.rank = 4, .gain = true, .bias = true, .tables = true, .tokens = {0, 3, 77, 255}},
                                   {.rank = 4, .copies = true, .norms = true}};
    for (const AdapterShape& shape : shapes)
        adapters.push_back(make_adapter(model, "hand" + std::to_string(adapters.size()), shape, adapters.size()));
    return adapters;
}

EngineOptions options_of(AdapterStrategy strategy, int32_t max_batch_tokens = 512) {
    EngineOptions o = TestEngine::small_options();
    o.adapter_strategy = name_of(strategy);
    o.max_batch_tokens = max_batch_tokens;
    o.pool_bytes = 16 << 20;
    return o;
}

struct Run : Outcome {
    std::vector<StepRecordPtr> records;
    int64_t transient_after = 0, workspace_bytes = 0;
};

// Two requests an adapter and one on the base, all at once.
Run run(const std::shared_ptr<const Model>& model, AdapterStrategy strategy, int32_t max_batch_tokens) {
    TestEngine e(model, options_of(strategy, max_batch_tokens));
    Random random(4);
    std::vector<Request> requests{make_request(random_prompt(random, 9, 260), AdapterId::base, 6)};
    for (const auto& adapter : make_adapters(*model, strategy)) {
        const AdapterId id = expect(e->add_adapter(adapter));
        for (int i = 0; i < 2; ++i)
            requests.push_back(make_request(random_prompt(random, pick(random, 1, 30), 260), id, 6));
    }
    for (Request& r : requests) r.want_logits = true;
    Run out{run_all(e, requests), {}};
    out.records = e.records.all();
    out.transient_after = e->status().pool.transient_pages;
    out.workspace_bytes = e->status().workspace_bytes;
    return out;
}

std::set<AdapterId> adapters_of(const StepRecord& r) {
    std::set<AdapterId> ids;
    for (const StepRow& row : r.rows) ids.insert(row.adapter);
    return ids;
}

std::string error_of(const std::shared_ptr<const Model>& model, AdapterStrategy strategy,
                     const std::shared_ptr<const Adapter>& adapter) {
    TestEngine e(model, options_of(strategy));
    const auto added = e->add_adapter(adapter);
    return added ? std::string() : added.error().message();
}

}  // namespace

class StrategiesTest : public QObject {
    Q_OBJECT
private slots:
    void initTestCase() { SKIP_WITHOUT_TEST_DEVICE(); }

    void answers_agree_data() {
        QTest::addColumn<int>("dtype");
        QTest::addColumn<int>("max_batch_tokens");
        for (const DType dtype : test_dtypes())
            for (const int tokens : {512, 11})
                QTest::addRow("%s, steps of %d", name_of(dtype), tokens) << int(dtype) << tokens;
    }

    void answers_agree() {
        QFETCH(int, dtype);
        QFETCH(int, max_batch_tokens);
        const bool exact = DType(dtype) == DType::f32;
        const auto model = make_model(DType(dtype), wide_shape());
        const Run want = run(model, AdapterStrategy::folded, max_batch_tokens);
        for (const AdapterStrategy strategy : kAll) {
            const Run got = run(model, strategy, max_batch_tokens);
            for (size_t i = 0; i < want.logits.size(); ++i) {
                const double error = relative_error(got.logits[i], want.logits[i]);
                QVERIFY2(error < (exact ? 2e-5 : 4e-2),
                         qPrintable(QString("%1, request %2: %3").arg(name_of(strategy)).arg(i).arg(error)));
                if (exact) QCOMPARE(got.tokens[i], want.tokens[i]);
            }
            // The base meets no adapter's arithmetic at all.
            if (test_device() < 0 || strategy == AdapterStrategy::folded)
                QVERIFY(agree(got.logits[0], want.logits[0], DType(dtype)));
        }
    }

    void records_of_common_block() {
        const auto model = make_model(DType::f32, wide_shape());
        const Run got = run(model, AdapterStrategy::common_block, 512);
        TestEngine e(model, options_of(AdapterStrategy::common_block));
        std::map<AdapterId, std::shared_ptr<const Adapter>> by_id;
        for (const auto& adapter : make_adapters(*model, AdapterStrategy::common_block))
            by_id[expect(e->add_adapter(adapter))] = adapter;  // the same ids as in run()
        std::set<AdapterId> cut;
        int64_t last_cell = 0, steps = 0;
        bool placed_before = false;
        for (const auto& r : got.records) {
            if (r->rows.empty()) continue;
            ++steps;
            QVERIFY(r->strategy == AdapterStrategy::common_block);
            QCOMPARE(r->passes, 1);
            int64_t cell = 0, factors = 0, to_cut = 0;
            for (const AdapterId id : adapters_of(*r)) {
                if (id == AdapterId::base) continue;
                cell = std::gcd(cell, common_block_of(*by_id.at(id)));
                factors += by_id.at(id)->factor_bytes;
            }
            if (cell != last_cell) cut.clear();
            for (const AdapterId id : adapters_of(*r))
                if (id != AdapterId::base && cut.insert(id).second) to_cut += by_id.at(id)->factor_bytes;
            last_cell = cell;
            QCOMPARE(r->common_block, cell);
            QCOMPARE(r->bytes.staging, to_cut);
            if (test_device() < 0)
                QCOMPARE(r->pool.transient_pages > 0, factors > 0 && r->running > 0);
            else if (r->gap_us >= 0)  // the record before tells of the pool as this step found it
                QCOMPARE(placed_before, factors > 0);
            placed_before = r->pool.transient_pages > 0;
        }
        QVERIFY(steps > 3 && last_cell == 1);
        QCOMPARE(got.transient_after, int64_t(0));
    }

    void records_of_sequential_and_merged() {
        const auto model = make_model(DType::f32, wide_shape());
        const Run folded = run(model, AdapterStrategy::folded, 512);
        const Run sequential = run(model, AdapterStrategy::sequential, 512);
        const int64_t head_and_layers = folded.records[0]->bytes.weights;
        bool mixed = false;
        for (const auto& r : sequential.records) {
            if (r->rows.empty()) continue;
            QVERIFY(r->strategy == AdapterStrategy::sequential);
            QCOMPARE(r->passes, int32_t(adapters_of(*r).size()));
            QCOMPARE(r->bytes.staging, int64_t(0));
            QVERIFY(r->bytes.weights > (r->passes - 1) * (head_and_layers / 2));
            mixed |= r->passes > 2;
        }
        QVERIFY(mixed);

        const Run merged = run(model, AdapterStrategy::merged, 512);
        int64_t merges = 0;
        AdapterId last = AdapterId::base;
        for (const auto& r : merged.records) {
            if (r->rows.empty()) continue;
            QVERIFY(r->strategy == AdapterStrategy::merged);
            QCOMPARE(adapters_of(*r).size(), size_t(1));
            const AdapterId now = *adapters_of(*r).begin();
            QCOMPARE(r->bytes.staging > 0, now != last);
            merges += now != last;
            last = now;
        }
        QCOMPARE(merges, int64_t(make_adapters(*model, AdapterStrategy::merged).size()));  // each once, in one turn
        const int64_t copy = merged.workspace_bytes - folded.workspace_bytes;
        if (test_device() < 0)
            QCOMPARE(copy, merged_copy_bytes(*model, AdapterStrategy::merged));
        else  // rows are not padded there, but matrices aligned
            QVERIFY(copy > 2 * 96 * 96 * 4 * 5);
    }

    // Adapters come and go between two answers of the base: its weights are the model's own to the last bit.
    void merging_leaves_the_base_as_it_was() {
        const auto model = make_model(DType::bf16, wide_shape());
        TestEngine e(model, options_of(AdapterStrategy::merged));
        Request base = make_request({5, 1, 9, 200, 31}, AdapterId::base, 4);
        base.want_logits = true;
        const RequestId before = e.run({base})[0];
        std::vector<AdapterId> ids;
        for (const auto& adapter : make_adapters(*model, AdapterStrategy::merged)) {
            ids.push_back(expect(e->add_adapter(adapter)));
            Request r = make_request({5, 1, 9, 200, 31}, ids.back(), 4);
            r.want_logits = true;
            const auto with = e.records.logits(e.run({r})[0]);
            QVERIFY(relative_error(with, e.records.logits(before)) > 1e-3);
        }
        for (const AdapterId id : ids) expect(e->remove_adapter(id, false));
        QVERIFY(e->wait_idle(10'000));
        const RequestId after = e.run({base})[0];
        const auto want = e.records.logits(before), got = e.records.logits(after);
        QVERIFY(!want.empty() && got.size() == want.size());
        QVERIFY(std::memcmp(got.data(), want.data(), want.size() * sizeof(float)) == 0);
    }

    // A later request for the running adapter does not overtake one that waits for another.
    void merged_turns_end() {
        const auto model = make_model(DType::f32, wide_shape());
        TestEngine e(model, options_of(AdapterStrategy::merged));
        const AdapterId a = expect(e->add_adapter(make_adapter(*model, "a", {.rank = 4}, 1)));
        const AdapterId b = expect(e->add_adapter(make_adapter(*model, "b", {.group = 8}, 2)));
        std::vector<Request> requests;
        for (const AdapterId id : {a, b, a, b, a}) requests.push_back(make_request({1, 2, 3}, id, 5));
        const auto ids = e.run(requests);
        const auto done = e.records.finished();
        for (const size_t first : {0, 2, 4})
            for (const size_t second : {1, 3})
                QVERIFY(done.at(ids[first]).last_token_us <= done.at(ids[second]).first_token_us);
        int64_t waits = 0;
        for (const auto& r : e.records.all())
            for (const WaitCount& w : r->waiting_for) waits += w.reason == WaitReason::other_adapter;
        QVERIFY(waits > 0);
    }

    void refuses_what_a_strategy_cannot_express() {
        const auto model = make_model(DType::f32, wide_shape());
        const auto folded = synthetic(*model, "boft:1:b=8,m=2", 1, AdapterForm::folded);
        const auto factored = synthetic(*model, "boft:1:b=8,m=2", 1, AdapterForm::factored);
        QVERIFY(
            QString::fromStdString(error_of(model, AdapterStrategy::common_block, folded)).contains("common_block"));
        QCOMPARE(error_of(model, AdapterStrategy::common_block, factored), std::string());
        for (const AdapterStrategy s :
             {AdapterStrategy::folded, AdapterStrategy::sequential, AdapterStrategy::merged}) {
            QVERIFY(QString::fromStdString(error_of(model, s, factored)).contains(name_of(s)));
            QCOMPARE(error_of(model, s, folded), std::string());
        }
        auto turned_head = make_adapter(*model, "head", {.group = 8, .tables = true}, 3);
        turned_head->parts.clear();
        const std::string error = error_of(model, AdapterStrategy::common_block, turned_head);
        QVERIFY2(QString::fromStdString(error).contains("embed_tokens") &&
                     QString::fromStdString(error).contains("adapter head"),
                 error.c_str());
        auto damaged = std::make_shared<Adapter>(*factored);
        damaged->factor_bytes -= 64;
        QVERIFY(!error_of(model, AdapterStrategy::common_block, damaged).empty());
        damaged = std::make_shared<Adapter>(*factored);
        damaged->parts[0].num_factors = 9;
        QVERIFY(!error_of(model, AdapterStrategy::common_block, damaged).empty());
    }

    // Batched factors count against the pool: what has no room for both waits, or is refused by its size.
    void batching_takes_room_in_the_pool() {
        const auto model = make_model(DType::f32, wide_shape());
        const auto adapter = synthetic(*model, "boft:1:b=24,m=2", 1, AdapterForm::factored);
        const auto other = synthetic(*model, "boft:1:b=48,m=2", 2, AdapterForm::factored);
        const int64_t page = page_bytes(*model, 16);
        EngineOptions o = options_of(AdapterStrategy::common_block);
        o.pool_bytes = int64_t(adapter->blob.size()) + adapter->factor_bytes / 2;
        TestEngine small(model, o);
        const auto refused = small->add_adapter(adapter);
        QVERIFY(!refused && refused.error().message().find("when batched") != std::string::npos);

        o.pool_bytes = int64_t(other->blob.size()) + other->factor_bytes + int64_t(adapter->blob.size()) + 20 * page;
        TestEngine e(model, o);
        const AdapterId a = expect(e->add_adapter(adapter)), b = expect(e->add_adapter(other));
        const auto ids = e.run({make_request({1, 2, 3}, a, 20), make_request({1, 2, 3}, b, 20)});
        for (const RequestId id : ids) QVERIFY(e.records.finished().at(id).finish == FinishReason::length);
        for (const auto& r : e.records.all()) QVERIFY(adapters_of(*r).size() <= 1);  // one batched at a time
    }

    void a_segment_as_a_batch_of_its_own() {
        Batch batch;
        const std::vector<std::vector<int32_t>> blocks;
        const bool over = false;
        for (int32_t i = 0; i < 9; ++i) batch.ids.push_back(100 + i), batch.positions.push_back(i);
        batch.segments = {{AdapterId::base, 0, 2}, {AdapterId(3), 2, 7}, {AdapterId(4), 7, 9}};
        batch.sequences = {
            {0, 2, 0, &blocks, &over}, {2, 3, 8, &blocks, &over}, {3, 7, 4, &blocks, &over}, {7, 9, 0, &blocks, &over}};
        for (uint64_t i = 0; i < 4; ++i)
            batch.sampling.push_back({.seed = i}), batch.sample_position.push_back(int32_t(i));
        batch.heads = {
            {1, 0, false, true}, {2, 1, false, true}, {5, 2, true, false}, {6, 2, true, true}, {8, 3, false, true}};
        int32_t first = 0;
        const Batch part = batch_of_segment(batch, 1, first);
        QCOMPARE(first, 1);
        QCOMPARE(part.ids, (std::vector<Token>{102, 103, 104, 105, 106}));
        QCOMPARE(part.sequences.size(), size_t(2));
        QCOMPARE(part.sequences[1].row_begin, 1);
        QCOMPARE(part.sequences[1].row_end, 5);
        QCOMPARE(part.context_tokens, int64_t(9 + 8));
        QCOMPARE(part.heads.size(), size_t(3));
        QCOMPARE(part.heads[2].row, 4);
        QCOMPARE(part.heads[2].sequence, 1);
        QCOMPARE(part.sampling[1].seed, uint64_t(2));
        QCOMPARE(part.sample_position[0], 1);
        QVERIFY(part.segments.size() == 1 && part.segments[0].row_end == 5 && part.segments[0].adapter == AdapterId(3));
    }
};

QTEST_GUILESS_MAIN(StrategiesTest)
#include "strategies_test.moc"
