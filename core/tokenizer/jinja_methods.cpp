// Methods of strings, lists and dicts, and the global functions.
#include "core/tokenizer/jinja_builtins.h"
#include "core/tokenizer/jinja_interpreter.h"

#include <utf8proc.h>
#include <algorithm>
#include <cstdio>
#include <iterator>

namespace spartan::jinja {

namespace {

using Kind = Value::Kind;
using Method = Value (*)(Interpreter&, const Value& self, const Arguments&);

bool given(const Value& v) { return !v.is_undefined() && !v.is_none(); }

char32_t lower_code(char32_t c) { return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))); }
char32_t upper_code(char32_t c) { return static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))); }
bool is_letter(char32_t c) {
    const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
    return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

// `text` with write(code, out) for each character, marks kept.
template <class Write>
Text each_character(Interpreter& in, const Text& text, Write&& write) {
    in.budget().make(text.size());
    in.budget().work(text.size() / 4);
    return text.mapped([&](std::string_view bytes) {
        std::string out;
        for (size_t at = 0; at < bytes.size();) {
            const Utf8Step step = utf8_step(bytes, at);
            write(step.code, out);
            at += step.size;
        }
        return out;
    });
}

void append_upper(char32_t c, std::string& out) {
    if (c == 0xDF) {
        out += "SS";  // the one common letter whose capital is two
    } else {
        append_utf8(out, upper_code(c));
    }
}

// Whether every character (of at least one) is as `is` says.
template <class Is>
Value all_are(Interpreter& in, const Value& self, Is&& is) {
    const std::string& s = self.bytes();
    in.budget().work(s.size() / 4);
    for (size_t at = 0; at < s.size();) {
        const Utf8Step step = utf8_step(s, at);
        if (!is(step.code)) return Value::of(false);
        at += step.size;
    }
    return Value::of(!s.empty());
}

// ---- str

template <bool left, bool right>
Value strip_method(Interpreter& in, const Value& self, const Arguments& a) {
    return make_text(in.budget(), strip(in, self.text(), a.bind("strip", {"chars"})[0], left, right));
}

Value list_of(Interpreter& in, std::vector<Text> parts) {
    std::vector<Value> out;
    for (Text& part : parts) out.push_back(make_text(in.budget(), std::move(part)));
    return make_list(in.budget(), std::move(out));
}

// On runs of white space, from the left or the right.
std::vector<Text> split_spaces(const Text& text, int64_t most, bool from_right) {
    std::vector<std::pair<size_t, size_t>> words;
    const std::string& s = text.bytes();
    for (size_t at = 0; at < s.size();) {
        const auto [begin, rest] = stripped_range(std::string_view(s).substr(at), true, false, is_python_space);
        at += begin;
        size_t end = at;
        while (end < s.size() && !is_python_space(utf8_step(s, end).code)) end += utf8_size(s, end);
        if (end > at) words.emplace_back(at, end);
        at = end;
    }
    const size_t limit = most < 0 ? words.size() : static_cast<size_t>(most);
    std::vector<Text> out;
    if (words.size() > limit && !words.empty()) {  // the rest stays one piece, white space and all
        if (from_right) {
            const size_t end = words[words.size() - limit - 1].second;
            words.erase(words.begin(), words.end() - static_cast<ptrdiff_t>(limit));
            words.insert(words.begin(), {0, end});
        } else {
            const size_t begin = words[limit].first;
            words.resize(limit);
            words.emplace_back(begin, s.size());
        }
    }
    for (const auto& [begin, end] : words) out.push_back(text.slice(begin, end));
    return out;
}

std::vector<Text> split_at(const Text& text, const std::string& separator, int64_t most, bool from_right) {
    if (separator.empty()) fail_runtime("split with an empty separator");
    const std::string& s = text.bytes();
    std::vector<size_t> cuts;
    if (from_right) {
        for (size_t end = s.size(); most < 0 || static_cast<int64_t>(cuts.size()) < most;) {
            const size_t at = end < separator.size() ? std::string::npos : s.rfind(separator, end - separator.size());
            if (at == std::string::npos) break;
            cuts.push_back(at);
            end = at;
        }
        std::reverse(cuts.begin(), cuts.end());
    } else {
        for (size_t from = 0; most < 0 || static_cast<int64_t>(cuts.size()) < most;) {
            const size_t at = find_bytes(s, separator, from);
            if (at == std::string::npos) break;
            cuts.push_back(at);
            from = at + separator.size();
        }
    }
    std::vector<Text> out;
    size_t begin = 0;
    for (size_t cut : cuts) {
        out.push_back(text.slice(begin, cut));
        begin = cut + separator.size();
    }
    out.push_back(text.slice(begin, s.size()));
    return out;
}

template <bool from_right>
Value split_method(Interpreter& in, const Value& self, const Arguments& a) {
    const auto p = a.bind("split", {"sep", "maxsplit"});
    const int64_t most = given(p[1]) ? to_integer(p[1], "maxsplit") : -1;
    in.budget().look_at(self.text().size());
    in.budget().work(self.text().size() / 8);
    if (!given(p[0])) return list_of(in, split_spaces(self.text(), most, from_right));
    const std::string& separator = to_text(p[0], "split's separator").bytes();
    in.budget().work(from_right ? self.text().size() / 32 * (1 + separator.size() / 8) : 0);  // rfind is a plain search
    return list_of(in, split_at(self.text(), separator, most, from_right));
}
Value split_lines_method(Interpreter& in, const Value& self, const Arguments& a) {
    if (given(a.bind("splitlines", {"keepends"})[0])) fail_unsupported("splitlines with keepends");
    in.budget().work(self.text().size() / 8);
    return list_of(in, split_lines(self.text()));
}

template <bool at_end>
Value affix_method(Interpreter& in, const Value& self, const Arguments& a) {
    const auto p = a.bind(at_end ? "endswith" : "startswith", {"prefix"}, 1);
    const auto matches = [&](const Value& v) {
        const std::string& what = to_text(v, "a prefix or suffix").bytes();
        in.budget().look_at(what.size());
        return at_end ? self.bytes().ends_with(what) : self.bytes().starts_with(what);
    };
    if (!p[0].is(Kind::tuple)) return Value::of(matches(p[0]));
    const auto& all = p[0].items().values;
    return Value::of(std::any_of(all.begin(), all.end(), matches));
}
template <bool at_end>
Value remove_affix(Interpreter& in, const Value& self, const Arguments& a) {
    const auto p = a.bind(at_end ? "removesuffix" : "removeprefix", {"what"}, 1);
    const std::string& what = to_text(p[0], "a prefix or suffix").bytes();
    const Text& text = self.text();
    const bool there = at_end ? text.bytes().ends_with(what) : text.bytes().starts_with(what);
    if (!there) return self;
    return make_text(in.budget(),
                     at_end ? text.slice(0, text.size() - what.size()) : text.slice(what.size(), text.size()));
}
Value replace_method(Interpreter& in, const Value& self, const Arguments& a) {
    const auto p = a.bind("replace", {"old", "new", "count"}, 2);
    const int64_t most = given(p[2]) ? to_integer(p[2], "count") : -1;
    return make_text(in.budget(),
                     replace(in, self.text(), to_text(p[0], "replace's old"), to_text(p[1], "replace's new"), most));
}
template <bool upper>
Value case_method(Interpreter& in, const Value& self, const Arguments& a) {
    a.bind(upper ? "upper" : "lower", {});
    return make_text(in.budget(), to_case(in, self.text(), upper));
}
Value capitalize_method(Interpreter& in, const Value& self, const Arguments& a) {
    a.bind("capitalize", {});
    return make_text(in.budget(), capitalize(in, self.text()));
}
Value title_method(Interpreter& in, const Value& self, const Arguments& a) {
    a.bind("title", {});
    bool inside = false;
    return make_text(in.budget(), each_character(in, self.text(), [&](char32_t c, std::string& out) {
                         append_utf8(out, inside ? lower_code(c) : upper_code(c));
                         inside = is_letter(c);
                     }));
}
// Byte offset of `what`, or npos; `result` counts characters.
template <bool from_right, bool fails>
Value find_method(Interpreter& in, const Value& self, const Arguments& a) {
    const auto p = a.bind(from_right ? "rfind" : "find", {"sub"}, 1);
    const std::string& what = to_text(p[0], "what to find").bytes();
    const std::string& s = self.bytes();
    in.budget().look_at(s.size());
    size_t at = std::string::npos;
    for (size_t next = find_bytes(s, what); next != std::string::npos; next = find_bytes(s, what, next + 1)) {
        at = next;
        in.budget().work(1);
        if (!from_right) break;
    }
    if (at == std::string::npos && fails) fail_runtime("substring not found");
    if (at == std::string::npos) return Value::of(int64_t{-1});
    return Value::of(static_cast<int64_t>(count_characters(std::string_view(s).substr(0, at))));
}
Value count_method(Interpreter& in, const Value& self, const Arguments& a) {
    const auto p = a.bind("count", {"sub"}, 1);
    const std::string& what = to_text(p[0], "what to count").bytes();
    in.budget().look_at(self.text().size());
    if (what.empty()) return Value::of(length(in.budget(), self) + 1);
    return Value::of(static_cast<int64_t>(split_at(self.text(), what, -1, false).size()) - 1);
}
Value join_method(Interpreter& in, const Value& self, const Arguments& a) {
    const auto p = a.bind("join", {"iterable"}, 1);
    Text out;
    bool first = true;
    for (const Value& v : elements(in.budget(), p[0])) {
        if (!std::exchange(first, false)) out.append(self.text());
        const Text& part = to_text(v, "an element to join");
        in.budget().make(part.size() + self.text().size() + 1);
        out.append(part);
    }
    return make_text(in.budget(), std::move(out));
}
Value is_digit_method(Interpreter& in, const Value& self, const Arguments& a) {
    a.bind("isdigit", {});
    return all_are(in, self, [](char32_t c) {
        return utf8proc_category(static_cast<utf8proc_int32_t>(c)) == UTF8PROC_CATEGORY_ND;
    });
}
Value is_alpha_method(Interpreter& in, const Value& self, const Arguments& a) {
    a.bind("isalpha", {});
    return all_are(in, self, is_letter);
}
Value is_alnum_method(Interpreter& in, const Value& self, const Arguments& a) {
    a.bind("isalnum", {});
    return all_are(in, self, [](char32_t c) { return is_letter(c) || is_numeric(c); });
}
Value is_space_method(Interpreter& in, const Value& self, const Arguments& a) {
    a.bind("isspace", {});
    return all_are(in, self, is_python_space);
}
template <bool upper>
Value is_case_method(Interpreter& in, const Value& self, const Arguments& a) {
    a.bind(upper ? "isupper" : "islower", {});
    in.budget().work(self.text().size() / 4);
    return Value::of(has_case(self.bytes(), upper));
}
template <bool from_right>
Value partition_method(Interpreter& in, const Value& self, const Arguments& a) {
    const auto p = a.bind("partition", {"sep"}, 1);
    const Text& separator = to_text(p[0], "partition's separator");
    in.budget().look_at(self.text().size() * (from_right ? 1 + separator.size() / 8 : 1));
    const auto parts = split_at(self.text(), separator.bytes(), 1, from_right);
    const Value whole = make_text(in.budget(), parts[0]), empty = Value::of("");
    if (parts.size() == 1)
        return make_list(in.budget(), from_right ? std::vector{empty, empty, whole} : std::vector{whole, empty, empty},
                         Kind::tuple);
    return make_list(in.budget(), {whole, p[0], make_text(in.budget(), parts[1])}, Kind::tuple);
}
// {} {0} {name}; what stands after a colon or an exclamation mark is refused.
Value format_method(Interpreter& in, const Value& self, const Arguments& a) {
    const Text& text = self.text();
    const std::string& s = text.bytes();
    Text out;
    size_t next = 0;
    in.budget().make(s.size());
    in.budget().work(s.size() / 8);
    for (size_t at = 0; at < s.size();) {
        const size_t brace = s.find_first_of("{}", at);
        out.append(text, at, std::min(brace, s.size()));
        if (brace == std::string::npos) break;
        if (s[brace] == (brace + 1 < s.size() ? s[brace + 1] : '\0')) {
            out.append(text, brace, brace + 1);
            at = brace + 2;
            continue;
        }
        const size_t close = s.find('}', brace);
        if (s[brace] == '}' || close == std::string::npos) fail_runtime("format: a single brace");
        const std::string field = s.substr(brace + 1, close - brace - 1);
        if (field.find_first_of(":!.[{") != std::string::npos) fail_unsupported("format's field {" + field + "}");
        const bool digits = field.find_first_not_of("0123456789") == std::string::npos && field.size() < 6;
        const Value* value = nullptr;
        const size_t index = field.empty() ? next++ : digits ? static_cast<size_t>(std::stol(field)) : SIZE_MAX;
        if (index < a.positional.size()) value = &a.positional[index];
        for (const auto& [key, named] : a.named)
            if (!digits && key == field) value = &named;
        if (!value) fail_runtime("format: nothing for {" + field + "}");
        const Text shown = str(in.budget(), *value);
        in.budget().make(shown.size());
        out.append(shown);
        at = close + 1;
    }
    return make_text(in.budget(), std::move(out));
}

struct Entry {
    std::string_view name;
    Method method;
};
constexpr Entry text_table[] = {{"capitalize", capitalize_method},
                                {"count", count_method},
                                {"endswith", affix_method<true>},
                                {"find", find_method<false, false>},
                                {"format", format_method},
                                {"index", find_method<false, true>},
                                {"isalnum", is_alnum_method},
                                {"isalpha", is_alpha_method},
                                {"isdigit", is_digit_method},
                                {"islower", is_case_method<false>},
                                {"isspace", is_space_method},
                                {"isupper", is_case_method<true>},
                                {"join", join_method},
                                {"lower", case_method<false>},
                                {"lstrip", strip_method<true, false>},
                                {"partition", partition_method<false>},
                                {"removeprefix", remove_affix<false>},
                                {"removesuffix", remove_affix<true>},
                                {"replace", replace_method},
                                {"rfind", find_method<true, false>},
                                {"rindex", find_method<true, true>},
                                {"rpartition", partition_method<true>},
                                {"rsplit", split_method<true>},
                                {"rstrip", strip_method<false, true>},
                                {"split", split_method<false>},
                                {"splitlines", split_lines_method},
                                {"startswith", affix_method<false>},
                                {"strip", strip_method<true, true>},
                                {"title", title_method},
                                {"upper", case_method<true>}};
constexpr std::string_view text_missing[] = {"casefold",  "center",    "encode",       "expandtabs", "format_map",
                                             "isascii",   "isdecimal", "isidentifier", "isnumeric",  "isprintable",
                                             "istitle",   "ljust",     "maketrans",    "rjust",      "swapcase",
                                             "translate", "zfill"};

// ---- list and dict

Value get_method(Interpreter& in, const Value& self, const Arguments& a) {
    const auto p = a.bind("get", {"key", "default"}, 1);
    const Value* value = find_key(in.budget(), self.dict(), p[0]);
    return value ? *value : p[1].is_undefined() && a.positional.size() < 2 ? Value::none() : p[1];
}
Value keys_method(Interpreter& in, const Value& self, const Arguments& a) {
    a.bind("keys", {});
    return make_list(in.budget(), elements(in.budget(), self));
}
Value values_method(Interpreter& in, const Value& self, const Arguments& a) {
    a.bind("values", {});
    std::vector<Value> out;
    for (const auto& [key, value] : self.dict().entries) out.push_back(value);
    return make_list(in.budget(), std::move(out));
}
Value items_method(Interpreter& in, const Value& self, const Arguments& a) {
    a.bind("items", {});
    std::vector<Value> out;
    for (const auto& [key, value] : self.dict().entries)
        out.push_back(make_list(in.budget(), {key, value}, Kind::tuple));
    return make_list(in.budget(), std::move(out));
}
Value copy_method(Interpreter&, const Value& self, const Arguments& a) {
    a.bind("copy", {});
    return self;
}
Value list_index(Interpreter& in, const Value& self, const Arguments& a) {
    const auto p = a.bind("index", {"value"}, 1);
    const auto& all = self.items().values;
    const auto it = std::find_if(all.begin(), all.end(), [&](const Value& v) { return equal(in.budget(), v, p[0]); });
    if (it == all.end()) fail_runtime("the value is not in the list");
    return Value::of(int64_t{it - all.begin()});
}
Value list_count(Interpreter& in, const Value& self, const Arguments& a) {
    const auto p = a.bind("count", {"value"}, 1);
    const auto& all = self.items().values;
    return Value::of(
        int64_t{std::count_if(all.begin(), all.end(), [&](const Value& v) { return equal(in.budget(), v, p[0]); })});
}
constexpr Entry dict_table[] = {{"copy", copy_method},
                                {"get", get_method},
                                {"items", items_method},
                                {"keys", keys_method},
                                {"values", values_method}};
constexpr Entry list_table[] = {{"copy", copy_method}, {"count", list_count}, {"index", list_index}};
constexpr std::string_view changing[] = {"append", "clear",   "extend",     "insert", "pop",   "popitem",
                                         "remove", "reverse", "setdefault", "sort",   "update"};

template <class Table>
Value bound(const Table& table, const Value& self, const std::string& name) {
    const auto it = std::find_if(std::begin(table), std::end(table), [&](const Entry& e) { return e.name == name; });
    if (it == std::end(table)) return Value();
    return Value::function(
        name, [self, method = it->method](Interpreter& in, const Arguments& a) { return method(in, self, a); },
        self.depth() + 1);
}

// ---- global functions

Value range(Interpreter& in, const Arguments& a) {
    const auto p = a.bind("range", {"start", "stop", "step"}, 1);
    const bool one = a.positional.size() == 1;
    const int64_t start = one ? 0 : to_integer(p[0], "range's start");
    const int64_t stop = to_integer(one ? p[0] : p[1], "range's end");
    const int64_t step = given(p[2]) ? to_integer(p[2], "range's step") : 1;
    if (step == 0) fail_runtime("range's step is zero");
    std::vector<Value> out;
    for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
        if (static_cast<int64_t>(out.size()) >= Budget::max_range)
            fail(Failure::Kind::limit, "range too big: more than " + std::to_string(Budget::max_range) + " elements");
        out.push_back(Value::of(i));
        if (__builtin_add_overflow(i, step, &i)) break;
    }
    return make_list(in.budget(), std::move(out));
}

