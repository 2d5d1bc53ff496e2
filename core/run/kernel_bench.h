// `spartan bench kernels` as a document; app/ does not reach into kernels/.
#pragma once

#include "core/base/json.h"
#include "core/base/progress.h"
#include "core/base/result.h"

#include <string>

namespace spartan {

// {"read_bytes_per_s", "copy_bytes_per_s", "f32_flops", "bf16_flops"} of the GPU of this ordinal; -1: of the CPU with
// `threads` (0: usable_cpus()).
Result<Json> measure_limits_json(int threads, int cuda_device);
// {"limits": …, "kernels": [{"name", "bytes", "flops", …, "wrong": null or why}]} of the kernels whose name contains
// `only`; stops early when cancelled. Of a CPU (cuda_device -1) with "ms" and "share" of the limit; of a GPU with
// "alone", "chain" and "peer" (null: none), each {"us", "share"}, as GpuKernelTiming has them.
Result<Json> bench_kernels_json(int threads, int cuda_device, const std::string& only, const Progress& progress);

}  // namespace spartan
