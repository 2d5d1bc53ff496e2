// The GGUF container (ggml: docs/gguf.md), versions 2 and 3, little-endian: metadata and tensor table. Every count is
// held against the bytes that are left in the file before memory is taken for it.
#pragma once

#include "core/base/file.h"
#include "core/base/result.h"
#include "kernels/dequantise.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

namespace spartan {

enum class GgufValueType : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };
const char* name_of(GgufValueType type);

struct GgufArray {
    GgufValueType type{};            // of the elements; never array
    std::vector<std::string> texts;  // for strings
    std::vector<std::byte> bytes;    // for all others, as stored
    uint64_t count = 0;
};

struct GgufValue {
    GgufValueType type{};
    std::variant<uint64_t, int64_t, double, bool, std::string, GgufArray> value;
};

struct GgufTensor {
    std::string name;
    GgufType type{};
    std::vector<int64_t> shape;    // outermost first, as everywhere else here
    int64_t begin = 0, bytes = 0;  // position in the file

    int64_t elements() const;
};

class GgufFile {
public:
    // Reads metadata and tensor table only. Refuses tensor types that are not supported by their names.
    static Result<std::shared_ptr<const GgufFile>> open(const std::string& path);

    const std::string& path() const { return file_->path(); }
    const std::shared_ptr<InputFile>& file() const { return file_; }
    const std::vector<GgufTensor>& tensors() const { return tensors_; }
    const std::unordered_map<std::string, GgufValue>& metadata() const { return metadata_; }
    const GgufValue* find(const std::string& key) const;
    const GgufTensor* find_tensor(std::string_view name) const;

    // Typed metadata; `fallback` without a value makes the key required. A wrong type or a value out of range is an
    // error.
    Result<int64_t> integer(const std::string& key, std::optional<int64_t> fallback, int64_t min, int64_t max) const;
    Result<double> number(const std::string& key, std::optional<double> fallback, double min, double max) const;
    Result<bool> boolean(const std::string& key, std::optional<bool> fallback) const;
    Result<std::string> text(const std::string& key, std::optional<std::string> fallback) const;
    // Null when the key is absent; an error when it is no array of `type`.
    Result<const GgufArray*> array(const std::string& key, GgufValueType type) const;

private:
    friend class GgufReader;
    GgufFile() = default;
    std::shared_ptr<InputFile> file_;
    std::unordered_map<std::string, GgufValue> metadata_;
    std::vector<GgufTensor> tensors_;
};

}  // namespace spartan
