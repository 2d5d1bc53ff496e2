// A parsed template.
#pragma once

#include "core/tokenizer/jinja_value.h"

#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace spartan::jinja {

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;
using Name = const std::string*;  // interned: equal names are one address

struct Expr {
    enum class Kind : uint8_t {
        constant,     // value
        name,         // name
        list,         // parts
        tuple,        // parts
        dict,         // parts: key, value, key, value, …
        attribute,    // parts[0].name
        item,         // parts[0][parts[1]]
        slice,        // parts: start, stop, step; null where left out
        call,         // parts[0](parts[1..], named)
        filter,       // parts[0] | name(parts[1..], named); parts[0] null inside {% filter %}
        test,         // parts[0] is name(parts[1..], named)
        negative,     // -parts[0]
        positive,     // +parts[0]
        logical_not,  // not parts[0]
        logical_and,
        logical_or,
        binary,      // parts[0] name parts[1]
        compare,     // parts[0] operators[0] parts[1] operators[1] parts[2] …
        concat,      // parts joined as text
        conditional  // parts[1] if parts[0] else parts[2], which may be null
    };
    Kind kind;
    int line;
    int depth = 1;
    Name name = nullptr;
    Value value;
    std::vector<ExprPtr> parts;
    std::vector<std::pair<std::string, ExprPtr>> named;
    std::vector<std::string> operators;
};

struct Stmt;
using Body = std::vector<std::unique_ptr<Stmt>>;

struct Parameter {
    Name name;
    ExprPtr fallback;  // null: none
};

struct Stmt {
    enum class Kind : uint8_t {
        data,          // value
        print,         // expr
        loop,          // for target in expr if condition: body, else other
        branch,        // if/elif: branches; else: other
        set,           // target = expr
        set_block,     // target = body, through `expr` (a chain of filters) if any
        macro,         // name(parameters): body
        call_block,    // expr is the call; body is caller(parameters)
        filter_block,  // expr is the chain of filters
        with,          // bindings: body
        scope,         // {% generation %}: body in a scope of its own
        leave,         // {% break %}
        next           // {% continue %}
    };
    Kind kind;
    int line;
    int depth = 1;
    Value value;
    ExprPtr target, expr, condition;
    Name name = nullptr;
    Body body, other;
    std::vector<std::pair<ExprPtr, Body>> branches;
    std::vector<std::pair<ExprPtr, ExprPtr>> bindings;
    std::vector<Parameter> parameters;
};

class Template {
public:
    Name intern(const std::string& name) { return &*names_.insert(name).first; }
    Name find(const std::string& name) const {
        const auto it = names_.find(name);
        return it == names_.end() ? nullptr : &*it;
    }
    Body body;

private:
    std::set<std::string> names_;
};

// Throws Failure. `source` is valid UTF-8.
std::unique_ptr<Template> parse(std::string_view source);

}  // namespace spartan::jinja
