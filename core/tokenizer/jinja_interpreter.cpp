#include "core/tokenizer/jinja_interpreter.h"

#include "core/tokenizer/jinja_builtins.h"

#include <algorithm>

namespace spartan::jinja {

namespace {

using Kind = Value::Kind;

constexpr uint64_t namespace_work = 1000;  // they live until the end

}  // namespace

Interpreter::Interpreter(const Template& source, const Context& context, uint64_t given_bytes, const std::tm& now)
    : template_(source), budget_(given_bytes), now_(now) {
    for (const Context& values : {global_functions(), context})
        for (const auto& [name, value] : values)
            if (const Name known = template_.find(name)) set(context_, known, value);
}

// Values may point at namespaces that hold values: neither may outlive the other half-way.
Interpreter::~Interpreter() {
    for (Namespace& n : namespaces_) n.members.clear();
}

Text Interpreter::run() {
    Text out;
    run(template_.body, top_, out);
    return out;
}

void Interpreter::write(Text& out, const Text& text) {
    budget_.write(text.size());
    budget_.look_at(text.size());
    out.append(text);
}

// ---- names

void Interpreter::set(Frame& frame, Name name, Value value) {
    budget_.work(1 + frame.values.size() / 8);
    for (auto& [known, old] : frame.values) {
        if (known != name) continue;
        old = std::move(value);
        return;
    }
    frame.values.emplace_back(name, std::move(value));
}

const Value* Interpreter::find(const Frame& frame, Name name) {
    for (const Frame* f = &frame; f; f = f->parent) {
        budget_.work(1 + f->values.size() / 8);
        for (const auto& [known, value] : f->values)
            if (known == name) return &value;
    }
    return nullptr;
}

void Interpreter::assign(const Expr& target, Value value, Frame& frame) {
    if (target.kind == Expr::Kind::name) return set(frame, target.name, std::move(value));
    if (target.kind == Expr::Kind::attribute) {
        const Value* space = find(frame, target.parts[0]->name);
        if (!space || !space->is(Kind::space)) fail_runtime("cannot assign attribute on non-namespace object");
        auto& members = space->space()->members;
        budget_.work(1 + members.size() / 8);
        budget_.check_value_depth(value.depth());
        for (auto& [name, old] : members) {
            if (name != *target.name) continue;
            old = std::move(value);
            return;
        }
        budget_.make(2 * sizeof(Value));
        members.emplace_back(*target.name, std::move(value));
        return;
    }
    std::vector<Value> values = elements(budget_, value);
    if (values.size() != target.parts.size())
        fail_runtime("found " + std::to_string(values.size()) + " values for " + std::to_string(target.parts.size()) +
                     " names");
    for (size_t i = 0; i < values.size(); ++i) assign(*target.parts[i], std::move(values[i]), frame);
}

// ---- statements

Interpreter::Flow Interpreter::run(const Body& body, Frame& frame, Text& out) {
    const Budget::Level level(budget_);
    for (const auto& s : body)
        if (const Flow flow = run(*s, frame, out); flow != Flow::normal) return flow;
    return Flow::normal;
}

Text Interpreter::run_inside(const Body& body, const Frame& parent) {
    Frame frame{&parent, {}, false};
    Text out;
    run(body, frame, out);
    return out;
}

Interpreter::Flow Interpreter::run(const Stmt& s, Frame& frame, Text& out) {
    line_ = s.line;
    budget_.work(1);
    switch (s.kind) {
        case Stmt::Kind::data:
            write(out, s.value.text());
            break;
        case Stmt::Kind::print: {
            const Value value = evaluate(*s.expr, frame);
            write(out, value.is_text() ? value.text() : str(budget_, value));
            break;
        }
        case Stmt::Kind::loop:
            return run_loop(s, frame, out);
        case Stmt::Kind::branch:
            return run_branch(s, frame, out);
        case Stmt::Kind::set:
            assign(*s.target, evaluate(*s.expr, frame), frame);
            break;
        case Stmt::Kind::set_block:
            run_set_block(s, frame);
            break;
        case Stmt::Kind::macro:
            define_macro(s, frame);
            break;
        case Stmt::Kind::call_block:
            run_call_block(s, frame, out);
            break;
        case Stmt::Kind::filter_block: {
            const Value text = make_text(budget_, run_inside(s.body, frame));
            write(out, str(budget_, evaluate_filter(*s.expr, frame, &text)));
            break;
        }
        case Stmt::Kind::with: {
            Frame inner{&frame, {}, false};
            for (const auto& [target, value] : s.bindings) assign(*target, evaluate(*value, frame), inner);
            return run(s.body, inner, out);
        }
        case Stmt::Kind::scope:
            write(out, run_inside(s.body, frame));
            break;
        case Stmt::Kind::leave:
            return Flow::leave;
        case Stmt::Kind::next:
            return Flow::next;
    }
    return Flow::normal;
}

Interpreter::Flow Interpreter::run_branch(const Stmt& s, Frame& frame, Text& out) {
    for (const auto& [condition, body] : s.branches)
        if (truth(evaluate(*condition, frame))) return run(body, frame, out);
    return run(s.other, frame, out);
}

Interpreter::Flow Interpreter::run_loop(const Stmt& s, Frame& frame, Text& out) {
    const Value over = evaluate(*s.expr, frame);
    std::vector<Value> values = elements(budget_, over);
    if (s.condition) {
        std::vector<Value> kept;
        for (Value& value : values) {
            Frame inner{&frame, {}, false};
            assign(*s.target, value, inner);
            if (truth(evaluate(*s.condition, inner))) kept.push_back(std::move(value));
        }
        values = std::move(kept);
    }
    if (values.empty()) {
        Frame inner{&frame, {}, false};
        return run(s.other, inner, out);
    }
    // What outlives the loop must not see its values.
    struct Ends {
        std::shared_ptr<Loop> loop;
        ~Ends() { *loop = Loop{}; }
    };
    const Ends ends{std::make_shared<Loop>()};
    ends.loop->values = &values;
    const Name loop_name = template_.find("loop");
    for (size_t i = 0; i < values.size(); ++i) {
        Frame inner{&frame, {}, false};
        ends.loop->index = i;
        if (loop_name) set(inner, loop_name, Value::loop(ends.loop));
        assign(*s.target, values[i], inner);
        budget_.work(1);
        if (run(s.body, inner, out) == Flow::leave) break;
    }
    return Flow::normal;
}

void Interpreter::run_set_block(const Stmt& s, Frame& frame) {
    Value value = make_text(budget_, run_inside(s.body, frame));
    if (s.expr) value = evaluate_filter(*s.expr, frame, &value);
    assign(*s.target, std::move(value), frame);
}

// A macro sees the template's own variables, as they are when it is called.
void Interpreter::define_macro(const Stmt& s, Frame& frame) {
    if (!frame.top) fail_unsupported("a macro inside a loop, a macro or a block with its own scope");
    set(frame, s.name, Value::function(*s.name, [&s](Interpreter& in, const Arguments& arguments) {
            return in.call_macro(s, in.top_, arguments, Value());
        }));
}

void Interpreter::run_call_block(const Stmt& s, Frame& frame, Text& out) {
    const auto live = std::make_shared<bool>(true);
    struct Ends {
        bool& live;
        ~Ends() { live = false; }
    };
    const Ends ends{*live};
    const Value caller = Value::function("caller", [&s, &frame, live](Interpreter& in, const Arguments& arguments) {
        if (!*live) fail_runtime("caller() after its call");
        return in.call_macro(s, frame, arguments, Value());
    });
    const Value text = evaluate_call(*s.expr, frame, &caller);
    write(out, str(budget_, text));
}

Value Interpreter::call_macro(const Stmt& s, const Frame& parent, const Arguments& arguments, const Value& caller) {
    const Budget::Level level(budget_);
    const int line = line_;
    const std::string name = s.name ? *s.name : "caller";
    Frame frame{&parent, {}, false};
    std::vector<bool> given(s.parameters.size());
    std::vector<Value> rest;
    std::vector<std::pair<Value, Value>> others;
    for (size_t i = 0; i < arguments.positional.size(); ++i) {
        if (i >= s.parameters.size()) {
            rest.push_back(arguments.positional[i]);
            continue;
        }
        set(frame, s.parameters[i].name, arguments.positional[i]);
        given[i] = true;
    }
    const Name varargs = template_.find("varargs"), kwargs = template_.find("kwargs"), call = template_.find("caller");
    if (!rest.empty() && !varargs)
        fail_runtime(name + "() takes at most " + std::to_string(s.parameters.size()) + " arguments");
    Value called_by = caller;
    for (const auto& [key, value] : arguments.named) {
        const auto p = std::find_if(s.parameters.begin(), s.parameters.end(),
                                    [&, &wanted = key](const Parameter& q) { return *q.name == wanted; });
        if (p == s.parameters.end()) {
            if (key == "caller") {
                called_by = value;
            } else if (kwargs) {
                others.emplace_back(Value::of(key), value);
            } else {
                fail_runtime(name + "() has no argument " + key);
            }
            continue;
        }
        const auto at = static_cast<size_t>(p - s.parameters.begin());
        if (given[at]) fail_runtime(name + "() got two values for argument " + key);
        set(frame, p->name, value);
        given[at] = true;
    }
    for (size_t i = 0; i < s.parameters.size(); ++i) {
        if (given[i]) continue;
        const Parameter& p = s.parameters[i];
        set(frame, p.name,
            p.fallback ? evaluate(*p.fallback, frame)
                       : Value::undefined("parameter \"" + *p.name + "\" was not provided"));
    }
    if (varargs) set(frame, varargs, make_list(budget_, std::move(rest), Kind::tuple));
    if (kwargs) set(frame, kwargs, make_dict(budget_, std::move(others)));
    if (call && !called_by.is_undefined()) set(frame, call, called_by);
    Text out;
    run(s.body, frame, out);
    line_ = line;
    return make_text(budget_, std::move(out));
}

// ---- expressions

Value Interpreter::evaluate(const Expr& e, Frame& frame) {
    const Budget::Level level(budget_);
    budget_.work(1);
    line_ = e.line;
    const auto part = [&](size_t i) { return evaluate(*e.parts[i], frame); };
    switch (e.kind) {
        case Expr::Kind::constant:
            return e.value;
        case Expr::Kind::name:
            if (const Value* value = find(frame, e.name)) return *value;
            return Value::undefined(*e.name + " is undefined");
        case Expr::Kind::list:
            return make_list(budget_, evaluate_all(e.parts, 0, frame));
        case Expr::Kind::tuple:
            return make_list(budget_, evaluate_all(e.parts, 0, frame), Kind::tuple);
        case Expr::Kind::dict:
            return evaluate_dict(e, frame);
        case Expr::Kind::attribute:
            return attribute(part(0), *e.name);
        case Expr::Kind::item: {
            const Value of = part(0);
            const Expr& key = *e.parts[1];
            if (key.kind != Expr::Kind::slice) return item(of, evaluate(key, frame));
            Value bounds[3];
            for (size_t i = 0; i < 3; ++i) bounds[i] = key.parts[i] ? evaluate(*key.parts[i], frame) : Value::none();
            return slice(budget_, of, bounds[0], bounds[1], bounds[2]);
        }
        case Expr::Kind::slice:
            break;
        case Expr::Kind::call:
            return evaluate_call(e, frame, nullptr);
        case Expr::Kind::filter:
            return evaluate_filter(e, frame, nullptr);
        case Expr::Kind::test: {
            const Value value = part(0);
            const Arguments arguments = evaluate_arguments(e, frame);
            return Value::of(find_test(*e.name)(*this, value, arguments));
        }
        case Expr::Kind::negative:
            return negated(part(0), true);
        case Expr::Kind::positive:
            return negated(part(0), false);
        case Expr::Kind::logical_not:
            return Value::of(!truth(part(0)));
        case Expr::Kind::logical_and: {
            Value left = part(0);
            return truth(left) ? part(1) : left;
        }
        case Expr::Kind::logical_or: {
            Value left = part(0);
            return truth(left) ? left : part(1);
        }
        case Expr::Kind::binary: {
            const Value left = part(0), right = part(1);
            line_ = e.line;
            if (*e.name == "%" && left.is_text()) {
                std::vector<Value> arguments = right.is(Kind::tuple) ? right.items().values : std::vector<Value>{right};
                return make_text(budget_, format_percent(*this, left.text(), arguments));
            }
            return arithmetic(budget_, *e.name, left, right);
        }
        case Expr::Kind::compare:
            return evaluate_compare(e, frame);
        case Expr::Kind::concat: {
            Text out;
            for (const Value& value : evaluate_all(e.parts, 0, frame)) {
                out.append(str(budget_, value));
                budget_.make(out.size() / 8);
            }
            return make_text(budget_, std::move(out));
        }
        case Expr::Kind::conditional:
            if (truth(part(0))) return part(1);
            return e.parts[2] ? part(2)
                              : Value::undefined(
                                    "the inline if-expression evaluated to false and no else section was defined");
    }
    return Value();
}

std::vector<Value> Interpreter::evaluate_all(const std::vector<ExprPtr>& parts, size_t from, Frame& frame) {
    std::vector<Value> out;
    for (size_t i = from; i < parts.size(); ++i) out.push_back(evaluate(*parts[i], frame));
    return out;
}

Arguments Interpreter::evaluate_arguments(const Expr& e, Frame& frame) {
    Arguments out{evaluate_all(e.parts, 1, frame), {}};
    for (const auto& [name, value] : e.named) out.named.emplace_back(name, evaluate(*value, frame));
    line_ = e.line;
    return out;
}

Value Interpreter::evaluate_dict(const Expr& e, Frame& frame) {
    std::vector<std::pair<Value, Value>> entries;
    for (size_t i = 0; i + 1 < e.parts.size(); i += 2) {
        Value key = evaluate(*e.parts[i], frame);
        entries.emplace_back(std::move(key), evaluate(*e.parts[i + 1], frame));
    }
    return make_dict(budget_, std::move(entries));
}

Value Interpreter::evaluate_filter(const Expr& e, Frame& frame, const Value* input) {
    const Value value =
        e.parts[0] ? (input && e.parts[0]->kind == Expr::Kind::filter ? evaluate_filter(*e.parts[0], frame, input)
                                                                      : evaluate(*e.parts[0], frame))
                   : *input;
    const Arguments arguments = evaluate_arguments(e, frame);
    return find_filter(*e.name)(*this, value, arguments);
}

Value Interpreter::evaluate_call(const Expr& e, Frame& frame, const Value* caller) {
    const Value function = evaluate(*e.parts[0], frame);
    Arguments arguments = evaluate_arguments(e, frame);
    if (caller) arguments.named.emplace_back("caller", *caller);
    return call(function, arguments);
}

Value Interpreter::evaluate_compare(const Expr& e, Frame& frame) {
    Value left = evaluate(*e.parts[0], frame);
    for (size_t i = 0; i < e.operators.size(); ++i) {
        Value right = evaluate(*e.parts[i + 1], frame);
        line_ = e.line;
        const std::string& op = e.operators[i];
        bool holds = false;
        if (op == "==" || op == "!=") {
            holds = equal(budget_, left, right) == (op == "==");
        } else if (op == "in" || op == "not in") {
            holds = contains(budget_, right, left) == (op == "in");
        } else {
            const int c = order(budget_, left, right);
            holds = op == "<" ? c < 0 : op == "<=" ? c <= 0 : op == ">" ? c > 0 : c >= 0;
        }
        if (!holds) return Value::of(false);
        left = std::move(right);
    }
    return Value::of(true);
}

Value Interpreter::call(const Value& function, const Arguments& arguments) {
    if (function.is_undefined()) fail_runtime(function.what());
    if (!function.is(Kind::function))
        fail_runtime(std::string("an object of type ") + function.type_name() + " cannot be called");
    const Budget::Level level(budget_);
    return function.function().call(*this, arguments);
}

// ---- look-ups

Value Interpreter::attribute(const Value& of, const std::string& name) {
    switch (of.kind()) {
        case Kind::undefined:
            fail_runtime(of.what());
        case Kind::space:
            for (const auto& [member, value] : of.space()->members) {
                budget_.work(1);
                if (member == name) return value;
            }
            return Value::undefined("the namespace has no attribute " + name);
        case Kind::loop:
            return loop_attribute(of, name);
        case Kind::dict: {
            if (Value method = container_method(of, name); !method.is_undefined()) return method;
            if (const Value* value = find_key(budget_, of.dict(), Value::of(name))) return *value;
            break;
        }
        default:
            break;
    }
    if (name.starts_with("_")) fail_runtime("access to attribute " + name + " is unsafe");
    Value method = of.is_text() ? text_method(of, name) : container_method(of, name);
    if (!method.is_undefined()) return method;
    return Value::undefined(std::string(of.type_name()) + " object has no attribute " + name);
}

Value Interpreter::item(const Value& of, const Value& key) {
    if (of.is_undefined()) fail_runtime(of.what());
    if (of.is_dict())
        if (const Value* value = find_key(budget_, of.dict(), key)) return *value;
    if (key.is_integer() && (of.is_text() || of.is(Kind::list) || of.is(Kind::tuple))) {
        const int64_t n = length(budget_, of);
        int64_t i = key.integer();
        if (i < 0) i = i < -n ? -1 : i + n;
        if (i < 0 || i >= n)
            return Value::undefined(std::string(of.type_name()) + " object has no element " +
                                    std::to_string(key.integer()));
        if (!of.is_text()) return of.items().values[static_cast<size_t>(i)];
        return slice(budget_, of, Value::of(i), Value::of(i + 1), Value::none());
    }
    if (key.is_text())
        return of.is_dict() && key.bytes().starts_with("_")
                   ? Value::undefined("dict object has no attribute " + key.bytes())
                   : attribute(of, key.bytes());
    return Value::undefined(std::string(of.type_name()) + " object has no such element");
}

Value Interpreter::loop_attribute(const Value& loop, const std::string& name) {
    const std::shared_ptr<Loop>& l = loop.loop();
    if (!l->values) fail_runtime("loop is used after its end");
    const auto n = static_cast<int64_t>(l->values->size()), i = static_cast<int64_t>(l->index);
    if (name == "index") return Value::of(i + 1);
    if (name == "index0") return Value::of(i);
    if (name == "revindex") return Value::of(n - i);
    if (name == "revindex0") return Value::of(n - i - 1);
    if (name == "first") return Value::of(i == 0);
    if (name == "last") return Value::of(i + 1 == n);
    if (name == "length") return Value::of(n);
    if (name == "depth") return Value::of(int64_t{1});
    if (name == "depth0") return Value::of(int64_t{0});
    if (name == "previtem") return i > 0 ? (*l->values)[l->index - 1] : Value::undefined("there is no previous item");
    if (name == "nextitem") return i + 1 < n ? (*l->values)[l->index + 1] : Value::undefined("there is no next item");
    if (name == "cycle")
        return Value::function("loop.cycle", [l](Interpreter&, const Arguments& a) {
            if (a.positional.empty()) fail_runtime("no items for cycling given");
            return a.positional[l->index % a.positional.size()];
        });
    if (name == "changed")
        return Value::function("loop.changed", [l](Interpreter& in, const Arguments& a) {
            if (!l->values) fail_runtime("loop is used after its end");
            const bool same =
                std::equal(a.positional.begin(), a.positional.end(), l->last_changed.begin(), l->last_changed.end(),
                           [&](const Value& p, const Value& q) { return equal(in.budget(), p, q); });
            if (!same) l->last_changed = a.positional;
            return Value::of(!same);
        });
    return Value::undefined("loop has no attribute " + name);
}

Value Interpreter::make_namespace(std::vector<std::pair<std::string, Value>> members) {
    budget_.work(namespace_work);
    namespaces_.push_back({std::move(members)});
    return Value::space(&namespaces_.back());
}

}  // namespace spartan::jinja
