#include "core/tokenizer/jinja_operations.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace spartan::jinja {

namespace {

using Kind = Value::Kind;

constexpr uint64_t value_bytes = 64;  // roughly, of one value and its counts

[[noreturn]] void fail_types(std::string_view op, const Value& a, const Value& b) {
    for (const Value* v : {&a, &b})
        if (v->is_undefined()) fail_runtime(v->what());
    fail_runtime("cannot apply " + std::string(op) + " to " + a.type_name() + " and " + b.type_name());
}

[[noreturn]] void fail_overflow() { fail(Failure::Kind::limit, "a number beyond 64 bits"); }

Value repeat(Budget& budget, const Value& what, int64_t times) {
    const auto n = static_cast<uint64_t>(std::max<int64_t>(times, 0));
    if (what.is_text()) {
        const Text& text = what.text();
        if (!text.empty() && n > Budget::max_made_bytes * 64) budget.make(n);
        budget.make(n * text.size() + value_bytes);
        Text out;
        for (uint64_t i = 0; i < n && !text.empty(); ++i) out.append(text);
        return Value::of(std::move(out));
    }
    const auto& values = what.items().values;
    if (!values.empty() && n > Budget::max_made_bytes) budget.make(n);
    budget.make(n * values.size() * value_bytes);
    std::vector<Value> out;
    for (uint64_t i = 0; i < n && !values.empty(); ++i) out.insert(out.end(), values.begin(), values.end());
    return make_list(budget, std::move(out), what.kind());
}

Value add(Budget& budget, const Value& a, const Value& b) {
    if (a.is_text() && b.is_text()) {
        budget.make(a.text().size() + b.text().size());
        Text out = a.text();
        out.append(b.text());
        return make_text(budget, std::move(out));
    }
    if (a.kind() == b.kind() && (a.is(Kind::list) || a.is(Kind::tuple))) {
        std::vector<Value> out = a.items().values;
        out.insert(out.end(), b.items().values.begin(), b.items().values.end());
        return make_list(budget, std::move(out), a.kind());
    }
    fail_types("+", a, b);
}

int64_t floor_divide(int64_t a, int64_t b) {
    if (b == -1) {
        int64_t out;
        if (__builtin_sub_overflow(int64_t{0}, a, &out)) fail_overflow();
        return out;
    }
    const int64_t q = a / b;
    return q * b != a && (a < 0) != (b < 0) ? q - 1 : q;
}

Value integer_power(int64_t base, int64_t exponent) {
    if (exponent < 0) return Value::of(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
    int64_t out = 1;
    for (int64_t e = exponent; e > 0 && (base < -1 || base > 1); --e)
        if (__builtin_mul_overflow(out, base, &out)) fail_overflow();
    if (base == 0) out = exponent == 0 ? 1 : 0;
    if (base == -1) out = exponent % 2 == 0 ? 1 : -1;
    return Value::of(out);
}

Value integers(std::string_view op, int64_t a, int64_t b) {
    int64_t out = 0;
    bool over = false;
    if (op == "+") {
        over = __builtin_add_overflow(a, b, &out);
    } else if (op == "-") {
        over = __builtin_sub_overflow(a, b, &out);
    } else if (op == "*") {
        over = __builtin_mul_overflow(a, b, &out);
    } else if (op == "**") {
        return integer_power(a, b);
    } else if (b == 0) {
        fail_runtime("division by zero");
    } else if (op == "/") {
        return Value::of(static_cast<double>(a) / static_cast<double>(b));
    } else if (op == "//") {
        out = floor_divide(a, b);
    } else {
        out = b == -1 ? 0 : a - floor_divide(a, b) * b;
    }
    if (over) fail_overflow();
    return Value::of(out);
}

Value reals(std::string_view op, double a, double b) {
    if (op == "+") return Value::of(a + b);
    if (op == "-") return Value::of(a - b);
    if (op == "*") return Value::of(a * b);
    if (op == "**") return Value::of(std::pow(a, b));
    if (b == 0) fail_runtime("division by zero");
    if (op == "/") return Value::of(a / b);
    if (op == "//") return Value::of(std::floor(a / b));
    const double rest = std::fmod(a, b);
    return Value::of(rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest);
}

// Where a slice begins and ends, as Python's slice.indices().
struct Bounds {
    int64_t start, stop, step;
};
Bounds bounds_of(int64_t n, const Value& start, const Value& stop, const Value& step) {
    const auto given = [](const Value& v) { return !v.is_undefined() && !v.is_none(); };
    Bounds b{0, 0, given(step) ? to_integer(step, "a slice's step") : 1};
    if (b.step == 0) fail_runtime("a slice's step is zero");
    const int64_t low = b.step < 0 ? -1 : 0, high = b.step < 0 ? n - 1 : n;
    const auto clamp = [&](const Value& v, int64_t fallback) {
        if (!given(v)) return fallback;
        int64_t i = to_integer(v, "a slice's bound");
        if (i < 0) i = i < -n ? -1 - n + n : i + n;
        return std::clamp(i, low, high);
    };
    b.start = clamp(start, b.step < 0 ? high : low);
    b.stop = clamp(stop, b.step < 0 ? low : high);
    return b;
}

// The indices of a slice, in order.
template <class Visit>
void for_each_index(const Bounds& b, Visit&& visit) {
    for (int64_t i = b.start; b.step > 0 ? i < b.stop : i > b.stop;) {
        visit(static_cast<size_t>(i));
        if (__builtin_add_overflow(i, b.step, &i)) break;
    }
}

}  // namespace

Value make_text(Budget& budget, Text text) {
    budget.make(text.size() + value_bytes);
    budget.look_at(text.size());
    return Value::of(std::move(text));
}

Value make_list(Budget& budget, std::vector<Value> values, Kind kind) {
    budget.make((values.size() + 2) * value_bytes);
    budget.work(1 + values.size() / 4);
    Value made = kind == Kind::tuple       ? Value::tuple(std::move(values))
                 : kind == Kind::generator ? Value::generator(std::move(values))
                                           : Value::list(std::move(values));
    budget.check_value_depth(made.depth());
    return made;
}

Value make_dict(Budget& budget, std::vector<std::pair<Value, Value>> entries) {
    std::vector<std::pair<Value, Value>> unique;
    for (auto& [key, value] : entries) {
        if (key.is_list() || key.is_dict()) fail_runtime(std::string("a key of type ") + key.type_name());
        bool found = false;
        for (auto& [old, kept] : unique) {
            if (!equal(budget, old, key)) continue;
            kept = value;
            found = true;
            break;
        }
        if (!found) unique.emplace_back(std::move(key), std::move(value));
    }
    budget.make((unique.size() + 1) * 2 * value_bytes);
    Value made = Value::dict(std::move(unique));
    budget.check_value_depth(made.depth());
    return made;
}

bool truth(const Value& v) {
    switch (v.kind()) {
        case Kind::undefined:
        case Kind::none:
            return false;
        case Kind::boolean:
        case Kind::integer:
            return v.integer() != 0;
        case Kind::real:
            return v.real() != 0;
        case Kind::text:
            return !v.text().empty();
        case Kind::list:
        case Kind::tuple:
            return !v.items().values.empty();
        case Kind::dict:
            return !v.dict().entries.empty();
        default:
            return true;
    }
}

bool equal(Budget& budget, const Value& a, const Value& b) {
    budget.work(1);
    if (a.is_number() && b.is_number())
        return a.is_integer() && b.is_integer() ? a.integer() == b.integer() : a.real() == b.real();
    if (a.is_text() && b.is_text()) {
        if (a.text().size() != b.text().size()) return false;
        budget.look_at(a.text().size());
        return a.bytes() == b.bytes();
    }
    if (a.kind() != b.kind()) return false;
    if (a.is(Kind::list) || a.is(Kind::tuple)) {
        const auto &x = a.items().values, &y = b.items().values;
        return x.size() == y.size() && std::equal(x.begin(), x.end(), y.begin(),
                                                  [&](const Value& p, const Value& q) { return equal(budget, p, q); });
    }
    if (a.is_dict()) {
        const auto& x = a.dict().entries;
        return x.size() == b.dict().entries.size() && std::all_of(x.begin(), x.end(), [&](const auto& entry) {
                   const Value* other = find_key(budget, b.dict(), entry.first);
                   return other && equal(budget, entry.second, *other);
               });
    }
    return a.identity() == b.identity();  // and none or undefined, of which there is one
}

int order(Budget& budget, const Value& a, const Value& b) {
    budget.work(1);
    if (a.is_number() && b.is_number()) {
        if (a.is_integer() && b.is_integer()) return a.integer() < b.integer() ? -1 : a.integer() > b.integer() ? 1 : 0;
        return a.real() < b.real() ? -1 : a.real() > b.real() ? 1 : 0;
    }
    if (a.is_text() && b.is_text()) {  // bytes of UTF-8 order as code points do
        budget.look_at(std::min(a.text().size(), b.text().size()));
        const int c = a.bytes().compare(b.bytes());
        return c < 0 ? -1 : c > 0 ? 1 : 0;
    }
    if (a.kind() == b.kind() && (a.is(Kind::list) || a.is(Kind::tuple))) {
        const auto &x = a.items().values, &y = b.items().values;
        for (size_t i = 0; i < std::min(x.size(), y.size()); ++i)
            if (!equal(budget, x[i], y[i])) return order(budget, x[i], y[i]);
        return x.size() < y.size() ? -1 : x.size() > y.size() ? 1 : 0;
    }
    fail_types("<", a, b);
}

const Value* find_key(Budget& budget, const Dict& dict, const Value& key) {
    for (const auto& [k, value] : dict.entries)
        if (equal(budget, k, key)) return &value;
    return nullptr;
}

bool contains(Budget& budget, const Value& whole, const Value& part) {
    if (whole.is_text()) {
        if (!part.is_text()) fail_types("in", part, whole);
        budget.look_at(whole.text().size());
        return find_bytes(whole.bytes(), part.bytes()) != std::string::npos;
    }
    if (whole.is_dict()) return find_key(budget, whole.dict(), part) != nullptr;
    if (whole.is_undefined()) return false;
    if (!whole.is_list()) fail_types("in", part, whole);
    const auto values = whole.is(Kind::generator) ? elements(budget, whole) : whole.items().values;
    return std::any_of(values.begin(), values.end(), [&](const Value& v) { return equal(budget, v, part); });
}

int64_t length(Budget& budget, const Value& v) {
    switch (v.kind()) {
        case Kind::undefined:
            return 0;
        case Kind::text:
            budget.look_at(v.text().size());
            return static_cast<int64_t>(count_characters(v.bytes()));
        case Kind::list:
        case Kind::tuple:
            return static_cast<int64_t>(v.items().values.size());
        case Kind::dict:
            return static_cast<int64_t>(v.dict().entries.size());
        default:
            fail_runtime(std::string("an object of type ") + v.type_name() + " has no length");
    }
}

std::vector<Value> elements(Budget& budget, const Value& v) {
    switch (v.kind()) {
        case Kind::undefined:
            return {};
        case Kind::text: {
            std::vector<Value> out;
            const Text& text = v.text();
            budget.make(text.size() * 3 * value_bytes);
            for (size_t at = 0; at < text.size();) {
                const size_t size = utf8_size(text.bytes(), at);
                out.push_back(Value::of(text.slice(at, at + size)));
                budget.work(2);
                at += size;
            }
            return out;
        }
        case Kind::generator:
            if (std::exchange(v.items().spent, true)) return {};
            [[fallthrough]];
        case Kind::list:
        case Kind::tuple:
            budget.work(v.items().values.size() / 4);
            return v.items().values;
        case Kind::dict: {
            std::vector<Value> out;
            for (const auto& [key, value] : v.dict().entries) out.push_back(key);
            budget.make(out.size() * value_bytes);
            return out;
        }
        default:
            fail_runtime(std::string("an object of type ") + v.type_name() + " cannot be walked through");
    }
}

Value arithmetic(Budget& budget, std::string_view op, const Value& a, const Value& b) {
    if (a.is_number() && b.is_number())
        return a.is_integer() && b.is_integer() ? integers(op, a.integer(), b.integer())
                                                : reals(op, a.real(), b.real());
    if (op == "+") return add(budget, a, b);
    const auto repeats = [](const Value& v) { return v.is_text() || v.is(Kind::list) || v.is(Kind::tuple); };
    if (op == "*" && repeats(a) && b.is_integer()) return repeat(budget, a, b.integer());
    if (op == "*" && repeats(b) && a.is_integer()) return repeat(budget, b, a.integer());
    fail_types(op, a, b);
}

Value negated(const Value& v, bool negate) {
    if (v.is_undefined()) fail_runtime(v.what());
    if (!v.is_number()) fail_runtime(std::string("cannot apply a sign to ") + v.type_name());
    if (!v.is_integer()) return Value::of(negate ? -v.real() : v.real());
    return integers("*", v.integer(), negate ? -1 : 1);
}

Value slice(Budget& budget, const Value& v, const Value& start, const Value& stop, const Value& step) {
    if (v.is_undefined()) fail_runtime(v.what());
    if (!v.is_text() && !v.is(Kind::list) && !v.is(Kind::tuple))
        fail_runtime(std::string("an object of type ") + v.type_name() + " cannot be sliced");
    const Bounds b = bounds_of(length(budget, v), start, stop, step);
    if (!v.is_text()) {
        std::vector<Value> out;
        for_each_index(b, [&](size_t i) { out.push_back(v.items().values[i]); });
        return make_list(budget, std::move(out), v.kind());
    }
    const Text& text = v.text();
    if (b.step == 1) {
        if (b.start >= b.stop) return Value::of("");
        const size_t begin = character_offset(text.bytes(), static_cast<size_t>(b.start));
        const size_t size =
            character_offset(std::string_view(text.bytes()).substr(begin), static_cast<size_t>(b.stop - b.start));
        return make_text(budget, text.slice(begin, begin + size));
    }
    const std::vector<Value> characters = elements(budget, v);
    Text out;
    for_each_index(b, [&](size_t i) { out.append(characters[i].text()); });
    return make_text(budget, std::move(out));
}

int64_t to_integer(const Value& v, const char* of) {
    if (v.is_undefined() && !v.what().empty()) fail_runtime(std::string(of) + ": " + v.what());
    if (!v.is_integer()) fail_runtime(std::string(of) + " is of type " + v.type_name() + ", not int");
    return v.integer();
}

const Text& to_text(const Value& v, const char* of) {
    if (v.is_undefined()) fail_runtime(std::string(of) + ": " + v.what());
    if (!v.is_text()) fail_runtime(std::string(of) + " is of type " + v.type_name() + ", not str");
    return v.text();
}

}  // namespace spartan::jinja
