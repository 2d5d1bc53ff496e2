// Where kernels run. The device is the first argument of every kernel, and its type picks the implementation, as an
// execution policy does in the standard library.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>

namespace spartan {

// Instruction sets the CPU kernels are built for, in rising order. The value picks code, never the order of additions
// inside one result within a run: one device keeps one level for its life.
enum class CpuIsa : uint8_t { generic, avx2, avx512, avx512_bf16, avx512_amx };
constexpr CpuIsa kCpuIsas[] = {CpuIsa::generic, CpuIsa::avx2, CpuIsa::avx512, CpuIsa::avx512_bf16, CpuIsa::avx512_amx};

const char* name_of(CpuIsa isa);
CpuIsa best_cpu_isa();  // of this processor; SPARTAN_MAX_CPU_ISA (a name) caps it, for tests

// CPUs this process may use: the smaller of its affinity mask and its cgroup's quota, at least 1.
int usable_cpus();

// A fixed team of threads. Only the thread that owns the device (the engine's) may call kernels on it.
// Every kernel's result is independent of the number of threads.
class CpuDevice {
public:
    explicit CpuDevice(int num_threads = usable_cpus(), CpuIsa isa = best_cpu_isa());
    ~CpuDevice();
    CpuDevice(const CpuDevice&) = delete;
    CpuDevice& operator=(const CpuDevice&) = delete;

    // Activations are fp32 on a CPU whatever the weights are stored in.
    template <class T>
    using Activation = float;

    int num_threads() const { return num_threads_; }
    CpuIsa isa() const { return isa_; }

    // Runs body(begin, end, thread) over [0, n) in chunks of at least `grain`; returns when all are done.
    // Small n runs on the calling thread. `body` must not throw.
    // Chunks are claimed as threads become free, so which thread runs which chunk differs from run to run.
    void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t, int)>& body);

    // Runs body(item, thread) once for each item in [0, n), one at a time: for few, coarse, uneven items.
    void parallel_items(int64_t n, const std::function<void(int64_t, int)>& body);

    // Working memory of the kernels, 64-byte aligned, kept between calls and grown when needed (which loses the
    // content). shared_scratch() is for the calling thread between parallel regions; thread_scratch(t) for thread t
    // inside one.
    void* shared_scratch(int64_t bytes);
    void* thread_scratch(int thread, int64_t bytes);
    int64_t scratch_bytes() const;  // held in all; call outside parallel regions

private:
    struct Team;
    struct Scratch;
    void run_chunks(int64_t n, int64_t chunk, const std::function<void(int64_t, int64_t, int)>& body);
    int num_threads_;
    CpuIsa isa_;
    std::unique_ptr<Scratch> scratch_;
    std::unique_ptr<Team> team_;
};

// Thrown by the CUDA backend's checks, caught once, in Engine's thread: the context is lost, so the engine is too.
struct DeviceError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// What one kernel call costs at the least. Feeds benchmarks and the views.
struct Cost {
    int64_t bytes = 0;  // moved to and from memory
    int64_t flops = 0;
};

}  // namespace spartan
