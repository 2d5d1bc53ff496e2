// Faults that a test causes in a running engine (Engine::cause_fault), so that what follows them can be tested: on a
// GPU by what really causes them there, on the CPU by the same errors.
#pragma once

#include <cstdint>

namespace spartan {

constexpr int kStallSeconds = 3;

enum class Fault : uint8_t {
    device_lost,           // a kernel that traps: the GPU's context takes no more work
    out_of_memory,         // the next step finds no memory on the device
    stall,                 // the next step takes kStallSeconds longer, in which the device does not answer
    no_memory_for_graphs,  // the next capture finds none; a CPU captures nothing and takes no notice
};

}  // namespace spartan
