// CPU quota of the control group this process is in (v1 and v2).
#pragma once

#include <string>

namespace spartan {

// Whole CPUs that the quota of the process's cgroup and of its parents allows (rounded down, at least 1), or 0 without
// a quota. Files are looked up under `root` ("" is the machine itself): root/proc/self/cgroup, root/sys/fs/cgroup/…
int cgroup_cpu_limit(const std::string& root = "");

}  // namespace spartan
