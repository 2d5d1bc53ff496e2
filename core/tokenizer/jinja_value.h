// The values of a template: Python's, as far as templates meet them. All but namespaces are immutable, as in Jinja's
// ImmutableSandboxedEnvironment, so values form no cycles.
#pragma once

#include "core/tokenizer/jinja_text.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace spartan::jinja {

class Interpreter;
class Value;
struct Arguments;

// Of a list, tuple or generator.
struct Items {
    std::vector<Value> values;
    int depth = 1;
    mutable bool spent = false;  // a generator that was walked
};
struct Dict {
    std::vector<std::pair<Value, Value>> entries;  // in order of insertion
    int depth = 1;
};
struct Function {
    std::string name;
    std::function<Value(Interpreter&, const Arguments&)> call;
    int depth = 1;
};
// namespace(): the one thing that a template may change. The interpreter owns them all.
struct Namespace {
    std::vector<std::pair<std::string, Value>> members;
};
struct Loop;

class Value {
public:
    enum class Kind : uint8_t {
        undefined,
        none,
        boolean,
        integer,
        real,
        text,
        list,
        tuple,
        generator,  // what map() and its like give: true even when empty, no length, walked once
        dict,
        function,
        space,
        loop
    };

    Value() = default;  // undefined
    static Value undefined(std::string what);
    static Value none() { return Value(Kind::none, std::monostate{}); }
    static Value of(bool b) { return Value(Kind::boolean, b); }
    static Value of(int64_t i) { return Value(Kind::integer, i); }
    static Value of(double d) { return Value(Kind::real, d); }
    static Value of(Text t) { return Value(Kind::text, std::make_shared<const Text>(std::move(t))); }
    static Value of(std::string_view s) { return of(Text(s)); }
    static Value of(const char* s) { return of(Text(s)); }
    static Value list(std::vector<Value> values) { return items(Kind::list, std::move(values)); }
    static Value tuple(std::vector<Value> values) { return items(Kind::tuple, std::move(values)); }
    static Value generator(std::vector<Value> values) { return items(Kind::generator, std::move(values)); }
    static Value dict(std::vector<std::pair<Value, Value>> entries);  // keys differ
    static Value function(std::string name, std::function<Value(Interpreter&, const Arguments&)> call, int depth = 1);
    static Value space(Namespace* n) { return Value(Kind::space, n); }
    static Value loop(std::shared_ptr<Loop> l) { return Value(Kind::loop, std::move(l)); }

    Kind kind() const { return kind_; }
    bool is(Kind k) const { return kind_ == k; }
    bool is_undefined() const { return is(Kind::undefined); }
    bool is_none() const { return is(Kind::none); }
    bool is_text() const { return is(Kind::text); }
    bool is_dict() const { return is(Kind::dict); }
    bool is_list() const { return is(Kind::list) || is(Kind::tuple) || is(Kind::generator); }
    bool is_integer() const { return is(Kind::integer) || is(Kind::boolean); }  // bool is an int in Python
    bool is_number() const { return is_integer() || is(Kind::real); }

    const std::string& what() const;  // of undefined: why
    bool boolean() const { return std::get<bool>(v_); }
    int64_t integer() const { return is(Kind::boolean) ? int64_t{boolean()} : std::get<int64_t>(v_); }
    double real() const { return is(Kind::real) ? std::get<double>(v_) : static_cast<double>(integer()); }
    const Text& text() const { return *std::get<std::shared_ptr<const Text>>(v_); }
    const std::string& bytes() const { return text().bytes(); }
    const Items& items() const { return *std::get<std::shared_ptr<const Items>>(v_); }
    const Dict& dict() const { return *std::get<std::shared_ptr<const Dict>>(v_); }
    const Function& function() const { return *std::get<std::shared_ptr<const Function>>(v_); }
    Namespace* space() const { return std::get<Namespace*>(v_); }
    const std::shared_ptr<Loop>& loop() const { return std::get<std::shared_ptr<Loop>>(v_); }
    const void* identity() const;  // null for values that are equal by content alone

    int depth() const;              // 0 for what holds nothing
    const char* type_name() const;  // Python's: "str"

private:
    using Storage =
        std::variant<std::monostate, bool, int64_t, double, std::shared_ptr<const Text>, std::shared_ptr<const Items>,
                     std::shared_ptr<const Dict>, std::shared_ptr<const Function>, Namespace*, std::shared_ptr<Loop>>;
    Value(Kind kind, Storage v) : kind_(kind), v_(std::move(v)) {}
    static Value items(Kind kind, std::vector<Value> values);

    Kind kind_ = Kind::undefined;
    Storage v_;
};

// The arguments of a call, a filter or a test.
struct Arguments {
    std::vector<Value> positional;
    std::vector<std::pair<std::string, Value>> named;

    // By parameter, undefined where not given. Fails on too many, unknown or doubled ones.
    std::vector<Value> bind(const char* function, std::initializer_list<const char*> parameters,
                            size_t required = 0) const;
};

// What `loop` is inside {% for %}.
struct Loop {
    const std::vector<Value>* values = nullptr;  // null: the loop is over
    size_t index = 0;
    std::vector<Value> last_changed;
};

}  // namespace spartan::jinja
