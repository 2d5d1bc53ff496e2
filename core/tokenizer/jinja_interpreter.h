// Renders a parsed template. Semantics are those of Jinja2's ImmutableSandboxedEnvironment as transformers sets it up.
#pragma once

#include "core/tokenizer/jinja_ast.h"
#include "core/tokenizer/jinja_budget.h"
#include "core/tokenizer/jinja_operations.h"

#include <ctime>
#include <deque>
#include <string>
#include <utility>
#include <vector>

namespace spartan::jinja {

using Context = std::vector<std::pair<std::string, Value>>;

// One rendering. Throws Failure; line() then says where.
class Interpreter {
public:
    // `given_bytes`: size of the conversation. `now` is what strftime_now() tells.
    Interpreter(const Template& source, const Context& context, uint64_t given_bytes, const std::tm& now);
    ~Interpreter();
    Interpreter(const Interpreter&) = delete;
    Interpreter& operator=(const Interpreter&) = delete;

    Text run();
    int line() const { return line_; }

    // For the built-in functions.
    Budget& budget() { return budget_; }
    const std::tm& now() const { return now_; }
    Value call(const Value& function, const Arguments& arguments);
    Value attribute(const Value& of, const std::string& name);
    Value item(const Value& of, const Value& key);
    Value make_namespace(std::vector<std::pair<std::string, Value>> members);

private:
    struct Frame {
        const Frame* parent;
        std::vector<std::pair<Name, Value>> values;
        bool top = false;
    };
    enum class Flow : uint8_t { normal, leave, next };

    Flow run(const Body& body, Frame& frame, Text& out);
    Flow run(const Stmt& s, Frame& frame, Text& out);
    Flow run_loop(const Stmt& s, Frame& frame, Text& out);
    Flow run_branch(const Stmt& s, Frame& frame, Text& out);
    void run_set_block(const Stmt& s, Frame& frame);
    void run_call_block(const Stmt& s, Frame& frame, Text& out);
    Text run_inside(const Body& body, const Frame& parent);  // in a scope of its own
    void define_macro(const Stmt& s, Frame& frame);
    Value call_macro(const Stmt& s, const Frame& parent, const Arguments& arguments, const Value& caller);
    void write(Text& out, const Text& text);

    void set(Frame& frame, Name name, Value value);
    void assign(const Expr& target, Value value, Frame& frame);
    const Value* find(const Frame& frame, Name name);

    Value evaluate(const Expr& e, Frame& frame);
    Value evaluate_compare(const Expr& e, Frame& frame);
    Value evaluate_call(const Expr& e, Frame& frame, const Value* caller);
    Value evaluate_dict(const Expr& e, Frame& frame);
    Value evaluate_filter(const Expr& e, Frame& frame, const Value* input);
    std::vector<Value> evaluate_all(const std::vector<ExprPtr>& parts, size_t from, Frame& frame);
    Arguments evaluate_arguments(const Expr& e, Frame& frame);
    Value loop_attribute(const Value& loop, const std::string& name);

    const Template& template_;
    Budget budget_;
    const std::tm now_;
    Frame context_{nullptr, {}, false}, top_{&context_, {}, true};
    std::deque<Namespace> namespaces_;
    int line_ = 1;
};

}  // namespace spartan::jinja
