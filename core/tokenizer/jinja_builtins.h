// What templates find ready made. The tables are fixed, so the parser can refuse what is not in them.
#pragma once

#include "core/tokenizer/jinja_value.h"

#include <string>
#include <string_view>

namespace spartan::jinja {

using Filter = Value (*)(Interpreter&, const Value& input, const Arguments&);
using Test = bool (*)(Interpreter&, const Value& input, const Arguments&);

Filter find_filter(std::string_view name);  // null if there is none
Test find_test(std::string_view name);

// self.name of a string, list or dict, ready to be called; undefined if Python has none. Refuses by name what Python
// has and this interpreter has not, and what Jinja's sandbox forbids.
Value text_method(const Value& self, const std::string& name);
Value container_method(const Value& self, const std::string& name);

// The string operations that filters and methods share.
Text strip(Interpreter&, const Text&, const Value& characters, bool left, bool right);
Text to_case(Interpreter&, const Text&, bool upper);
Text capitalize(Interpreter&, const Text&);
Text replace(Interpreter&, const Text&, const Text& what, const Text& with, int64_t most);
std::vector<Text> split_lines(const Text&);
Text format_percent(Interpreter&, const Text& format, const std::vector<Value>& arguments);
bool has_case(const std::string& text, bool upper);  // Python's isupper(), islower()

// range(), namespace(), dict(), raise_exception(), strftime_now().
std::vector<std::pair<std::string, Value>> global_functions();

}  // namespace spartan::jinja
