// How much memory this process may still take.
#pragma once

#include <cstdint>
#include <string>

namespace spartan {

// The smaller of the machine's MemAvailable and what is left under the limits of the process's control groups (v1 and
// v2; page cache that the kernel can drop counts as free), bytes. `root` is prepended to /proc and /sys, for tests.
int64_t available_memory_bytes(const std::string& root = "");

}  // namespace spartan
