#include "core/base/memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>

#include <sys/resource.h>
#include <unistd.h>

namespace spartan {
namespace {

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

std::optional<int64_t> read_number(const std::string& path) {
    std::ifstream in(path);
    int64_t value = 0;
    if (in >> value) return value;
    return std::nullopt;  // absent, "max", or beyond 64 bits: no limit there
}

// The value after `key` in lines of "key value".
int64_t read_keyed(const std::string& path, const std::string& key) {
    std::ifstream in(path);
    for (std::string line; std::getline(in, line);) {
        std::istringstream words(line);
        std::string name;
        int64_t value = 0;
        if (words >> name >> value && name == key) return value;
    }
    return 0;
}

int64_t left_in_group(const std::string& dir, bool v2) {
    const auto limit = read_number(dir + (v2 ? "/memory.max" : "/memory.limit_in_bytes"));
    const auto used = read_number(dir + (v2 ? "/memory.current" : "/memory.usage_in_bytes"));
    if (!limit || !used) return kUnlimited;
    const int64_t droppable = read_keyed(dir + "/memory.stat", v2 ? "inactive_file" : "total_inactive_file");
    return std::max<int64_t>(0, *limit - std::max<int64_t>(0, *used - droppable));
}

// Limits apply at every level, so walk from the process's group up to the mount.
int64_t left_up_to_mount(const std::string& mount, std::string group, bool v2) {
    int64_t left = left_in_group(mount, v2);
    while (group.size() > 1) {
        left = std::min(left, left_in_group(mount + group, v2));
        group.resize(group.rfind('/') == std::string::npos ? 0 : group.rfind('/'));
    }
    return left;
}

// What `ulimit -v` leaves.
int64_t left_of_address_space(const std::string& root) {
    struct rlimit limit {};
    if (::getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return kUnlimited;
    const int64_t used = read_number(root + "/proc/self/statm").value_or(0) * ::sysconf(_SC_PAGESIZE);
    return std::max<int64_t>(0, int64_t(std::min<rlim_t>(limit.rlim_cur, rlim_t(kUnlimited))) - used);
}

}  // namespace

int64_t available_memory_bytes(const std::string& root) {
    int64_t available = read_keyed(root + "/proc/meminfo", "MemAvailable:") * 1024;
    if (available <= 0) available = kUnlimited;
    available = std::min(available, left_of_address_space(root));
    std::ifstream groups(root + "/proc/self/cgroup");
    for (std::string line; std::getline(groups, line);) {  // "ID:CONTROLLERS:PATH"
        const size_t first = line.find(':'), second = line.find(':', first + 1);
        if (first == std::string::npos || second == std::string::npos) continue;
        const std::string controllers = line.substr(first + 1, second - first - 1), group = line.substr(second + 1);
        if (controllers.empty())
            available = std::min(available, left_up_to_mount(root + "/sys/fs/cgroup", group, true));
        else if ((',' + controllers + ',').find(",memory,") != std::string::npos)
            available = std::min(available, left_up_to_mount(root + "/sys/fs/cgroup/memory", group, false));
    }
    return available;
}

}  // namespace spartan
