#include "core/adapter/rotation.h"

#include "kernels/check.h"
#include "kernels/widest_vectors.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace spartan {
namespace {

Matrix identity(int64_t b) {
    Matrix q(size_t(b * b), 0.0);
    for (int64_t i = 0; i < b; ++i) q[size_t(i * b + i)] = 1;
    return q;
}

Matrix product(const Matrix& left, const Matrix& right, int64_t b, const Progress& progress) {
    Matrix out(size_t(b * b), 0.0);
    for (int64_t i = 0; i < b && !progress.cancelled(); ++i) {
        double* row = &out[size_t(i * b)];
        for (int64_t k = 0; k < b; ++k) {
            const double factor = left[size_t(i * b + k)];
            const double* from = &right[size_t(k * b)];
            for (int64_t j = 0; j < b; ++j) row[j] += factor * from[j];
        }
    }
    return out;
}

void add(Matrix& to, const Matrix& from, double factor) {
    for (size_t i = 0; i < to.size(); ++i) to[i] += factor * from[i];
}

void subtract_row(double* row, const double* pivot_row, double factor, int64_t first, int64_t last) {
    for (int64_t j = first; j < last; ++j) row[j] -= factor * pivot_row[j];
}

int64_t pivot_of(const Matrix& a, int64_t column, int64_t b) {
    int64_t best = column;
    for (int64_t i = column + 1; i < b; ++i)
        if (std::abs(a[size_t(i * b + column)]) > std::abs(a[size_t(best * b + column)])) best = i;
    return best;
}

// rhs = A⁻¹ · rhs by elimination with row pivots.
WIDEST_VECTORS void solve(Matrix& a, Matrix& rhs, int64_t b, const Progress& progress) {
    for (int64_t k = 0; k < b && !progress.cancelled(); ++k) {
        const int64_t pivot = pivot_of(a, k, b);
        if (pivot != k) {
            std::swap_ranges(&a[size_t(k * b)], &a[size_t(k * b)] + b, &a[size_t(pivot * b)]);
            std::swap_ranges(&rhs[size_t(k * b)], &rhs[size_t(k * b)] + b, &rhs[size_t(pivot * b)]);
        }
        for (int64_t i = k + 1; i < b; ++i) {
            const double factor = a[size_t(i * b + k)] / a[size_t(k * b + k)];
            subtract_row(&a[size_t(i * b)], &a[size_t(k * b)], factor, k + 1, b);
            subtract_row(&rhs[size_t(i * b)], &rhs[size_t(k * b)], factor, 0, b);
        }
    }
    for (int64_t k = b - 1; k >= 0 && !progress.cancelled(); --k) {
        double* row = &rhs[size_t(k * b)];
        for (int64_t i = k + 1; i < b; ++i) subtract_row(row, &rhs[size_t(i * b)], a[size_t(k * b + i)], 0, b);
        for (int64_t j = 0; j < b; ++j) row[j] /= a[size_t(k * b + k)];
    }
}

// mixed[v] = sum over u of q[u][v] * columns[base + features[u]], columns of `group` values.
WIDEST_VECTORS void mix_columns(const double* q, const Matrix& columns, int64_t base,
                                const std::vector<int64_t>& features, int64_t b, int64_t group, Matrix& mixed) {
    std::fill(mixed.begin(), mixed.end(), 0.0);
    for (int64_t u = 0; u < b; ++u) {
        const double* from = &columns[size_t((base + features[size_t(u)]) * group)];
        for (int64_t v = 0; v < b; ++v) {
            const double weight = q[u * b + v];
            double* to = &mixed[size_t(v * group)];
            for (int64_t i = 0; i < group; ++i) to[i] += weight * from[i];
        }
    }
}

// The same where the columns are still those of the identity.
void place_columns(const double* q, int64_t base, const std::vector<int64_t>& features, int64_t b, int64_t group,
                   Matrix& mixed) {
    std::fill(mixed.begin(), mixed.end(), 0.0);
    for (int64_t u = 0; u < b; ++u)
        for (int64_t v = 0; v < b; ++v) mixed[size_t(v * group + base + features[size_t(u)])] = q[u * b + v];
}

}  // namespace

Matrix boft_skew(const float* a, int64_t b) {
    Matrix s(size_t(b * b));
    for (int64_t i = 0; i < b; ++i)
        for (int64_t j = 0; j < b; ++j) s[size_t(i * b + j)] = (double(a[i * b + j]) - double(a[j * b + i])) / 2;
    return s;
}