// Pairs of dict(x, a=1) and namespace(x, a=1).
std::vector<std::pair<Value, Value>> pairs_of(Interpreter& in, const char* function, const Arguments& a) {
    std::vector<std::pair<Value, Value>> out;
    if (a.positional.size() > 1) fail_runtime(std::string(function) + "() takes at most one unnamed argument");
    if (!a.positional.empty() && a.positional[0].is_dict()) {
        out = a.positional[0].dict().entries;
    } else if (!a.positional.empty()) {
        for (const Value& pair : elements(in.budget(), a.positional[0])) {
            const auto both = elements(in.budget(), pair);
            if (both.size() != 2) fail_runtime(std::string(function) + "() of something else than pairs");
            out.emplace_back(both[0], both[1]);
        }
    }
    for (const auto& [key, value] : a.named) out.emplace_back(Value::of(key), value);
    in.budget().make(out.size() * 2 * sizeof(Value));
    return out;
}
Value dict_function(Interpreter& in, const Arguments& a) { return make_dict(in.budget(), pairs_of(in, "dict", a)); }
Value namespace_function(Interpreter& in, const Arguments& a) {
    std::vector<std::pair<std::string, Value>> members;
    const Value unique = make_dict(in.budget(), pairs_of(in, "namespace", a));
    for (const auto& [key, value] : unique.dict().entries)
        members.emplace_back(to_text(key, "a namespace's key").bytes(), value);
    return in.make_namespace(std::move(members));
}
Value raise_exception(Interpreter& in, const Arguments& a) {
    const auto p = a.bind("raise_exception", {"message"}, 1);
    fail(Failure::Kind::raised, str(in.budget(), p[0]).bytes());
}
Value strftime_now(Interpreter& in, const Arguments& a) {
    const auto p = a.bind("strftime_now", {"format"}, 1);
    const std::string& format = to_text(p[0], "strftime_now's format").bytes();
    if (format.empty()) return Value::of("");
    if (format.size() > 1000) fail(Failure::Kind::limit, "a date's format of more than 1000 bytes");
    std::vector<char> buffer(format.size() * 64 + 64);
    const size_t n = std::strftime(buffer.data(), buffer.size(), format.c_str(), &in.now());
    return make_text(in.budget(), Text(utf8_lossy({buffer.data(), n})));
}

}  // namespace

