#include "core/model/safetensors.h"

#include "core/base/json_events.h"
#include "core/base/text.h"
#include "core/model/float_rows.h"
#include "kernels/check.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <numeric>
#include <unordered_set>

namespace spartan {
namespace {

constexpr int64_t kMaxHeaderBytes = 100'000'000;  // the reference's
constexpr size_t kMaxRank = 64, kMaxNameBytes = 4096;

struct DtypeBits {
    const char* name;
    int64_t bits;
};
constexpr DtypeBits kDtypes[] = {
    {"BOOL", 8},        {"U8", 8},          {"I8", 8},      {"F8_E4M3", 8}, {"F8_E5M2", 8}, {"F8_E8M0", 8},
    {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
    {"I32", 32},        {"U32", 32},        {"F32", 32},    {"C64", 64},    {"F64", 64},    {"I64", 64},
    {"U64", 64},        {"F4", 4},          {"F6_E2M3", 6}, {"F6_E3M2", 6},
};

const DtypeBits* find_dtype(std::string_view name) {
    const auto* it =
        std::find_if(std::begin(kDtypes), std::end(kDtypes), [&](const auto& d) { return name == d.name; });
    return it == std::end(kDtypes) ? nullptr : it;
}

// bits * product of shape, or -1 on overflow.
int64_t bits_of(const std::vector<int64_t>& shape, int64_t bits) {
    for (const int64_t n : shape)
        if (__builtin_mul_overflow(bits, n, &bits)) return -1;
    return bits;
}

// Collects entries from the header's events. `begin` and `bytes` hold the raw offsets until they are checked.
class HeaderReader : public JsonEvents {
public:
    explicit HeaderReader(const std::string& file) : file_(file) {}

    std::vector<SafetensorsEntry> entries;
    std::vector<std::pair<std::string, std::string>> metadata;

    bool begin_object() override {
        if (level_ == 0 || (level_ == 1 && in_array_ == nullptr)) {
            ++level_;
            return true;
        }
        return wrong("an object", "a string or a list of integers");
    }

    bool end_object() override {
        if (level_ == 2 && !in_metadata_ && !end_tensor()) return false;
        if (--level_ == 0 || !in_metadata_) return true;
        in_metadata_ = false;
        std::sort(metadata.begin(), metadata.end());
        const auto again = std::adjacent_find(metadata.begin(), metadata.end(),
                                              [](const auto& a, const auto& b) { return a.first == b.first; });
        if (again == metadata.end()) return true;
        return fail({file_, "__metadata__." + shorten(again->first, 80), "the key twice", "each key once"});
    }

    bool key(std::string name) override {
        if (level_ == 2) {
            field_ = std::move(name);
            return true;
        }
        tensor_ = std::move(name);
        in_metadata_ = tensor_ == "__metadata__";
        if (in_metadata_) {
            if (seen_metadata_) return fail({file_, "__metadata__", "the key twice", "each key once"});
            seen_metadata_ = true;
            return true;
        }
        if (tensor_.size() > kMaxNameBytes || tensor_.find('\0') != std::string::npos)
            return fail({file_, shorten(tensor_, 80), "a name of " + std::to_string(tensor_.size()) + " bytes",
                         "at most " + std::to_string(kMaxNameBytes) + " bytes without zero bytes"});
        entries.push_back({tensor_, "", {}, -1, -1});
        has_dtype_ = has_shape_ = has_offsets_ = false;
        return true;
    }

    bool begin_array() override {
        if (level_ != 2 || in_metadata_) return wrong("a list", level_ == 0 ? "an object" : "an object or string");
        if (in_array_) return wrong("a list in a list", "a list of integers");
        if (field_ == "shape") {
            if (has_shape_) return twice();
            has_shape_ = true;
            in_array_ = &entries.back().shape;
        } else if (field_ == "data_offsets") {
            if (has_offsets_) return twice();
            has_offsets_ = true;
            offsets_.clear();
            in_array_ = &offsets_;
        } else {
            return wrong("a list", field_ == "dtype" ? "a string" : "no such key");
        }
        return true;
    }

    bool end_array() override {
        in_array_ = nullptr;
        return true;
    }

    bool value(Json v) override {
        if (level_ == 2 && in_metadata_) {
            if (!v.is_string()) return fail({file_, "__metadata__." + shorten(field_, 80), describe(v), "a string"});
            metadata.emplace_back(std::move(field_), v.get<std::string>());
            return true;
        }
        if (level_ != 2) return wrong(describe(v), "an object");
        if (in_array_) return array_item(v);
        if (field_ != "dtype" || !v.is_string())
            return wrong(describe(v), field_ == "dtype" ? "a string"
                                      : field_ == "shape" || field_ == "data_offsets"
                                          ? "a list of integers"
                                          : "only dtype, shape, data_offsets");
        if (has_dtype_) return twice();
        has_dtype_ = true;
        const DtypeBits* dtype = find_dtype(v.get_ref<const std::string&>());
        if (!dtype) return wrong(describe(v), "a dtype of the safetensors format");
        entries.back().dtype = dtype->name;
        return true;
    }

private:
    bool array_item(const Json& v) {
        const size_t most = in_array_ == &offsets_ ? 2 : kMaxRank;
        if (in_array_->size() == most) return wrong("more than " + std::to_string(most) + " entries", "fewer");
        const bool fits = v.is_number_unsigned() && v.get<uint64_t>() <= uint64_t(INT64_MAX);
        if (!fits) return wrong(describe(v), "an integer from 0 to 2^63 - 1");
        in_array_->push_back(v.get<int64_t>());
        return true;
    }

    bool end_tensor() {
        SafetensorsEntry& e = entries.back();
        field_.clear();
        if (!has_dtype_ || !has_shape_ || !has_offsets_)
            return wrong(std::string("no ") + (!has_dtype_   ? "dtype"
                                               : !has_shape_ ? "shape"
                                                             : "data_offsets"),
                         "dtype, shape and data_offsets");
        field_ = "data_offsets";
        if (offsets_.size() != 2) return wrong(std::to_string(offsets_.size()) + " entries", "2 entries");
        if (offsets_[1] < offsets_[0])
            return wrong("[" + std::to_string(offsets_[0]) + ", " + std::to_string(offsets_[1]) + "]", "begin <= end");
        e.begin = offsets_[0];
        e.bytes = offsets_[1] - offsets_[0];
        field_ = "shape";
        const int64_t bits = bits_of(e.shape, find_dtype(e.dtype)->bits);
        if (bits < 0) return wrong(shape_text(e.shape), "a size that fits 64 bits");
        if (bits % 8 != 0) return wrong(shape_text(e.shape) + " of " + e.dtype, "a whole number of bytes");
        if (bits / 8 != e.bytes)
            return wrong(shape_text(e.shape) + " of " + e.dtype + " (" + std::to_string(bits / 8) + " bytes)",
                         "the " + std::to_string(e.bytes) + " bytes of data_offsets");
        return true;
    }

    std::string path() const {
        if (level_ < 1) return "header";
        return shorten(tensor_, 200) + (level_ > 1 && !field_.empty() ? "." + shorten(field_, 80) : "");
    }
    bool wrong(std::string found, std::string expected) {
        return fail({file_, path(), std::move(found), std::move(expected)});
    }
    bool twice() { return wrong("the key twice", "each key once"); }

    const std::string& file_;
    int level_ = 0;  // of nested objects: 1 the header, 2 one tensor or the metadata
    bool in_metadata_ = false, seen_metadata_ = false, has_dtype_ = false, has_shape_ = false, has_offsets_ = false;
    std::string tensor_, field_;
    std::vector<int64_t> offsets_;
    std::vector<int64_t>* in_array_ = nullptr;
};

Result<void> check_names(const std::vector<SafetensorsEntry>& entries, const std::string& path) {
    std::unordered_set<std::string_view> names;
    names.reserve(entries.size());
    for (const SafetensorsEntry& entry : entries)
        if (!names.insert(entry.name).second)
            return Error{path, shorten(entry.name, 200), "the name twice", "each tensor once"};
    return {};
}

// Ranges follow each other from 0 without overlap or hole and end where the file does.
Result<void> check_layout(std::vector<SafetensorsEntry>& entries, const std::string& path, int64_t data_begin,
                          int64_t data_bytes) {
    std::sort(entries.begin(), entries.end(),
              [](const auto& a, const auto& b) { return std::pair(a.begin, a.bytes) < std::pair(b.begin, b.bytes); });
    const auto wrong = [&](const SafetensorsEntry& e, std::string found, std::string expected) {
        return Error{path, shorten(e.name, 200) + ".data_offsets", std::move(found), std::move(expected)};
    };
    int64_t position = 0;
    for (SafetensorsEntry& e : entries) {
        if (e.begin != position)
            return wrong(e, "begin " + std::to_string(e.begin), std::to_string(position) + " (no gap, no overlap)");
        if (e.bytes > data_bytes - position)
            return wrong(e, "end " + std::to_string(position) + " + " + std::to_string(e.bytes),
                         "at most " + std::to_string(data_bytes) + ", the bytes after the header");
        position += e.bytes;
        e.begin += data_begin;
    }
    if (position != data_bytes)
        return Error{path, "", std::to_string(data_bytes) + " bytes after the header",
                     std::to_string(position) + ", where the last tensor ends"};
    return {};
}

}  // namespace

int64_t SafetensorsEntry::elements() const {
    return std::accumulate(shape.begin(), shape.end(), int64_t(1), std::multiplies<>());
}

Result<std::shared_ptr<const SafetensorsFile>> SafetensorsFile::open(const std::string& path) {
    TRY_ASSIGN(input, InputFile::open(path));
    const int64_t size = input->size();
    if (size < 8) return Error{path, "", std::to_string(size) + " bytes", "a safetensors file of at least 8 bytes"};
    static_assert(std::endian::native == std::endian::little);
    uint64_t header_bytes = 0;
    TRY_VOID(input->read(0, &header_bytes, 8));
    if (header_bytes > uint64_t(kMaxHeaderBytes) || int64_t(header_bytes) > size - 8)
        return Error{path, "header size", std::to_string(header_bytes),
                     "at most " + std::to_string(std::min(kMaxHeaderBytes, size - 8)) + " (is it a safetensors file?)"};
    std::shared_ptr<SafetensorsFile> file(new SafetensorsFile);
    file->file_ = input;
    {
        std::string header(size_t(header_bytes), '\0');
        TRY_VOID(input->read(8, header.data(), int64_t(header_bytes)));
        HeaderReader reader(path);
        TRY_VOID(parse_json_events(header, path, {.max_depth = 64, .max_bytes = kMaxHeaderBytes}, reader));
        file->entries_ = std::move(reader.entries);
        file->metadata_ = std::move(reader.metadata);
    }
    if (file->entries_.empty()) return Error{path, "", "no tensors", "at least one"};
    TRY_VOID(check_names(file->entries_, path));
    TRY_VOID(check_layout(file->entries_, path, 8 + int64_t(header_bytes), size - 8 - int64_t(header_bytes)));
    file->index_.reserve(file->entries_.size());
    for (size_t i = 0; i < file->entries_.size(); ++i) file->index_.emplace(file->entries_[i].name, i);
    return std::shared_ptr<const SafetensorsFile>(std::move(file));
}

const SafetensorsEntry* SafetensorsFile::find(std::string_view name) const {
    const auto it = index_.find(name);
    return it == index_.end() ? nullptr : &entries_[it->second];
}

Result<void> SafetensorsFile::read_floats(const SafetensorsEntry& entry, int64_t first, int64_t count,
                                          float* out) const {
    const std::optional<GgufType> type = float_type(entry.dtype);
    if (!type) return Error{path(), entry.name, std::string("dtype ") + entry.dtype, "F32, F16 or BF16"};
    CHECK(first >= 0 && count >= 0 && first + count <= entry.elements());
    const int64_t bytes = block_bytes(*type);
    std::vector<std::byte> stored(size_t(count * bytes));
    TRY_VOID(file_->read(entry.begin + first * bytes, stored.data(), count * bytes));
    dequantise_row(*type, stored.data(), count, out);
    return {};
}

Result<std::vector<float>> SafetensorsFile::read_finite(const SafetensorsEntry& entry) const {
    constexpr int64_t kStep = 1 << 18;
    if (!float_type(entry.dtype))
        return Error{path(), entry.name, std::string("dtype ") + entry.dtype, "F32, F16 or BF16"};
    std::vector<float> values(size_t(entry.elements()), 0.f);
    for (int64_t first = 0; first < int64_t(values.size()); first += kStep) {
        const int64_t count = std::min(kStep, int64_t(values.size()) - first);
        float* out = values.data() + first;
        TRY_VOID(read_floats(entry, first, count, out));
        if (const int64_t bad = first_not_representable(out, count, DType::f32); bad >= 0)
            return Error{path(), entry.name + "[" + std::to_string(first + bad) + "]", value_text(out[bad]),
                         "a finite value"};
    }
    return values;
}

Result<void> write_safetensors(const std::string& path, std::span<const SafetensorsTensor> tensors,
                               const std::vector<std::pair<std::string, std::string>>& metadata) {
    Json header = Json::object();
    if (!metadata.empty()) {
        Json& m = header["__metadata__"] = Json::object();
        for (const auto& [key, value] : metadata) m[key] = value;
    }
    uint64_t end = 0;
    for (const SafetensorsTensor& t : tensors) {
        const DtypeBits* dtype = find_dtype(t.dtype);
        CHECK(dtype && bits_of(t.shape, dtype->bits) == int64_t(8 * t.data.size()) && !header.contains(t.name));
        header[t.name] = {{"dtype", t.dtype}, {"shape", t.shape}, {"data_offsets", {end, end + t.data.size()}}};
        end += t.data.size();
    }
    std::string text = header.dump();
    text.append((8 - text.size() % 8) % 8, ' ');
    std::string content;
    content.reserve(8 + text.size() + end);
    const uint64_t header_bytes = text.size();
    content.append(reinterpret_cast<const char*>(&header_bytes), 8);
    content += text;
    for (const SafetensorsTensor& t : tensors)
        content.append(reinterpret_cast<const char*>(t.data.data()), t.data.size());
    return write_file_atomically(path, content);
}

}  // namespace spartan
