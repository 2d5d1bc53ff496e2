// A tiny model made by hand, PEFT folders written by hand, and what a loaded adapter computes, for the tests of
// core/adapter.
#pragma once

#include "core/adapter/adapter.h"
#include "core/base/file.h"
#include "core/base/json.h"
#include "core/model/safetensors.h"
#include "tests/core/adapter/dense_oracle.h"

#include <QTemporaryDir>

#include <map>
#include <random>

namespace spartan {

inline std::vector<float> normals(int64_t count, double deviation, unsigned seed, double mean = 0) {
    std::mt19937 generator(seed);
    std::normal_distribution<double> normal(mean, deviation);
    std::vector<float> values(static_cast<size_t>(count));
    for (float& v : values) v = float(normal(generator));
    return values;
}

// Widths with many divisors and one (down's 40 inputs) that is no power of two. q, k and v have biases.
inline ModelConfig tiny_config() {
    ModelConfig c;
    c.vocab_size = 50;
    c.hidden_size = 48;
    c.intermediate_size = 40;
    c.num_layers = 2;
    c.num_heads = 4;
    c.num_kv_heads = 2;
    c.head_dim = 8;
    c.max_position = 64;
    c.tied_embeddings = true;
    c.qkv_bias = true;
    return c;
}

template <class T>
Weights<T> tiny_weights(const ModelConfig& c) {
    Weights<T> w;
    w.embedding = PackedMatrix<T>(c.vocab_size, c.hidden_size);
    w.embedding.set_rows(0, c.vocab_size, normals(c.vocab_size * c.hidden_size, 1, 7).data());
    for (int64_t layer = 0; layer < c.num_layers; ++layer) {
        LayerWeights<T> l;
        for (int p = 0; p < kNumProjections; ++p) {
            const int64_t in = in_features(c, Projection(p)), out = out_features(c, Projection(p));
            const unsigned seed = unsigned(layer * 16 + p + 100);
            l.projection[size_t(p)] = PackedMatrix<T>(out, in);
            l.projection[size_t(p)].set_rows(0, out, normals(in * out, 0.2, seed).data());
            if (Projection(p) <= Projection::v) l.bias[size_t(p)] = normals(out, 0.5, seed + 50);
        }
        w.layers.push_back(std::move(l));
    }
    return w;
}

inline Model tiny_model(DType dtype = DType::f32) {
    Model model;
    model.info.name = "tiny";
    model.info.config = tiny_config();
    model.dtype = dtype;
    with_type(dtype, [&]<class T>(T) { model.weights = tiny_weights<T>(tiny_config()); });
    return model;
}

inline oracle::Vec base_weight(const Model& model, int layer, Projection p) {
    const int64_t in = in_features(model.config(), p), out = out_features(model.config(), p);
    std::vector<float> row(static_cast<size_t>(in));
    oracle::Vec w;
    std::visit(
        [&](const auto& weights) {
            for (int64_t n = 0; n < out; ++n) {
                weights.layers[size_t(layer)].projection[size_t(p)].get_row(n, row.data());
                w.insert(w.end(), row.begin(), row.end());
            }
        },
        model.weights);
    return w;
}
inline std::vector<float> base_bias(const Model& model, int layer, Projection p) {
    return std::visit([&](const auto& w) { return w.layers[size_t(layer)].bias[size_t(p)]; }, model.weights);
}

// A folder as PEFT would save it: change `config` and `tensors`, then write().
struct PeftFiles {
    struct Tensor {
        std::vector<int64_t> shape;
        std::vector<float> values;
    };
    Json config;
    std::vector<std::pair<std::string, Tensor>> tensors;  // names without "base_model.model."
    std::string prefix = "base_model.model.";
    QTemporaryDir temporary;

    std::string dir() const { return temporary.path().toStdString(); }
    std::string config_path() const { return dir() + "/adapter_config.json"; }
    std::string tensors_path() const { return dir() + "/adapter_model.safetensors"; }

