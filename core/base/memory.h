// How much memory this process may still take.
#pragma once

#include <cstdint>
#include <string>

namespace spartan {

// The smallest of the machine's MemAvailable, what is left under the limits of the process's control groups (v1 and v2;
// page cache that the kernel can drop counts as free) and what is left of the address space (ulimit -v), bytes. `root`
// is prepended to /proc and /sys, for tests.
int64_t available_memory_bytes(const std::string& root = "");

}  // namespace spartan
