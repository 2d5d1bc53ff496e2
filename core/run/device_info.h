// What a run is computed on, in words and numbers.
#pragma once

#include "core/base/json.h"
#include "core/base/result.h"

#include <string>
#include <vector>

namespace spartan {

struct DeviceInfo {
    std::string id;    // "cpu", "cuda:0"; "cuda" where there is none to be used
    std::string name;  // "AMD EPYC 7B13"
    std::string isa;   // of the kernels that will run: "avx2", "sm_90"
    int threads = 0;   // usable ones; a GPU's multiprocessors
    int64_t memory_bytes = 0, available_bytes = 0;
    std::string reason;  // why it cannot be used; empty: it can
};

DeviceInfo cpu_device_info();
// Every device that this program knows of, usable or not.
std::vector<DeviceInfo> all_devices();
// The one an engine's option names: -1 the CPU, else a GPU's ordinal.
DeviceInfo device_info(int cuda_device);
// What "cpu", "cuda", "cuda:N" or "auto" (a usable GPU, else the CPU) stands for; an error with the reason.
Result<int> choose_device(const std::string& name);
Json device_json(const DeviceInfo&);  // {"id", "name", "isa", "threads", "memory_bytes"}

}  // namespace spartan
