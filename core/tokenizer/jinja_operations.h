// Python's operators and conversions on template values. All charge what they do to the budget.
#pragma once

#include "core/tokenizer/jinja_budget.h"
#include "core/tokenizer/jinja_value.h"

#include <string>
#include <string_view>
#include <vector>

namespace spartan::jinja {

Value make_text(Budget&, Text text);
Value make_list(Budget&, std::vector<Value> values, Value::Kind kind = Value::Kind::list);
Value make_dict(Budget&, std::vector<std::pair<Value, Value>> entries);  // a later entry of the same key wins

bool truth(const Value&);
bool equal(Budget&, const Value&, const Value&);
int order(Budget&, const Value&, const Value&);  // < 0, 0, > 0; fails where Python has no order
bool contains(Budget&, const Value& whole, const Value& part);
const Value* find_key(Budget&, const Dict&, const Value& key);  // null when absent
int64_t length(Budget&, const Value&);
// The elements of anything that a loop takes: characters of a string, keys of a dict, none of undefined.
std::vector<Value> elements(Budget&, const Value&);

Value arithmetic(Budget&, std::string_view op, const Value&, const Value&);
Value negated(const Value&, bool negate);
// Python's slice of a string, list or tuple; undefined or none for a bound that is left out.
Value slice(Budget&, const Value&, const Value& start, const Value& stop, const Value& step);

Text str(Budget&, const Value&);  // Python's str()
struct JsonStyle {
    std::string indent;  // of one level
    bool lines = false;  // one entry a line
    std::string item_separator = ", ", key_separator = ": ";
    bool ascii = false, sorted = false;
};
Text to_json(Budget&, const Value&, const JsonStyle&);  // json.dumps()

int64_t to_integer(const Value&, const char* of);  // fails unless it is one
const Text& to_text(const Value&, const char* of);

}  // namespace spartan::jinja
