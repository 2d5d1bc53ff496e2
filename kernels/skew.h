// How the orthogonal blocks of a rotation are stored before they are folded: their skew halves. A block of b x b is the
// strict upper triangle of S, row by row, of which Q = (I - S)(I + S)^-1; factors of b·2^(m-1) features are kept group
// by group,
//
//     [dim / (b 2^(m-1))][m][2^(m-1)][skew_values(b)]
//
// half the bytes of the folded rotation (b = 32, m = 2) in its own type, and bf16 costs S less than it costs Q = I -
// 2S.
#pragma once

#include <cstdint>

namespace spartan {

// Values that a block takes: padded so that every one begins at 16 bytes.
constexpr int64_t skew_values(int64_t b) { return (b * (b - 1) / 2 + 7) / 8 * 8; }
constexpr int64_t skew_values_of_group(int64_t b, int64_t m) { return m * (int64_t(1) << (m - 1)) * skew_values(b); }
constexpr int64_t skew_values_of(int64_t dim, int64_t b, int64_t m) {
    return dim / (b << (m - 1)) * skew_values_of_group(b, m);
}

// The geometries that a device folds itself (kernels/cuda/fold.h), and the largest entry of S that elimination in fp32
// is trusted with: beyond it, folding is left to the CPU's double precision.
constexpr bool device_folds(int64_t b, int64_t m) {
    return b >= 2 && b <= 256 && m >= 1 && m <= 8 && (m == 1 || b % 2 == 0) && b << (m - 1) <= 512;
}
constexpr double kMostSkew = 8;

}  // namespace spartan
