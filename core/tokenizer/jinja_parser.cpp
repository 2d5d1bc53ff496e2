#include "core/tokenizer/jinja_ast.h"
#include "core/tokenizer/jinja_builtins.h"
#include "core/tokenizer/jinja_error.h"
#include "core/tokenizer/jinja_lexer.h"

#include <algorithm>
#include <charconv>
#include <initializer_list>

namespace spartan::jinja {

namespace {

using Kind = Lexeme::Kind;
using Names = std::initializer_list<std::string_view>;

constexpr int max_depth = 150;  // of nested expressions and blocks

bool is_one_of(std::string_view text, Names names) {
    return std::find(names.begin(), names.end(), text) != names.end();
}

class Parser {
public:
    explicit Parser(std::string_view source) : tokens_(lex(source)), made_(std::make_unique<Template>()) {}

    std::unique_ptr<Template> run() {
        made_->body = body({}, "");
        return std::move(made_);
    }

private:
    // ---- tokens

    const Lexeme& now() const { return tokens_[at_]; }
    const Lexeme& take() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
    bool at_op(std::string_view op) const { return now().kind == Kind::op && now().text == op; }
    bool at_name(std::string_view name) const { return now().kind == Kind::name && now().text == name; }
    bool skip_op(std::string_view op) {
        if (!at_op(op)) return false;
        take();
        return true;
    }
    bool skip_name(std::string_view name) {
        if (!at_name(name)) return false;
        take();
        return true;
    }

    [[noreturn]] void syntax(const std::string& message) const { fail(Failure::Kind::syntax, message, now().line); }
    std::string found() const {
        switch (now().kind) {
            case Kind::end:
                return "the end of the template";
            case Kind::print_end:
                return "}}";
            case Kind::tag_end:
                return "%}";
            case Kind::string:
                return "a string";
            default:
                return "\"" + now().text + "\"";
        }
    }
    void expect_op(std::string_view op) {
        if (!skip_op(op)) syntax("found " + found() + ", expected " + std::string(op));
    }
    void expect(Kind kind, const char* what) {
        if (now().kind != kind) syntax("found " + found() + ", expected " + what);
        take();
    }
    void end_tag() { expect(Kind::tag_end, "%}"); }
    std::string identifier() {
        if (now().kind != Kind::name) syntax("found " + found() + ", expected a name");
        return take().text;
    }

    // One level of parsing inside another; each is a dozen calls deep.
    class Level {
    public:
        explicit Level(Parser& p) : p_(p) {
            if (++p_.level_ > max_depth) {
                --p_.level_;
                fail(Failure::Kind::limit, "the template nests too deep", p_.now().line);
            }
        }
        ~Level() { --p_.level_; }
        Level(const Level&) = delete;
        Level& operator=(const Level&) = delete;

    private:
        Parser& p_;
    };

    // ---- nodes

    // Long chains (a + b + c …) nest without nesting the parser.
    ExprPtr sealed(ExprPtr e) const {
        for (const ExprPtr& part : e->parts)
            if (part) e->depth = std::max(e->depth, part->depth + 1);
        for (const auto& [name, part] : e->named) e->depth = std::max(e->depth, part->depth + 1);
        if (e->depth > max_depth) fail(Failure::Kind::limit, "the template nests too deep", e->line);
        return e;
    }
    ExprPtr node(Expr::Kind kind, int line) const {
        auto e = std::make_unique<Expr>();
        e->kind = kind;
        e->line = line;
        return e;
    }
    template <class... Parts>
    ExprPtr node(Expr::Kind kind, int line, Parts... parts) const {
        ExprPtr e = node(kind, line);
        (e->parts.push_back(std::move(parts)), ...);
        return sealed(std::move(e));
    }
    ExprPtr constant(Value value) const {
        ExprPtr e = node(Expr::Kind::constant, now().line);
        e->value = std::move(value);
        return e;
    }

    // ---- statements

    // Up to a tag named in `ends`, whose name stays the current token; none: up to the end.
    Body body(Names ends, const char* block) {
        const Level level(*this);
        const int opened = now().line;
        Body out;
        for (;;) {
            const int line = now().line;
            switch (now().kind) {
                case Kind::end:
                    if (ends.size() == 0) return out;
                    fail(Failure::Kind::syntax, std::string(block) + " without its end tag", opened);
                case Kind::data: {
                    auto s = statement(Stmt::Kind::data, line);
                    s->value = Value::of(take().text);
                    out.push_back(std::move(s));
                    break;
                }
                case Kind::print_begin: {
                    take();
                    auto s = statement(Stmt::Kind::print, line);
                    s->expr = tuple_expression();
                    expect(Kind::print_end, "}}");
                    out.push_back(std::move(s));
                    break;
                }
                default:
                    take();
                    if (now().kind != Kind::name) syntax("found " + found() + ", expected the name of a tag");
                    if (is_one_of(now().text, ends)) return out;
                    out.push_back(tag());
            }
        }
    }

