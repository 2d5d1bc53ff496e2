// Test data for benchmarks. A value is a function of its index alone, so that a check on the host needs no copy of it.
#pragma once

#include "kernels/cuda/device.h"

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

namespace spartan {

// Evenly between -amplitude and amplitude.
HOST_DEVICE inline float random_value(int64_t index, uint32_t seed, float amplitude) {
    uint32_t h = uint32_t(index) * 0x9E3779B9u + seed * 0x85EBCA6Bu + uint32_t(index >> 32);
    h ^= h >> 16;
    h *= 0x85EBCA6Bu;
    h ^= h >> 13;
    h *= 0xC2B2AE35u;
    h ^= h >> 16;
    return float(int32_t(h >> 8) - (1 << 23)) * (amplitude / float(1 << 23));
}

void fill_random(CudaDevice&, float* to, int64_t count, uint32_t seed, float amplitude);
void fill_random(CudaDevice&, bf16* to, int64_t count, uint32_t seed, float amplitude);

// On the device, and on the host value by value.
template <class T>
class RandomArray {
public:
    RandomArray(CudaDevice& device, int64_t count, uint32_t seed, float amplitude)
        : device_(device), memory_(count * int64_t(sizeof(T))), count_(count), seed_(seed), amplitude_(amplitude) {
        fill();
    }
    void fill() { fill_random(device_, data(), count_, seed_, amplitude_); }
    T* data() const { return memory_.as<T>(); }
    int64_t size() const { return count_; }
    double operator[](int64_t i) const { return double(to_float(from_float<T>(random_value(i, seed_, amplitude_)))); }
    double at(const T* p) const { return (*this)[p - data()]; }  // of an element of it

private:
    CudaDevice& device_;
    DeviceMemory memory_;
    int64_t count_;
    uint32_t seed_;
    float amplitude_;
};

// Starts as NaN, so that what a kernel leaves out shows.
template <class T>
class OutputArray {
public:
    OutputArray(CudaDevice& device, int64_t count) : memory_(count * int64_t(sizeof(T))), count_(count) {
        CHECK_CUDA(cudaMemsetAsync(memory_.data(), 0xff, size_t(memory_.bytes()), device.stream()));
    }
    T* data() const { return memory_.as<T>(); }
    int64_t size() const { return count_; }

private:
    DeviceMemory memory_;
    int64_t count_;
};

template <class T>
class TableArray {
public:
    explicit TableArray(const std::vector<T>& values) : memory_(int64_t(values.size() * sizeof(T))) {
        if (!values.empty())
            CHECK_CUDA(cudaMemcpy(memory_.data(), values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
        CHECK_CUDA(cudaDeviceSynchronize());
    }
    T* data() const { return memory_.as<T>(); }

private:
    DeviceMemory memory_;
};

// Compares `samples` of `count` values on the device, scattered, with want(index): "" or what is wrong. `tolerance` is
// for the error's length over the values' length.
template <class T, class Want>
std::string check_values(CudaDevice& device, const T* values, int64_t count, int samples, double tolerance,
                         const Want& want) {
    device.synchronize();
    double error = 0, norm = 0;
    for (int s = 0; s < samples; ++s) {
        const auto scattered = int64_t((uint64_t(s) * 0x9E3779B97F4A7C15u >> 11) % uint64_t(count));
        const int64_t i = s == 1 ? count - 1 : scattered;
        T got;
        CHECK_CUDA(cudaMemcpy(&got, values + i, sizeof got, cudaMemcpyDeviceToHost));
        const double wanted = want(i), off = double(to_float(got)) - wanted;
        error += off * off;
        norm += wanted * wanted;
    }
    const double relative = std::sqrt(error / norm);
    if (relative <= tolerance) return "";
    char text[64];
    std::snprintf(text, sizeof text, "error %.2g, allowed %.2g", relative, tolerance);
    return text;
}

}  // namespace spartan
