#include "kernels/cuda/fetch.h"

#include "gpu_fixture.h"

using namespace spartan;

class CudaFetchTest : public QObject {
    Q_OBJECT
private slots:
    void brings_every_byte_and_no_more() {
        SKIP_WITHOUT_GPU();
        CudaDevice device;
        device.set_overlap_launches(false);
        constexpr size_t kMost = 3 << 20;
        uint32_t* from = nullptr;
        void* pinned = nullptr;
        CHECK_CUDA(cudaHostAlloc(&pinned, kMost, cudaHostAllocDefault));
        from = static_cast<uint32_t*>(pinned);
        for (size_t i = 0; i < kMost / 4; ++i) from[i] = uint32_t(i * 2654435761u);
        for (const size_t bytes : {size_t(0), size_t(16), size_t(4096 + 16), size_t(262'144), kMost}) {
            const DeviceArray<uint32_t> to(kMost / 4 + 4);
            fetch(device, to.data(), from, int64_t(bytes));
            device.synchronize();
            const auto got = to.read();
            for (size_t i = 0; i < got.size(); ++i) QCOMPARE(got[i], i < bytes / 4 ? from[i] : ~0u);
        }
        CHECK_CUDA(cudaFreeHost(pinned));
    }
};

QTEST_GUILESS_MAIN(CudaFetchTest)
#include "fetch_test.moc"
