#include "core/engine/page_pool.h"

#include <QtTest>
#include <algorithm>
#include <random>

using namespace spartan;

namespace {

void replay(const std::vector<PageChange>& changes, std::vector<PagePool::Owner>& owners) {
    for (const PageChange& c : changes)
        for (int32_t p = c.first; p < c.first + c.count; ++p) owners[size_t(p)] = {c.owner, c.id};
}

}  // namespace

class PagePoolTest : public QObject {
    Q_OBJECT
private slots:
    void kv_takes_the_lowest_run_that_holds_it();
    void adapters_take_the_high_end_of_the_smallest_run();
    void kv_scatters_when_no_run_holds_it();
    void changes_are_merged_and_replay_to_the_owners();
    void random_histories_conserve_pages();
};

void PagePoolTest::kv_takes_the_lowest_run_that_holds_it() {
    PagePool pool(20);
    std::vector<int32_t> a(4), b(2), c(4), d(3);
    QVERIFY(pool.allocate_kv(RequestId(1), a) && pool.allocate_kv(RequestId(2), b) &&
            pool.allocate_kv(RequestId(3), c));
    QCOMPARE(a, (std::vector<int32_t>{0, 1, 2, 3}));
    QCOMPARE(c, (std::vector<int32_t>{6, 7, 8, 9}));
    pool.free_kv(RequestId(2), b);
    QVERIFY(pool.allocate_kv(RequestId(4), d));  // three do not fit into the hole of two
    QCOMPARE(d, (std::vector<int32_t>{10, 11, 12}));
    QCOMPARE(pool.state().largest_free_run, 7);
    pool.check_invariants();
}

void PagePoolTest::adapters_take_the_high_end_of_the_smallest_run() {
    PagePool pool(30);
    const auto a = pool.allocate_adapter(AdapterId(1), 5), b = pool.allocate_adapter(AdapterId(2), 4),
               c = pool.allocate_adapter(AdapterId(3), 3);
    QCOMPARE(a->first, 25);
    QCOMPARE(b->first, 21);
    QCOMPARE(c->first, 18);
    pool.free_adapter(AdapterId(2), *b);
    QCOMPARE(pool.allocate_adapter(AdapterId(4), 3)->first, 22);  // the hole of four, not the low run of eighteen
    QVERIFY(!pool.allocate_adapter(AdapterId(5), 19));
    QVERIFY(!pool.run_fits(19, {}));
    QVERIFY(pool.run_fits(22, std::vector<PageRun>{*c}));
    pool.check_invariants();
}

void PagePoolTest::kv_scatters_when_no_run_holds_it() {
    PagePool pool(6);
    std::vector<int32_t> a(1), b(1), c(1), d(1), e(3), f(2);
    for (auto [id, pages] : {std::pair{1, &a}, {2, &b}, {3, &c}, {4, &d}})
        QVERIFY(pool.allocate_kv(RequestId(id), *pages));
    pool.free_kv(RequestId(1), a);
    pool.free_kv(RequestId(3), c);
    QVERIFY(pool.allocate_kv(RequestId(5), e));  // free: 0, 2, 4, 5
    QCOMPARE(e, (std::vector<int32_t>{0, 2, 4}));
    QVERIFY(!pool.allocate_kv(RequestId(6), f));
    QCOMPARE(pool.free_pages(), 1);
    pool.check_invariants();
}

void PagePoolTest::changes_are_merged_and_replay_to_the_owners() {
    PagePool pool(16);
    std::vector<int32_t> a(4), b(4);
    QVERIFY(pool.allocate_kv(RequestId(7), a) && pool.allocate_kv(RequestId(7), b));
    const auto changes = pool.take_changes();
    QCOMPARE(changes.size(), size_t(1));
    QCOMPARE(changes[0].count, 8);
    QVERIFY(!pool.has_changes());
}

void PagePoolTest::random_histories_conserve_pages() {
    for (uint64_t seed = 0; seed < 20; ++seed) {
        std::mt19937_64 random(seed);
        PagePool pool(200);
        std::vector<PagePool::Owner> replayed(200);
        std::vector<std::pair<RequestId, std::vector<int32_t>>> kv;
        std::vector<std::pair<AdapterId, PageRun>> adapters;
        for (uint32_t i = 1; i < 2000; ++i) {
            const auto what = random() % 4;
            if (what == 0) {
                std::vector<int32_t> pages(1 + random() % 9);
                if (pool.allocate_kv(RequestId(i), pages)) {
                    auto sorted = pages;
                    std::sort(sorted.begin(), sorted.end());
                    QVERIFY(std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end());
                    kv.emplace_back(RequestId(i), pages);
                } else {
                    QVERIFY(pool.free_pages() < int32_t(pages.size()));
                }
            } else if (what == 1) {
                const auto count = int32_t(1 + random() % 30);
                if (const auto run = pool.allocate_adapter(AdapterId(i), count))
                    adapters.emplace_back(AdapterId(i), *run);
                else
                    QVERIFY(pool.state().largest_free_run < count);
            } else if (what == 2 && !kv.empty()) {
                const size_t victim = random() % kv.size();
                pool.free_kv(kv[victim].first, kv[victim].second);
                kv.erase(kv.begin() + std::ptrdiff_t(victim));
            } else if (what == 3 && !adapters.empty()) {
                const size_t victim = random() % adapters.size();
                pool.free_adapter(adapters[victim].first, adapters[victim].second);
                adapters.erase(adapters.begin() + std::ptrdiff_t(victim));
            }
            pool.check_invariants();
            if (i % 7 == 0) {
                replay(pool.take_changes(), replayed);
                QVERIFY(std::equal(replayed.begin(), replayed.end(), pool.owners().begin()));
            }
        }
        for (const auto& [id, pages] : kv) pool.free_kv(id, pages);
        for (const auto& [id, run] : adapters) pool.free_adapter(id, run);
        pool.check_invariants();
        QCOMPARE(pool.state().largest_free_run, 200);
    }
}

QTEST_GUILESS_MAIN(PagePoolTest)
#include "page_pool_test.moc"
