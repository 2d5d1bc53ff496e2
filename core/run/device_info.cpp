#include "core/run/device_info.h"

#include "core/base/memory.h"
#include "kernels/device.h"

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

bool path_exists(const char* path) { return ::access(path, F_OK) == 0; }

DeviceInfo cuda_device_info() {
    DeviceInfo d;
    d.id = "cuda";
    d.name = "NVIDIA GPU";
    const bool driver = path_exists("/proc/driver/nvidia/version");
    d.reason = driver ? "an NVIDIA driver is present, but this version has no CUDA backend"
                      : "no NVIDIA driver is loaded, and this version has no CUDA backend";
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

std::vector<DeviceInfo> all_devices() { return {cpu_device_info(), cuda_device_info()}; }

Json device_json(const DeviceInfo& d) {
    return {{"id", d.id}, {"name", d.name}, {"isa", d.isa}, {"threads", d.threads}, {"memory_bytes", d.memory_bytes}};
}

}  // namespace spartan
