// x | name(…)
#include "core/tokenizer/jinja_builtins.h"
#include "core/tokenizer/jinja_interpreter.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <iterator>

namespace spartan::jinja {

namespace {

using Kind = Value::Kind;

bool given(const Value& v) { return !v.is_undefined(); }
bool flag(const Value& v, bool fallback) { return given(v) ? truth(v) : fallback; }

// As Jinja's soft_str(): what is no string is made one.
Text soft(Interpreter& in, const Value& v) { return v.is_text() ? v.text() : str(in.budget(), v); }

// "a.b.0" of a value, as attribute= means it.
Value path(Interpreter& in, Value v, const Value& attribute) {
    if (!attribute.is_text()) return in.item(v, attribute);
    std::string_view rest = attribute.bytes();
    for (;;) {
        const size_t dot = rest.find('.');
        const std::string part(rest.substr(0, dot));
        const bool digits = !part.empty() && part.find_first_not_of("0123456789") == std::string::npos;
        v = in.item(v, digits && part.size() < 10 ? Value::of(int64_t{std::stol(part)}) : Value::of(part));
        if (dot == std::string_view::npos) return v;
        rest.remove_prefix(dot + 1);
    }
}

// What values are ordered and told apart by.
Value sort_key(Interpreter& in, const Value& v, const Value& attribute, bool with_case) {
    Value key = given(attribute) && !attribute.is_none() ? path(in, v, attribute) : v;
    return key.is_text() && !with_case ? make_text(in.budget(), to_case(in, key.text(), false)) : key;
}

// ---- text

Value trim(Interpreter& in, const Value& v, const Arguments& a) {
    const auto p = a.bind("trim", {"chars"});
    return make_text(in.budget(), strip(in, soft(in, v), p[0], true, true));
}
Value upper(Interpreter& in, const Value& v, const Arguments& a) {
    a.bind("upper", {});
    return make_text(in.budget(), to_case(in, soft(in, v), true));
}
Value lower(Interpreter& in, const Value& v, const Arguments& a) {
    a.bind("lower", {});
    return make_text(in.budget(), to_case(in, soft(in, v), false));
}
Value capitalised(Interpreter& in, const Value& v, const Arguments& a) {
    a.bind("capitalize", {});
    return make_text(in.budget(), capitalize(in, soft(in, v)));
}
// Words begin after spaces, hyphens and opening brackets; each is capitalised by its first letter.
Value title(Interpreter& in, const Value& v, const Arguments& a) {
    a.bind("title", {});
    const Text text = soft(in, v);
    const std::string& bytes = text.bytes();
    const auto parts = [&](size_t at) {
        const Utf8Step s = utf8_step(bytes, at);
        return is_python_space(s.code) ||
               (s.code < 0x80 && std::string_view("-({[<").find(static_cast<char>(s.code)) != std::string_view::npos);
    };
    Text out;
    for (size_t at = 0; at < bytes.size();) {
        size_t end = at;
        const bool gap = parts(at);
        while (end < bytes.size() && parts(end) == gap) end += utf8_size(bytes, end);
        out.append(gap ? text.slice(at, end) : capitalize(in, text.slice(at, end)));
        at = end;
    }
    return make_text(in.budget(), std::move(out));
}
Value replaced(Interpreter& in, const Value& v, const Arguments& a) {
    const auto p = a.bind("replace", {"old", "new", "count"}, 2);
    const int64_t most = given(p[2]) && !p[2].is_none() ? to_integer(p[2], "count") : -1;
    return make_text(in.budget(), replace(in, soft(in, v), soft(in, p[0]), soft(in, p[1]), most));
}
Value indent(Interpreter& in, const Value& v, const Arguments& a) {
    const auto p = a.bind("indent", {"width", "first", "blank"});
    const bool first = flag(p[1], false), blank = flag(p[2], false);
    Text margin;
    if (p[0].is_text()) {
        margin = p[0].text();
    } else {
        const int64_t width = given(p[0]) ? to_integer(p[0], "width") : 4;
        margin = arithmetic(in.budget(), "*", Value::of(" "), Value::of(width)).text();
    }
    Text text = soft(in, v), out;
    text.append("\n", false);
    const std::vector<Text> lines = split_lines(text);
    for (size_t i = 0; i < lines.size(); ++i) {
        if (i > 0) out.append("\n", false);
        in.budget().make(margin.size() + lines[i].size() + 8);
        if (i == 0 ? first : blank || !lines[i].empty()) out.append(margin);
        out.append(lines[i]);
    }
    return make_text(in.budget(), std::move(out));
}
Value to_string(Interpreter& in, const Value& v, const Arguments& a) {
    a.bind("string", {});
    return v.is_text() ? v : make_text(in.budget(), str(in.budget(), v));
}
Value formatted(Interpreter& in, const Value& v, const Arguments& a) {
    if (!a.named.empty()) fail_unsupported("format with named values");
    return make_text(in.budget(), format_percent(in, soft(in, v), a.positional));
}
Value safe(Interpreter& in, const Value& v, const Arguments& a) { return to_string(in, v, a); }
Value center(Interpreter& in, const Value& v, const Arguments& a) {
    const auto p = a.bind("center", {"width"});
    const Text text = soft(in, v);
    const int64_t width = given(p[0]) ? to_integer(p[0], "width") : 80;
    const int64_t size = length(in.budget(), Value::of(text)), space = std::max<int64_t>(width - size, 0);
    const int64_t left = space / 2 + (space & width & 1);
    const auto spaces = [&](int64_t n) { return arithmetic(in.budget(), "*", Value::of(" "), Value::of(n)).text(); };
    Text out = spaces(left);
    out.append(text);
    out.append(spaces(space - left));
    return make_text(in.budget(), std::move(out));
}
Value word_count(Interpreter& in, const Value& v, const Arguments& a) {
    a.bind("wordcount", {});
    int64_t n = 0;
    bool inside = false;
    const Text text = soft(in, v);
    in.budget().work(text.size());
    for (size_t at = 0; at < text.size();) {
        const Utf8Step s = utf8_step(text.bytes(), at);
        const bool word = is_word(s.code) && s.code != 0x200C && s.code != 0x200D;
        n += word && !inside ? 1 : 0;
        inside = word;
        at += s.size;
    }
    return Value::of(n);
}
Value to_json_filter(Interpreter& in, const Value& v, const Arguments& a) {
    const auto p = a.bind("tojson", {"ensure_ascii", "indent", "separators", "sort_keys"});
    JsonStyle style;
    style.ascii = flag(p[0], false);
    style.sorted = flag(p[3], false);
    if (given(p[1]) && !p[1].is_none()) {
        style.lines = true;
        style.item_separator = ",";
        if (p[1].is_text()) {
            style.indent = p[1].bytes();
        } else {
            const int64_t width = to_integer(p[1], "indent");
            style.indent = arithmetic(in.budget(), "*", Value::of(" "), Value::of(width)).bytes();
        }
    }
    if (given(p[2]) && !p[2].is_none()) {
        const auto pair = elements(in.budget(), p[2]);
        if (pair.size() != 2) fail_runtime("separators are two strings");
        style.item_separator = to_text(pair[0], "a separator").bytes();
        style.key_separator = to_text(pair[1], "a separator").bytes();
    }
    return make_text(in.budget(), to_json(in.budget(), v, style));
}

// ---- numbers

double parse_real(std::string_view s, bool& ok) {
    double d = 0;
    if (s.starts_with("+")) s.remove_prefix(1);
    const auto end = std::from_chars(s.data(), s.data() + s.size(), d);
    ok = !s.empty() && end.ec == std::errc() && end.ptr == s.data() + s.size();
    return d;
}
std::string number_text(Interpreter& in, const Value& v) {
    std::string s = strip(in, v.text(), Value(), true, true).bytes();
    std::erase(s, '_');
    return s;
}
Value to_float(Interpreter& in, const Value& v, const Arguments& a) {
    const auto p = a.bind("float", {"default"});
    Value fallback = given(p[0]) ? p[0] : Value::of(0.0);
    if (v.is_number()) return Value::of(v.real());
    bool ok = false;
    const double d = v.is_text() ? parse_real(number_text(in, v), ok) : 0;
    return ok ? Value::of(d) : fallback;
}
Value to_int(Interpreter& in, const Value& v, const Arguments& a) {
    const auto p = a.bind("int", {"default", "base"});
    Value fallback = given(p[0]) ? p[0] : Value::of(int64_t{0});
    const int64_t base = given(p[1]) ? to_integer(p[1], "base") : 10;
    if (base != 10) fail_unsupported("int with a base other than 10");
    if (v.is_integer()) return Value::of(v.integer());
    double d = 0;
    bool ok = v.is(Kind::real);
    if (ok) {
        d = v.real();
    } else if (v.is_text()) {
        const std::string s = number_text(in, v);
        int64_t i = 0;
        const char* begin = s.data() + (s.starts_with("+") ? 1 : 0);
        const auto end = std::from_chars(begin, s.data() + s.size(), i);
        if (end.ec == std::errc() && end.ptr == s.data() + s.size() && begin < s.data() + s.size()) return Value::of(i);
        d = parse_real(s, ok);
    }
    if (!ok || !std::isfinite(d)) return fallback;
    if (std::abs(d) >= 9.2e18) fail(Failure::Kind::limit, "a number beyond 64 bits");
    return Value::of(static_cast<int64_t>(d));
}
Value absolute(Interpreter&, const Value& v, const Arguments& a) {
    a.bind("abs", {});
    if (v.is_undefined()) fail_runtime(v.what());
    if (!v.is_number()) fail_runtime(std::string("abs of ") + v.type_name());
    return v.real() < 0 ? negated(v, true) : negated(v, false);
}
Value rounded(Interpreter& in, const Value& v, const Arguments& a) {
    const auto p = a.bind("round", {"precision", "method"});
    const int64_t digits = given(p[0]) ? to_integer(p[0], "precision") : 0;
    const std::string method = given(p[1]) ? to_text(p[1], "method").bytes() : "common";
    if (v.is_undefined()) fail_runtime(v.what());
    if (!v.is_number()) fail_runtime(std::string("round of ") + v.type_name());
    if (digits < 0 || digits > 300) fail_unsupported("round to " + std::to_string(digits) + " digits");
    if (method == "ceil" || method == "floor") {
        const double scale = std::pow(10.0, static_cast<double>(digits)), scaled = v.real() * scale;
        return Value::of((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
    }
    if (method != "common") fail_runtime("method must be common, ceil or floor");
    if (v.is_integer()) return Value::of(v.integer());
    char buffer[700];  // correctly rounded, and halves to even, as Python's round()
    std::snprintf(buffer, sizeof buffer, "%.*f", static_cast<int>(digits), v.real());
    in.budget().work(10);
    return Value::of(std::strtod(buffer, nullptr));
}
Value sum(Interpreter& in, const Value& v, const Arguments& a) {
    const auto p = a.bind("sum", {"attribute", "start"});
    Value total = given(p[1]) ? p[1] : Value::of(int64_t{0});
    for (const Value& x : elements(in.budget(), v))
        total = arithmetic(in.budget(), "+", total, given(p[0]) && !p[0].is_none() ? path(in, x, p[0]) : x);
    return total;
}

// ---- sequences

Value count(Interpreter& in, const Value& v, const Arguments& a) {
    a.bind("length", {});
    return Value::of(length(in.budget(), v));
}
Value join(Interpreter& in, const Value& v, const Arguments& a) {
    const auto p = a.bind("join", {"d", "attribute"});
    const Text between = given(p[0]) ? soft(in, p[0]) : Text();
    Text out;
    bool first = true;
    for (const Value& x : elements(in.budget(), v)) {
        if (!std::exchange(first, false)) out.append(between);
        const Value part = given(p[1]) && !p[1].is_none() ? path(in, x, p[1]) : x;
        const Text text = soft(in, part);
        in.budget().make(text.size() + between.size() + 1);
        out.append(text);
    }
    return make_text(in.budget(), std::move(out));
}
Value first(Interpreter& in, const Value& v, const Arguments& a) {
    a.bind("first", {});
    if (v.is_text()) return in.item(v, Value::of(int64_t{0}));
    const auto all = elements(in.budget(), v);
    return all.empty() ? Value::undefined("no first item, sequence was empty") : all.front();
}
Value last(Interpreter& in, const Value& v, const Arguments& a) {
    a.bind("last", {});
    if (v.is(Kind::generator)) fail_runtime("last of a generator");
    if (v.is_text()) return in.item(v, Value::of(int64_t{-1}));
    const auto all = elements(in.budget(), v);
    return all.empty() ? Value::undefined("no last item, sequence was empty") : all.back();
}
Value list(Interpreter& in, const Value& v, const Arguments& a) {
    a.bind("list", {});
    return make_list(in.budget(), elements(in.budget(), v));
}
Value items(Interpreter& in, const Value& v, const Arguments& a) {
    a.bind("items", {});
    if (v.is_undefined()) return make_list(in.budget(), {}, Kind::generator);
    if (!v.is_dict()) fail_runtime("can only get item pairs from a mapping");
    std::vector<Value> out;
    for (const auto& [key, value] : v.dict().entries) out.push_back(make_list(in.budget(), {key, value}, Kind::tuple));
    return make_list(in.budget(), std::move(out), Kind::generator);
}
Value reversed(Interpreter& in, const Value& v, const Arguments& a) {
    a.bind("reverse", {});
    auto all = elements(in.budget(), v);
    std::reverse(all.begin(), all.end());
    if (!v.is_text()) return make_list(in.budget(), std::move(all), Kind::generator);
    Text out;
    for (const Value& c : all) out.append(c.text());
    return make_text(in.budget(), std::move(out));
}
std::vector<Value> sorted_by(Interpreter& in, std::vector<Value> all, const std::function<Value(const Value&)>& key,
                             bool reverse) {
    std::vector<std::pair<Value, Value>> keyed;
    for (Value& v : all) {
        Value k = key(v);
        keyed.emplace_back(std::move(k), std::move(v));
    }
    std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& x, const auto& y) {
        const int c = order(in.budget(), x.first, y.first);
        return reverse ? c > 0 : c < 0;
    });
    std::vector<Value> out;
    for (auto& [k, v] : keyed) out.push_back(std::move(v));
    return out;
}
Value sorted(Interpreter& in, const Value& v, const Arguments& a) {
    const auto p = a.bind("sort", {"reverse", "case_sensitive", "attribute"});
    const bool with_case = flag(p[1], false);
    if (p[2].is_text() && p[2].bytes().find(',') != std::string::npos) fail_unsupported("sort by several attributes");
    const auto key = [&](const Value& x) { return sort_key(in, x, p[2], with_case); };
    return make_list(in.budget(), sorted_by(in, elements(in.budget(), v), key, flag(p[0], false)));
}
Value dict_sorted(Interpreter& in, const Value& v, const Arguments& a) {
    const auto p = a.bind("dictsort", {"case_sensitive", "by", "reverse"});
    const std::string by = given(p[1]) ? to_text(p[1], "by").bytes() : "key";
    if (by != "key" && by != "value") fail_runtime("dictsort by key or value");
    if (!v.is_dict()) fail_runtime(std::string("dictsort of ") + v.type_name());
    const bool with_case = flag(p[0], false);
    const Value at = Value::of(int64_t{by == "key" ? 0 : 1});
    const auto key = [&](const Value& pair) { return sort_key(in, pair, at, with_case); };
    auto pairs = elements(in.budget(), items(in, v, {}));
    return make_list(in.budget(), sorted_by(in, std::move(pairs), key, flag(p[2], false)));
}
Value unique(Interpreter& in, const Value& v, const Arguments& a) {
    const auto p = a.bind("unique", {"case_sensitive", "attribute"});
    std::vector<Value> seen, out;
    for (const Value& x : elements(in.budget(), v)) {
        Value key = sort_key(in, x, p[1], flag(p[0], false));
        if (std::any_of(seen.begin(), seen.end(), [&](const Value& s) { return equal(in.budget(), s, key); })) continue;
        seen.push_back(std::move(key));
        out.push_back(x);
    }
    return make_list(in.budget(), std::move(out), Kind::generator);
}
template <bool largest>
Value extreme(Interpreter& in, const Value& v, const Arguments& a) {
    const auto p = a.bind(largest ? "max" : "min", {"case_sensitive", "attribute"});
    Value best = Value::undefined("no aggregated item, sequence was empty"), best_key;
    for (const Value& x : elements(in.budget(), v)) {
        Value key = sort_key(in, x, p[1], flag(p[0], false));
        const bool better = best.is_undefined() ||
                            (largest ? order(in.budget(), key, best_key) > 0 : order(in.budget(), key, best_key) < 0);
        if (!better) continue;
        best = x;
        best_key = std::move(key);
    }
    return best;
}
Value batch(Interpreter& in, const Value& v, const Arguments& a) {
    const auto p = a.bind("batch", {"linecount", "fill_with"}, 1);
    const int64_t n = to_integer(p[0], "linecount");
    if (n < 1) fail_runtime("batches of less than one");
    std::vector<Value> out, part;
    for (const Value& x : elements(in.budget(), v)) {
        if (static_cast<int64_t>(part.size()) == n) out.push_back(make_list(in.budget(), std::exchange(part, {})));
        part.push_back(x);
    }
    while (!part.empty() && given(p[1]) && !p[1].is_none() && static_cast<int64_t>(part.size()) < n) {
        in.budget().make(sizeof(Value));
        in.budget().work(1);
        part.push_back(p[1]);
    }
    if (!part.empty()) out.push_back(make_list(in.budget(), std::move(part)));
    return make_list(in.budget(), std::move(out), Kind::generator);
}

// ---- choosing and changing elements

// The arguments after the first `n`, which a filter hands on.
Arguments after(const Arguments& a, size_t n) {
    return {{a.positional.begin() + static_cast<ptrdiff_t>(n), a.positional.end()}, a.named};
}
Value map(Interpreter& in, const Value& v, const Arguments& a) {
    std::vector<Value> out;
    const auto all = truth(v) ? elements(in.budget(), v) : std::vector<Value>();  // as Jinja: none gives nothing
    if (a.positional.empty()) {
        const auto p = a.bind("map", {"attribute", "default"}, 1);
        for (const Value& x : all) {
            Value value = path(in, x, p[0]);
            if (value.is_undefined() && given(p[1])) value = p[1];
            out.push_back(std::move(value));
        }
        return make_list(in.budget(), std::move(out), Kind::generator);
    }
    const std::string& name = to_text(a.positional[0], "map's filter").bytes();
    const Filter filter = find_filter(name);
    if (!filter) fail_unsupported("the filter " + name);
    const Budget::Level level(in.budget());  // map("map", "map", …)
    const Arguments rest = after(a, 1);
    for (const Value& x : all) out.push_back(filter(in, x, rest));
    return make_list(in.budget(), std::move(out), Kind::generator);
}
Value choose(Interpreter& in, const Value& v, const Arguments& a, bool wanted, bool by_attribute) {
    const size_t skip = by_attribute ? 1 : 0;
    if (a.positional.size() < skip) fail_runtime("the name of an attribute is missing");
    Test test = nullptr;
    if (a.positional.size() > skip) {
        const std::string& name = to_text(a.positional[skip], "the name of a test").bytes();
        test = find_test(name);
        if (!test) fail_unsupported("the test " + name);
    }
    const Arguments rest = test ? after(a, skip + 1) : Arguments{};
    std::vector<Value> out;
    for (const Value& x : truth(v) ? elements(in.budget(), v) : std::vector<Value>()) {
        const Value subject = by_attribute ? path(in, x, a.positional[0]) : x;
        in.budget().work(1);
        if ((test ? test(in, subject, rest) : truth(subject)) == wanted) out.push_back(x);
    }
    return make_list(in.budget(), std::move(out), Kind::generator);
}
template <bool wanted, bool by_attribute>
Value chosen(Interpreter& in, const Value& v, const Arguments& a) {
    return choose(in, v, a, wanted, by_attribute);
}
Value group_by(Interpreter& in, const Value& v, const Arguments& a) {
    const auto p = a.bind("groupby", {"attribute", "default", "case_sensitive"}, 1);
    if (given(p[1])) fail_unsupported("groupby with a default");
    const bool with_case = flag(p[2], false);
    const auto key = [&](const Value& x) { return sort_key(in, x, p[0], with_case); };
    std::vector<Value> out, group;
    const auto close = [&] {
        if (group.empty()) return;
        const Value grouper = path(in, group.front(), p[0]);
        const Value members = make_list(in.budget(), std::exchange(group, {}));
        out.push_back(make_list(in.budget(), {grouper, members}, Kind::tuple));
    };
    Value before;
    for (Value& x : sorted_by(in, elements(in.budget(), v), key, false)) {
        Value k = key(x);
        if (!equal(in.budget(), k, before)) close();
        before = std::move(k);
        group.push_back(std::move(x));
    }
    close();
    return make_list(in.budget(), std::move(out));
}

Value or_default(Interpreter&, const Value& v, const Arguments& a) {
    const auto p = a.bind("default", {"default_value", "boolean"});
    const bool missing = v.is_undefined() || (flag(p[1], false) && !truth(v));
    return !missing ? v : given(p[0]) ? p[0] : Value::of("");
}
Value attribute(Interpreter& in, const Value& v, const Arguments& a) {
    const auto p = a.bind("attr", {"name"}, 1);
    const std::string& name = to_text(p[0], "attr's name").bytes();
    if (v.is_dict()) return container_method(v, name);  // attributes alone, never its keys
    return in.attribute(v, name);
}

struct Entry {
    std::string_view name;
    Filter filter;
};
constexpr Entry table[] = {{"abs", absolute},
                           {"attr", attribute},
                           {"batch", batch},
                           {"capitalize", capitalised},
                           {"center", center},
                           {"count", count},
                           {"d", or_default},
                           {"default", or_default},
                           {"dictsort", dict_sorted},
                           {"first", first},
                           {"float", to_float},
                           {"format", formatted},
                           {"groupby", group_by},
                           {"indent", indent},
                           {"int", to_int},
                           {"items", items},
                           {"join", join},
                           {"last", last},
                           {"length", count},
                           {"list", list},
                           {"lower", lower},
                           {"map", map},
                           {"max", extreme<true>},
                           {"min", extreme<false>},
                           {"reject", chosen<false, false>},
                           {"rejectattr", chosen<false, true>},
                           {"replace", replaced},
                           {"reverse", reversed},
                           {"round", rounded},
                           {"safe", safe},
                           {"select", chosen<true, false>},
                           {"selectattr", chosen<true, true>},
                           {"sort", sorted},
                           {"string", to_string},
                           {"sum", sum},
                           {"title", title},
                           {"tojson", to_json_filter},
                           {"trim", trim},
                           {"unique", unique},
                           {"upper", upper},
                           {"wordcount", word_count}};

}  // namespace

Filter find_filter(std::string_view name) {
    const auto it = std::find_if(std::begin(table), std::end(table), [&](const Entry& e) { return e.name == name; });
    return it == std::end(table) ? nullptr : it->filter;
}

}  // namespace spartan::jinja
