#include "app/spartan/prompts_file.h"

#include "core/tokenizer/tokenizer.h"

namespace spartan {
namespace {

Result<std::vector<Token>> read_ids(const Json& list, const std::string& file, const std::string& place,
                                    int64_t vocab_size) {
    std::vector<Token> ids;
    ids.reserve(list.size());
    for (const Json& id : list) {
        const bool fits = id.is_number_unsigned() && id.get<uint64_t>() < uint64_t(vocab_size);
        if (!fits)
            return Error{file, place + ".ids[" + std::to_string(ids.size()) + "]", describe(id),
                         "an id from 0 to " + std::to_string(vocab_size - 1)};
        ids.push_back(id.get<Token>());
    }
    return ids;
}

Result<PromptEntry> read_prompt(const Json& json, const std::string& file, const std::string& place,
                                const Session& session) {
    const ModelConfig& config = session.model->config();
    Fields f(json, file, place);
    PromptEntry entry;
    entry.place = place;
    const Json* ids = f.array("ids");
    const bool has_text = json.is_object() && json.contains("text");
    const std::string text = f.string("text");
    if (f.any("adapter")) entry.adapter_name = f.string("adapter");
    if (f.ok() && (ids != nullptr) == has_text)
        f.fail(has_text ? "text" : "ids", has_text ? "both ids and text" : "neither ids nor text",
               "exactly one of them");
    if (f.ok() && f.has("adapter") && entry.adapter_name.empty())
        f.fail("adapter", "\"\"", "a name, or null for the base");
    TRY_VOID(f.finish());
    TRY_ASSIGN(adapter, session.find_adapter(entry.adapter_name, file, place + ".adapter"));
    entry.adapter = adapter;
    if (ids) {
        TRY_ASSIGN(tokens, read_ids(*ids, file, place, config.vocab_size));
        entry.ids = std::move(tokens);
    } else {
        const auto& tokenizer = session.model->info.tokenizer;
        if (!tokenizer) return Error{file, place + ".text", "text", "ids: the model has no tokenizer"};
        entry.ids = tokenizer->encode(text, true, SpecialTokens::parse);
    }
    if (entry.ids.empty()) return Error{file, place, "no ids", "at least one"};
    if (int64_t(entry.ids.size()) > config.max_position)
        return Error{file, place, std::to_string(entry.ids.size()) + " ids",
                     "at most the context, " + std::to_string(config.max_position)};
    return entry;
}

}  // namespace

Result<std::vector<PromptEntry>> read_prompts_file(const std::string& path, const Session& session) {
    TRY_ASSIGN(json, read_json_file(path));
    Fields f(json, path);
    f.require("prompts");
    const Json* list = f.array("prompts");
    if (list && list->empty()) f.fail("prompts", "no prompts", "at least one");
    TRY_VOID(f.finish());
    std::vector<PromptEntry> entries;
    for (const Json& prompt : *list) {
        const std::string place = "prompts[" + std::to_string(entries.size()) + "]";
        TRY_ASSIGN(entry, read_prompt(prompt, path, place, session));
        entries.push_back(std::move(entry));
    }
    return entries;
}

}  // namespace spartan
