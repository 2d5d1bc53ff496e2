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

template <class Timing>
Json cost_json(const Timing& k) {
    return {{"name", k.name},
            {"bytes", k.cost.bytes},
            {"flops", k.cost.flops},
            {"wrong", k.wrong.empty() ? Json(nullptr) : Json(k.wrong)}};
}

Json kernel_json(const KernelTiming& k) {
    Json json = cost_json(k);
    json["ms"] = k.ms;
    json["share"] = k.share;
    return json;
}

Json timing_json(const GpuKernelTiming::Timing& t) {
    return t.us > 0 ? Json{{"us", t.us}, {"share", t.share}} : Json(nullptr);
}

Json kernel_json(const GpuKernelTiming& k) {
    Json json = cost_json(k);
    json["alone"] = timing_json(k.alone);
    json["chain"] = timing_json(k.chain);
    json["peer"] = timing_json(k.peer);
    return json;
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

Result<Json> bench_kernels_json(int threads, int cuda_device, const std::string& only, const Progress& progress) {
    const auto cancelled = [&] { return progress.cancelled(); };
    Json kernels = Json::array();
    if (cuda_device >= 0) {
        TRY_ASSIGN(backend, cuda_backend());
        TRY_ASSIGN(limits, backend->measure_limits(cuda_device));
        TRY_ASSIGN(timings, backend->bench_kernels(cuda_device, limits, only, cancelled));
        for (const GpuKernelTiming& k : timings) kernels.push_back(kernel_json(k));
        return Json{{"limits", limits_json(limits)}, {"kernels", kernels}};
    }
    CpuDevice device(threads_or_all(threads));
    const MachineLimits limits = measure_limits(device);
    for (const KernelTiming& k : bench_kernels(device, limits, only, cancelled)) kernels.push_back(kernel_json(k));
    return Json{{"limits", limits_json(limits)}, {"kernels", kernels}};
}

}  // namespace spartan