    std::unique_ptr<Stmt> statement(Stmt::Kind kind, int line) const {
        auto s = std::make_unique<Stmt>();
        s->kind = kind;
        s->line = line;
        return s;
    }

    Body block(std::string_view end, const char* name) {
        end_tag();
        Body out = body({end}, name);
        take();
        end_tag();
        return out;
    }

    std::unique_ptr<Stmt> tag() {
        const int line = now().line;
        const std::string name = take().text;
        if (name == "for") return for_tag(line);
        if (name == "if") return if_tag(line);
        if (name == "set") return set_tag(line);
        if (name == "macro") return macro_tag(line);
        if (name == "call") return call_tag(line);
        if (name == "with") return with_tag(line);
        if (name == "filter") {
            auto s = statement(Stmt::Kind::filter_block, line);
            s->expr = filters(nullptr, true);
            s->body = block("endfilter", "filter");
            return s;
        }
        if (name == "generation") {
            auto s = statement(Stmt::Kind::scope, line);
            const int loops = std::exchange(loops_, 0);
            s->body = block("endgeneration", "generation");
            loops_ = loops;
            return s;
        }
        if (name == "break" || name == "continue") {
            if (loops_ == 0) fail(Failure::Kind::syntax, name + " outside a loop", line);
            end_tag();
            return statement(name == "break" ? Stmt::Kind::leave : Stmt::Kind::next, line);
        }
        if (is_one_of(name, {"include", "import", "from", "extends", "block", "autoescape", "do", "trans", "debug"}))
            fail(Failure::Kind::unsupported, "the tag " + name + " is not supported", line);
        fail(Failure::Kind::syntax, "an unknown tag: " + name, line);
    }

    std::unique_ptr<Stmt> for_tag(int line) {
        auto s = statement(Stmt::Kind::loop, line);
        s->target = target(false);
        if (!skip_name("in")) syntax("found " + found() + ", expected in");
        s->expr = tuple_expression(false);
        if (skip_name("if")) s->condition = expression();
        if (at_name("recursive")) fail(Failure::Kind::unsupported, "a recursive loop is not supported", line);
        end_tag();
        ++loops_;
        s->body = body({"else", "endfor"}, "for");
        --loops_;
        if (take().text == "else") {
            end_tag();
            s->other = body({"endfor"}, "for");
            take();
        }
        end_tag();
        return s;
    }

    std::unique_ptr<Stmt> if_tag(int line) {
        auto s = statement(Stmt::Kind::branch, line);
        for (;;) {
            ExprPtr condition = tuple_expression(false);
            end_tag();
            Body then = body({"elif", "else", "endif"}, "if");
            s->branches.emplace_back(std::move(condition), std::move(then));
            const std::string name = take().text;
            if (name == "elif") continue;
            if (name == "else") {
                end_tag();
                s->other = body({"endif"}, "if");
                take();
            }
            end_tag();
            return s;
        }
    }

    std::unique_ptr<Stmt> set_tag(int line) {
        auto s = statement(Stmt::Kind::set, line);
        s->target = target(true);
        if (skip_op("=")) {
            s->expr = tuple_expression();
            end_tag();
            return s;
        }
        s->kind = Stmt::Kind::set_block;
        if (at_op("|")) s->expr = filters(nullptr, false);
        s->body = block("endset", "set");
        return s;
    }

    std::vector<Parameter> parameters() {
        std::vector<Parameter> out;
        expect_op("(");
        while (!at_op(")")) {
            if (!out.empty()) expect_op(",");
            if (at_op(")")) break;
            Parameter p{made_->intern(identifier()), nullptr};
            if (skip_op("=")) {
                p.fallback = expression();
            } else if (!out.empty() && out.back().fallback) {
                syntax("a parameter without a default after one with");
            }
            out.push_back(std::move(p));
        }
        take();
        return out;
    }

