#include "core/base/file.h"
#include "core/base/json.h"
#include "core/tokenizer/chat_template.h"

#include <algorithm>
#include <filesystem>

namespace spartan {

namespace {

constexpr int64_t max_template_bytes = 16 << 20;
constexpr int64_t max_config_bytes = 64 << 20;

bool exists(const std::string& path) {
    std::error_code ignored;
    return std::filesystem::exists(path, ignored);
}

Result<std::string> template_in(const Json& value, const std::string& file) {
    if (value.is_string()) return value.get<std::string>();
    const auto is_text = [](const Json& entry, const char* key) {
        return entry.is_object() && entry.contains(key) && entry[key].is_string();
    };
    if (value.is_array())
        for (const Json& entry : value)
            if (is_text(entry, "name") && is_text(entry, "template") &&
                (entry["name"] == "default" || value.size() == 1))
                return entry["template"].get<std::string>();
    return Error{file, "chat_template", describe(value), "a string, or a list with a template named default"};
}

// "bos_token": "<s>" or {"content": "<s>", …}; null is a token that the model has not.
Result<void> add_specials(const Json& config, const std::string& file, ChatSource& source) {
    for (const auto& [key, value] : config.items()) {
        if (!key.ends_with("_token") || value.is_null() || value.is_boolean()) continue;  // add_bos_token is a flag
        const bool known = std::any_of(source.specials.begin(), source.specials.end(),
                                       [&name = key](const auto& special) { return special.first == name; });
        const Json& text = value.is_object() && value.contains("content") ? value["content"] : value;
        if (!text.is_string()) return Error{file, key, describe(value), "a string, or an object with content"};
        if (!known) source.specials.emplace_back(key, text.get<std::string>());
    }
    return {};
}

}  // namespace

Result<ChatSource> read_chat_source(const std::string& folder) {
    const std::string own = folder + "/chat_template.jinja";
    const JsonLimits limits{.max_bytes = max_config_bytes, .big_integers_as_double = true};
    ChatSource source;
    Json named;
    for (const char* name : {"/tokenizer_config.json", "/special_tokens_map.json"}) {
        const std::string path = folder + name;
        if (!exists(path)) continue;
        TRY_ASSIGN(config, read_json_file(path, limits));
        if (!config.is_object()) return Error{path, "", describe(config), "an object"};
        TRY_VOID(add_specials(config, path, source));
        if (named.is_null() && config.contains("chat_template") && !exists(own)) {
            named = config["chat_template"];
            if (named.is_null()) continue;
            TRY_ASSIGN(text, template_in(named, path));
            source.text = text;
        }
    }
    if (!exists(own)) return source;
    TRY_ASSIGN(text, read_text_file(own, max_template_bytes));
    source.text = text;
    return source;
}

}  // namespace spartan
