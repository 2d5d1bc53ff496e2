#include "core/model/gguf.h"

#include "core/base/text.h"
#include "core/model/float_rows.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>
#include <unordered_set>

namespace spartan {
namespace {

constexpr int64_t kMaxStringBytes = 16 << 20, kMaxArrayElements = 64 << 20, kMaxAlignment = 1 << 20;
constexpr size_t kMaxTensorName = 63, kMaxKeyBytes = 65535;
constexpr uint32_t kMaxRank = 4;

constexpr std::array<int64_t, 13> kValueBytes = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};  // at the least

// ggml's names of its tensor types, for messages.
std::string type_name(uint32_t type) {
    constexpr std::array<const char*, 40> names = {
        "F32",    "F16",   "Q4_0",  "Q4_1",   "",      "",      "Q5_0",    "Q5_1",   "Q8_0",    "Q8_1",
        "Q2_K",   "Q3_K",  "Q4_K",  "Q5_K",   "Q6_K",  "Q8_K",  "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S",
        "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8",    "I16",   "I32",     "I64",    "F64",     "IQ1_M",
        "BF16",   "",      "",      "",       "TQ1_0", "TQ2_0", "",        "",       "",        "MXFP4"};
    if (type < names.size() && *names[type]) return names[type];
    return std::to_string(type);
}

// Reads the file front to back through a small buffer.
class Cursor {
public:
    explicit Cursor(const InputFile& file) : file_(file) {}

    int64_t position() const { return position_; }
    int64_t left() const { return file_.size() - position_; }

    Result<void> read(void* out, int64_t size, const std::string& what) {
        if (size > left())
            return Error{file_.path(), what, std::to_string(left()) + " bytes left in the file", std::to_string(size)};
        auto* to = static_cast<std::byte*>(out);
        while (size > 0) {
            if (position_ < begin_ || position_ >= begin_ + int64_t(buffer_.size())) TRY_VOID(refill());
            const int64_t n = std::min(size, begin_ + int64_t(buffer_.size()) - position_);
            std::memcpy(to, buffer_.data() + (position_ - begin_), size_t(n));
            to += n, position_ += n, size -= n;
        }
        return {};
    }

    template <class T>
    Result<T> get(const std::string& what) {
        static_assert(std::endian::native == std::endian::little);
        T value{};
        TRY_VOID(read(&value, sizeof value, what));
        return value;
    }

    Result<std::string> text(const std::string& what, int64_t max_bytes) {
        TRY_ASSIGN(size, get<uint64_t>(what));
        if (size > uint64_t(std::min(max_bytes, left())))
            return Error{file_.path(), what, "a string of " + std::to_string(size) + " bytes",
                         "at most " + std::to_string(std::min(max_bytes, left()))};
        std::string s(size_t(size), '\0');
        TRY_VOID(read(s.data(), int64_t(size), what));
        return s;
    }

private:
    Result<void> refill() {
        begin_ = position_;
        buffer_.resize(size_t(std::min<int64_t>(1 << 20, left())));
        return file_.read(begin_, buffer_.data(), int64_t(buffer_.size()));
    }

    const InputFile& file_;
    int64_t position_ = 0, begin_ = 0;
    std::vector<std::byte> buffer_;
};

}  // namespace

class GgufReader {
public:
    explicit GgufReader(GgufFile& file) : out_(file), path_(file.path()), cursor_(*file.file_) {}

    Result<void> read() {
        TRY_ASSIGN(counts, read_counts());
        for (uint64_t i = 0; i < counts.second; ++i) TRY_VOID(read_pair());
        out_.tensors_.reserve(size_t(counts.first));
        for (uint64_t i = 0; i < counts.first; ++i) TRY_VOID(read_tensor_info());
        return place_tensors();
    }

private:
    Error wrong(std::string field, std::string found, std::string expected) const {
        return {path_, shorten(field, 200), std::move(found), std::move(expected)};
    }

