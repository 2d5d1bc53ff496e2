#include "core/model/config.h"

#include "kernels/check.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace spartan {

const char* name_of(Projection p) {
    constexpr const char* names[kNumProjections] = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                                    "gate_proj", "up_proj", "down_proj"};
    return names[int(p)];
}

const char* name_of(GateFunction function) {
    switch (function) {
        case GateFunction::gelu:
            return "gelu";
        case GateFunction::gelu_tanh:
            return "gelu_pytorch_tanh";
        case GateFunction::silu:
            break;
    }
    return "silu";
}

float ModelConfig::score_scale() const {
    return attention_multiplier != 0 ? attention_multiplier : 1.0f / std::sqrt(float(head_dim));
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

// YaRN (Peng et al. 2023): features that turn more than beta_fast times within the original context are kept, those
// that turn less than beta_slow times stretched by `factor`, those between blended along a line over their numbers.
class Yarn {
public:
    Yarn(const RopeConfig& rope, int64_t rotary_size) : factor_(float(rope.factor)) {
        const auto feature_of = [&](double turns) {
            const double wave = double(rope.original_max_position) / (turns * 2 * std::numbers::pi);
            return double(rotary_size) * std::log(wave) / (2 * std::log(rope.theta));
        };
        double low = feature_of(rope.beta_fast), high = feature_of(rope.beta_slow);
        if (rope.truncate) low = std::floor(low), high = std::ceil(high);
        low = std::max(low, 0.), high = std::min(high, double(rotary_size - 1));
        if (low == high) high += 0.001;
        low_ = float(low), width_ = float(high - low);
    }

    float scaled(float f, int64_t i) const {
        const float kept = 1 - std::clamp((float(i) - low_) / width_, 0.f, 1.f);
        return f / factor_ * (1 - kept) + f * kept;
    }

private:
    float factor_, low_ = 0, width_ = 1;
};

}  // namespace

double yarn_attention_factor(double factor, double mscale) {
    return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1;
}

std::vector<float> rope_inv_freq(const ModelConfig& c) {
    const int64_t half = c.rotary_size() / 2;
    CHECK(c.rope.divisors.empty() || int64_t(c.rope.divisors.size()) == half);
    const Yarn yarn(c.rope, c.rotary_size());
    std::vector<float> inv_freq(size_t(half), 0.f);
    for (int64_t i = 0; i < half; ++i) {
        const float exponent = float(2 * i) / float(c.rotary_size());
        float f = 1.f / float(std::pow(double(float(c.rope.theta)), double(exponent)));
        if (c.rope.type == "linear") f /= float(c.rope.factor);
        if (c.rope.type == "llama3") f = scale_llama3(f, c.rope);
        if (c.rope.type == "yarn") f = yarn.scaled(f, i);
        if (!c.rope.divisors.empty()) f /= c.rope.divisors[size_t(i)];
        inv_freq[size_t(i)] = f;
    }
    return inv_freq;
}

}  // namespace spartan
