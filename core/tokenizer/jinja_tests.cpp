// x is name(…)
#include "core/tokenizer/jinja_builtins.h"
#include "core/tokenizer/jinja_interpreter.h"

#include <algorithm>
#include <cmath>
#include <iterator>

namespace spartan::jinja {

namespace {

using Kind = Value::Kind;

const Value& only(const Arguments& a, const char* test) {
    if (a.positional.size() != 1 || !a.named.empty()) fail_runtime(std::string(test) + " takes one argument");
    return a.positional[0];
}

template <Kind kind>
bool is_kind(Interpreter&, const Value& v, const Arguments&) {
    return v.is(kind);
}
bool is_defined(Interpreter&, const Value& v, const Arguments&) { return !v.is_undefined(); }
bool is_number(Interpreter&, const Value& v, const Arguments&) { return v.is_number(); }
bool is_iterable(Interpreter&, const Value& v, const Arguments&) {
    return v.is_list() || v.is_dict() || v.is_text() || v.is_undefined();
}
bool is_sequence(Interpreter&, const Value& v, const Arguments&) {
    return (v.is_list() && !v.is(Kind::generator)) || v.is_dict() || v.is_text() || v.is_undefined();
}
template <bool wanted>
bool is_exactly(Interpreter&, const Value& v, const Arguments&) {
    return v.is(Kind::boolean) && v.boolean() == wanted;
}
bool is_equal(Interpreter& in, const Value& v, const Arguments& a) { return equal(in.budget(), v, only(a, "equalto")); }
bool is_unequal(Interpreter& in, const Value& v, const Arguments& a) { return !equal(in.budget(), v, only(a, "ne")); }
bool is_less(Interpreter& in, const Value& v, const Arguments& a) { return order(in.budget(), v, only(a, "lt")) < 0; }
bool is_at_most(Interpreter& in, const Value& v, const Arguments& a) {
    return order(in.budget(), v, only(a, "le")) <= 0;
}
bool is_greater(Interpreter& in, const Value& v, const Arguments& a) {
    return order(in.budget(), v, only(a, "gt")) > 0;
}
bool is_at_least(Interpreter& in, const Value& v, const Arguments& a) {
    return order(in.budget(), v, only(a, "ge")) >= 0;
}
bool is_in(Interpreter& in, const Value& v, const Arguments& a) { return contains(in.budget(), only(a, "in"), v); }
bool is_same(Interpreter& in, const Value& v, const Arguments& a) {
    const Value& other = only(a, "sameas");
    return v.kind() == other.kind() && (v.identity() ? v.identity() == other.identity() : equal(in.budget(), v, other));
}
bool has_remainder(Interpreter& in, const Value& v, int64_t divisor, int64_t rest) {
    return equal(in.budget(), arithmetic(in.budget(), "%", v, Value::of(divisor)), Value::of(rest));
}
bool is_odd(Interpreter& in, const Value& v, const Arguments&) { return has_remainder(in, v, 2, 1); }
bool is_even(Interpreter& in, const Value& v, const Arguments&) { return has_remainder(in, v, 2, 0); }
bool is_divisible(Interpreter& in, const Value& v, const Arguments& a) {
    return has_remainder(in, v, to_integer(only(a, "divisibleby"), "the divisor"), 0);
}
template <bool upper>
bool is_case(Interpreter& in, const Value& v, const Arguments&) {
    return has_case(str(in.budget(), v).bytes(), upper);
}
bool is_filter(Interpreter&, const Value& v, const Arguments&) { return v.is_text() && find_filter(v.bytes()); }
bool is_test(Interpreter&, const Value& v, const Arguments&) { return v.is_text() && find_test(v.bytes()); }

struct Entry {
    std::string_view name;
    Test test;
};
constexpr Entry table[] = {{"!=", is_unequal},
                           {"<", is_less},
                           {"<=", is_at_most},
                           {"==", is_equal},
                           {">", is_greater},
                           {">=", is_at_least},
                           {"boolean", is_kind<Kind::boolean>},
                           {"callable", is_kind<Kind::function>},
                           {"defined", is_defined},
                           {"divisibleby", is_divisible},
                           {"eq", is_equal},
                           {"equalto", is_equal},
                           {"even", is_even},
                           {"false", is_exactly<false>},
                           {"filter", is_filter},
                           {"float", is_kind<Kind::real>},
                           {"ge", is_at_least},
                           {"greaterthan", is_greater},
                           {"gt", is_greater},
                           {"in", is_in},
                           {"integer", is_kind<Kind::integer>},
                           {"iterable", is_iterable},
                           {"le", is_at_most},
                           {"lessthan", is_less},
                           {"lower", is_case<false>},
                           {"lt", is_less},
                           {"mapping", is_kind<Kind::dict>},
                           {"ne", is_unequal},
                           {"none", is_kind<Kind::none>},
                           {"number", is_number},
                           {"odd", is_odd},
                           {"sameas", is_same},
                           {"sequence", is_sequence},
                           {"string", is_kind<Kind::text>},
                           {"test", is_test},
                           {"true", is_exactly<true>},
                           {"undefined", is_kind<Kind::undefined>},
                           {"upper", is_case<true>}};

}  // namespace

Test find_test(std::string_view name) {
    const auto it = std::find_if(std::begin(table), std::end(table), [&](const Entry& e) { return e.name == name; });
    return it == std::end(table) ? nullptr : it->test;
}

}  // namespace spartan::jinja
