// Records cross from the recorder's thread to the GUI thread in order, none lost, with few wakes.
#include "ui/engine_bridge.h"

#include <QCoreApplication>
#include <QSignalSpy>
#include <QTest>

#include <thread>

using namespace spartan;

class EngineBridgeTest : public QObject {
    Q_OBJECT
private slots:
    void everythingArrivesInOrder() {
        constexpr int64_t kRecords = 100'000;
        EngineBridge bridge;
        int64_t received = 0, wakes = 0;
        bool ordered = true;
        connect(&bridge, &EngineBridge::recordsReady, this, [&] {
            ++wakes;
            for (const StepRecordPtr& r : bridge.take()) ordered = ordered && r->step == received++;
        });
        std::thread recorder([listener = bridge.listener()] {
            for (int64_t i = 0; i < kRecords; ++i) {
                auto r = std::make_shared<StepRecord>();
                r->step = i;
                listener({r});
            }
        });
        QTRY_COMPARE_WITH_TIMEOUT(received, kRecords, 20'000);
        recorder.join();
        QVERIFY(ordered);
        QVERIFY2(wakes < kRecords / 2, qPrintable(QString::number(wakes)));
    }

    void aBridgeMayGoBeforeItsRecorder() {
        Recorder::Listener listener;
        {
            EngineBridge bridge;
            listener = bridge.listener();
            listener({std::make_shared<StepRecord>()});
        }
        listener({std::make_shared<StepRecord>()});
        QCoreApplication::processEvents();
    }
};

QTEST_GUILESS_MAIN(EngineBridgeTest)
#include "engine_bridge_test.moc"