// ---- shared with the filters

Text strip(Interpreter& in, const Text& text, const Value& characters, bool left, bool right) {
    in.budget().work(text.size() / 8);
    if (!given(characters)) {
        const auto [begin, end] = stripped_range(text.bytes(), left, right, is_python_space);
        return text.slice(begin, end);
    }
    const std::string& set = to_text(characters, "the characters to strip").bytes();
    std::u32string codes;
    for (size_t at = 0; at < set.size(); at += utf8_size(set, at)) codes += utf8_step(set, at).code;
    std::sort(codes.begin(), codes.end());
    in.budget().work(set.size() + text.size() / 4);
    const auto [begin, end] = stripped_range(
        text.bytes(), left, right, [&](char32_t c) { return std::binary_search(codes.begin(), codes.end(), c); });
    return text.slice(begin, end);
}

Text to_case(Interpreter& in, const Text& text, bool upper) {
    return each_character(in, text, [upper](char32_t c, std::string& out) {
        if (upper) {
            append_upper(c, out);
        } else {
            append_utf8(out, lower_code(c));
        }
    });
}

Text capitalize(Interpreter& in, const Text& text) {
    bool first = true;
    return each_character(in, text, [&first](char32_t c, std::string& out) {
        append_utf8(out, std::exchange(first, false) ? upper_code(c) : lower_code(c));
    });
}

