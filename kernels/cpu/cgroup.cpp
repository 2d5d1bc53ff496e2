#include "kernels/cpu/cgroup.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>

namespace spartan {

namespace {

int cpus_of(double quota_us, double period_us) {
    if (!(quota_us > 0) || !(period_us > 0)) return 0;
    return std::max(1, int(std::min(quota_us / period_us, 1e6)));
}

// cpu.max holds "max 100000" or "150000 100000".
int read_v2(const std::string& folder) {
    std::ifstream file(folder + "/cpu.max");
    std::string quota;
    double period = 0;
    if (!(file >> quota >> period) || quota == "max") return 0;
    return cpus_of(std::strtod(quota.c_str(), nullptr), period);
}

int read_v1(const std::string& folder) {
    std::ifstream quota_file(folder + "/cpu.cfs_quota_us"), period_file(folder + "/cpu.cfs_period_us");
    double quota = 0, period = 0;
    if (!(quota_file >> quota) || !(period_file >> period)) return 0;
    return cpus_of(quota, period);
}

// A parent's quota binds its children, so every level up to the mount counts. Inside a container the path may name a
// folder that is not mounted; the mount's own top then is the container's group, and is always read.
int tightest(const std::string& mount, std::string path, int (*read)(const std::string&)) {
    int limit = 0;
    for (;;) {
        const int here = read(mount + path);
        if (here > 0) limit = limit == 0 ? here : std::min(limit, here);
        const size_t slash = path.find_last_of('/');
        if (path.empty() || slash == std::string::npos) return limit;
        path.resize(slash);
    }
}

bool lists_cpu(const std::string& controllers) {
    std::istringstream parts(controllers);
    for (std::string part; std::getline(parts, part, ',');)
        if (part == "cpu") return true;
    return false;
}

}  // namespace

int cgroup_cpu_limit(const std::string& root) {
    std::ifstream groups(root + "/proc/self/cgroup");
    const std::string mount = root + "/sys/fs/cgroup";
    int limit = 0;
    for (std::string line; std::getline(groups, line);) {  // "hierarchy:controllers:path"
        const size_t first = line.find(':'), second = line.find(':', first + 1);
        if (first == std::string::npos || second == std::string::npos) continue;
        const std::string controllers = line.substr(first + 1, second - first - 1);
        const std::string path = line.substr(second + 1);
        int here = 0;
        if (controllers.empty())
            here = tightest(mount, path, read_v2);
        else if (lists_cpu(controllers))
            here = std::max(tightest(mount + "/cpu", path, read_v1), tightest(mount + "/cpu,cpuacct", path, read_v1));
        if (here > 0) limit = limit == 0 ? here : std::min(limit, here);
    }
    return limit;
}

}  // namespace spartan