Matrix oft_skew(const float* upper, int64_t b) {
    Matrix s(size_t(b * b), 0.0);
    for (int64_t i = 0; i < b; ++i) {
        for (int64_t j = i + 1; j < b; ++j, ++upper) {
            s[size_t(i * b + j)] = double(*upper);
            s[size_t(j * b + i)] = -double(*upper);
        }
    }
    return s;
}

Matrix cayley(const Matrix& s, int64_t b, const Progress& progress) {
    CHECK(int64_t(s.size()) == b * b);
    Matrix plus = identity(b), minus = plus;
    add(plus, s, 1);
    add(minus, s, -1);
    // Both are polynomials of S and commute, so (I - S)(I + S)⁻¹ = (I + S)⁻¹(I - S).
    solve(plus, minus, b, progress);
    return minus;
}

Matrix neumann(const Matrix& s, int64_t b, int64_t terms, NeumannSeries series, const Progress& progress) {
    CHECK(int64_t(s.size()) == b * b);
    Matrix sum = identity(b);
    if (terms < 2) return sum;
    add(sum, s, 2);
    if (terms == 2) return sum;
    Matrix power = product(s, s, b, progress);
    add(sum, power, 2);
    if (series == NeumannSeries::peft_0_16) {
        for (int64_t k = 3; k < terms; ++k) {
            power = product(power, s, b, progress);
            add(sum, power, 2);
        }
        return sum;
    }
    for (int64_t k = 3; k < terms - 1; ++k) {
        power = product(power, s, b, progress);
        add(sum, power, 2);
    }
    add(sum, product(power, s, b, progress), 1);
    return sum;
}

WIDEST_VECTORS double orthogonality_error(const Matrix& q, int64_t b, const Progress& progress) {
    // Row i of QᵀQ gathers column i of Q times its rows, so that the inner loop runs along memory.
    double worst = 0;
    std::vector<double> row(size_t(b), 0.0);
    for (int64_t i = 0; i < b && !progress.cancelled(); ++i) {
        std::fill(row.begin(), row.end(), 0.0);
        for (int64_t k = 0; k < b; ++k) {
            const double factor = q[size_t(k * b + i)];
            const double* from = &q[size_t(k * b)];
            for (int64_t j = 0; j < b; ++j) row[size_t(j)] += factor * from[j];
        }
        row[size_t(i)] -= 1;
        double sum = 0;
        for (const double v : row) sum += std::abs(v);
        if (!(sum <= worst)) worst = sum;
        if (std::isnan(worst)) return worst;
    }
    return worst;
}

std::vector<int64_t> butterfly_features(int64_t b, int64_t factor, int64_t block) {
    CHECK(factor >= 0 && factor < 62 && (factor == 0 || b % 2 == 0));
    std::vector<int64_t> features(static_cast<size_t>(b));
    if (factor == 0) {
        for (int64_t t = 0; t < b; ++t) features[size_t(t)] = t;
        return features;
    }
    const int64_t half = b / 2, stride = int64_t(1) << factor, chunk = block % stride;
    for (int64_t t = 0; t < half; ++t) {
        features[size_t(t)] = chunk * half + t;
        features[size_t(half + t)] = (chunk + stride) * half + t;
    }
    return features;
}

Matrix compose_butterfly(const Matrix& factors, int64_t b, int64_t m, const Progress& progress) {
    const int64_t blocks = int64_t(1) << (m - 1), group = b * blocks;
    CHECK(int64_t(factors.size()) == m * blocks * b * b);
    // Kept transposed: column v of the product is one run of memory, and a block mixes whole columns.
    Matrix columns = identity(group), mixed(size_t(b * group));
    for (int64_t factor = m - 1; factor >= 0; --factor) {
        const int64_t superblock = int64_t(1) << factor;
        for (int64_t block = 0; block < blocks && !progress.cancelled(); ++block) {
            const double* q = &factors[size_t((factor * blocks + block) * b * b)];
            const int64_t base = block / superblock * superblock * b;
            const std::vector<int64_t> features = butterfly_features(b, factor, block);
            if (factor == m - 1)
                place_columns(q, base, features, b, group, mixed);
            else
                mix_columns(q, columns, base, features, b, group, mixed);
            for (int64_t v = 0; v < b; ++v)
                std::copy_n(&mixed[size_t(v * group)], group, &columns[size_t((base + features[size_t(v)]) * group)]);
        }
    }
    for (int64_t u = 0; u < group; ++u)
        for (int64_t v = u + 1; v < group; ++v)
            std::swap(columns[size_t(u * group + v)], columns[size_t(v * group + u)]);
    return columns;
}

}  // namespace spartan
