// What the kernel tests share: random inputs, every instruction set and team size to try, and comparisons in which a
// NaN fails.
#pragma once

#include "kernels/device.h"
#include "kernels/view.h"

#include <QtTest>

#include <cmath>
#include <cstring>
#include <random>
#include <sstream>
#include <string>
#include <vector>

namespace spartan {

class Random {
public:
    explicit Random(uint32_t seed) : engine_(seed) {}
    int64_t between(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(engine_); }
    float normal(float sigma = 1) { return std::normal_distribution<float>(0, sigma)(engine_); }
    std::vector<float> normals(int64_t n, float sigma = 1) {
        std::vector<float> values(static_cast<size_t>(n));
        for (float& v : values) v = normal(sigma);
        return values;
    }
    bool chance(double p) { return std::bernoulli_distribution(p)(engine_); }

private:
    std::mt19937 engine_;
};

template <class T>
std::vector<T> stored_as(const std::vector<float>& values) {
    std::vector<T> out;
    for (const float v : values) out.push_back(from_float<T>(v));
    return out;
}

inline std::vector<CpuIsa> isa_levels() {
    std::vector<CpuIsa> levels;
    for (const CpuIsa isa : kCpuIsas)
        if (isa <= best_cpu_isa()) levels.push_back(isa);
    return levels;
}

std::string text_of(const auto&... parts) {
    std::ostringstream out;
    (out << ... << parts);
    return out.str();
}

// "" when every value is within `tolerance` of what is wanted (a NaN never is), else the first that is not.
inline std::string mismatch(const std::vector<float>& got, const std::vector<double>& want, double tolerance) {
    if (got.size() != want.size()) return "sizes differ";
    for (size_t i = 0; i < got.size(); ++i)
        if (!(std::abs(double(got[i]) - want[i]) <= tolerance * (1 + std::abs(want[i]))))
            return text_of("[", i, "]: got ", got[i], ", want ", want[i]);
    return "";
}

inline bool same_bits(const float* a, const float* b, int64_t n) { return std::memcmp(a, b, size_t(n) * 4) == 0; }

inline View<float, 2> view(std::vector<float>& v, int64_t rows, int64_t cols) { return {v.data(), {rows, cols}}; }
inline View<const float, 2> view(const std::vector<float>& v, int64_t rows, int64_t cols) {
    return {v.data(), {rows, cols}};
}

// QVERIFY with the kernel's case in the message.
#define VERIFY_CASE(ok, text) QVERIFY2(ok, std::string(text).c_str())

}  // namespace spartan
