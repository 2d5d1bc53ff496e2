// Multiples: whole numbers rounded up, for n >= 0 and a positive divisor, and addresses.
#pragma once

#include <cstddef>
#include <cstdint>

namespace spartan {

constexpr int64_t divide_up(int64_t n, int64_t by) { return (n + by - 1) / by; }
constexpr int64_t round_up(int64_t n, int64_t to) { return divide_up(n, to) * to; }
inline bool is_aligned(const void* p, size_t bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }
// All of them, as loads of 16 bytes want it.
template <class... P>
bool aligned_to_16(const P*... p) {
    return (is_aligned(p, 16) && ...);
}

static_assert(divide_up(0, 4) == 0 && divide_up(1, 4) == 1 && divide_up(4, 4) == 1 && divide_up(5, 4) == 2);
static_assert(round_up(0, 64) == 0 && round_up(1, 64) == 64 && round_up(64, 64) == 64);

}  // namespace spartan
