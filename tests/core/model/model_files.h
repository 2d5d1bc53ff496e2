// Builds small model files, whole ones and damaged ones.
#pragma once

#include "core/base/file.h"
#include "core/base/json.h"
#include "core/model/config.h"
#include "core/model/layout.h"
#include "kernels/view.h"

#include <QDir>
#include <QFile>
#include <QTest>
#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace spartan::test {

template <class T>
std::string bytes_of(const T& value) {
    return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}
template <class T>
std::string bytes_of(const std::vector<T>& values) {
    return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

inline void put(const std::string& path, const std::string& content) {
    // Without fsync, and as a new file (some file systems flush one that was truncated): tests write thousands.
    QFile file(QString::fromStdString(path));
    file.remove();
    QVERIFY2(file.open(QIODevice::WriteOnly | QIODevice::Truncate), path.c_str());
    QVERIFY(file.write(content.data(), qint64(content.size())) == qint64(content.size()));
}

inline std::vector<float> random_floats(int64_t count, uint32_t seed, float deviation = 0.1f) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0, deviation);
    std::vector<float> values(size_t(count), 0.f);
    for (float& v : values) v = normal(random);
    return values;
}

// ---- safetensors ---------------------------------------------------------------------------------------------------

inline std::string raw_safetensors(const std::string& header, const std::string& data) {
    return bytes_of(uint64_t(header.size())) + header + data;
}

struct FileTensor {
    std::string name, dtype;
    std::vector<int64_t> shape;
    std::string data;
};

inline std::string safetensors(const std::vector<FileTensor>& tensors) {
    Json header = Json::object();
    std::string data;
    for (const FileTensor& t : tensors) {
        header[t.name] = {
            {"dtype", t.dtype}, {"shape", t.shape}, {"data_offsets", {data.size(), data.size() + t.data.size()}}};
        data += t.data;
    }
    return raw_safetensors(header.dump(), data);
}

// A complete Hugging Face folder of a few kilobytes; change what a case is about, then write().
struct TinyHf {
    Json config, generation = Json::object();
    std::vector<FileTensor> tensors;

    FileTensor& tensor(const std::string& name) {
        for (FileTensor& t : tensors)
            if (t.name == name) return t;
        tensors.push_back({name, "F32", {}, ""});
        return tensors.back();
    }
    void write(const std::string& dir) const {
        QDir().mkpath(QString::fromStdString(dir));
        put(dir + "/config.json", config.dump());
        if (!generation.empty()) put(dir + "/generation_config.json", generation.dump());
        put(dir + "/model.safetensors", safetensors(tensors));
    }
};

inline Json tiny_config_json() {
    return {{"architectures", {"LlamaForCausalLM"}},
            {"model_type", "llama"},
            {"hidden_act", "silu"},
            {"vocab_size", 10},
            {"hidden_size", 8},
            {"intermediate_size", 12},
            {"num_hidden_layers", 2},
            {"num_attention_heads", 2},
            {"num_key_value_heads", 1},
            {"head_dim", 4},
            {"max_position_embeddings", 64},
            {"rms_norm_eps", 1e-5},
            {"rope_theta", 10000.0},
            {"tie_word_embeddings", false},
            {"bos_token_id", 1},
            {"eos_token_id", 2}};
}

inline ModelConfig tiny_config() {
    ModelConfig c;
    c.vocab_size = 10, c.hidden_size = 8, c.intermediate_size = 12, c.num_layers = 2;
    c.num_heads = 2, c.num_kv_heads = 1, c.head_dim = 4, c.max_position = 64;
    return c;
}

inline TinyHf tiny_hf(const ModelConfig& shape = tiny_config()) {
    TinyHf hf;
    hf.config = tiny_config_json();
    uint32_t seed = 1;
    for (const WeightSlot& slot : weight_slots(shape)) {
        int64_t count = 1;
        for (const int64_t n : slot.shape) count *= n;
        hf.tensors.push_back({slot.name, "F32", slot.shape, bytes_of(random_floats(count, seed++))});
    }
    return hf;
}

// ---- GGUF ----------------------------------------------------------------------------------------------------------

class GgufBuilder {
public:
    uint32_t version = 3;
    int64_t alignment = 32;
    std::string magic = "GGUF";

    struct Tensor {
        std::string name;
        std::vector<uint64_t> ne;  // innermost first
        uint32_t type;
        std::string data;
        int64_t offset = -1;  // -1: where it belongs
    };
    std::vector<Tensor> tensors;
    uint64_t tensor_count = UINT64_MAX, pair_count = UINT64_MAX;  // UINT64_MAX: as many as there are