    Tensor& add(const std::string& name, std::vector<int64_t> shape, double deviation = 0.2, double mean = 0) {
        int64_t count = 1;
        for (const int64_t n : shape) count *= n;
        Tensor tensor{std::move(shape), normals(count, deviation, unsigned(tensors.size()) + 1, mean)};
        tensors.emplace_back(name, std::move(tensor));
        return tensors.back().second;
    }
    Tensor& at(const std::string& name) {
        for (auto& [key, tensor] : tensors)
            if (key == name) return tensor;
        qFatal("no tensor %s", name.c_str());
    }
    void write() const {
        std::vector<SafetensorsTensor> list;
        for (const auto& [name, tensor] : tensors)
            list.push_back({prefix + name, "F32", tensor.shape, std::as_bytes(std::span(tensor.values))});
        const auto written = write_safetensors(tensors_path(), list, {{"format", "pt"}});
        const auto wrote_config = write_file_atomically(config_path(), config.dump(2));
        if (!written || !wrote_config) qFatal("cannot write the fixture");
    }
    Result<std::shared_ptr<const Adapter>> load(const Model& model, const std::string& name = "a") const {
        Progress progress;
        return load_adapter(name, dir(), model, progress);
    }
    Result<std::shared_ptr<const Adapter>> write_and_load(const Model& model) const {
        write();
        return load(model);
    }
};

inline std::string module_name(int layer, Projection p) {
    return "model.layers." + std::to_string(layer) + (p >= Projection::gate ? ".mlp." : ".self_attn.") + name_of(p);
}

inline Json targets_json(const std::vector<Projection>& targets) {
    Json list = Json::array();
    for (const Projection p : targets) list.push_back(name_of(p));
    return list;
}

inline const std::vector<Projection> kAll = {Projection::q,    Projection::k,  Projection::v,   Projection::o,
                                             Projection::gate, Projection::up, Projection::down};

inline void make_lora(PeftFiles& files, int64_t r, const std::vector<Projection>& targets = kAll) {
    files.config = {{"peft_type", "LORA"},
                    {"task_type", "CAUSAL_LM"},
                    {"base_model_name_or_path", "org/tiny"},
                    {"r", r},
                    {"lora_alpha", 16},
                    {"use_rslora", false},
                    {"use_dora", false},
                    {"target_modules", targets_json(targets)},
                    {"bias", "none"}};
    for (int layer = 0; layer < 2; ++layer)
        for (const Projection p : targets) {
            const std::string m = module_name(layer, p);
            files.add(m + ".lora_A.weight", {r, in_features(tiny_config(), p)});
            files.add(m + ".lora_B.weight", {out_features(tiny_config(), p), r});
        }
}

inline void make_boft(PeftFiles& files, int64_t b, int64_t m, const std::vector<Projection>& targets = kAll) {
    files.config = {{"peft_type", "BOFT"},  {"task_type", "CAUSAL_LM"}, {"base_model_name_or_path", "tiny"},
                    {"boft_block_size", b}, {"boft_block_num", 0},      {"boft_n_butterfly_factor", m},
                    {"boft_dropout", 0.0},  {"bias", "none"},           {"target_modules", targets_json(targets)}};
    for (int layer = 0; layer < 2; ++layer)
        for (const Projection p : targets) {
            const int64_t in = in_features(tiny_config(), p);
            files.add(module_name(layer, p) + ".boft_R", {m, in / b, b, b}, 0.5);
            files.add(module_name(layer, p) + ".boft_s", {out_features(tiny_config(), p), 1}, 0.3, 1);
        }
}

inline void make_oft(PeftFiles& files, int64_t b, const std::vector<Projection>& targets, bool share = false) {
    files.config = {{"peft_type", "OFT"},
                    {"task_type", "CAUSAL_LM"},
                    {"peft_version", "0.18.0"},
                    {"r", 0},
                    {"oft_block_size", b},
                    {"use_cayley_neumann", false},
                    {"coft", false},
                    {"block_share", share},
                    {"target_modules", targets_json(targets)},
                    {"bias", "none"}};
    for (int layer = 0; layer < 2; ++layer)
        for (const Projection p : targets) {
            const int64_t blocks = share ? 1 : in_features(tiny_config(), p) / b;
            files.add(module_name(layer, p) + ".oft_R.weight", {blocks, b * (b - 1) / 2}, 0.1);
        }
}

template <class V>
oracle::Vec blob_values(const Adapter& adapter, int64_t offset, int64_t count) {
    oracle::Vec values(static_cast<size_t>(count));
    for (size_t i = 0; i < values.size(); ++i) {
        V v;
        std::memcpy(&v, adapter.blob.data() + offset + int64_t(i * sizeof(V)), sizeof v);
        values[i] = double(to_float(v));
    }
    return values;
}
inline oracle::Vec part_values(const Adapter& adapter, int64_t offset, int64_t count) {
    return with_type(adapter.dtype, [&]<class T>(T) { return blob_values<T>(adapter, offset, count); });
}

// y = gain ⊙ (W · rot(x) + scale · B (A x)) + bias from the blob, in double precision.
inline oracle::Vec apply_part(const Adapter& adapter, const AdapterPart& part, const Model& model,
                              const oracle::Vec& x) {
    oracle::Vec rotated = x;
    if (part.rotation >= 0) {
        const int64_t g = part.group;
        const oracle::Vec r = part_values(adapter, part.rotation, part.in * g);
        std::fill(rotated.begin(), rotated.end(), 0.0);
        for (int64_t i = 0; i < part.in; ++i)
            for (int64_t v = 0; v < g; ++v) rotated[size_t(i / g * g + v)] += x[size_t(i)] * r[size_t(i * g + v)];
    }
    oracle::Vec y = oracle::matrix_times(base_weight(model, part.layer, part.projection), rotated);
    if (part.rank > 0) {
        const oracle::Vec inner = oracle::matrix_times(part_values(adapter, part.a, part.rank * part.in), x);
        const oracle::Vec b_t = part_values(adapter, part.b_t, part.rank * part.out);
        for (int64_t r = 0; r < part.rank; ++r)
            for (int64_t n = 0; n < part.out; ++n)
                y[size_t(n)] += double(part.scale) * b_t[size_t(r * part.out + n)] * inner[size_t(r)];
    }
    const auto base = base_bias(model, part.layer, part.projection);
    for (int64_t n = 0; n < part.out; ++n) {
        if (part.gain >= 0) y[size_t(n)] *= blob_values<float>(adapter, part.gain, part.out)[size_t(n)];
        if (part.bias >= 0)
            y[size_t(n)] += blob_values<float>(adapter, part.bias, part.out)[size_t(n)];
        else if (!base.empty())
            y[size_t(n)] += double(base[size_t(n)]);
    }
    return y;
}

inline oracle::Vec test_input(int64_t in) {
    const auto x = normals(in, 1, 99);
    return {x.begin(), x.end()};
}

inline double relative_difference(const oracle::Vec& a, const oracle::Vec& b) {
    double worst = 0, size = 0;
    for (size_t i = 0; i < a.size(); ++i) {
        if (!(std::abs(a[i] - b[i]) <= worst)) worst = std::abs(a[i] - b[i]);
        size = std::max(size, std::abs(b[i]));
    }
    return worst / size;
}

}  // namespace spartan
