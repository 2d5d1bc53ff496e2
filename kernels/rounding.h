// Whole numbers rounded up. For n >= 0 and a positive divisor.
#pragma once

#include <cstdint>

namespace spartan {

constexpr int64_t divide_up(int64_t n, int64_t by) { return (n + by - 1) / by; }
constexpr int64_t round_up(int64_t n, int64_t to) { return divide_up(n, to) * to; }

static_assert(divide_up(0, 4) == 0 && divide_up(1, 4) == 1 && divide_up(4, 4) == 1 && divide_up(5, 4) == 2);
static_assert(round_up(0, 64) == 0 && round_up(1, 64) == 64 && round_up(64, 64) == 64);

}  // namespace spartan
