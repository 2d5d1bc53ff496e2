#include "kernels/device.h"

#include "kernels/check.h"
#include "kernels/cpu/cgroup.h"
#include "kernels/memory.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <thread>
#include <vector>

namespace spartan {

namespace {

#if defined(__x86_64__)
// Tiles and their bf16 product: CPUID 7.0, EDX bits 24 and 22. Linux lets a process use them once it has asked, since
// their 8 KB of state make every signal frame larger (5.16 on; arch/x86/include/uapi/asm/prctl.h).
bool has_amx_bf16() {
    static const bool has = [] {
        constexpr unsigned kTileAndBf16 = 1u << 24 | 1u << 22;
        constexpr int kRequestPermission = 0x1023, kTileData = 18;
        unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
        return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (edx & kTileAndBf16) == kTileAndBf16 &&
               syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
    }();
    return has;
}
#endif

CpuIsa hardware_isa() {
#if defined(__x86_64__)
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    const bool avx512_bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
    if (avx512_bf16 && has_amx_bf16()) return CpuIsa::avx512_amx;
    if (avx512_bf16) return CpuIsa::avx512_bf16;
    if (avx512) return CpuIsa::avx512;
    if (avx2) return CpuIsa::avx2;
#endif
    return CpuIsa::generic;
}

inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    std::this_thread::yield();
#endif
}

// Kernel calls of one step follow each other within microseconds, so a thread that just worked looks around for about
// this long before it sleeps: waking it would cost more. Bounded, so that an idle program uses no CPU.
constexpr auto kSpin = std::chrono::microseconds(30);

template <class Done>
bool spin_until(bool enabled, const Done& done) {
    if (done()) return true;
    if (!enabled) return false;
    const auto end = std::chrono::steady_clock::now() + kSpin;
    do {
        for (int i = 0; i < 32; ++i) {
            if (done()) return true;
            relax();
        }
    } while (std::chrono::steady_clock::now() < end);
    return false;
}

}  // namespace

const char* name_of(CpuIsa isa) {
    switch (isa) {
        case CpuIsa::generic:
            return "generic";
        case CpuIsa::avx2:
            return "avx2";
        case CpuIsa::avx512:
            return "avx512";
        case CpuIsa::avx512_bf16:
            return "avx512_bf16";
        case CpuIsa::avx512_amx:
            return "avx512_amx";
    }
    CHECK(false);
}

CpuIsa best_cpu_isa() {
    const CpuIsa hardware = hardware_isa();
    const char* cap = std::getenv("SPARTAN_MAX_CPU_ISA");
    if (!cap || !*cap) return hardware;
    for (const CpuIsa isa : kCpuIsas)
        if (std::strcmp(cap, name_of(isa)) == 0) return std::min(isa, hardware);
    std::fprintf(
        stderr,
        "SPARTAN_MAX_CPU_ISA: found %s, expected generic, avx2, avx512, avx512_bf16 or avx512_amx; not capped\n", cap);
    return hardware;
}

int usable_cpus() {
    int cpus = int(std::thread::hardware_concurrency());
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) cpus = CPU_COUNT(&set);
    const int quota = cgroup_cpu_limit();
    if (quota > 0) cpus = std::min(cpus, quota);
    return std::max(cpus, 1);
}

// The job is one word, (generation, number of chunks, next chunk), from which chunks are claimed by compare-and-swap. A
// thread that wakes late finds no chunk left and touches nothing; the caller waits for chunks, never for threads, so a
// thread without a core delays nobody.
struct CpuDevice::Team {
    static constexpr uint64_t kMaxChunks = (1u << 20) - 1;

    Team(int num_threads, bool spin) : spin_(spin) {
        for (int t = 1; t < num_threads; ++t) threads_.emplace_back([this, t] { work(t); });
    }

    ~Team() {
        stop_.store(true);
        epoch_.fetch_add(1);
        epoch_.notify_all();
        for (std::thread& t : threads_) t.join();
    }

    void run(int64_t n, int64_t chunk, const std::function<void(int64_t, int64_t, int)>& body) {
        const uint64_t chunks = uint64_t((n + chunk - 1) / chunk);
        CHECK(chunks <= kMaxChunks);
        body_ = &body;
        n_ = n;
        chunk_ = chunk;
        done_.store(0, std::memory_order_relaxed);
        generation_ = (generation_ + 1) & 0xffffffu;
        state_.store(generation_ << 40 | chunks << 20);
        if (sleepers_.load() > 0) {
            epoch_.fetch_add(1);
            epoch_.notify_all();
        }
        while (claim_and_run(0)) {}
        const auto finished = [&] { return done_.load(std::memory_order_acquire) == uint32_t(chunks); };
        if (spin_until(spin_, finished)) return;
        for (uint32_t d = done_.load(std::memory_order_acquire); d != uint32_t(chunks);
             d = done_.load(std::memory_order_acquire))
            done_.wait(d, std::memory_order_acquire);
    }

private:
    static uint64_t next_of(uint64_t state) { return state & kMaxChunks; }
    static uint64_t chunks_of(uint64_t state) { return state >> 20 & kMaxChunks; }
    bool has_work() const {
        const uint64_t s = state_.load();
        return next_of(s) < chunks_of(s);
    }

