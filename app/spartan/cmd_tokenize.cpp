#include "app/spartan/session.h"
#include "core/base/file.h"
#include "core/tokenizer/tokenizer.h"

#include <filesystem>
#include <memory>

namespace spartan {
namespace {

struct TokenizeOptions {
    ModelOptions model;
    std::string text, file;
    bool has_text = false, no_special = false, decode = false;
};

// A folder needs nothing but its tokenizer.json here.
Result<std::shared_ptr<const Tokenizer>> open_tokenizer(const std::string& path, uint64_t seed) {
    std::error_code ignored;
    const auto json = std::filesystem::path(path) / "tokenizer.json";
    if (std::filesystem::is_regular_file(json, ignored)) return read_tokenizer_json(json.string());
    TRY_ASSIGN(opened, open_model(path, seed));
    if (!opened.tokenizer) return Error{path, "", "no tokenizer", "a model that has one"};
    return opened.tokenizer;
}

// Beyond the vocabulary there is no text.
Result<std::vector<Token>> parse_ids(const std::string& text, const std::string& source, int64_t vocab_size) {
    TRY_ASSIGN(json, parse_json(text, source));
    if (!json.is_array()) return Error{source, "", describe(json), "a JSON list of ids"};
    std::vector<Token> ids;
    for (const Json& id : json) {
        if (!id.is_number_unsigned() || id.get<uint64_t>() >= uint64_t(vocab_size))
            return Error{source, "[" + std::to_string(ids.size()) + "]", describe(id),
                         "an id from 0 to " + std::to_string(vocab_size - 1)};
        ids.push_back(id.get<Token>());
    }
    return ids;
}

Result<void> tokenize(const GlobalOptions& options, const TokenizeOptions& o) {
    TRY_ASSIGN(tokenizer, open_tokenizer(o.model.model, options.seed_or()));
    const std::string source = o.has_text ? "--text" : o.file;
    std::string text = o.text;
    if (!o.has_text) {
        TRY_ASSIGN(content, read_text_file(o.file));
        text = std::move(content);
    }
    if (o.decode) {
        TRY_ASSIGN(ids, parse_ids(text, source, tokenizer->vocab_size()));
        const std::string decoded = tokenizer->decode(ids, true);
        if (options.json)
            print_json({{"text", decoded}});
        else
            print(for_output(decoded) + "\n");
        return {};
    }
    TRY_VOID(check_utf8(text, source));
    const Json ids = tokenizer->encode(text, !o.no_special, SpecialTokens::parse);
    if (options.json)
        print(Json{{"ids", ids}}.dump() + "\n");
    else
        print(ids.dump() + "\n");
    return {};
}

}  // namespace

void add_tokenize(CLI::App& app, GlobalOptions& options, Action& action) {
    CLI::App* command = add_command(app, "tokenize", "Text to token ids, and back with --decode",
                                    {"spartan tokenize --model demo --text \"Hello there\"",
                                     "spartan tokenize --model FOLDER --file notes.txt --no-special --json",
                                     "spartan tokenize --model demo --decode --text '[19556, 665]'"});
    auto o = std::make_shared<TokenizeOptions>();
    add_model_option(command, o->model);
    CLI::Option* text = command->add_option("--text", o->text, "The text, or with --decode a JSON list of ids");
    CLI::Option* file = command->add_option("--file", o->file, "A file of it, byte for byte")
                            ->type_name("FILE")
                            ->check(not_empty("the path of a file"));
    text->excludes(file);
    command->add_flag("--no-special", o->no_special, "Leave out the tokens that the tokenizer adds itself");
    command->add_flag("--decode", o->decode, "Ids to text; special tokens are skipped");
    add_json_flag(command, options);
    command->callback([&options, &action, o, text, file] {
        if (text->count() + file->count() == 0) throw CLI::RequiredError("--text or --file");
        o->has_text = text->count() > 0;
        action = [&options, o] {
            const auto done = tokenize(options, *o);
            return done ? kDone : report(done.error());
        };
    });
}

}  // namespace spartan
