// labels: slow,alone
// The window's budgets on a run of 96 adapters and 100,000 tokens: no event-loop stall over 100 ms, a tick under 8 ms
// on average, memory flat while it streams.
#include "fake_records.h"
#include "ui/time_controller.h"
#include "window_fixture.h"

#include <QFile>

using namespace spartan;

namespace {

int64_t residentBytes() {
    QFile f(QStringLiteral("/proc/self/statm"));
    if (!f.open(QIODevice::ReadOnly)) return 0;
    return f.readAll().split(' ').value(1).toLongLong() * 4096;
}

}  // namespace

class BudgetTest : public QObject {
    Q_OBJECT
public:
    explicit BudgetTest(const OwnHome&) {}

private slots:
    void ticksStallsAndMemory() {
        Window w;
        fake::Source source({.adapters = 96,
                             .requests = 1'000,
                             .output_tokens = 100,
                             .max_rows = 64,
                             .pages = 32'768,
                             .arrival_every_us = 20'000});
        w.session.runModel().reset(source.header());
        w.session.time().reset();
        const std::vector<StepRecordPtr> records = fake::all(source);
        int64_t tokens = 0;
        for (const StepRecordPtr& r : records)
            for (const StepRow& row : r->rows) tokens += row.token >= 0;
        QCOMPARE(tokens, int64_t(100'000));
        QTest::qWait(300);

        for (const Perspective p : {Perspective::explore, Perspective::inspect}) {
            w.window.setPerspective(p);
            w.session.runModel().reset(source.header());
            w.session.time().reset();
            QTest::qWait(100);
            Heartbeat beat;
            double spent = 0, painted = 0, worst = 0;
            int ticks = 0;
            int64_t middle = 0;
            // Faster than life: the records of one tick are those of a third of a second.
            const size_t per_tick = std::max<size_t>(1, records.size() / 250);
            for (size_t i = 0; i < records.size();) {
                for (size_t n = 0; n < per_tick && i < records.size(); ++n) w.session.runModel().append(records[i++]);
                const Stopwatch clock;
                w.window.tick();
                spent += clock.ms();
                QCoreApplication::processEvents();  // the queued replots and paints
                painted += clock.ms();
                worst = std::max(worst, clock.ms());
                ++ticks;
                if (i >= records.size() / 2 && middle == 0) middle = residentBytes();
            }
            qInfo("perspective %d: %d ticks of %.2f ms, %.2f with painting, worst %.1f, stall %.0f ms, model %.1f MB",
                  int(p), ticks, spent / ticks, painted / ticks, worst, beat.budgetMs(),
                  double(w.session.runModel().approximateBytes()) / 1e6);
            for (Panel* view : w.window.findChildren<Panel*>()) {
                if (!view->isVisible()) continue;
                const double before = cpuMs();
                for (int n = 0; n < 5; ++n) view->refresh(w.session.runModel(), w.session.time());
                const double refreshed = cpuMs();
                for (int n = 0; n < 5; ++n) view->grab();
                qInfo("  %s: refresh %.2f ms, painting all of it %.2f ms", qPrintable(view->id()),
                      (refreshed - before) / 5, (cpuMs() - refreshed) / 5);
            }
            QVERIFY2(spent / ticks < 8, qPrintable(QStringLiteral("%1 ms a tick").arg(spent / ticks)));
            QVERIFY2(worst < 100, qPrintable(QStringLiteral("%1 ms").arg(worst)));
            QVERIFY2(beat.budgetMs() < 100, qPrintable(QStringLiteral("%1 ms").arg(beat.budgetMs())));
            const int64_t grown = residentBytes() - middle;
            QVERIFY2(grown < 64 << 20, qPrintable(QStringLiteral("%1 bytes more in the second half").arg(grown)));
        }
    }

    void scrubbingIsQuick() {
        Window w;
        fake::Source source({.adapters = 96, .requests = 400, .max_rows = 64, .pages = 32'768});
        w.session.runModel().reset(source.header());
        for (const StepRecordPtr& r : fake::all(source)) w.session.runModel().append(r);
        w.window.tick();
        double worst = 0;
        for (int i = 0; i < 40; ++i) {
            w.session.time().setCursor(w.session.runModel().endUs() * (39 - i) / 40, w.session.runModel());
            const Stopwatch clock;
            w.window.tick();
            QCoreApplication::processEvents();
            worst = std::max(worst, clock.ms());
        }
        QVERIFY2(worst < 100, qPrintable(QStringLiteral("%1 ms").arg(worst)));
    }
};

SPARTAN_UI_TEST_MAIN(BudgetTest)
#include "budget_test.moc"
