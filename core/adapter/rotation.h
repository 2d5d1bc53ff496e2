// The orthogonal matrices of OFT and BOFT, from the parameters that PEFT stores, in double precision. All matrices are
// square and row-major. Vectors are rows: out[v] = sum over u of x[u] * Q[u][v].
#pragma once

#include "core/base/progress.h"

#include <cmath>
#include <cstdint>
#include <vector>

namespace spartan {

using Matrix = std::vector<double>;

// BOFT: S = (A - Aᵀ) / 2 of a full block A [b, b]; diagonal and symmetric parts have no effect (peft boft/layer.py).
Matrix boft_skew(const float* a, int64_t b);

// OFT: S = U - Uᵀ, U's strict upper triangle filled row by row from b (b - 1) / 2 values; no half, unlike BOFT
// (peft oft/layer.py).
Matrix oft_skew(const float* upper, int64_t b);

// Constrained OFT: scales a matrix to the Frobenius norm `limit` when it is larger.
template <class Value>
void limit_norm(std::vector<Value>& values, double limit) {
    double sum = 0;
    for (const Value v : values) sum += double(v) * double(v);
    const double norm = std::sqrt(sum);
    if (!(norm > limit)) return;
    for (Value& v : values) v = Value(double(v) * (limit / norm));
}

// All that take a Progress stop early when it is cancelled; what they return then means nothing.

// (I - S)(I + S)⁻¹, orthogonal for every skew S. Not finite when S overflows.
Matrix cayley(const Matrix& s, int64_t b, const Progress& progress);

// PEFT's approximation of (I + S)(I - S)⁻¹ (the transpose of the exact one's result), which two releases cut off
// differently. K terms, K < 2: I.
//     since 0.18:   I + 2S + 2S² + … + 2S^(K-2) + S^(K-1), at least up to S³ when K > 2
//     0.16, 0.17:   I + 2 (S + S² + … + S^(K-1))
enum class NeumannSeries : uint8_t { peft_0_16, peft_0_18 };
Matrix neumann(const Matrix& s, int64_t b, int64_t terms, NeumannSeries series, const Progress& progress);

// Largest row sum of |QᵀQ - I| (infinity norm); NaN when Q holds one.
double orthogonality_error(const Matrix& q, int64_t b, const Progress& progress);

// The features, in order, that block `block` of butterfly factor `factor` mixes, relative to the start of the
// superblock of b·2^factor features it lies in: chunk k of b/2 features and chunk k + 2^factor, k = block mod 2^factor.
// b must be even unless factor is 0.
std::vector<int64_t> butterfly_features(int64_t b, int64_t factor, int64_t block);

// Multiplies one group of a butterfly chain out: factors [m][2^(m-1)][b][b] into [G][G], G = b·2^(m-1). The input meets
// factor m-1 first and factor 0 last, as y = W (Rᵀ x) does with R = M_(m-1) … M_0.
Matrix compose_butterfly(const Matrix& factors, int64_t b, int64_t m, const Progress& progress);

}  // namespace spartan