    bool claim_and_run(int thread) {
        uint64_t s = state_.load();
        do {
            if (next_of(s) >= chunks_of(s)) return false;
        } while (!state_.compare_exchange_weak(s, s + 1));
        // From here until done_ counts this chunk, the caller is inside run(): the job's fields stand still.
        const int64_t begin = int64_t(next_of(s)) * chunk_;
        (*body_)(begin, std::min(begin + chunk_, n_), thread);
        if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == uint32_t(chunks_of(s)) && thread != 0)
            done_.notify_one();
        return true;
    }

    void work(int thread) {
        for (;;) {
            while (claim_and_run(thread)) {}
            if (spin_until(spin_, [&] { return has_work() || stop_.load(); })) {
                if (stop_.load()) return;
                continue;
            }
            const uint32_t epoch = epoch_.load();
            sleepers_.fetch_add(1);
            if (!has_work() && !stop_.load()) epoch_.wait(epoch);
            sleepers_.fetch_sub(1);
            if (stop_.load()) return;
        }
    }

    const bool spin_;
    const std::function<void(int64_t, int64_t, int)>* body_ = nullptr;
    int64_t n_ = 0, chunk_ = 1;
    uint64_t generation_ = 0;
    alignas(64) std::atomic<uint64_t> state_{0};
    alignas(64) std::atomic<uint32_t> done_{0};
    alignas(64) std::atomic<uint32_t> epoch_{0};
    std::atomic<int> sleepers_{0};
    std::atomic<bool> stop_{false};
    std::vector<std::thread> threads_;
};

struct CpuDevice::Scratch {
    struct Buffer {
        void* at_least(int64_t bytes) {
            if (bytes > size) {
                size = 0;
                memory.reset();
                const int64_t rounded = (bytes + bytes / 4 + 4095) / 4096 * 4096;
                memory = allocate_memory(rounded);
                if (!memory) throw std::bad_alloc();
                size = rounded;
            }
            return memory.get();
        }
        Memory memory;
        int64_t size = 0;
    };
    explicit Scratch(int num_threads) : per_thread(size_t(num_threads)) {}
    Buffer shared;
    std::vector<Buffer> per_thread;
};

CpuDevice::CpuDevice(int num_threads, CpuIsa isa) : num_threads_(num_threads), isa_(isa) {
    CHECK(num_threads >= 1 && num_threads <= 4096);
    CHECK(isa <= hardware_isa());
    scratch_ = std::make_unique<Scratch>(num_threads);
    // With more threads than cores a spinning thread would hold the core that the work needs.
    if (num_threads > 1) team_ = std::make_unique<Team>(num_threads, num_threads <= usable_cpus());
}

CpuDevice::~CpuDevice() = default;

void CpuDevice::run_chunks(int64_t n, int64_t chunk, const std::function<void(int64_t, int64_t, int)>& body) {
    if (n <= 0) return;
    if (!team_ || n <= chunk) {
        body(0, n, 0);
        return;
    }
    team_->run(n, chunk, body);
}

void CpuDevice::parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t, int)>& body) {
    const int64_t even = (n + 8 * num_threads_ - 1) / (8 * num_threads_);  // small chunks even out slow threads
    run_chunks(n, std::max({grain, even, int64_t(1)}), body);
}

void CpuDevice::parallel_items(int64_t n, const std::function<void(int64_t, int)>& body) {
    const int64_t chunk = n / int64_t(Team::kMaxChunks) + 1;
    run_chunks(n, chunk, [&](int64_t begin, int64_t end, int thread) {
        for (int64_t i = begin; i < end; ++i) body(i, thread);
    });
}

void* CpuDevice::shared_scratch(int64_t bytes) { return scratch_->shared.at_least(bytes); }

void* CpuDevice::thread_scratch(int thread, int64_t bytes) {
    return scratch_->per_thread[size_t(thread)].at_least(bytes);
}

int64_t CpuDevice::scratch_bytes() const {
    int64_t sum = scratch_->shared.size;
    for (const auto& buffer : scratch_->per_thread) sum += buffer.size;
    return sum;
}

}  // namespace spartan