    // Numbers of tensors and of metadata pairs.
    Result<std::pair<uint64_t, uint64_t>> read_counts() {
        std::array<char, 4> magic{};
        TRY_VOID(cursor_.read(magic.data(), 4, "magic"));
        if (std::string_view(magic.data(), 4) != "GGUF")
            return wrong("magic", '"' + std::string(magic.data(), 4) + '"', "GGUF");
        TRY_ASSIGN(version, cursor_.get<uint32_t>("version"));
        if (version != 2 && version != 3)
            return wrong("version",
                         (version & 0xffff) == 0 && version != 0 ? "big-endian data" : std::to_string(version),
                         "2 or 3, little-endian");
        TRY_ASSIGN(tensors, cursor_.get<uint64_t>("tensor count"));
        TRY_ASSIGN(pairs, cursor_.get<uint64_t>("metadata count"));
        constexpr uint64_t kLeastTensor = 24, kLeastPair = 13;  // bytes of the smallest entry
        const auto left = uint64_t(cursor_.left());
        if (tensors > left / kLeastTensor)
            return wrong("tensor count", std::to_string(tensors),
                         "at most " + std::to_string(left / kLeastTensor) + " in the bytes left in the file");
        if (pairs > left / kLeastPair)
            return wrong("metadata count", std::to_string(pairs),
                         "at most " + std::to_string(left / kLeastPair) + " in the bytes left in the file");
        if (tensors == 0) return wrong("tensor count", "0", "at least 1");
        return std::pair(tensors, pairs);
    }

    Result<void> read_pair() {
        TRY_ASSIGN(key, cursor_.text("metadata key", kMaxKeyBytes));
        if (key.empty()) return wrong("metadata key", "an empty key", "a name");
        TRY_ASSIGN(type, cursor_.get<uint32_t>(key));
        TRY_ASSIGN(value, read_value(key, type));
        if (!out_.metadata_.emplace(key, std::move(value)).second) return wrong(key, "the key twice", "each key once");
        return {};
    }

    Result<GgufValue> read_value(const std::string& key, uint32_t number) {
        if (number > uint32_t(GgufValueType::f64))
            return wrong(key, "value type " + std::to_string(number), "a type from 0 to 12");
        const auto type = GgufValueType(number);
        switch (type) {
            case GgufValueType::u8:
                return scalar<uint8_t, uint64_t>(key, type);
            case GgufValueType::i8:
                return scalar<int8_t, int64_t>(key, type);
            case GgufValueType::u16:
                return scalar<uint16_t, uint64_t>(key, type);
            case GgufValueType::i16:
                return scalar<int16_t, int64_t>(key, type);
            case GgufValueType::u32:
                return scalar<uint32_t, uint64_t>(key, type);
            case GgufValueType::i32:
                return scalar<int32_t, int64_t>(key, type);
            case GgufValueType::f32:
                return scalar<float, double>(key, type);
            case GgufValueType::u64:
                return scalar<uint64_t, uint64_t>(key, type);
            case GgufValueType::i64:
                return scalar<int64_t, int64_t>(key, type);
            case GgufValueType::f64:
                return scalar<double, double>(key, type);
            case GgufValueType::boolean: {
                TRY_ASSIGN(byte, cursor_.get<uint8_t>(key));
                if (byte > 1) return wrong(key, "a boolean of " + std::to_string(byte), "0 or 1");
                return GgufValue{type, byte == 1};
            }
            case GgufValueType::string: {
                TRY_ASSIGN(s, cursor_.text(key, kMaxStringBytes));
                return GgufValue{type, std::move(s)};
            }
            case GgufValueType::array:
                break;
        }
        TRY_ASSIGN(items, read_array(key));
        return GgufValue{type, std::move(items)};
    }

    template <class Stored, class Kept>
    Result<GgufValue> scalar(const std::string& key, GgufValueType type) {
        TRY_ASSIGN(v, cursor_.get<Stored>(key));
        return GgufValue{type, Kept(v)};
    }

    Result<GgufArray> read_array(const std::string& key) {
        TRY_ASSIGN(number, cursor_.get<uint32_t>(key));
        if (number > uint32_t(GgufValueType::f64) || number == uint32_t(GgufValueType::array))
            return wrong(key,
                         number == uint32_t(GgufValueType::array) ? "an array of arrays"
                                                                  : "element type " + std::to_string(number),
                         "an array of numbers, booleans or strings");
        GgufArray a;
        a.type = GgufValueType(number);
        TRY_ASSIGN(count, cursor_.get<uint64_t>(key));
        const int64_t most = std::min(kMaxArrayElements, cursor_.left() / kValueBytes[number]);
        if (count > uint64_t(most))
            return wrong(key, "an array of " + std::to_string(count), "at most " + std::to_string(most));
        a.count = count;
        if (a.type == GgufValueType::string) {
            a.texts.reserve(size_t(count));
            for (uint64_t i = 0; i < count; ++i) {
                TRY_ASSIGN(s, cursor_.text(key, kMaxStringBytes));
                a.texts.push_back(std::move(s));
            }
            return a;
        }
        a.bytes.resize(size_t(count) * size_t(kValueBytes[number]));
        TRY_VOID(cursor_.read(a.bytes.data(), int64_t(a.bytes.size()), key));
        return a;
    }

