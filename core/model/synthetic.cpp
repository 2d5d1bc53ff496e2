// synthetic:SHAPE: models of real sizes with random weights that are never stored: each value is a function of the
// seed, its tensor and its index, so any part can be made by any thread in any order.
#include "core/base/text.h"
#include "core/model/layout.h"
#include "core/model/source.h"
#include "core/tokenizer/chat_template.h"
#include "core/tokenizer/tokenizer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

namespace spartan {
namespace {

constexpr Token kEndOfText = 256;  // of the byte tokenizer

struct Shape {
    const char* name;
    int64_t vocab, hidden, intermediate, layers, heads, kv_heads, head_dim, max_position;
    double theta;
    bool tied;
};

// Sizes from the models' own config.json; `tiny` is made for tests.
constexpr Shape kShapes[] = {
    {"llama-2-7b", 32000, 4096, 11008, 32, 32, 32, 128, 4096, 1e4, false},
    {"llama-2-13b", 32000, 5120, 13824, 40, 40, 40, 128, 4096, 1e4, false},
    {"llama-3-8b", 128256, 4096, 14336, 32, 32, 8, 128, 8192, 5e5, false},
    {"smollm2-135m", 49152, 576, 1536, 30, 9, 3, 64, 8192, 1e5, true},
    {"tiny", 320, 128, 384, 2, 4, 2, 32, 4096, 1e4, false},
};

ModelConfig config_of(const Shape& s) {
    ModelConfig c;
    c.vocab_size = s.vocab;
    c.hidden_size = s.hidden;
    c.intermediate_size = s.intermediate;
    c.num_layers = s.layers;
    c.num_heads = s.heads;
    c.num_kv_heads = s.kv_heads;
    c.head_dim = s.head_dim;
    c.max_position = s.max_position;
    c.rms_norm_eps = 1e-5f;
    c.rope.theta = s.theta;
    c.tied_embeddings = s.tied;
    c.eos = {kEndOfText};
    return c;
}

// The finaliser of SplitMix64 (Steele et al. 2014).
constexpr uint64_t mix(uint64_t x) {
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

constexpr uint64_t kStep = 0x9e3779b97f4a7c15u;

uint64_t key_of(uint64_t seed, std::string_view name) {
    uint64_t key = mix(seed + kStep);
    for (const char c : name) key = mix(key ^ uint8_t(c)) + kStep;
    return key;
}

// Values [first, first + count) of a uniform distribution over 2^16 steps with mean 0 and the given standard deviation.
void fill_uniform(uint64_t key, float deviation, int64_t first, int64_t count, float* out) {
    const float scale = deviation * std::sqrt(3.f) / 32767.5f;
    const auto value = [&](uint64_t bits) { return (float(int16_t(uint16_t(bits))) + 0.5f) * scale; };
    const auto four = [&](int64_t group) { return mix(key + uint64_t(group) * kStep); };
    int64_t i = first;
    const int64_t end = first + count;
    for (; i < end && i % 4 != 0; ++i) *out++ = value(four(i / 4) >> (16 * (i % 4)));
    for (; i + 4 <= end; i += 4, out += 4) {
        const uint64_t bits = four(i / 4);
        for (int k = 0; k < 4; ++k) out[k] = value(bits >> (16 * k));
    }
    for (; i < end; ++i) *out++ = value(four(i / 4) >> (16 * (i % 4)));
}

// Standard deviation that keeps activations near 1 in every layer: 1/sqrt(in), less where a layer adds to the residual.
float deviation_of(const WeightSlot& slot, const ModelConfig& c) {
    const float deviation = 1.f / std::sqrt(float(slot.shape.back()));
    const bool adds = slot.role == WeightRole::projection &&
                      (slot.projection == Projection::o || slot.projection == Projection::down);
    return adds ? deviation / std::sqrt(2.f * float(c.num_layers)) : deviation;
}

TensorSource make_source(const WeightSlot& slot, const ModelConfig& config, uint64_t seed) {
    TensorSource t;
    t.name = slot.name;
    t.shape = slot.shape;
    t.dtype = "F32";
    t.bytes = 4 * t.rows() * t.cols();
    const int64_t cols = t.cols();
    if (!slot.is_matrix()) {
        t.read_rows = [cols](int64_t, int64_t count, float* out) -> Result<void> {
            std::fill_n(out, count * cols, 1.f);
            return {};
        };
        return t;
    }
    const uint64_t key = key_of(seed, slot.name);
    const float deviation = deviation_of(slot, config);
    t.read_rows = [=](int64_t first, int64_t count, float* out) -> Result<void> {
        fill_uniform(key, deviation, first * cols, count * cols, out);
        return {};
    };
    return t;
}

}  // namespace

std::vector<std::string> synthetic_shapes() {
    std::vector<std::string> names;
    for (const Shape& s : kShapes) names.emplace_back(s.name);
    return names;
}

Result<OpenedModel> open_synthetic(const std::string& path, uint64_t seed) {
    const std::string name = path.substr(path.find(':') + 1);
    const auto* shape =
        std::find_if(std::begin(kShapes), std::end(kShapes), [&](const Shape& s) { return name == s.name; });
    if (shape == std::end(kShapes))
        return Error{path, "shape", '"' + shorten(name, 80) + '"', "one of " + join(synthetic_shapes(), ", ")};
    OpenedModel opened;
    opened.path = path;
    opened.name = "synthetic " + name;
    opened.source = "synthetic";
    opened.config = config_of(*shape);
    opened.seed = seed;
    for (const WeightSlot& slot : weight_slots(opened.config)) {
        opened.tensors.push_back(make_source(slot, opened.config, seed));
        opened.parameters += opened.tensors.back().rows() * opened.tensors.back().cols();
    }
    opened.dtype = "F32";
    opened.tokenizer = make_byte_tokenizer();
    opened.chat_template = ChatTemplate::make({});
    return opened;
}

}  // namespace spartan