Text replace(Interpreter& in, const Text& text, const Text& what, const Text& with, int64_t most) {
    const std::string& s = text.bytes();
    in.budget().look_at(s.size());
    Text out;
    int64_t done = 0;
    size_t from = 0;
    const auto put = [&] {
        in.budget().make(with.size());
        in.budget().look_at(with.size());
        out.append(with);
        ++done;
    };
    if (what.empty()) {  // between all characters
        for (size_t at = 0; (most < 0 || done < most) && at <= s.size(); at += at < s.size() ? utf8_size(s, at) : 1) {
            out.append(text, from, at);
            put();
            from = at;
        }
    } else {
        while (most < 0 || done < most) {
            const size_t at = find_bytes(s, what.bytes(), from);
            if (at == std::string::npos) break;
            out.append(text, from, at);
            put();
            from = at + what.size();
        }
    }
    out.append(text, from, s.size());
    return out;
}

std::vector<Text> split_lines(const Text& text) {
    std::vector<Text> out;
    const std::string& s = text.bytes();
    size_t begin = 0;
    for (size_t at = 0; at < s.size();) {
        const Utf8Step c = utf8_step(s, at);
        const bool ends = (c.code >= 0x0A && c.code <= 0x0D) || (c.code >= 0x1C && c.code <= 0x1E) || c.code == 0x85 ||
                          c.code == 0x2028 || c.code == 0x2029;
        const size_t next = at + c.size + (c.code == '\r' && at + 1 < s.size() && s[at + 1] == '\n' ? 1 : 0);
        if (ends) {
            out.push_back(text.slice(begin, at));
            begin = next;
        }
        at = next;
    }
    if (begin < s.size()) out.push_back(text.slice(begin, s.size()));
    return out;
}