    Result<void> read_tensor_info() {
        TRY_ASSIGN(name, cursor_.text("tensor name", int64_t(kMaxTensorName)));
        if (name.empty()) return wrong("tensor name", "an empty name", "a name");
        if (!names_.insert(name).second) return wrong(name, "the tensor twice", "each tensor once");
        TRY_ASSIGN(rank, cursor_.get<uint32_t>(name));
        if (rank > kMaxRank)
            return wrong(name, std::to_string(rank) + " dimensions", "at most " + std::to_string(kMaxRank));
        GgufTensor t;
        t.name = name;
        t.shape.resize(rank);
        for (uint32_t i = 0; i < rank; ++i) {
            TRY_ASSIGN(n, cursor_.get<uint64_t>(name));
            if (n > uint64_t(INT64_MAX)) return wrong(name, "dimension " + std::to_string(n), "less than 2^63");
            t.shape[rank - 1 - i] = int64_t(n);  // the file has the innermost first
        }
        TRY_ASSIGN(type, cursor_.get<uint32_t>(name));
        if (!is_supported(GgufType(type))) return wrong(name, "type " + type_name(type), kGgufTypeNames);
        t.type = GgufType(type);
        TRY_ASSIGN(offset, cursor_.get<uint64_t>(name));
        if (offset > uint64_t(INT64_MAX)) return wrong(name, "offset " + std::to_string(offset), "less than 2^63");
        t.begin = int64_t(offset);
        TRY_VOID(set_bytes(t));
        out_.tensors_.push_back(std::move(t));
        return {};
    }

    Result<void> set_bytes(GgufTensor& t) const {
        const int64_t block = block_elements(t.type), inner = t.shape.empty() ? 1 : t.shape.back();
        if (inner % block != 0)
            return wrong(t.name, "rows of " + std::to_string(inner) + " in " + name_of(t.type),
                         "a multiple of " + std::to_string(block));
        int64_t elements = 1, bytes = 0;
        for (const int64_t n : t.shape)
            if (__builtin_mul_overflow(elements, n, &elements))
                return wrong(t.name, "shape " + shape_text(t.shape), "fewer values");
        if (__builtin_mul_overflow(elements / block, block_bytes(t.type), &bytes))
            return wrong(t.name, "shape " + shape_text(t.shape), "fewer values");
        t.bytes = bytes;
        return {};
    }

    Result<int64_t> alignment() const {
        const GgufValue* value = out_.find("general.alignment");
        if (!value) return int64_t(32);
        const auto* n = std::get_if<uint64_t>(&value->value);
        if (value->type != GgufValueType::u32 || !n || !std::has_single_bit(*n) || *n > uint64_t(kMaxAlignment))
            return wrong("general.alignment", n ? std::to_string(*n) : std::string("a ") + name_of(value->type),
                         "a power of two from 1 to " + std::to_string(kMaxAlignment) + ", as u32");
        return int64_t(*n);
    }

    // Tensors follow each other, each padded to the alignment, and end inside the file.
    Result<void> place_tensors() {
        TRY_ASSIGN(align, alignment());
        const auto padded = [&](int64_t n) {
            return (n + align - 1) / align * align;
        };  // n is within the file: no overflow
        const int64_t data = padded(cursor_.position()), size = out_.file_->size();
        int64_t position = 0;
        for (GgufTensor& t : out_.tensors_) {
            if (t.begin != position)
                return wrong(t.name, "offset " + std::to_string(t.begin),
                             std::to_string(position) + " (right behind the one before)");
            if (data > size || position > size - data || t.bytes > size - data - position)
                return wrong(t.name, "data up to byte " + end_text(data, position, t.bytes),
                             "at most " + std::to_string(size) + ", the size of the file");
            t.begin = data + position;
            position = padded(position + t.bytes);
        }
        return {};
    }