    static std::string text(const std::string& s) { return bytes_of(uint64_t(s.size())) + s; }
    GgufBuilder& raw(const std::string& key, uint32_t type, const std::string& value) {
        for (auto& pair : pairs_)
            if (pair.first == key) {
                pair.second = bytes_of(type) + value;
                return *this;
            }
        return add(key, type, value);
    }
    GgufBuilder& add(const std::string& key, uint32_t type, const std::string& value) {
        pairs_.emplace_back(key, bytes_of(type) + value);
        return *this;
    }
    GgufBuilder& u32(const std::string& key, uint32_t v) { return raw(key, 4, bytes_of(v)); }
    GgufBuilder& f32(const std::string& key, float v) { return raw(key, 6, bytes_of(v)); }
    GgufBuilder& boolean(const std::string& key, bool v) { return raw(key, 7, std::string(1, char(v))); }
    GgufBuilder& str(const std::string& key, const std::string& v) { return raw(key, 8, text(v)); }
    GgufBuilder& strings(const std::string& key, const std::vector<std::string>& v) {
        std::string out = bytes_of(uint32_t(8)) + bytes_of(uint64_t(v.size()));
        for (const std::string& s : v) out += text(s);
        return raw(key, 9, out);
    }
    GgufBuilder& numbers(const std::string& key, uint32_t type, uint64_t count, const std::string& data) {
        return raw(key, 9, bytes_of(type) + bytes_of(count) + data);
    }
    void remove(const std::string& key) {
        std::erase_if(pairs_, [&](const auto& pair) { return pair.first == key; });
    }
    Tensor& tensor(const std::string& name) {
        for (Tensor& t : tensors)
            if (t.name == name) return t;
        tensors.push_back({name, {}, 0, ""});
        return tensors.back();
    }

    std::string bytes() const {
        std::string out = magic + bytes_of(version);
        out += bytes_of(tensor_count == UINT64_MAX ? uint64_t(tensors.size()) : tensor_count);
        out += bytes_of(pair_count == UINT64_MAX ? uint64_t(pairs_.size()) : pair_count);
        for (const auto& [key, value] : pairs_) out += text(key) + value;
        int64_t position = 0;
        for (const Tensor& t : tensors) {
            out += text(t.name) + bytes_of(uint32_t(t.ne.size()));
            for (const uint64_t n : t.ne) out += bytes_of(n);
            out += bytes_of(t.type) + bytes_of(t.offset == -1 ? position : t.offset);
            position = padded(position + int64_t(t.data.size()));
        }
        out.resize(size_t(padded(int64_t(out.size()))));
        for (const Tensor& t : tensors) {
            out += t.data;
            out.resize(size_t(padded(int64_t(out.size()))));
        }
        return out;
    }

private:
    int64_t padded(int64_t n) const { return (n + alignment - 1) / alignment * alignment; }
    std::vector<std::pair<std::string, std::string>> pairs_;
};

constexpr uint32_t kF32 = 0, kF16 = 1, kQ4_0 = 2, kQ4_1 = 3, kQ8_0 = 8, kBF16 = 30;

// hidden 32, 2 heads of 16, 1 kv head, intermediate 64, 1 layer, 12 tokens, tied.
inline GgufBuilder tiny_gguf() {
    GgufBuilder g;
    g.str("general.architecture", "llama");
    g.u32("llama.context_length", 128).u32("llama.embedding_length", 32).u32("llama.block_count", 1);
    g.u32("llama.feed_forward_length", 64).u32("llama.attention.head_count", 2).u32("llama.attention.head_count_kv", 1);
    g.f32("llama.attention.layer_norm_rms_epsilon", 1e-5f).f32("llama.rope.freq_base", 1e5f);
    g.u32("llama.rope.dimension_count", 16);
    uint32_t seed = 100;
    const auto matrix = [&](const char* name, uint64_t in, uint64_t out) {
        g.tensors.push_back({name, {in, out}, kF32, bytes_of(random_floats(int64_t(in * out), seed++))});
    };
    const auto vector = [&](const char* name, uint64_t n) {
        g.tensors.push_back({name, {n}, kF32, bytes_of(random_floats(int64_t(n), seed++))});
    };
    matrix("token_embd.weight", 32, 12);
    vector("blk.0.attn_norm.weight", 32);
    matrix("blk.0.attn_q.weight", 32, 32);
    matrix("blk.0.attn_k.weight", 32, 16);
    matrix("blk.0.attn_v.weight", 32, 16);
    matrix("blk.0.attn_output.weight", 32, 32);
    vector("blk.0.ffn_norm.weight", 32);
    matrix("blk.0.ffn_gate.weight", 32, 64);
    matrix("blk.0.ffn_up.weight", 32, 64);
    matrix("blk.0.ffn_down.weight", 64, 32);
    vector("output_norm.weight", 32);
    return g;
}

// ---- messages ------------------------------------------------------------------------------------------------------

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

#define VERIFY_CONTAINS(text, part)                                                               \
    do {                                                                                          \
        const std::string text_ = (text), part_ = (part);                                         \
        QVERIFY2(spartan::test::contains(text_, part_), (text_ + "\n  lacks: " + part_).c_str()); \
    } while (0)

#define VERIFY_OK(result) QVERIFY2((result).has_value(), (result) ? "" : (result).error().message().c_str())

}  // namespace spartan::test