// %s, %d, %i, %f with a precision, %%.
Text format_percent(Interpreter& in, const Text& format, const std::vector<Value>& arguments) {
    const std::string& s = format.bytes();
    Text out;
    size_t next = 0;
    in.budget().make(s.size());
    in.budget().work(s.size() / 8);
    for (size_t at = 0; at < s.size();) {
        const size_t sign = s.find('%', at);
        out.append(format, at, std::min(sign, s.size()));
        if (sign == std::string::npos) break;
        size_t end = sign + 1;
        int precision = -1;
        if (end < s.size() && s[end] == '.')
            for (precision = 0, ++end; end < s.size() && s[end] >= '0' && s[end] <= '9' && precision < 100; ++end)
                precision = precision * 10 + (s[end] - '0');
        const char kind = end < s.size() ? s[end] : '\0';
        at = end + 1;
        if (kind == '%') {
            out.append("%", false);
            continue;
        }
        if ((kind != 's' && kind != 'd' && kind != 'i' && kind != 'f') || (precision >= 0 && kind != 'f') ||
            precision > 100)
            fail_unsupported("the conversion " + s.substr(sign, end + 1 - sign) + " in %");
        if (next == arguments.size()) fail_runtime("not enough arguments for %");
        const Value& v = arguments[next++];
        if (kind == 's') {
            const Text shown = str(in.budget(), v);
            in.budget().make(shown.size());
            out.append(shown);
            continue;
        }
        if (!v.is_number()) fail_runtime(std::string("% needs a number, not ") + v.type_name());
        char buffer[512];
        if (kind == 'f') {
            std::snprintf(buffer, sizeof buffer, "%.*f", precision < 0 ? 6 : precision, v.real());
        } else {
            std::snprintf(buffer, sizeof buffer, "%lld",
                          static_cast<long long>(v.is_integer() ? v.integer() : static_cast<int64_t>(v.real())));
        }
        out.append(buffer, false);
    }
    if (next < arguments.size()) fail_runtime("not all arguments of % were used");
    return out;
}

