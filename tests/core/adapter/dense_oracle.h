// PEFT's own formulas, written plainly with dense matrices in double precision. Shares no code with core/adapter.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace oracle {

using Vec = std::vector<double>;

struct Dense {
    int64_t n = 0;
    Vec v;
    explicit Dense(int64_t size) : n(size), v(size_t(size * size), 0.0) {}
    double& at(int64_t i, int64_t j) { return v[size_t(i * n + j)]; }
    double at(int64_t i, int64_t j) const { return v[size_t(i * n + j)]; }
};

inline Dense eye(int64_t n) {
    Dense m(n);
    for (int64_t i = 0; i < n; ++i) m.at(i, i) = 1;
    return m;
}
inline Dense operator*(const Dense& a, const Dense& b) {
    Dense c(a.n);
    for (int64_t i = 0; i < a.n; ++i)
        for (int64_t k = 0; k < a.n; ++k)
            if (a.at(i, k) != 0)
                for (int64_t j = 0; j < a.n; ++j) c.at(i, j) += a.at(i, k) * b.at(k, j);
    return c;
}
inline Dense operator+(const Dense& a, const Dense& b) {
    Dense c = a;
    for (size_t i = 0; i < c.v.size(); ++i) c.v[i] += b.v[i];
    return c;
}
inline Dense scaled(const Dense& a, double f) {
    Dense c = a;
    for (double& x : c.v) x *= f;
    return c;
}
inline Dense transposed(const Dense& a) {
    Dense c(a.n);
    for (int64_t i = 0; i < a.n; ++i)
        for (int64_t j = 0; j < a.n; ++j) c.at(i, j) = a.at(j, i);
    return c;
}
// Gauss-Jordan with row pivots.
inline Dense inverse(Dense a) {
    Dense r = eye(a.n);
    for (int64_t k = 0; k < a.n; ++k) {
        int64_t pivot = k;
        for (int64_t i = k; i < a.n; ++i)
            if (std::abs(a.at(i, k)) > std::abs(a.at(pivot, k))) pivot = i;
        for (int64_t j = 0; j < a.n; ++j) {
            std::swap(a.at(k, j), a.at(pivot, j));
            std::swap(r.at(k, j), r.at(pivot, j));
        }
        const double d = a.at(k, k);
        for (int64_t j = 0; j < a.n; ++j) {
            a.at(k, j) /= d;
            r.at(k, j) /= d;
        }
        for (int64_t i = 0; i < a.n; ++i) {
            if (i == k) continue;
            const double f = a.at(i, k);
            for (int64_t j = 0; j < a.n; ++j) {
                a.at(i, j) -= f * a.at(k, j);
                r.at(i, j) -= f * r.at(k, j);
            }
        }
    }
    return r;
}

// block_butterfly_perm for factor i: the half-chunks of each superblock of b·2^i features as 0, 2, 4, …, 1, 3, 5, ….
inline std::vector<int64_t> permutation(int64_t d, int64_t b, int64_t i) {
    std::vector<int64_t> perm;
    if (i == 0) {
        for (int64_t a = 0; a < d; ++a) perm.push_back(a);
        return perm;
    }
    const int64_t h = b / 2, superblock = b << i, chunks = int64_t(2) << i;
    for (int64_t base = 0; base < d; base += superblock)
        for (const int64_t parity : {0, 1})
            for (int64_t c = parity; c < chunks; c += 2)
                for (int64_t t = 0; t < h; ++t) perm.push_back(base + c * h + t);
    return perm;
}

inline Dense exact_cayley(const Dense& s) { return (eye(s.n) + scaled(s, -1)) * inverse(eye(s.n) + s); }

// R = M_(m-1) … M_0 of boft_R [m, D, b, b].
inline Dense boft_rotation(const std::vector<float>& boft_r, int64_t m, int64_t blocks, int64_t b) {
    const int64_t d = blocks * b;
    Dense total = eye(d);
    for (int64_t i = 0; i < m; ++i) {
        Dense diagonal(d);
        for (int64_t j = 0; j < blocks; ++j) {
            Dense a(b);
            for (int64_t k = 0; k < b * b; ++k) a.v[size_t(k)] = double(boft_r[size_t((i * blocks + j) * b * b + k)]);
            const Dense q = exact_cayley(scaled(a + scaled(transposed(a), -1), 0.5));
            for (int64_t u = 0; u < b; ++u)
                for (int64_t v = 0; v < b; ++v) diagonal.at(j * b + u, j * b + v) = q.at(u, v);
        }
        Dense p(d);
        const auto perm = permutation(d, b, i);
        for (int64_t a = 0; a < d; ++a) p.at(a, perm[size_t(a)]) = 1;
        total = (p * diagonal * transposed(p)) * total;
    }
    return total;
}

struct OftRules {
    bool neumann = false, old_series = false, coft = false, share = false;
    int64_t terms = 5;
    double eps = 6e-5;
};

inline Dense power(const Dense& q, int64_t k) {
    Dense p = eye(q.n);
    for (int64_t i = 0; i < k; ++i) p = p * q;
    return p;
}

// PEFT's series by the table of terms: coefficient of Q^k.
inline Dense neumann_series(const Dense& q, int64_t terms, bool old_series) {
    Dense r = eye(q.n);
    if (terms < 2) return r;
    if (old_series || terms == 2) {
        for (int64_t k = 1; k < terms; ++k) r = r + scaled(power(q, k), 2);
        return r;
    }
    const int64_t last = terms == 3 ? 3 : terms - 1;
    for (int64_t k = 1; k < last; ++k) r = r + scaled(power(q, k), 2);
    return r + power(q, last);
}

// The block-diagonal of oft_R [rows, b (b - 1) / 2]; y_block = x_block · block.
inline Dense oft_rotation(const std::vector<float>& oft_r, int64_t rows, int64_t b, int64_t d, const OftRules& rules) {
    Dense total(d);
    for (int64_t j = 0; j < d / b; ++j) {
        Dense q(b);
        size_t at = size_t((rules.share ? 0 : j) * (b * (b - 1) / 2));
        for (int64_t u = 0; u < b; ++u)
            for (int64_t v = u + 1; v < b; ++v, ++at) {
                q.at(u, v) = double(oft_r[at]);
                q.at(v, u) = -double(oft_r[at]);
            }
        if (rules.coft) {
            double sum = 0;
            for (const double x : q.v) sum += x * x;
            const double limit = rules.eps / std::sqrt(double(rows));
            if (std::sqrt(sum) > limit) q = scaled(q, limit / std::sqrt(sum));
        }
        const Dense block = rules.neumann ? neumann_series(q, rules.terms, rules.old_series) : exact_cayley(q);
        for (int64_t u = 0; u < b; ++u)
            for (int64_t v = 0; v < b; ++v) total.at(j * b + u, j * b + v) = block.at(u, v);
    }
    return total;
}

inline Vec row_times(const Vec& x, const Dense& m) {
    Vec y(x.size(), 0.0);
    for (int64_t u = 0; u < m.n; ++u)
        for (int64_t v = 0; v < m.n; ++v) y[size_t(v)] += x[size_t(u)] * m.at(u, v);
    return y;
}

// W [out, in] times x.
inline Vec matrix_times(const Vec& w, const Vec& x) {
    const size_t in = x.size();
    Vec y(w.size() / in, 0.0);
    for (size_t n = 0; n < y.size(); ++n)
        for (size_t k = 0; k < in; ++k) y[n] += w[n * in + k] * x[k];
    return y;
}

}  // namespace oracle
