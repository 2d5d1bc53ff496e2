#include "kernels/cuda/follow.h"

#include "gpu_fixture.h"

using namespace spartan;

class CudaFollowTest : public QObject {
    Q_OBJECT
private slots:
    void puts_tokens_where_ids_name_them() {
        SKIP_WITHOUT_GPU();
        CudaDevice device;
        const std::vector<int32_t> tokens{31, -1, 7, 1 << 20};
        for (const int64_t rows : {int64_t(0), int64_t(1), int64_t(5), int64_t(700)}) {
            std::vector<int32_t> ids(size_t(rows) + 1), want;
            for (size_t i = 0; i < ids.size(); ++i) ids[i] = i % 3 ? -1 - int32_t(i % 4) : int32_t(i);
            for (size_t i = 0; i < ids.size(); ++i)
                want.push_back(ids[i] >= 0 || int64_t(i) >= rows ? ids[i] : std::max(tokens[i % 4], 0));
            const DeviceArray<int32_t> on_device(ids), picked(tokens);
            follow(device, on_device.data(), rows, picked.data());
            device.synchronize();
            QCOMPARE(on_device.read(), want);
            QCOMPARE(picked.read(), tokens);
        }
    }
};

QTEST_GUILESS_MAIN(CudaFollowTest)
#include "follow_test.moc"
