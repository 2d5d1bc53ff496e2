#include "core/run/kernel_bench.h"

#include "core/engine/cuda_backend.h"
#include "kernels/bench.h"

namespace spartan {
namespace {

Json limits_json(const MachineLimits& l) {
    return {{"read_bytes_per_s", l.read_bytes_per_s},
            {"copy_bytes_per_s", l.copy_bytes_per_s},
            {"f32_flops", l.f32_flops},
            {"bf16_flops", l.bf16_flops}};
}

int threads_or_all(int threads) { return threads > 0 ? threads : usable_cpus(); }

}  // namespace

Result<Json> measure_limits_json(int threads, int cuda_device) {
    if (cuda_device >= 0) {
        TRY_ASSIGN(backend, cuda_backend());
        TRY_ASSIGN(limits, backend->measure_limits(cuda_device));
        return limits_json(limits);
    }
    CpuDevice device(threads_or_all(threads));
    return limits_json(measure_limits(device));
}

Json bench_kernels_json(int threads, const Progress& progress) {
    CpuDevice device(threads_or_all(threads));
    const MachineLimits limits = measure_limits(device);
    Json kernels = Json::array();
    for (const KernelTiming& k : bench_kernels(device, limits, [&] { return progress.cancelled(); }))
        kernels.push_back({{"name", k.name},
                           {"bytes", k.cost.bytes},
                           {"flops", k.cost.flops},
                           {"ms", k.ms},
                           {"share", k.share},
                           {"wrong", k.wrong.empty() ? Json(nullptr) : Json(k.wrong)}});
    return {{"limits", limits_json(limits)}, {"kernels", kernels}};
}

}  // namespace spartan
