#include "core/base/json.h"

#include "core/base/file.h"
#include "core/base/json_events.h"
#include "core/base/text.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace spartan {
namespace {

constexpr size_t kShownBytes = 80;  // of a value or a parser's message

std::string position_of(std::string_view text, size_t byte) {
    byte = std::min(byte, text.size());
    const std::string_view before = text.substr(0, byte == 0 ? 0 : byte - 1);
    const auto line = 1 + std::count(before.begin(), before.end(), '\n');
    const size_t line_start = before.rfind('\n') == std::string_view::npos ? 0 : before.rfind('\n') + 1;
    return "line " + std::to_string(line) + ", column " + std::to_string(before.size() - line_start + 1);
}

// What the library says went wrong, without its own prefix and position.
std::string reason_of(std::string_view what) {
    const size_t colon = what.find("column");
    const size_t start = colon == std::string_view::npos ? std::string_view::npos : what.find(": ", colon);
    if (start != std::string_view::npos) {
        what.remove_prefix(start + 2);
    } else if (const size_t bracket = what.find("] "); bracket != std::string_view::npos) {
        what.remove_prefix(bracket + 2);
    }
    if (const size_t dash = what.find(" - "); dash != std::string_view::npos) what.remove_prefix(dash + 3);
    return shorten(what.substr(0, what.find("; last read:")), 2 * kShownBytes);
}

// Turns the library's events into ours and refuses what it would let through.
class Adapter : public nlohmann::json_sax<Json> {
public:
    Adapter(std::string_view text, const std::string& file, const JsonLimits& limits, JsonEvents& events)
        : text_(text), file_(file), limits_(limits), events_(events) {}

    bool null() override { return events_.value(nullptr); }
    bool boolean(bool v) override { return events_.value(v); }
    bool number_integer(number_integer_t v) override { return events_.value(v); }
    bool number_unsigned(number_unsigned_t v) override { return events_.value(v); }
    bool number_float(number_float_t v, const string_t& written) override {
        if (!std::isfinite(v))
            return events_.fail({file_, "", shorten(written, kShownBytes), "a number that fits a double"});
        const bool is_integer = written.find_first_of(".eE") == std::string::npos;
        if (is_integer && !limits_.big_integers_as_double)
            return events_.fail({file_, "", shorten(written, kShownBytes), "an integer of at most 64 bits"});
        return events_.value(v);
    }
    bool string(string_t& v) override { return events_.value(std::move(v)); }
    bool binary(binary_t&) override { return false; }
    bool start_object(size_t) override { return deeper() && events_.begin_object(); }
    bool key(string_t& name) override { return events_.key(std::move(name)); }
    bool end_object() override {
        --depth_;
        return events_.end_object();
    }
    bool start_array(size_t) override { return deeper() && events_.begin_array(); }
    bool end_array() override {
        --depth_;
        return events_.end_array();
    }
    bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& error) override {
        const bool not_finite = error.id == 406;
        return events_.fail({file_, position_of(text_, position),
                             not_finite ? "a number too large for a double" : reason_of(error.what()), "valid JSON"});
    }

private:
    bool deeper() {
        if (++depth_ <= limits_.max_depth) return true;
        return events_.fail({file_, "", "nesting deeper than " + std::to_string(limits_.max_depth),
                             "at most " + std::to_string(limits_.max_depth) + " levels"});
    }

    std::string_view text_;
    const std::string& file_;
    const JsonLimits& limits_;
    JsonEvents& events_;
    int depth_ = 0;
};

// Builds the tree. Members are appended to the object's storage directly, because the ordered map's own insertion
// searches it from the front; duplicates are found once, when the object ends.
class TreeBuilder : public JsonEvents {
public:
    TreeBuilder(const std::string& file, Json& root) : file_(file), root_(root) {}

