#include "core/engine/cuda_backend.h"

#include "core/base/file.h"
#include "core/base/text.h"
#include "core/engine/by_adapter_runner.h"

#include <filesystem>

#include <dlfcn.h>

namespace spartan {
namespace {

constexpr const char* kLibrary = "libspartan-cuda.so";
constexpr const char* kEntry = "spartan_cuda_backend";

// Kept open until the program ends: closing a library whose threads and handles live on is never safe.
Result<const CudaBackend*> open_backend() {
    namespace fs = std::filesystem;
    std::error_code error;
    const fs::path program = fs::read_symlink("/proc/self/exe", error).parent_path();
    for (const fs::path& folder : {program, program / "../app", program / "../lib"}) {
        const fs::path file = folder / kLibrary;
        if (!fs::exists(file, error)) continue;
        void* library = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
        if (!library) return make_error("the CUDA backend cannot be opened: " + shorten(::dlerror(), 200));
        const auto entry = reinterpret_cast<const CudaBackend* (*)()>(::dlsym(library, kEntry));
        if (!entry) return make_error("the CUDA backend is damaged: " + shorten(::dlerror(), 200));
        const CudaBackend* backend = entry();
        if (backend->build != cuda_backend_build())
            return make_error("the CUDA backend " + file.lexically_normal().string() + " is of another build (" +
                              backend->build + ", this program " + cuda_backend_build() +
                              "): build both again together, or remove it to run on the CPU");
        return backend;
    }
    return make_error("this program was built without the CUDA backend");
}

}  // namespace

std::string cuda_backend_build() {
    std::string build = SPARTAN_VERSION;
    for (const size_t size : {sizeof(CudaBackend), sizeof(Model), sizeof(AdapterPart), sizeof(ModelConfig),
                              sizeof(Adapter), sizeof(Batch), sizeof(RunnerLimits), sizeof(ForwardResult)})
        build += "." + std::to_string(size);
    return build;
}

Result<const CudaBackend*> cuda_backend() {
    static const Result<const CudaBackend*> backend = open_backend();
    return backend;
}

Result<std::unique_ptr<ModelRunner>> make_runner(std::shared_ptr<const Model> model, const RunnerLimits& limits,
                                                 int cuda_device) {
    const auto make_inner = [&]() -> Result<std::unique_ptr<ModelRunner>> {
        if (cuda_device < 0) return make_cpu_runner(std::move(model), limits);
        TRY_ASSIGN(backend, cuda_backend());
        RunnerLimits kept = limits;
        if (kept.plan_file.empty()) {
            std::error_code error;  // without the folder nothing is kept
            std::filesystem::create_directories(cache_dir(), error);
            kept.plan_file = cache_dir() + "/cuda-plans.txt";
        }
        return backend->make_runner(cuda_device, std::move(model), kept);
    };
    TRY_ASSIGN(runner, make_inner());
    if (!splits_batches(limits.strategy)) return std::move(runner);
    return make_by_adapter_runner(std::move(runner), limits.strategy);
}

Result<void> recover_device(int cuda_device) {
    if (cuda_device < 0) return {};
    TRY_ASSIGN(backend, cuda_backend());
    return backend->recover(cuda_device);
}

Result<std::vector<CudaDeviceInfo>> cuda_devices() {
    TRY_ASSIGN(backend, cuda_backend());
    return backend->devices();
}

}  // namespace spartan