    static std::string end_text(int64_t data, int64_t position, int64_t bytes) {
        int64_t end = 0;
        if (__builtin_add_overflow(data + position, bytes, &end)) return "2^63 and more";
        return std::to_string(end);
    }

    GgufFile& out_;
    const std::string& path_;
    Cursor cursor_;
    std::unordered_set<std::string> names_;
};

const char* name_of(GgufValueType type) {
    constexpr std::array<const char*, 13> names = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                                   "bool", "string", "array", "u64", "i64", "f64"};
    return size_t(type) < names.size() ? names[size_t(type)] : "?";
}

int64_t GgufTensor::elements() const {
    return std::accumulate(shape.begin(), shape.end(), int64_t(1), std::multiplies<>());
}

Result<std::shared_ptr<const GgufFile>> GgufFile::open(const std::string& path) {
    TRY_ASSIGN(input, InputFile::open(path));
    std::shared_ptr<GgufFile> file(new GgufFile);
    file->file_ = input;
    TRY_VOID(GgufReader(*file).read());
    return std::shared_ptr<const GgufFile>(std::move(file));
}

const GgufValue* GgufFile::find(const std::string& key) const {
    const auto it = metadata_.find(key);
    return it == metadata_.end() ? nullptr : &it->second;
}

const GgufTensor* GgufFile::find_tensor(std::string_view name) const {
    const auto it = std::find_if(tensors_.begin(), tensors_.end(), [&](const GgufTensor& t) { return t.name == name; });
    return it == tensors_.end() ? nullptr : &*it;
}

Result<int64_t> GgufFile::integer(const std::string& key, std::optional<int64_t> fallback, int64_t min,
                                  int64_t max) const {
    const std::string range = "an integer from " + std::to_string(min) + " to " + std::to_string(max);
    const GgufValue* v = find(key);
    if (!v && fallback) return *fallback;
    if (!v) return Error{path(), key, "no such key", range};
    int64_t n = 0;
    if (const auto* u = std::get_if<uint64_t>(&v->value); u && *u <= uint64_t(INT64_MAX))
        n = int64_t(*u);
    else if (const auto* i = std::get_if<int64_t>(&v->value))
        n = *i;
    else
        return Error{path(), key, u ? std::to_string(*u) : std::string("a value of type ") + name_of(v->type), range};
    if (n < min || n > max) return Error{path(), key, std::to_string(n), range};
    return n;
}

Result<double> GgufFile::number(const std::string& key, std::optional<double> fallback, double min, double max) const {
    const auto shown = [](double v) { return value_text(float(v)); };
    const std::string range = "a number from " + shown(min) + " to " + shown(max);
    const GgufValue* v = find(key);
    if (!v && fallback) return *fallback;
    if (!v) return Error{path(), key, "no such key", range};
    const auto* n = std::get_if<double>(&v->value);
    if (!n) return Error{path(), key, std::string("a value of type ") + name_of(v->type), range};
    if (!(*n >= min && *n <= max)) return Error{path(), key, shown(*n), range};
    return *n;
}

Result<bool> GgufFile::boolean(const std::string& key, std::optional<bool> fallback) const {
    const GgufValue* v = find(key);
    if (!v && fallback) return *fallback;
    if (!v) return Error{path(), key, "no such key", "a boolean"};
    const auto* b = std::get_if<bool>(&v->value);
    if (!b) return Error{path(), key, std::string("a value of type ") + name_of(v->type), "a boolean"};
    return *b;
}

Result<std::string> GgufFile::text(const std::string& key, std::optional<std::string> fallback) const {
    const GgufValue* v = find(key);
    if (!v && fallback) return *fallback;
    if (!v) return Error{path(), key, "no such key", "a string"};
    const auto* s = std::get_if<std::string>(&v->value);
    if (!s) return Error{path(), key, std::string("a value of type ") + name_of(v->type), "a string"};
    return *s;
}

Result<const GgufArray*> GgufFile::array(const std::string& key, GgufValueType type) const {
    const std::string expected = std::string("an array of ") + name_of(type);
    const GgufValue* v = find(key);
    const GgufArray* none = nullptr;
    if (!v) return none;
    const auto* a = std::get_if<GgufArray>(&v->value);
    if (!a) return Error{path(), key, std::string("a value of type ") + name_of(v->type), expected};
    if (a->type != type) return Error{path(), key, std::string("an array of ") + name_of(a->type), expected};
    return a;
}

}  // namespace spartan
