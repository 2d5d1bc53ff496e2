#include "core/adapter/synthetic_weights.h"

#include <algorithm>
#include <cmath>

namespace spartan {
namespace {

// SplitMix64 (Steele, Lea and Flood 2014).
class Random {
public:
    explicit Random(uint64_t seed) : state_(seed) {}
    uint64_t next() {
        uint64_t z = state_ += 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        return z ^ z >> 31;
    }
    // Nearly normal, mean 0, standard deviation 1: the sum of four uniform 16-bit numbers.
    double normal() {
        const uint64_t bits = next();
        int64_t sum = -2 * 65535;
        for (int i = 0; i < 4; ++i) sum += int64_t(bits >> 16 * i & 0xffff);
        return double(sum) * (1.7320508075688772 / 65536.0);  // each has variance 65536² / 12
    }

private:
    uint64_t state_;
};

uint64_t mix(uint64_t hash, uint64_t value) { return Random(hash ^ value).next(); }

float exact_bf16(double value) { return to_float(to_bf16(float(value))); }

std::vector<float> normals(Random& random, int64_t count, double mean, double deviation) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float& v : values) v = exact_bf16(mean + deviation * random.normal());
    return values;
}

// Entries of the skew matrix S: (I - S)(I + S)⁻¹ moves x by about 2 |S x| = 2 · deviation · √b · |x|.
double skew_deviation(int64_t b) { return std::clamp(0.12 / std::sqrt(double(b)), 0.02, 0.1); }

}  // namespace

ModuleWeights synthetic_weights(const AdapterPart& part, AdapterKind kind, int64_t global_index, uint64_t seed) {
    uint64_t hash = mix(mix(seed, uint64_t(kind)), uint64_t(global_index));
    hash = mix(mix(hash, uint64_t(part.layer)), uint64_t(part.projection));
    Random random(hash);
    ModuleWeights w;
    const int64_t b = part.block_size;
    if (kind == AdapterKind::lora) {
        w.lora_a = normals(random, part.rank * part.in, 0, 1 / std::sqrt(double(part.in)));
        w.lora_b = normals(random, part.out * part.rank, 0, 0.06 / std::sqrt(double(part.rank)));
    } else if (kind == AdapterKind::boft) {
        // S is half the difference of two independent entries.
        w.boft_r = normals(random, part.num_factors * part.in * b, 0, std::sqrt(2.0) * skew_deviation(b));
        w.boft_s = normals(random, part.out, 1, 0.02);
    } else {
        w.oft_r = normals(random, part.in / b * (b * (b - 1) / 2), 0, skew_deviation(b));
    }
    return w;
}

}  // namespace spartan
