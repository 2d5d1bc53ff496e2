// Strict JSON: what a file says is either used or refused, never guessed at.
#pragma once

#include "core/base/result.h"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace spartan {

using Json = nlohmann::ordered_json;

struct JsonLimits {
    int max_depth = 64;
    int64_t max_bytes = 256 << 20;
    // Hugging Face writes 10^30 for "no limit" into tokenizer_config.json: take integers beyond 64 bits as doubles.
    bool big_integers_as_double = false;
};

// Refuses duplicate keys, invalid UTF-8, NaN and infinities, depth over the limit and trailing text. `file` names the
// source in errors; a syntax error names line and column.
Result<Json> parse_json(std::string_view text, const std::string& file, const JsonLimits& = {});
Result<Json> read_json_file(const std::string& path, const JsonLimits& = {});

// Reads the members of one JSON object by name and type, remembers which were asked for, and finish() refuses the rest.
// Every getter returns the default when the key is absent and records the first error, which finish() returns; so a
// reader can fetch all fields in a row and check once. JSON null is a wrong type to every getter but any().
//
//     Fields f(json, "workload.json", "arrival");
//     const double rate = f.number("rate", 1.0, 0.0, 1e9);
//     TRY_VOID(f.finish());
class Fields {
public:
    Fields(const Json& object, std::string file, std::string path = "");

    bool has(const char* key) const;       // present and not null; does not mark it as read
    bool is_there(const char* key) const;  // present, null or not; does not mark it as read
    std::string string(const char* key, std::string fallback = "");
    std::string one_of(const char* key, std::string fallback, const std::vector<std::string>& allowed);
    bool boolean(const char* key, bool fallback = false);
    int64_t integer(const char* key, int64_t fallback, int64_t min = std::numeric_limits<int64_t>::min(),
                    int64_t max = std::numeric_limits<int64_t>::max());
    double number(const char* key, double fallback, double min = -std::numeric_limits<double>::max(),
                  double max = std::numeric_limits<double>::max());
    const Json* any(const char* key);  // marks it read; null when absent or JSON null
    const Json* array(const char* key);
    const Json* object(const char* key);
    void require(const char* key);                                                // an error when absent
    void ignore(const char* key);                                                 // known, without effect on the result
    bool was_read(const std::string& key) const { return read_.count(key) > 0; }  // asked for or ignored
    void fail(const std::string& key, std::string found, std::string expected);

    bool ok() const { return !error_; }
    Result<void> finish();             // the first error; else an unknown key; else ok
    Result<void> finish_known_only();  // the first error only: unknown keys pass

private:
    const Json* find(const char* key);
    std::string path_of(const std::string& key) const;

    void wrong(const char* key, const Json& value, const std::string& expected);

    const Json& object_;
    std::string file_, path_;
    std::set<std::string> read_;
    std::optional<Error> error_;
};

// What a value is, for "found": `"4096" (string)`, `null`, `[…] (array)`; cut to a readable length, escaped.
std::string describe(const Json& value);

}  // namespace spartan
