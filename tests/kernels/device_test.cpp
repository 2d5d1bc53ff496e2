#include "kernels/device.h"
#include "kernels/cpu/cgroup.h"

#include <QTemporaryDir>
#include <QtTest>

#include <atomic>
#include <chrono>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

using namespace spartan;

class DeviceTest : public QObject {
    Q_OBJECT

private slots:
    void everyIndexRunsOnce() {
        for (const int threads : {1, 2, 3, 8}) {
            CpuDevice device(threads);
            QCOMPARE(device.num_threads(), threads);
            for (const int64_t n : {0, 1, 2, 7, 64, 1000}) {
                for (const int64_t grain : {1, 3, 64, 5000}) {
                    std::vector<std::atomic<int>> hits(size_t(n) + 1);
                    std::atomic<bool> ok{true};
                    device.parallel_for(n, grain, [&](int64_t begin, int64_t end, int thread) {
                        if (begin >= end || thread < 0 || thread >= threads) ok = false;
                        if (end != n && end - begin < grain) ok = false;
                        for (int64_t i = begin; i < end; ++i) ++hits[size_t(i)];
                    });
                    QVERIFY(ok);
                    for (int64_t i = 0; i < n; ++i) QCOMPARE(hits[size_t(i)].load(), 1);
                }
                std::vector<std::atomic<int>> hits(size_t(n) + 1);
                device.parallel_items(n, [&](int64_t i, int) { ++hits[size_t(i)]; });
                for (int64_t i = 0; i < n; ++i) QCOMPARE(hits[size_t(i)].load(), 1);
            }
        }
    }

    // Short regions in a row, some after a pause long enough for the team to sleep.
    void manyShortRegions() {
        CpuDevice device(4);
        int64_t sum = 0;
        for (int round = 0; round < 3000; ++round) {
            if (round % 1000 == 500) std::this_thread::sleep_for(std::chrono::milliseconds(2));
            std::atomic<int64_t> part{0};
            device.parallel_for(16, 1, [&](int64_t begin, int64_t end, int) { part += end - begin; });
            sum += part;
        }
        QCOMPARE(sum, int64_t(3000 * 16));
    }

    void anIdleTeamUsesNoCpu() {
        CpuDevice device(2);
        device.parallel_items(8, [](int64_t, int) {});
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        const std::clock_t before = std::clock();
        std::this_thread::sleep_for(std::chrono::milliseconds(200));
        QVERIFY(double(std::clock() - before) / CLOCKS_PER_SEC < 0.05);
    }

    void scratchIsAlignedAndKept() {
        CpuDevice device(2);
        QCOMPARE(device.scratch_bytes(), int64_t(0));
        void* a = device.shared_scratch(1000);
        QCOMPARE(reinterpret_cast<uintptr_t>(a) % 64, uintptr_t(0));
        QCOMPARE(device.shared_scratch(10), a);
        device.thread_scratch(1, 100000);
        QVERIFY(device.scratch_bytes() >= 101000);
    }

    void instructionSetsHaveNamesAndCanBeCapped() {
        qputenv("SPARTAN_MAX_CPU_ISA", "generic");
        QCOMPARE(best_cpu_isa(), CpuIsa::generic);
        qunsetenv("SPARTAN_MAX_CPU_ISA");
        QCOMPARE(CpuDevice(1).isa(), best_cpu_isa());
        QCOMPARE(std::string(name_of(CpuIsa::avx512_bf16)), std::string("avx512_bf16"));
        QVERIFY(usable_cpus() >= 1);
    }

    void quotaOfVersion2() {
        QTemporaryDir dir;
        const std::string root = dir.path().toStdString();
        QCOMPARE(cgroup_cpu_limit(root), 0);
        write(root + "/proc/self/cgroup", "0::/user/app\n");
        QCOMPARE(cgroup_cpu_limit(root), 0);
        write(root + "/sys/fs/cgroup/user/app/cpu.max", "max 100000\n");
        QCOMPARE(cgroup_cpu_limit(root), 0);
        write(root + "/sys/fs/cgroup/user/cpu.max", "350000 100000\n");
        QCOMPARE(cgroup_cpu_limit(root), 3);
        write(root + "/sys/fs/cgroup/user/app/cpu.max", "50000 100000\n");
        QCOMPARE(cgroup_cpu_limit(root), 1);
        write(root + "/sys/fs/cgroup/user/app/cpu.max", "nonsense");
        QCOMPARE(cgroup_cpu_limit(root), 3);
    }

    void quotaOfVersion1() {
        QTemporaryDir dir;
        const std::string root = dir.path().toStdString();
        write(root + "/proc/self/cgroup", "4:memory:/x\n3:cpu,cpuacct:/docker/abc\n0::/\n");
        write(root + "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "400000\n");
        write(root + "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
        QCOMPARE(cgroup_cpu_limit(root), 4);
        write(root + "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
        QCOMPARE(cgroup_cpu_limit(root), 0);
    }

private:
    static void write(const std::string& path, const std::string& text) {
        std::filesystem::create_directories(std::filesystem::path(path).parent_path());
        std::ofstream(path) << text;
    }
};

QTEST_GUILESS_MAIN(DeviceTest)
#include "device_test.moc"
