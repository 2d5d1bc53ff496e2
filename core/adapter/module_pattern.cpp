#define PCRE2_CODE_UNIT_WIDTH 8
#include "core/adapter/module_pattern.h"

#include "core/base/text.h"

#include <memory>

#include <pcre2.h>

namespace spartan {
namespace {

constexpr size_t kMaxKeyBytes = 1000;
constexpr uint32_t kMaxSteps = 100'000, kMaxDepth = 250, kMaxHeapKib = 1024;

struct FreePcre {
    void operator()(pcre2_code* p) const { pcre2_code_free(p); }
    void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); }
    void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
};
template <class T>
using Owned = std::unique_ptr<T, FreePcre>;

bool is_word(char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_'; }

// Whether Python and PCRE read the key alike: words, dots, groups, classes, quantifiers, alternatives and simple
// escapes.
bool is_shared_syntax(const std::string& key) {
    for (size_t i = 0; i < key.size(); ++i) {
        const char c = key[i];
        const char next = i + 1 < key.size() ? key[i + 1] : '\0';
        if (c == '\\') {
            if (next == '\0' || std::string(".dDwWsSbB-").find(next) == std::string::npos) return false;
            ++i;
        } else if (c == '(' && (next == '*' || (next == '?' && key.compare(i, 3, "(?:") != 0))) {
            return false;
        } else if (!is_word(c) && std::string(".^$*+?()[]{}|-,:").find(c) == std::string::npos) {
            return false;
        }
    }
    return key.find("[:") == std::string::npos;
}

bool is_literal(const std::string& key) {
    for (const char c : key)
        if (!is_word(c)) return false;
    return true;
}

}  // namespace

Result<bool> module_matches(const std::string& key, const std::string& module) {
    if (is_literal(key)) {
        if (module.size() < key.size() || module.compare(module.size() - key.size(), key.size(), key) != 0)
            return false;
        return module.size() == key.size() || module[module.size() - key.size() - 1] == '.';
    }
    const std::string shown = "\"" + shorten(key, 80) + "\"";
    if (key.size() > kMaxKeyBytes || !is_shared_syntax(key))
        return Error{"", "", "the pattern " + shown,
                     "module names or simple patterns: letters, digits, _ . ^ $ * + ? ( ) [ ] { } | and \\. \\d \\w"};
    const std::string pattern = "(?:.*\\.)?(?:" + key + ")$";
    int code = 0;
    PCRE2_SIZE position = 0;
    const Owned<pcre2_code> compiled(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                                   PCRE2_ANCHORED, &code, &position, nullptr));
    if (!compiled) return Error{"", "", "the pattern " + shown, "a valid regular expression"};
    const Owned<pcre2_match_context> context(pcre2_match_context_create(nullptr));
    const Owned<pcre2_match_data> data(pcre2_match_data_create(1, nullptr));
    pcre2_set_match_limit(context.get(), kMaxSteps);
    pcre2_set_depth_limit(context.get(), kMaxDepth);
    pcre2_set_heap_limit(context.get(), kMaxHeapKib);
    const int found = pcre2_match(compiled.get(), reinterpret_cast<PCRE2_SPTR>(module.data()), module.size(), 0, 0,
                                  data.get(), context.get());
    if (found >= 0) return true;
    if (found == PCRE2_ERROR_NOMATCH) return false;
    return Error{"", "", "the pattern " + shown + ", which takes too long to match", "a simpler pattern"};
}

}  // namespace spartan
