// `spartan bench kernels` as a document; app/ does not reach into kernels/.
#pragma once

#include "core/base/json.h"
#include "core/base/progress.h"
#include "core/base/result.h"

namespace spartan {

// {"read_bytes_per_s", "copy_bytes_per_s", "f32_flops", "bf16_flops"} of the GPU of this ordinal; -1: of the CPU with
// `threads` (0: usable_cpus()).
Result<Json> measure_limits_json(int threads, int cuda_device);
// {"limits": …, "kernels": [{"name", "bytes", "flops", "ms", "share", "wrong": null or why}]}; stops early when
// cancelled.
Json bench_kernels_json(int threads, const Progress& progress);

}  // namespace spartan