    bool value(Json scalar) override {
        place(std::move(scalar));
        return true;
    }
    bool key(std::string name) override {
        key_ = std::move(name);
        return true;
    }
    bool begin_object() override {
        open_.push_back(place(Json::object()));
        return true;
    }
    bool begin_array() override {
        open_.push_back(place(Json::array()));
        return true;
    }
    bool end_object() override {
        const auto& members = open_.back()->get_ref<const Json::object_t&>();
        open_.pop_back();
        std::vector<std::string_view> names;
        names.reserve(members.size());
        for (const auto& member : members) names.emplace_back(member.first);
        std::sort(names.begin(), names.end());
        const auto twice = std::adjacent_find(names.begin(), names.end());
        if (twice == names.end()) return true;
        return fail({file_, shorten(*twice, kShownBytes), "the key twice in one object", "each key once"});
    }
    bool end_array() override {
        open_.pop_back();
        return true;
    }

private:
    using Members = std::vector<Json::object_t::value_type>;

    Json* place(Json value) {
        if (open_.empty()) {
            root_ = std::move(value);
            return &root_;
        }
        Json& parent = *open_.back();
        if (parent.is_array()) {
            auto& items = parent.get_ref<Json::array_t&>();
            items.push_back(std::move(value));
            return &items.back();
        }
        Members& members = parent.get_ref<Json::object_t&>();
        members.emplace_back(std::move(key_), std::move(value));
        return &members.back().second;
    }

    const std::string& file_;
    Json& root_;
    std::vector<Json*> open_;
    std::string key_;
};

std::string shown_number(double v) {
    char text[32];
    std::snprintf(text, sizeof text, "%.15g", v);
    return text;
}

// 2.0 must not look like an integer where one was expected.
std::string float_text(double v) {
    const std::string text = shown_number(v);
    return text.find_first_not_of("-0123456789") == std::string::npos ? text + ".0" : text;
}

const char* type_word(const Json& value) {
    if (value.is_string()) return "string";
    if (value.is_boolean()) return "boolean";
    if (value.is_number()) return "number";
    if (value.is_array()) return "array";
    return value.is_object() ? "object" : "null";
}

}  // namespace

Result<void> parse_json_events(std::string_view text, const std::string& file, const JsonLimits& limits,
                               JsonEvents& events) {
    if (int64_t(text.size()) > limits.max_bytes)
        return Error{file, "", std::to_string(text.size()) + " bytes of JSON",
                     "at most " + std::to_string(limits.max_bytes) + " bytes"};
    // The library skips a byte order mark; RFC 8259 allows a reader to refuse it, and writers must not add it.
    if (text.substr(0, 3) == "\xef\xbb\xbf")
        return Error{file, "line 1, column 1", "a byte order mark", "plain UTF-8 JSON"};
    Adapter adapter(text, file, limits, events);
    const bool done = Json::sax_parse(text.begin(), text.end(), &adapter);
    if (events.error()) return *events.error();
    if (!done) return Error{file, "", "not JSON", "valid JSON"};
    return {};
}

Result<Json> parse_json(std::string_view text, const std::string& file, const JsonLimits& limits) {
    Json root;
    TreeBuilder builder(file, root);
    TRY_VOID(parse_json_events(text, file, limits, builder));
    return root;
}

Result<Json> read_json_file(const std::string& path, const JsonLimits& limits) {
    TRY_ASSIGN(text, read_text_file(path, limits.max_bytes));
    return parse_json(text, path, limits);
}

Fields::Fields(const Json& object, std::string file, std::string path)
    : object_(object), file_(std::move(file)), path_(std::move(path)) {
    if (!object_.is_object()) error_ = Error{file_, path_, describe(object_), "an object"};
}

const Json* Fields::find(const char* key) {
    read_.insert(key);
    if (!object_.is_object()) return nullptr;
    const auto it = object_.find(key);
    return it == object_.end() ? nullptr : &*it;
}

std::string Fields::path_of(const std::string& key) const { return path_.empty() ? key : path_ + "." + key; }

void Fields::wrong(const char* key, const Json& value, const std::string& expected) {
    fail(key, describe(value), expected);
}

bool Fields::is_there(const char* key) const { return object_.is_object() && object_.contains(key); }

bool Fields::has(const char* key) const {
    if (!object_.is_object()) return false;
    const auto it = object_.find(key);
    return it != object_.end() && !it->is_null();
}

std::string Fields::string(const char* key, std::string fallback) {
    const Json* value = find(key);
    if (!value) return fallback;
    if (value->is_string()) return value->get<std::string>();
    wrong(key, *value, "a string");
    return fallback;
}

