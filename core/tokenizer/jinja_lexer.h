// Template text to tokens, with Jinja's white-space rules under trim_blocks and lstrip_blocks.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace spartan::jinja {

struct Lexeme {
    enum class Kind : uint8_t {
        data,
        print_begin,
        print_end,
        tag_begin,
        tag_end,
        name,
        string,
        integer,
        real,
        op,
        end
    };
    Kind kind;
    std::string text;  // of data, names and operators; the value of a string; the digits of a number
    int line;
};

// Ends with one of kind `end`. Throws Failure. `source` is valid UTF-8.
std::vector<Lexeme> lex(std::string_view source);

}  // namespace spartan::jinja