    std::unique_ptr<Stmt> macro_tag(int line) {
        auto s = statement(Stmt::Kind::macro, line);
        s->name = made_->intern(identifier());
        s->parameters = parameters();
        const int loops = std::exchange(loops_, 0);
        s->body = block("endmacro", "macro");
        loops_ = loops;
        return s;
    }

    std::unique_ptr<Stmt> call_tag(int line) {
        auto s = statement(Stmt::Kind::call_block, line);
        if (at_op("(")) s->parameters = parameters();
        s->expr = expression();
        if (s->expr->kind != Expr::Kind::call) syntax("call without a call");
        const int loops = std::exchange(loops_, 0);
        s->body = block("endcall", "call");
        loops_ = loops;
        return s;
    }

    std::unique_ptr<Stmt> with_tag(int line) {
        auto s = statement(Stmt::Kind::with, line);
        while (now().kind != Kind::tag_end) {
            if (!s->bindings.empty()) expect_op(",");
            ExprPtr to = target(false);
            expect_op("=");
            ExprPtr value = expression();
            s->bindings.emplace_back(std::move(to), std::move(value));
        }
        s->body = block("endwith", "with");
        return s;
    }

    // name | name, name | name.attribute
    ExprPtr target(bool with_attribute) {
        const int line = now().line;
        if (with_attribute && now().kind == Kind::name && tokens_[at_ + 1].kind == Kind::op &&
            tokens_[at_ + 1].text == ".") {
            ExprPtr space = name_expression();
            take();
            ExprPtr e = node(Expr::Kind::attribute, line, std::move(space));
            e->name = made_->intern(identifier());
            return e;
        }
        ExprPtr first = single_target();
        if (!at_op(",")) return first;
        ExprPtr e = node(Expr::Kind::tuple, line);
        e->parts.push_back(std::move(first));
        while (skip_op(",")) {
            if (at_name("in") || at_op("=") || at_op(")")) break;
            e->parts.push_back(single_target());
        }
        return sealed(std::move(e));
    }
    ExprPtr single_target() {
        const Level level(*this);
        if (skip_op("(")) {
            ExprPtr inner = target(false);
            expect_op(")");
            return inner;
        }
        ExprPtr e = name_expression();
        if (is_one_of(*e->name, {"true", "false", "none", "True", "False", "None"}))
            syntax("an assignment to " + *e->name);
        return e;
    }
    ExprPtr name_expression() {
        ExprPtr e = node(Expr::Kind::name, now().line);
        e->name = made_->intern(identifier());
        return e;
    }

    // ---- expressions, loosest first

    // One expression, or a tuple of several without parentheses.
    ExprPtr tuple_expression(bool conditional = true) {
        const int line = now().line;
        ExprPtr first = conditional ? expression() : logical_or();
        if (!at_op(",")) return first;
        ExprPtr e = node(Expr::Kind::tuple, line);
        e->parts.push_back(std::move(first));
        while (skip_op(",")) {
            if (now().kind == Kind::print_end || now().kind == Kind::tag_end || at_op(")")) break;
            e->parts.push_back(conditional ? expression() : logical_or());
        }
        return sealed(std::move(e));
    }

    ExprPtr expression() {
        const Level level(*this);
        ExprPtr e = logical_or();
        while (at_name("if")) {
            const int line = take().line;
            ExprPtr condition = logical_or();
            ExprPtr other = skip_name("else") ? expression() : nullptr;
            e = node(Expr::Kind::conditional, line, std::move(condition), std::move(e), std::move(other));
        }
        return e;
    }

    ExprPtr logical_or() {
        ExprPtr left = logical_and();
        while (at_name("or")) {
            const int line = take().line;
            left = node(Expr::Kind::logical_or, line, std::move(left), logical_and());
        }
        return left;
    }

    ExprPtr logical_and() {
        ExprPtr left = logical_not();
        while (at_name("and")) {
            const int line = take().line;
            left = node(Expr::Kind::logical_and, line, std::move(left), logical_not());
        }
        return left;
    }

    ExprPtr logical_not() {
        if (!at_name("not")) return compare();
        const Level level(*this);
        const int line = take().line;
        return node(Expr::Kind::logical_not, line, logical_not());
    }

