// The cases of tests/fidelity/adapter_cases: weights drawn again as make_adapter_cases.py draws them, written as a
// model's folder and PEFT folders; what transformers + PEFT answered.
#pragma once

#include "core/base/file.h"
#include "core/base/json.h"
#include "core/model/safetensors.h"

#include <QDir>
#include <QTemporaryDir>
#include <QtTest>

#include <map>
#include <numeric>
#include <string>
#include <vector>

namespace spartan::test {

inline std::vector<float> draw(const std::string& seed, int64_t count, double scale, double mean) {
    uint64_t state = 0xcbf29ce484222325u;  // FNV-1a of the seed
    for (const char c : seed) state = (state ^ uint8_t(c)) * 0x100000001b3u;
    std::vector<float> values(static_cast<size_t>(count));
    for (float& v : values) {
        uint64_t z = state += 0x9e3779b97f4a7c15u;  // SplitMix64
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        z ^= z >> 31;
        v = float((double(z >> 40) / double(1 << 23) - 1) * (scale / 1024) + mean / 1024);
    }
    return values;
}

inline int64_t elements_of(const Json& shape) {
    int64_t n = 1;
    for (const auto& size : shape) n *= size.get<int64_t>();
    return n;
}

// [cols, rows] as [rows, cols].
inline std::vector<float> transposed(const std::vector<float>& values, size_t cols) {
    const size_t rows = values.size() / cols;
    std::vector<float> out(values.size());
    for (size_t i = 0; i < rows; ++i)
        for (size_t k = 0; k < cols; ++k) out[i * cols + k] = values[k * rows + i];
    return out;
}

// Tensors that keep their values until they are written.
class DrawnTensors {
public:
    void add(const std::string& name, const Json& shape, const std::vector<float>& values, bool half) {
        std::string bytes;
        for (const float v : values) {
            const bf16 rounded = to_bf16(v);
            bytes.append(half ? reinterpret_cast<const char*>(&rounded) : reinterpret_cast<const char*>(&v),
                         half ? sizeof rounded : sizeof v);
        }
        data_.push_back(std::move(bytes));
        list_.push_back({name, half ? "BF16" : "F32", shape.get<std::vector<int64_t>>(), {}});
    }
    void write(const std::string& path) {
        for (size_t i = 0; i < list_.size(); ++i) list_[i].data = std::as_bytes(std::span(data_[i]));
        if (!write_safetensors(path, list_, {{"format", "pt"}})) qFatal("cannot write %s", path.c_str());
    }

private:
    std::vector<SafetensorsTensor> list_;
    std::vector<std::string> data_;
};

struct AdapterCases {
    std::string family;
    Json json;
    std::map<std::string, std::vector<float>> floats;
    std::map<std::string, std::vector<int64_t>> ids;
    QTemporaryDir temporary;

    std::string model_dir() const { return (temporary.path() + "/model").toStdString(); }
    std::string adapter_dir(const std::string& name) const { return temporary.path().toStdString() + "/" + name; }
    std::vector<std::vector<int32_t>> prompts() const {
        return json["prompts"].get<std::vector<std::vector<int32_t>>>();
    }
    std::vector<std::string> adapters() const {
        std::vector<std::string> names;
        for (const auto& a : json["adapters"]) names.push_back(a["name"].get<std::string>());
        return names;
    }

    explicit AdapterCases(const std::string& family_name,
                          const std::string& folder = TESTS_DIR "/fidelity/adapter_cases")
        : family(family_name) {
        const std::string base = folder + "/" + family;
        json = *parse_json(*read_text_file(base + ".json"), base);
        read_expected(base + ".safetensors");
        write_model();
        for (const auto& adapter : json["adapters"]) write_adapter(adapter);
    }

    // [vocab] of prompt `i`.
    std::vector<float> logits(const std::string& adapter, size_t i) const {
        const std::vector<float>& all = floats.at(adapter + ".logits");
        const size_t vocab = all.size() / json["prompts"].size();
        return {all.begin() + std::ptrdiff_t(i * vocab), all.begin() + std::ptrdiff_t((i + 1) * vocab)};
    }
    std::vector<int32_t> greedy(const std::string& adapter, size_t i) const {
        const std::vector<int64_t>& all = ids.at(adapter + ".greedy");
        const size_t count = all.size() / json["prompts"].size();
        return {all.begin() + std::ptrdiff_t(i * count), all.begin() + std::ptrdiff_t((i + 1) * count)};
    }

private:
    void read_expected(const std::string& path) {
        const auto file = SafetensorsFile::open(path);
        if (!file) qFatal("%s", file.error().message().c_str());
        for (const SafetensorsEntry& entry : (*file)->entries()) {
            if (std::string(entry.dtype) == "I64") {
                std::vector<int64_t>& values = ids[entry.name];
                values.resize(size_t(entry.bytes / 8));
                if (!(*file)->file()->read(entry.begin, values.data(), entry.bytes))
                    qFatal("cannot read %s", path.c_str());
            } else {
                floats[entry.name] = *(*file)->read_finite(entry);
            }
        }
    }

    std::vector<float> base_tensor(const std::string& name) const {
        const Json& t = json["tensors"][name];
        return draw(family + "/" + name, elements_of(t[0]), t[1].get<double>(), t[2].get<double>());
    }

    void write_model() {
        QDir().mkpath(QString::fromStdString(model_dir()));
        DrawnTensors tensors;
        for (const auto& [name, t] : json["tensors"].items()) tensors.add(name, t[0], base_tensor(name), false);
        tensors.write(model_dir() + "/model.safetensors");
        if (!write_file_atomically(model_dir() + "/config.json", json["config"].dump())) qFatal("cannot write");
    }

    void write_adapter(const Json& adapter) {
        const auto name = adapter["name"].get<std::string>();
        QDir().mkpath(QString::fromStdString(adapter_dir(name)));
        DrawnTensors tensors;
        for (const auto& [key, t] : adapter["tensors"].items()) {
            if (t[1] == "base") {
                tensors.add(key, t[0], base_tensor(t[2].get<std::string>()), false);
                continue;
            }
            const std::string drawn_as = t.size() > 4 ? t[4].get<std::string>() : key;
            const std::string seed =
                family + "/" + name + "/" + std::to_string(adapter["salt"].get<int64_t>()) + "/" + drawn_as;
            std::vector<float> values = draw(seed, elements_of(t[0]), t[1].get<double>(), t[2].get<double>());
            if (t.size() > 5 && t[5] == true) values = transposed(values, t[0][1].get<size_t>());
            tensors.add(key, t[0], values, t.size() > 3 && t[3] == "BF16");
        }
        tensors.write(adapter_dir(name) + "/adapter_model.safetensors");
        if (!write_file_atomically(adapter_dir(name) + "/adapter_config.json", adapter["config"].dump()))
            qFatal("cannot write");
    }
};

inline std::vector<std::string> families_with_cases() {
    std::vector<std::string> families;
    for (const QString& name : QDir(TESTS_DIR "/fidelity/adapter_cases").entryList({"*.json"}, QDir::Files))
        families.push_back(name.chopped(5).toStdString());
    return families;
}

}  // namespace spartan::test
