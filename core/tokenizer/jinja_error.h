// How a template fails. Thrown and caught inside the interpreter only; what leaves it is an Error.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

namespace spartan::jinja {

struct Failure {
    enum class Kind : uint8_t {
        syntax,       // not Jinja
        unsupported,  // Jinja, but not of the part that runs here
        runtime,      // Jinja's own rules refuse it
        raised,       // the template's raise_exception()
        limit,        // more work, memory, output or depth than allowed
    };
    Kind kind;
    std::string message;
    int line = 0;  // 0: where the interpreter stands
};

[[noreturn]] inline void fail(Failure::Kind kind, std::string message, int line = 0) {
    throw Failure{kind, std::move(message), line};
}
[[noreturn]] inline void fail_runtime(std::string message) { fail(Failure::Kind::runtime, std::move(message)); }
[[noreturn]] inline void fail_unsupported(std::string what) {
    fail(Failure::Kind::unsupported, std::move(what) + " is not supported");
}

}  // namespace spartan::jinja
