// Memory that is used again instead of being freed and taken anew.
#include "core/engine/cuda/spares.h"

#include <QtTest>
#include <vector>

using namespace spartan;

namespace {

int made = 0;

struct FakeMemory {
    explicit FakeMemory(int64_t bytes) : size(bytes) { ++made; }
    int64_t bytes() const { return size; }
    int64_t size = 0;
};

}  // namespace

class SparesTest : public QObject {
    Q_OBJECT
private slots:
    void init() { made = 0; }

    void what_was_given_is_taken_again() {
        Spares<FakeMemory> spares;
        for (int i = 0; i < 10; ++i) {
            FakeMemory memory = spares.take(1000 + i);
            QVERIFY(memory.bytes() >= 1000 + i);
            spares.give(memory);
        }
        QCOMPARE(made, 1);
    }

    void two_at_once_are_two() {
        Spares<FakeMemory> spares;
        FakeMemory a = spares.take(64), b = spares.take(64);
        QCOMPARE(made, 2);
        spares.give(a);
        spares.give(b);
        spares.take(64);
        spares.take(64);
        QCOMPARE(made, 2);
        spares.take(64);  // both are out
        QCOMPARE(made, 3);
    }

    // A large one is not spent on little; a small one cannot serve.
    void the_smallest_that_fits_is_taken() {
        Spares<FakeMemory> spares;
        spares.give(FakeMemory(32));
        spares.give(FakeMemory(128));
        spares.give(FakeMemory(1 << 20));
        made = 0;
        QCOMPARE(spares.take(64).bytes(), int64_t(128));
        QCOMPARE(spares.take(64).bytes(), int64_t(64));  // new: the next spare one is far too large
        QCOMPARE(made, 1);
        QCOMPARE(spares.take(600'000).bytes(), int64_t(1 << 20));
        QCOMPARE(made, 1);
        spares.give(FakeMemory(0));
        QVERIFY(spares.take(1).bytes() >= 1);
    }
};

QTEST_GUILESS_MAIN(SparesTest)
#include "spares_test.moc"