bool has_case(const std::string& text, bool upper) {
    bool any = false;
    for (size_t at = 0; at < text.size();) {
        const Utf8Step step = utf8_step(text, at);
        const bool is_upper = lower_code(step.code) != step.code, is_lower = upper_code(step.code) != step.code;
        if (upper ? is_lower : is_upper) return false;
        any = any || is_upper || is_lower;
        at += step.size;
    }
    return any;
}

Value text_method(const Value& self, const std::string& name) {
    if (std::find(std::begin(text_missing), std::end(text_missing), name) != std::end(text_missing))
        fail_unsupported("the method str." + name);
    return bound(text_table, self, name);
}

Value container_method(const Value& self, const std::string& name) {
    if (!self.is_dict() && !self.is(Kind::list) && !self.is(Kind::tuple)) return Value();
    Value method = self.is_dict() ? bound(dict_table, self, name) : bound(list_table, self, name);
    const bool key =
        self.is_dict() && std::any_of(self.dict().entries.begin(), self.dict().entries.end(),
                                      [&](const auto& e) { return e.first.is_text() && e.first.bytes() == name; });
    if (method.is_undefined() && !key &&
        std::find(std::begin(changing), std::end(changing), name) != std::end(changing))
        fail_runtime(std::string("access to attribute ") + name + " of a " + self.type_name() + " is unsafe");
    return method;
}

std::vector<std::pair<std::string, Value>> global_functions() {
    std::vector<std::pair<std::string, Value>> out;
    const auto add = [&out](const char* name, Value (*function)(Interpreter&, const Arguments&)) {
        out.emplace_back(name, Value::function(name, function));
    };
    add("range", range);
    add("dict", dict_function);
    add("namespace", namespace_function);
    add("raise_exception", raise_exception);
    add("strftime_now", strftime_now);
    return out;
}

}  // namespace spartan::jinja
