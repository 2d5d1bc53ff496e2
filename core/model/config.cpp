#include "core/model/config.h"

#include "kernels/check.h"

#include <cmath>
#include <numbers>

namespace spartan {

const char* name_of(Projection p) {
    constexpr const char* names[kNumProjections] = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                                    "gate_proj", "up_proj", "down_proj"};
    return names[int(p)];
}

int64_t in_features(const ModelConfig& c, Projection p) {
    switch (p) {
        case Projection::o:
            return c.q_size();
        case Projection::down:
            return c.intermediate_size;
        default:
            return c.hidden_size;
    }
}

int64_t out_features(const ModelConfig& c, Projection p) {
    switch (p) {
        case Projection::q:
            return c.q_size();
        case Projection::k:
        case Projection::v:
            return c.kv_size();
        case Projection::gate:
        case Projection::up:
            return c.intermediate_size;
        default:
            return c.hidden_size;
    }
}

namespace {

// Llama 3.1: long waves are stretched by `factor`, short ones kept, those between blended (transformers,
// modeling_rope_utils.py, llama3).
float scale_llama3(float f, const RopeConfig& rope) {
    const auto factor = float(rope.factor), low = float(rope.low_freq_factor), high = float(rope.high_freq_factor);
    const auto original = double(rope.original_max_position);
    const float wavelength = float(2 * std::numbers::pi) / f;
    if (wavelength > float(original / rope.low_freq_factor)) return f / factor;
    if (wavelength < float(original / rope.high_freq_factor)) return f;
    const float smooth = (float(original) / wavelength - low) / (high - low);
    return (1 - smooth) * f / factor + smooth * f;
}

}  // namespace

std::vector<float> rope_inv_freq(const ModelConfig& c) {
    const int64_t half = c.head_dim / 2;
    CHECK(c.rope.divisors.empty() || int64_t(c.rope.divisors.size()) == half);
    std::vector<float> inv_freq(size_t(half), 0.f);
    for (int64_t i = 0; i < half; ++i) {
        const float exponent = float(2 * i) / float(c.head_dim);
        float f = 1.f / float(std::pow(double(float(c.rope.theta)), double(exponent)));
        if (c.rope.type == "linear") f /= float(c.rope.factor);
        if (c.rope.type == "llama3") f = scale_llama3(f, c.rope);
        if (!c.rope.divisors.empty()) f /= c.rope.divisors[size_t(i)];
        inv_freq[size_t(i)] = f;
    }
    return inv_freq;
}

}  // namespace spartan
