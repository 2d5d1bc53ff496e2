// For tests that need a GPU: skips them, with the reason, where there is none.
#pragma once

#include "kernels/cuda/device.h"

#include <QtTest>

#include <cstring>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#define SKIP_WITHOUT_GPU()                                                                                  \
    do {                                                                                                    \
        int devices_ = 0;                                                                                   \
        const cudaError_t status_ = cudaGetDeviceCount(&devices_);                                          \
        if (status_ != cudaSuccess || devices_ == 0)                                                        \
            QSKIP(qPrintable(QStringLiteral("no GPU: ") + QString::fromUtf8(cudaGetErrorString(status_)))); \
    } while (0)

// Fails with what is wrong; "": nothing is.
#define VERIFY_RIGHT(wrong)                       \
    do {                                          \
        const std::string wrong_ = (wrong);       \
        QVERIFY2(wrong_.empty(), wrong_.c_str()); \
    } while (0)

namespace spartan {

// Fewer and smaller cases of every kernel: for sanitizers, which slow kernels a hundredfold (gpu.sh asks for them).
inline bool small_cases() { return qEnvironmentVariableIntValue("SPARTAN_SMALL_CASES") != 0; }
template <class V>
V cases(V all, V few) {
    return small_cases() ? few : all;
}

std::string text_of(const auto&... parts) {
    std::ostringstream out;
    (out << ... << parts);
    return out.str();
}

// An array on the device. Starts as all ones, which is NaN in every storage type, so that what a kernel leaves out
// shows. Constructors wait: neither cudaMemset nor cudaMemcpy from pageable memory is in order with a device's own
// stream.
template <class T>
class DeviceArray {
public:
    explicit DeviceArray(size_t count) : memory_(int64_t(count * sizeof(T))), count_(count) {
        if (count == 0) return;
        CHECK_CUDA(cudaMemset(memory_.data(), 0xff, count * sizeof(T)));
        CHECK_CUDA(cudaDeviceSynchronize());
    }
    explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) {
        if (values.empty()) return;
        CHECK_CUDA(cudaMemcpy(memory_.data(), values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice));
        CHECK_CUDA(cudaDeviceSynchronize());
    }
    T* data() const { return memory_.as<T>(); }
    size_t size() const { return count_; }
    std::vector<T> read() const {
        CHECK_CUDA(cudaDeviceSynchronize());
        std::vector<T> values(count_);
        if (count_ > 0)
            CHECK_CUDA(cudaMemcpy(values.data(), memory_.data(), count_ * sizeof(T), cudaMemcpyDeviceToHost));
        return values;
    }

private:
    DeviceMemory memory_;
    size_t count_;
};

template <class T>
std::vector<T> random_values(size_t count, uint32_t seed, float scale = 1) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0, scale);
    std::vector<T> values(count);
    for (T& v : values) v = from_float<T>(normal(random));
    return values;
}

// |got - want| / |want| as vectors; NaN when anything is not finite.
template <class T>
double relative_error(const std::vector<T>& got, const std::vector<double>& want) {
    double error = 0, norm = 0;
    for (size_t i = 0; i < want.size(); ++i) {
        const double d = double(to_float(got[i])) - want[i];
        error += d * d;
        norm += want[i] * want[i];
    }
    return std::sqrt(error / norm);
}

// What one rounding to T may leave of relative_error().
template <class T>
constexpr double kTolerance = std::is_same_v<T, float>  ? 3e-6
                              : std::is_same_v<T, bf16> ? 4e-3
                                                        : 5e-4;

}  // namespace spartan
