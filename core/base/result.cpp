#include "core/base/result.h"

#include "core/base/text.h"

namespace spartan {

std::string Error::message() const {
    std::string out;
    const auto part = [&](std::string_view separator, const std::string& text) {
        if (text.empty()) return;
        if (!out.empty()) out += separator;
        out += text;
    };
    part("", file);
    part(": ", field);
    if (!found.empty()) part(": ", expected.empty() ? found : "found " + found);
    if (!expected.empty()) part(found.empty() ? ": " : ", ", "expected " + expected);
    if (out.empty()) out = cancelled ? "cancelled" : "unknown error";
    return escape_control(out);
}

Error make_error(std::string sentence) {
    Error error;
    error.found = std::move(sentence);
    return error;
}

}  // namespace spartan
