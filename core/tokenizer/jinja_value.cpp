#include "core/tokenizer/jinja_value.h"

#include "core/tokenizer/jinja_error.h"

#include <algorithm>

namespace spartan::jinja {

Value Value::undefined(std::string what) { return Value(Kind::undefined, std::make_shared<const Text>(Text(what))); }

const std::string& Value::what() const {
    static const std::string nothing = "the value is undefined";
    const auto* text = std::get_if<std::shared_ptr<const Text>>(&v_);
    return text ? (*text)->bytes() : nothing;
}

Value Value::items(Kind kind, std::vector<Value> values) {
    Items items;
    for (const Value& v : values) items.depth = std::max(items.depth, 1 + v.depth());
    items.values = std::move(values);
    return Value(kind, std::make_shared<const Items>(std::move(items)));
}

Value Value::dict(std::vector<std::pair<Value, Value>> entries) {
    Dict dict;
    for (const auto& [key, value] : entries) dict.depth = std::max({dict.depth, 1 + key.depth(), 1 + value.depth()});
    dict.entries = std::move(entries);
    return Value(Kind::dict, std::make_shared<const Dict>(std::move(dict)));
}

Value Value::function(std::string name, std::function<Value(Interpreter&, const Arguments&)> call, int depth) {
    return Value(Kind::function, std::make_shared<const Function>(Function{std::move(name), std::move(call), depth}));
}

int Value::depth() const {
    switch (kind_) {
        case Kind::list:
        case Kind::tuple:
        case Kind::generator:
            return items().depth;
        case Kind::dict:
            return dict().depth;
        case Kind::function:
            return function().depth;
        default:
            return 0;
    }
}

const void* Value::identity() const {
    switch (kind_) {
        case Kind::list:
        case Kind::tuple:
        case Kind::generator:
            return &items();
        case Kind::dict:
            return &dict();
        case Kind::function:
            return &function();
        case Kind::space:
            return space();
        case Kind::loop:
            return loop().get();
        default:
            return nullptr;
    }
}

const char* Value::type_name() const {
    switch (kind_) {
        case Kind::undefined:
            return "Undefined";
        case Kind::none:
            return "NoneType";
        case Kind::boolean:
            return "bool";
        case Kind::integer:
            return "int";
        case Kind::real:
            return "float";
        case Kind::text:
            return "str";
        case Kind::list:
            return "list";
        case Kind::tuple:
            return "tuple";
        case Kind::generator:
            return "generator";
        case Kind::dict:
            return "dict";
        case Kind::function:
            return "function";
        case Kind::space:
            return "Namespace";
        case Kind::loop:
            return "LoopContext";
    }
    return "";
}

std::vector<Value> Arguments::bind(const char* function, std::initializer_list<const char*> parameters,
                                   size_t required) const {
    const std::string name = function;
    if (positional.size() > parameters.size())
        fail_runtime(name + "() takes at most " + std::to_string(parameters.size()) + " arguments, not " +
                     std::to_string(positional.size()));
    std::vector<Value> bound(positional);
    std::vector<bool> given(positional.size(), true);
    bound.resize(parameters.size());
    given.resize(parameters.size());
    for (const auto& [key, value] : named) {
        const auto it = std::find(parameters.begin(), parameters.end(), key);
        if (it == parameters.end()) fail_runtime(name + "() has no argument " + key);
        const auto at = static_cast<size_t>(it - parameters.begin());
        if (given[at]) fail_runtime(name + "() got two values for argument " + key);
        bound[at] = value;
        given[at] = true;
    }
    for (size_t i = 0; i < required; ++i)
        if (!given[i]) fail_runtime(name + "() needs the argument " + *(parameters.begin() + i));
    return bound;
}

}  // namespace spartan::jinja
