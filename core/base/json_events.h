// JSON as a stream of events, for files whose tree would take many times their size. The same strictness as
// parse_json(), except that duplicate keys are the receiver's to refuse.
#pragma once

#include "core/base/json.h"

#include <optional>
#include <string>
#include <string_view>

namespace spartan {

// Each function returns whether to go on; a receiver that stops says why with fail().
class JsonEvents {
public:
    virtual ~JsonEvents() = default;
    virtual bool value(Json scalar) = 0;  // null, a boolean, a number or a string
    virtual bool key(std::string name) = 0;
    virtual bool begin_object() = 0;
    virtual bool end_object() = 0;
    virtual bool begin_array() = 0;
    virtual bool end_array() = 0;

    bool fail(Error error) {
        if (!error_) error_ = std::move(error);
        return false;
    }
    const std::optional<Error>& error() const { return error_; }

private:
    std::optional<Error> error_;
};

Result<void> parse_json_events(std::string_view text, const std::string& file, const JsonLimits& limits,
                               JsonEvents& events);

}  // namespace spartan
