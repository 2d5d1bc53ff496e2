// The safetensors format: u64 header size, JSON header, raw little-endian tensors. The reader refuses whatever the
// reference (safetensors/src/tensor.rs) refuses, and duplicate names; nothing is allocated from a size it has not
// checked.
#pragma once

#include "core/base/file.h"
#include "core/base/result.h"

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace spartan {

struct SafetensorsEntry {
    std::string name;
    const char* dtype = "";        // as written: "F32", "BF16", …; a static string
    std::vector<int64_t> shape;    // may be empty (one value) or hold zeros
    int64_t begin = 0, bytes = 0;  // position in the file

    int64_t elements() const;
};

class SafetensorsFile {
public:
    // Reads the header only.
    static Result<std::shared_ptr<const SafetensorsFile>> open(const std::string& path);

    const std::string& path() const { return file_->path(); }
    const std::shared_ptr<InputFile>& file() const { return file_; }
    const std::vector<SafetensorsEntry>& entries() const { return entries_; }  // in the order of the data
    const SafetensorsEntry* find(std::string_view name) const;                 // null: no such tensor
    const std::vector<std::pair<std::string, std::string>>& metadata() const { return metadata_; }

    // `count` values of `entry` from index `first` as fp32. Refuses dtypes other than F32, F16 and BF16. Any thread.
    Result<void> read_floats(const SafetensorsEntry& entry, int64_t first, int64_t count, float* out) const;
    // The whole tensor, which must be finite: NaN and infinity are refused by name and index.
    Result<std::vector<float>> read_finite(const SafetensorsEntry& entry) const;

private:
    SafetensorsFile() = default;
    std::shared_ptr<InputFile> file_;
    std::vector<SafetensorsEntry> entries_;
    std::unordered_map<std::string_view, size_t> index_;
    std::vector<std::pair<std::string, std::string>> metadata_;
};

// One tensor to be written; `data` holds exactly the bytes of `shape` in `dtype`.
struct SafetensorsTensor {
    std::string name;
    std::string dtype;  // "F32", "BF16", "I64", …
    std::vector<int64_t> shape;
    std::span<const std::byte> data;
};

// Written atomically, tensors in the given order, header padded to 8 bytes.
Result<void> write_safetensors(const std::string& path, std::span<const SafetensorsTensor> tensors,
                               const std::vector<std::pair<std::string, std::string>>& metadata = {});

}  // namespace spartan
