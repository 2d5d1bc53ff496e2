#include "core/run/device_info.h"

#include "core/base/memory.h"
#include "core/engine/cuda_backend.h"
#include "kernels/device.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include <unistd.h>

namespace spartan {
namespace {

std::string processor_name() {
    std::ifstream info("/proc/cpuinfo");
    for (std::string line; std::getline(info, line);) {
        const size_t colon = line.find(':');
        if (line.rfind("model name", 0) == 0 && colon != std::string::npos && colon + 2 <= line.size())
            return line.substr(colon + 2);
    }
    return "CPU";
}

DeviceInfo unusable_gpu(const std::string& reason) {
    DeviceInfo d;
    d.id = "cuda";
    d.name = "NVIDIA GPU";
    d.reason = reason;
    return d;
}

DeviceInfo gpu_info(const CudaDeviceInfo& from, size_t ordinal) {
    DeviceInfo d;
    d.id = "cuda:" + std::to_string(ordinal);
    d.name = from.name;
    d.isa = "sm_" + std::to_string(from.compute_capability);
    d.threads = from.multiprocessors;
    d.memory_bytes = from.memory_bytes;
    d.available_bytes = from.free_bytes;
    d.reason = from.reason;
    return d;
}

}  // namespace

DeviceInfo cpu_device_info() {
    DeviceInfo d;
    d.id = "cpu";
    d.name = processor_name();
    d.isa = name_of(best_cpu_isa());
    d.threads = usable_cpus();
    d.memory_bytes = int64_t(::sysconf(_SC_PHYS_PAGES)) * ::sysconf(_SC_PAGESIZE);
    d.available_bytes = available_memory_bytes();
    return d;
}

std::vector<DeviceInfo> all_devices() {
    std::vector<DeviceInfo> devices{cpu_device_info()};
    const auto gpus = cuda_devices();
    if (!gpus)
        devices.push_back(unusable_gpu(gpus.error().message()));
    else
        for (size_t i = 0; i < gpus->size(); ++i) devices.push_back(gpu_info((*gpus)[i], i));
    return devices;
}

DeviceInfo device_info(int cuda_device) {
    const std::vector<DeviceInfo> devices = cuda_device < 0 ? std::vector{cpu_device_info()} : all_devices();
    return devices[std::min(size_t(cuda_device + 1), devices.size() - 1)];
}

Result<int> choose_device(const std::string& name) {
    if (name == "cpu") return -1;
    const std::vector<DeviceInfo> devices = all_devices();
    if (name == "auto") {
        for (size_t i = 1; i < devices.size(); ++i)
            if (devices[i].reason.empty()) return int(i) - 1;
        return -1;
    }
    const size_t ordinal = name == "cuda" ? 0 : size_t(std::atoi(name.c_str() + std::strlen("cuda:")));
    if (devices[1].id == "cuda") return Error{"device", name, devices[1].reason, "cpu or auto"};
    if (ordinal + 1 >= devices.size())
        return Error{"device", name, "no such device", "cuda:0 to cuda:" + std::to_string(devices.size() - 2)};
    if (!devices[ordinal + 1].reason.empty()) return Error{"device", name, devices[ordinal + 1].reason, "cpu or auto"};
    return int(ordinal);
}

Json device_json(const DeviceInfo& d) {
    return {{"id", d.id}, {"name", d.name}, {"isa", d.isa}, {"threads", d.threads}, {"memory_bytes", d.memory_bytes}};
}

}  // namespace spartan