    // "" when no comparison follows.
    std::string comparison() {
        if (now().kind == Kind::op && is_one_of(now().text, {"==", "!=", "<", "<=", ">", ">="})) return take().text;
        if (skip_name("in")) return "in";
        if (at_name("not") && tokens_[at_ + 1].kind == Kind::name && tokens_[at_ + 1].text == "in") {
            take();
            take();
            return "not in";
        }
        return "";
    }
    ExprPtr compare() {
        ExprPtr first = sum();
        ExprPtr e = node(Expr::Kind::compare, first->line);
        for (std::string op = comparison(); !op.empty(); op = comparison()) {
            if (first) e->parts.push_back(std::move(first));
            e->operators.push_back(std::move(op));
            e->parts.push_back(sum());
        }
        return first ? std::move(first) : sealed(std::move(e));
    }

    template <class Next>
    ExprPtr left_to_right(Names operators, Next&& next) {
        ExprPtr left = next();
        while (now().kind == Kind::op && is_one_of(now().text, operators)) {
            const Lexeme& op = take();
            left = node(Expr::Kind::binary, op.line, std::move(left), next());
            left->name = made_->intern(op.text);
        }
        return left;
    }
    ExprPtr sum() {
        return left_to_right({"+", "-"}, [this] { return concat(); });
    }
    ExprPtr concat() {
        ExprPtr first = product();
        if (!at_op("~")) return first;
        ExprPtr e = node(Expr::Kind::concat, now().line);
        e->parts.push_back(std::move(first));
        while (skip_op("~")) e->parts.push_back(product());
        return sealed(std::move(e));
    }
    ExprPtr product() {
        return left_to_right({"*", "/", "//", "%"}, [this] { return power(); });
    }
    ExprPtr power() {
        return left_to_right({"**"}, [this] { return unary(true); });
    }

    ExprPtr unary(bool with_filters) {
        const Level level(*this);
        const int line = now().line;
        ExprPtr e;
        if (skip_op("-")) {
            e = node(Expr::Kind::negative, line, unary(false));
        } else if (skip_op("+")) {
            e = node(Expr::Kind::positive, line, unary(false));
        } else {
            e = primary();
        }
        e = postfix(std::move(e));
        return with_filters ? filters_and_tests(std::move(e)) : std::move(e);
    }

    ExprPtr primary() {
        const int line = now().line;
        switch (now().kind) {
            case Kind::name:
                return name_or_constant();
            case Kind::string: {
                std::string text;
                while (now().kind == Kind::string) text += take().text;
                return constant(Value::of(text));
            }
            case Kind::integer: {
                int64_t value = 0;
                const std::string& digits = now().text;
                const auto end = std::from_chars(digits.data(), digits.data() + digits.size(), value);
                if (end.ec != std::errc()) fail(Failure::Kind::limit, "a number beyond 64 bits", line);
                take();
                return constant(Value::of(value));
            }
            case Kind::real: {
                double value = 0;
                const std::string& digits = take().text;
                std::from_chars(digits.data(), digits.data() + digits.size(), value);
                return constant(Value::of(value));
            }
            default:
                break;
        }
        if (skip_op("(")) {
            if (skip_op(")")) return node(Expr::Kind::tuple, line);
            ExprPtr e = tuple_expression();
            expect_op(")");
            return e;
        }
        if (skip_op("[")) return list(line);
        if (skip_op("{")) return dict(line);
        syntax("found " + found() + ", expected a value");
    }

    ExprPtr name_or_constant() {
        const std::string& name = now().text;
        if (is_one_of(name, {"true", "True", "false", "False"})) {
            const bool value = name == "true" || name == "True";
            take();
            return constant(Value::of(value));
        }
        if (is_one_of(name, {"none", "None"})) {
            take();
            return constant(Value::none());
        }
        if (is_one_of(name, {"if", "else", "in", "and", "or", "is"})) syntax("found " + found() + ", expected a value");
        return name_expression();
    }

    ExprPtr list(int line) {
        ExprPtr e = node(Expr::Kind::list, line);
        while (!at_op("]")) {
            if (!e->parts.empty()) expect_op(",");
            if (at_op("]")) break;
            e->parts.push_back(expression());
        }
        take();
        return sealed(std::move(e));
    }
    ExprPtr dict(int line) {
        ExprPtr e = node(Expr::Kind::dict, line);
        while (!at_op("}")) {
            if (!e->parts.empty()) expect_op(",");
            if (at_op("}")) break;
            e->parts.push_back(expression());
            expect_op(":");
            e->parts.push_back(expression());
        }
        take();
        return sealed(std::move(e));
    }