std::string Fields::one_of(const char* key, std::string fallback, const std::vector<std::string>& allowed) {
    const Json* value = find(key);
    if (!value) return fallback;
    if (value->is_string() && std::count(allowed.begin(), allowed.end(), value->get<std::string>()))
        return value->get<std::string>();
    wrong(key, *value, (allowed.size() > 1 ? "one of " : "") + join(allowed, ", "));
    return fallback;
}

bool Fields::boolean(const char* key, bool fallback) {
    const Json* value = find(key);
    if (!value) return fallback;
    if (value->is_boolean()) return value->get<bool>();
    wrong(key, *value, "true or false");
    return fallback;
}

int64_t Fields::integer(const char* key, int64_t fallback, int64_t min, int64_t max) {
    const Json* value = find(key);
    if (!value) return fallback;
    const bool fits =
        value->is_number_integer() &&
        (!value->is_number_unsigned() || value->get<uint64_t>() <= uint64_t(std::numeric_limits<int64_t>::max()));
    const bool in_range = fits && value->get<int64_t>() >= min && value->get<int64_t>() <= max;
    if (in_range) return value->get<int64_t>();
    const bool all = min == std::numeric_limits<int64_t>::min() && max == std::numeric_limits<int64_t>::max();
    const std::string range = max == std::numeric_limits<int64_t>::max()
                                  ? "of at least " + std::to_string(min)
                                  : "from " + std::to_string(min) + " to " + std::to_string(max);
    wrong(key, *value, all ? "an integer" : "an integer " + range);
    return fallback;
}

double Fields::number(const char* key, double fallback, double min, double max) {
    const Json* value = find(key);
    if (!value) return fallback;
    if (value->is_number()) {
        const double v = value->get<double>();
        if (v >= min && v <= max) return v;
    }
    constexpr double kMax = std::numeric_limits<double>::max();
    const bool all = min == -kMax && max == kMax;
    const std::string range =
        max == kMax ? "of at least " + shown_number(min) : "from " + shown_number(min) + " to " + shown_number(max);
    wrong(key, *value, all ? "a number" : "a number " + range);
    return fallback;
}

const Json* Fields::any(const char* key) {
    const Json* value = find(key);
    return value && !value->is_null() ? value : nullptr;
}

const Json* Fields::array(const char* key) {
    const Json* value = find(key);
    if (!value || value->is_array()) return value;
    wrong(key, *value, "an array");
    return nullptr;
}

const Json* Fields::object(const char* key) {
    const Json* value = find(key);
    if (!value || value->is_object()) return value;
    wrong(key, *value, "an object");
    return nullptr;
}

void Fields::require(const char* key) {
    if (!object_.is_object() || object_.contains(key)) return;
    fail(key, "nothing", "this key");
}

void Fields::ignore(const char* key) { read_.insert(key); }

void Fields::fail(const std::string& key, std::string found, std::string expected) {
    if (!error_) error_ = Error{file_, path_of(key), std::move(found), std::move(expected)};
}

Result<void> Fields::finish_known_only() {
    if (error_) return *error_;
    return {};
}

Result<void> Fields::finish() {
    if (error_) return *error_;
    for (const auto& [key, value] : object_.items()) {
        if (read_.count(key)) continue;
        return Error{file_, path_of(shorten(key, kShownBytes)), "an unknown key",
                     read_.empty() ? "no keys" : "one of " + shorten(join(read_, ", "), 400)};
    }
    return {};
}

std::string describe(const Json& value) {
    if (value.is_null()) return "null";
    if (value.is_array()) return value.empty() ? "[] (array)" : "[…] (array)";
    if (value.is_object()) return value.empty() ? "{} (object)" : "{…} (object)";
    std::string text = value.is_string()         ? '"' + shorten(value.get_ref<const std::string&>(), kShownBytes) + '"'
                       : value.is_number_float() ? float_text(value.get<double>())
                                                 : value.dump();
    return escape_control(text) + (value.is_string() ? " (" + std::string(type_word(value)) + ")" : "");
}

}  // namespace spartan
