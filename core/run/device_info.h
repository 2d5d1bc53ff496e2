// What a run is computed on, in words and numbers.
#pragma once

#include "core/base/json.h"

#include <string>
#include <vector>

namespace spartan {

struct DeviceInfo {
    std::string id;    // "cpu", "cuda"
    std::string name;  // "AMD EPYC 7B13"
    std::string isa;   // of the kernels that will run: "avx2"; empty for other devices
    int threads = 0;   // usable ones
    int64_t memory_bytes = 0, available_bytes = 0;
    std::string reason;  // why it cannot be used; empty: it can
};

DeviceInfo cpu_device_info();
// Every device that this program knows of, usable or not.
std::vector<DeviceInfo> all_devices();
Json device_json(const DeviceInfo&);  // {"id", "name", "isa", "threads", "memory_bytes"}

}  // namespace spartan
