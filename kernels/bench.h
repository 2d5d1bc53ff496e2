// How fast this machine is, and how close the kernels come: every case is first checked against a plain loop in double
// precision, then timed, and its time is compared with the least that memory and arithmetic allow,
//
//     share = max(bytes / read bandwidth, flops / peak) / time
//
// Weights and adapters come from memory, not from a cache: a case goes round among copies that together are far larger
// than the last-level cache. Activations stay in the caches, as they do in a model, so the share of a kernel that has
// nothing but activations may exceed 1.
#pragma once

#include "kernels/device.h"
#include "kernels/view.h"

#include <functional>
#include <string>
#include <vector>

namespace spartan {

// By all threads of the device together, through the same instructions as the kernels; the best of several tries.
struct MachineLimits {
    double read_bytes_per_s = 0;  // reading only
    double copy_bytes_per_s = 0;  // read and written bytes both count
    double f32_flops = 0;         // per second
    double bf16_flops = 0;
};

struct KernelTiming {
    std::string name;  // "matmul f32 M=1 N=576 K=576"
    Cost cost;
    double ms = 0;      // of the fastest call
    double share = 0;   // of the limit
    std::string wrong;  // "" when the kernel agrees with the plain loop; else it was not timed
};

// A case on a GPU: launches in a captured graph that is replayed; of one launch, the median over the replays.
struct GpuKernelTiming {
    struct Timing {
        double us = 0, share = 0;  // of the limit
    };
    std::string name;  // "product q,k,v M=1 N=3x4096 K=4096"
    Cost cost;
    Timing alone;  // nothing overlaps
    Timing chain;  // as a model's step launches kernels: a launch begins while the one before drains
    Timing peer;   // of the best that cuBLASLt has for the product, nothing overlaps; 0: it has none
    std::string wrong;
};

MachineLimits measure_limits(CpuDevice& device);

// The shapes of SmolLM2-135M and of a layer of Llama 7B. Polls `cancelled` between timings and returns what it has by
// then; of all cases those whose name contains `only`.
std::vector<KernelTiming> bench_kernels(CpuDevice& device, const MachineLimits& limits, const std::string& only,
                                        const std::function<bool()>& cancelled);

}  // namespace spartan