    ExprPtr postfix(ExprPtr e) {
        for (;;) {
            const int line = now().line;
            if (skip_op(".")) {
                if (now().kind == Kind::integer) {
                    e = node(Expr::Kind::item, line, std::move(e), primary());
                    continue;
                }
                e = node(Expr::Kind::attribute, line, std::move(e));
                e->name = made_->intern(identifier());
            } else if (skip_op("[")) {
                ExprPtr index = subscript();
                e = node(Expr::Kind::item, line, std::move(e), std::move(index));
            } else if (at_op("(")) {
                e = call(std::move(e));
            } else {
                return e;
            }
        }
    }

    ExprPtr subscript() {
        const int line = now().line;
        ExprPtr slice = node(Expr::Kind::slice, line);
        slice->parts.resize(3);
        bool is_slice = false;
        for (size_t i = 0; i < 3; ++i) {
            if (!at_op(":") && !at_op("]")) slice->parts[i] = expression();
            if (i == 2 || !skip_op(":")) break;
            is_slice = true;
        }
        if (at_op(",")) fail(Failure::Kind::unsupported, "a tuple as a subscript is not supported", line);
        expect_op("]");
        if (is_slice) return sealed(std::move(slice));
        if (!slice->parts[0]) syntax("an empty subscript");
        return std::move(slice->parts[0]);
    }

    // (a, b, name=c) onto `e`.
    void arguments(Expr& e) {
        expect_op("(");
        bool first = true;
        while (!at_op(")")) {
            if (!first) expect_op(",");
            if (at_op(")")) break;
            first = false;
            if (at_op("*") || at_op("**")) fail(Failure::Kind::unsupported, "* in a call is not supported", now().line);
            if (now().kind == Kind::name && tokens_[at_ + 1].kind == Kind::op && tokens_[at_ + 1].text == "=") {
                std::string key = take().text;
                take();
                e.named.emplace_back(std::move(key), expression());
            } else {
                if (!e.named.empty()) syntax("an unnamed argument after a named one");
                e.parts.push_back(expression());
            }
        }
        take();
    }
    ExprPtr call(ExprPtr function) {
        ExprPtr e = node(Expr::Kind::call, now().line, std::move(function));
        arguments(*e);
        return sealed(std::move(e));
    }

    std::string dotted_name() {
        std::string name = identifier();
        while (skip_op(".")) name += "." + identifier();
        return name;
    }

    // The filters on `e`; in a tag (`bare`) the first has no bar before it.
    ExprPtr filters(ExprPtr e, bool bare) {
        while (bare || at_op("|")) {
            if (!bare) take();
            bare = false;
            const int line = now().line;
            const std::string name = dotted_name();
            if (!find_filter(name)) fail(Failure::Kind::unsupported, "the filter " + name + " is not supported", line);
            ExprPtr f = node(Expr::Kind::filter, line, std::move(e));
            f->name = made_->intern(name);
            if (at_op("(")) arguments(*f);
            e = sealed(std::move(f));
        }
        return e;
    }

    ExprPtr filters_and_tests(ExprPtr e) {
        for (;;) {
            if (at_op("|")) {
                e = filters(std::move(e), false);
            } else if (at_name("is")) {
                e = test(std::move(e));
            } else if (at_op("(")) {
                e = call(std::move(e));
            } else {
                return e;
            }
        }
    }

    ExprPtr test(ExprPtr e) {
        const int line = take().line;
        const bool negated = skip_name("not");
        const std::string name = dotted_name();
        if (!find_test(name)) fail(Failure::Kind::unsupported, "the test " + name + " is not supported", line);
        ExprPtr t = node(Expr::Kind::test, line, std::move(e));
        t->name = made_->intern(name);
        const bool value_follows = now().kind == Kind::string || now().kind == Kind::integer ||
                                   now().kind == Kind::real || at_op("[") || at_op("{") ||
                                   (now().kind == Kind::name && !is_one_of(now().text, {"else", "or", "and", "if"}));
        if (at_op("(")) {
            arguments(*t);
        } else if (value_follows) {
            if (at_name("is")) syntax("a test of a test");
            t->parts.push_back(postfix(primary()));
        }
        t = sealed(std::move(t));
        return negated ? node(Expr::Kind::logical_not, line, std::move(t)) : std::move(t);
    }

    const std::vector<Lexeme> tokens_;
    size_t at_ = 0;
    int level_ = 0, loops_ = 0;
    std::unique_ptr<Template> made_;
};

}  // namespace

std::unique_ptr<Template> parse(std::string_view source) { return Parser(source).run(); }

}  // namespace spartan::jinja
