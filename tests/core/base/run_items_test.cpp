#include "core/base/run_items.h"

#include <QTest>
#include <atomic>
#include <new>
#include <vector>

using namespace spartan;

class RunItemsTest : public QObject {
    Q_OBJECT

private slots:
    void every_item_once() {
        for (const int threads : {1, 2, 7}) {
            std::vector<std::atomic<int>> done(100);
            std::atomic<bool> in_range{true};
            QVERIFY(run_items(100, threads, "f", [&](int64_t item, int thread) -> Result<void> {
                ++done[size_t(item)];
                if (thread < 0 || thread >= threads) in_range = false;
                return {};
            }));
            for (const auto& count : done) QCOMPARE(count.load(), 1);
            QVERIFY(in_range);
        }
        QVERIFY(run_items(0, 3, "f", [](int64_t, int) -> Result<void> { return make_error("no items"); }));
    }

    void the_lowest_error_is_returned() {
        for (int round = 0; round < 50; ++round) {
            const auto done = run_items(64, 4, "f", [](int64_t item, int) -> Result<void> {
                if (item < 5) return {};
                return make_error("item " + std::to_string(item));
            });
            QVERIFY(!done);
            QCOMPARE(done.error().message(), std::string("item 5"));
        }
    }

    void a_cancellation_goes_before_errors() {
        const auto done = run_items(2, 1, "f", [](int64_t, int) -> Result<void> {
            return Error{"", "", "", "", true};
        });
        QVERIFY(!done && done.error().cancelled);
    }

    void memory_that_cannot_be_had_is_an_error() {
        for (const int threads : {1, 3}) {
            const auto done = run_items(9, threads, "weights.bin", [](int64_t item, int) -> Result<void> {
                if (item == 4) throw std::bad_alloc();
                return {};
            });
            QVERIFY(!done);
            QCOMPARE(done.error().file, std::string("weights.bin"));
            QCOMPARE(done.error().field, std::string("memory"));
        }
    }
};

QTEST_GUILESS_MAIN(RunItemsTest)
#include "run_items_test.moc"
