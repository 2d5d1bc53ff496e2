// Reads tokenizer.json. Every component is either carried out exactly or refused by its name.
#include "core/base/file.h"
#include "core/base/json.h"
#include "core/base/text.h"
#include "core/tokenizer/bpe_tokenizer.h"
#include "core/tokenizer/unicode.h"

#include <algorithm>

namespace spartan {

namespace {

constexpr int64_t max_file_bytes = 256 << 20;
constexpr int64_t max_id = 16'777'215;
constexpr size_t max_steps = 64;  // of one chain
constexpr size_t max_added_tokens = 1 << 20;

std::string in_quotes(std::string_view s) { return '"' + escape_control(shorten(s, 80)) + '"'; }

bool is_one_character(std::string_view s) { return !s.empty() && utf8_size(s, 0) == s.size(); }

// {"String": "…"} or {"Regex": "…"}
Result<Pattern> read_pattern(const Json& json, const std::string& file, const std::string& path) {
    Fields f(json, file, path);
    const bool regex = f.has("Regex");
    const std::string text = f.string(regex ? "Regex" : "String");
    TRY_VOID(f.finish());
    if (regex) return Pattern::regex(text, file, path + ".Regex");
    if (text.empty()) return Error{file, path, "no text", "a String or Regex that is not empty"};
    return Pattern::literal(text);
}

class Reader {
public:
    explicit Reader(std::string file) : file_(std::move(file)) {}

    Result<std::shared_ptr<const Tokenizer>> read(const Json& root) {
        Fields f(root, file_);
        f.one_of("version", "1.0", {"1.0"});
        // What a caller wants of a batch of texts, not part of how a text becomes ids.
        f.ignore("truncation");
        f.ignore("padding");
        const Json* added = f.any("added_tokens");
        const Json* normalizer = f.any("normalizer");
        const Json* pre_tokenizer = f.any("pre_tokenizer");
        const Json* post_processor = f.any("post_processor");
        const Json* decoder = f.any("decoder");
        f.require("model");
        const Json* model = f.object("model");
        TRY_VOID(f.finish());
        TRY_VOID(read_model(*model));
        if (added) TRY_VOID(read_added(*added));
        if (normalizer) TRY_VOID(read_normalizer(*normalizer, "normalizer"));
        if (pre_tokenizer) TRY_VOID(read_pre_tokenizer(*pre_tokenizer, "pre_tokenizer"));
        if (post_processor) TRY_VOID(read_post_processor(*post_processor, "post_processor"));
        if (decoder) {
            TRY_VOID(read_decoder(*decoder, "decoder"));
        } else {
            parts_.decoder.emplace_back(JoinDecoder{});
        }
        parts_.kind = is_unigram()                  ? "unigram"
                      : bpe().unknown.byte_fallback ? "BPE with byte fallback"
                      : byte_level_                 ? "byte-level BPE"
                                                    : "BPE";
        return std::shared_ptr<const Tokenizer>(std::make_shared<BpeTokenizer>(std::move(parts_)));
    }

private:
    RankedBpe& bpe() { return std::get<RankedBpe>(parts_.model); }
    bool is_unigram() const { return std::holds_alternative<Unigram>(parts_.model); }
    const Vocabulary& vocabulary() const {
        return std::visit([](const auto& model) -> const Vocabulary& { return model.vocabulary; }, parts_.model);
    }

    Error error(std::string field, std::string found, std::string expected) const {
        return Error{file_, std::move(field), std::move(found), std::move(expected)};
    }

    static std::string type_of(const Json& json) {
        const auto it = json.is_object() ? json.find("type") : json.end();
        return it != json.end() && it->is_string() ? it->get<std::string>() : "";
    }
    Error unknown_type(const Json& json, const std::string& path, const std::string& known) const {
        const std::string type = type_of(json);
        return error(path + ".type", type.empty() ? "no type" : in_quotes(type), known);
    }

    // Calls read(member, path) for each member of the Sequence in `json`.
    template <class Read>
    Result<void> read_sequence(const Json& json, const std::string& path, const char* key, Read&& read) {
        Fields f(json, file_, path);
        f.ignore("type");
        f.require(key);
        const Json* list = f.array(key);
        TRY_VOID(f.finish());
        if (list->size() > max_steps)
            return error(path + "." + key, std::to_string(list->size()) + " steps",
                         "at most " + std::to_string(max_steps));
        for (size_t i = 0; i < list->size(); ++i)
            TRY_VOID(read((*list)[i], path + "." + key + "[" + std::to_string(i) + "]"));
        return {};
    }
    Result<void> check_steps(size_t n, const std::string& path) const {
        if (n < max_steps) return {};
        return error(path, "more than " + std::to_string(max_steps) + " steps", "a shorter chain");
    }

    // ---- model

    Result<void> read_model(const Json& json) {
        Fields f(json, file_, "model");
        const std::string type = f.string("type", "BPE");
        if (type == "Unigram") return read_unigram(f);
        if (type != "BPE")
            return unknown_type(json, "model", "BPE or Unigram (other kinds of model are not supported)");
        if (const Json* dropout = f.any("dropout"); dropout && *dropout != 0)
            f.fail("dropout", describe(*dropout), "0 or null: ids must not be random");
        for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
            const Json* affix = f.any(key);
            if (affix && *affix != Json(""))
                f.fail(key, describe(*affix), "null or empty: marked subwords are not supported");
        }
        bpe().unknown.fuse = flag(f, "fuse_unk");
        bpe().unknown.byte_fallback = flag(f, "byte_fallback");
        bpe().ignore_merges = flag(f, "ignore_merges");
        const Json* unk = f.any("unk_token");
        f.require("vocab");
        f.require("merges");
        const Json* vocab = f.object("vocab");
        const Json* merges = f.array("merges");
        TRY_VOID(f.finish());
        TRY_VOID(read_vocab(*vocab));
        TRY_VOID(read_merges(*merges));
        if (unk) TRY_VOID(read_unknown(*unk));
        if (bpe().unknown.byte_fallback) TRY_VOID(read_byte_tokens(bpe().unknown));
        return {};
    }

    // vocab: [[token, score], …], where a token's place is its id.
    Result<void> read_unigram(Fields& f) {
        Unigram& model = parts_.model.emplace<Unigram>();
        model.unknown.byte_fallback = flag(f, "byte_fallback");
        f.require("vocab");
        f.require("unk_id");  // also of null: a character that no token holds would have no id
        const int64_t unk = f.integer("unk_id", 0, 0, max_id);
        const Json* vocab = f.array("vocab");
        TRY_VOID(f.finish());
        if (vocab->empty()) return error("model.vocab", "no tokens", "at least one");
        if (vocab->size() > size_t(max_id))
            return error("model.vocab", std::to_string(vocab->size()) + " tokens", "at most " + std::to_string(max_id));
        if (unk >= int64_t(vocab->size()))
            return error("model.unk_id", std::to_string(unk), "an id below " + std::to_string(vocab->size()));
        model.vocabulary.reserve(vocab->size());
        model.scores.reserve(vocab->size());
        for (size_t i = 0; i < vocab->size(); ++i) TRY_VOID(read_unigram_token(model, (*vocab)[i], i));
        model.unknown.unknown = static_cast<Token>(unk);
        if (model.unknown.byte_fallback) TRY_VOID(read_byte_tokens(model.unknown));
        model.finish();
        return {};
    }
    Result<void> read_unigram_token(Unigram& model, const Json& json, size_t index) const {
        const std::string path = "model.vocab[" + std::to_string(index) + "]";
        if (!json.is_array() || json.size() != 2 || !json[0].is_string() || !json[1].is_number())
            return error(path, describe(json), "a token and its score: [\"a\", -1.5]");
        const std::string& text = json[0].get_ref<const std::string&>();
        if (model.vocabulary.insert(text, static_cast<Token>(index)) != Vocabulary::Insert::done)
            return error(path,
                         in_quotes(text) + ", as model.vocab[" + std::to_string(model.vocabulary.find(text)) + "]",
                         "each token once");
        model.scores.push_back(json[1].get<double>());
        return {};
    }

    // null is what an absent flag looks like in some files.
    static bool flag(Fields& f, const char* key) {
        if (f.has(key)) return f.boolean(key);
        f.ignore(key);
        return false;
    }

    Result<void> read_vocab(const Json& vocab) {
        if (vocab.empty()) return error("model.vocab", "no tokens", "at least one");
        bpe().vocabulary.reserve(vocab.size());
        for (const auto& [text, json] : vocab.get_ref<const Json::object_t&>()) {
            const auto path = [&name = text] { return "model.vocab[" + in_quotes(name) + "]"; };
            const bool ok = json.is_number_unsigned() || (json.is_number_integer() && json.get<int64_t>() >= 0);
            if (!ok || json.get<uint64_t>() > uint64_t(max_id))
                return error(path(), "id " + describe(json), "an integer from 0 to " + std::to_string(max_id));
            const Token id = json.get<Token>();
            if (bpe().vocabulary.insert(text, id) == Vocabulary::Insert::same_id)
                return error(
                    path(), "id " + std::to_string(id) + ", which " + in_quotes(bpe().vocabulary.text(id)) + " has too",
                    "each id once");
        }
        return {};
    }

    // "a b" or ["a", "b"]
    Result<std::pair<std::string_view, std::string_view>> merge_parts(const Json& json, size_t index) const {
        if (json.is_array() && json.size() == 2 && json[0].is_string() && json[1].is_string())
            return std::pair<std::string_view, std::string_view>(json[0].get_ref<const std::string&>(),
                                                                 json[1].get_ref<const std::string&>());
        if (json.is_string()) {
            const std::string_view text = json.get_ref<const std::string&>();
            const size_t space = text.find(' ');
            if (space != std::string_view::npos && text.find(' ', space + 1) == std::string_view::npos)
                return std::pair(text.substr(0, space), text.substr(space + 1));
        }
        return error("model.merges[" + std::to_string(index) + "]", describe(json),
                     "two tokens: \"a b\" or [\"a\", \"b\"]");
    }

    Result<void> read_merges(const Json& merges) {
        const Vocabulary& vocabulary = bpe().vocabulary;
        bpe().merges.reserve(merges.size());
        std::string joined;
        for (size_t i = 0; i < merges.size(); ++i) {
            const auto path = [i] { return "model.merges[" + std::to_string(i) + "]"; };
            const Json& json = merges[i];
            TRY_ASSIGN(pair, merge_parts(json, i));
            if (pair.first.empty() || pair.second.empty()) return error(path(), "an empty token", "two tokens");
            joined.assign(pair.first);
            joined += pair.second;
            Token ids[3];
            const std::string_view texts[3] = {pair.first, pair.second, joined};
            for (int k = 0; k < 3; ++k) {
                ids[k] = vocabulary.find(texts[k]);
                if (ids[k] < 0) return error(path(), in_quotes(texts[k]), "a token of model.vocab");
            }
            bpe().merges.insert_or_assign(RankedBpe::key(ids[0], ids[1]), {static_cast<uint32_t>(i), ids[2]});
        }
        return {};
    }

    Result<void> read_unknown(const Json& json) {
        if (!json.is_string()) return error("model.unk_token", describe(json), "a token or null");
        bpe().unknown.unknown = bpe().vocabulary.find(json.get_ref<const std::string&>());
        if (bpe().unknown.unknown < 0) return error("model.unk_token", describe(json), "a token of model.vocab");
        return {};
    }

    Result<void> read_byte_tokens(UnknownRule& rule) {
        const Vocabulary& vocabulary = this->vocabulary();
        constexpr char hex[] = "0123456789ABCDEF";
        for (size_t b = 0; b < 256; ++b)
            rule.byte_tokens[b] = vocabulary.find(std::string("<0x") + hex[b >> 4] + hex[b & 15] + ">");
        for (Token id = 0; id < vocabulary.end(); ++id) {
            const std::string_view text = vocabulary.text(id);
            if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') continue;
            if (text.substr(3, 2).find_first_not_of("0123456789ABCDEFabcdef") == std::string_view::npos) continue;
            return error("model.vocab[" + in_quotes(text) + "]", "a byte token without two hexadecimal digits",
                         "<0x00> to <0xFF>");
        }
        return {};
    }

    // ---- added tokens

    Result<void> read_added(const Json& list) {
        if (!list.is_array()) return error("added_tokens", describe(list), "an array");
        if (list.size() > max_added_tokens)
            return error("added_tokens", std::to_string(list.size()) + " tokens",
                         "at most " + std::to_string(max_added_tokens));
        Vocabulary seen;
        for (size_t i = 0; i < list.size(); ++i) {
            const std::string path = "added_tokens[" + std::to_string(i) + "]";
            Fields f(list[i], file_, path);
            AddedToken t;
            f.require("id");
            f.require("content");
            t.id = static_cast<Token>(f.integer("id", 0, 0, max_id));
            t.content = f.string("content");
            t.single_word = f.boolean("single_word");
            t.lstrip = f.boolean("lstrip");
            t.rstrip = f.boolean("rstrip");
            t.special = f.boolean("special");
            t.normalized = f.boolean("normalized", !t.special);
            TRY_VOID(f.finish());
            TRY_VOID(check_added_id(t, path, seen));
            parts_.added.push_back(std::move(t));
        }
        return {};
    }

    // The reference numbers added tokens itself and only warns when the file disagrees; such a file is refused here.
    Result<void> check_added_id(const AddedToken& t, const std::string& path, Vocabulary& seen) {
        const Vocabulary& vocabulary = this->vocabulary();
        const Token in_model = vocabulary.find(t.content);
        if (in_model >= 0 && in_model != t.id)
            return error(path + ".id", std::to_string(t.id),
                         std::to_string(in_model) + ", the id of " + in_quotes(t.content) + " in model.vocab");
        if (in_model < 0 && vocabulary.has(t.id))
            return error(path + ".id",
                         std::to_string(t.id) + ", which model.vocab gives to " + in_quotes(vocabulary.text(t.id)),
                         "an id of its own");
        if (seen.insert(t.content, t.id) != Vocabulary::Insert::done)
            return error(path, in_quotes(t.content) + " with id " + std::to_string(t.id),
                         "each added token and id once");
        return {};
    }

    // ---- normalizer

    Result<void> read_normalizer(const Json& json, const std::string& path) {
        TRY_VOID(check_steps(parts_.normalizer.size(), path));
        const std::string type = type_of(json);
        if (type == "Sequence")
            return read_sequence(json, path, "normalizers",
                                 [this](const Json& j, const std::string& p) { return read_normalizer(j, p); });
        Fields f(json, file_, path);
        f.ignore("type");
        constexpr std::pair<const char*, NormalForm> forms[] = {
            {"NFC", NormalForm::nfc}, {"NFD", NormalForm::nfd}, {"NFKC", NormalForm::nfkc}, {"NFKD", NormalForm::nfkd}};
        for (const auto& [name, form] : forms) {
            if (type != name) continue;
            parts_.normalizer.emplace_back(UnicodeForm{form});
            return f.finish();
        }
        if (type == "Prepend") {
            f.require("prepend");
            parts_.normalizer.emplace_back(Prepend{f.string("prepend")});
            return f.finish();
        }
        if (type == "Replace") {
            TRY_ASSIGN(replace, read_replace(f, path));
            parts_.normalizer.emplace_back(std::move(replace));
            return {};
        }
        if (type == "Lowercase" || type == "StripAccents") {
            parts_.normalizer.emplace_back(type == "Lowercase" ? NormalizerStep(Lowercase{})
                                                               : NormalizerStep(StripAccents{}));
            return f.finish();
        }
        if (type == "Strip") {
            f.require("strip_left");
            f.require("strip_right");
            parts_.normalizer.emplace_back(StripSpaces{f.boolean("strip_left"), f.boolean("strip_right")});
            return f.finish();
        }
        return unknown_type(json, path,
                            "one of Sequence, NFC, NFD, NFKC, NFKD, Prepend, Replace, Lowercase, Strip, StripAccents");
    }

    Result<ReplaceAll> read_replace(Fields& f, const std::string& path) {
        f.require("pattern");
        f.require("content");
        const Json* pattern = f.object("pattern");
        std::string content = f.string("content");
        TRY_VOID(f.finish());
        TRY_ASSIGN(compiled, read_pattern(*pattern, file_, path + ".pattern"));
        return ReplaceAll{std::move(compiled), std::move(content)};
    }

    // ---- pre_tokenizer

    Result<void> read_pre_tokenizer(const Json& json, const std::string& path) {
        TRY_VOID(check_steps(parts_.pre_tokenizer.size(), path));
        const std::string type = type_of(json);
        if (type == "Sequence")
            return read_sequence(json, path, "pretokenizers",
                                 [this](const Json& j, const std::string& p) { return read_pre_tokenizer(j, p); });
        Fields f(json, file_, path);
        f.ignore("type");
        if (type == "ByteLevel") return read_byte_level(f, path);
        if (type == "Split") return read_split(f, path);
        if (type == "Digits") {
            parts_.pre_tokenizer.emplace_back(DigitsStep{f.boolean("individual_digits")});
            return f.finish();
        }
        if (type == "Metaspace") {
            TRY_ASSIGN(metaspace, read_metaspace(f, path));
            parts_.pre_tokenizer.emplace_back(std::move(metaspace));
            return {};
        }
        return unknown_type(json, path, "one of Sequence, ByteLevel, Split, Digits, Metaspace");
    }

    Result<void> read_byte_level(Fields& f, const std::string& path) {
        ByteLevelStep step;
        step.add_prefix_space = f.boolean("add_prefix_space", true);
        const bool use_regex = f.boolean("use_regex", true);
        f.ignore("trim_offsets");  // about offsets, which nothing here asks for
        TRY_VOID(f.finish());
        if (use_regex) {
            TRY_ASSIGN(pattern, Pattern::regex(gpt2_expression, file_, path));
            step.split.push_back(std::move(pattern));
        }
        parts_.pre_tokenizer.emplace_back(std::move(step));
        byte_level_ = true;
        return {};
    }

    Result<void> read_split(Fields& f, const std::string& path) {
        f.require("pattern");
        f.require("behavior");
        const Json* pattern = f.object("pattern");
        constexpr std::pair<const char*, SplitBehavior> behaviors[] = {
            {"Removed", SplitBehavior::removed},
            {"Isolated", SplitBehavior::isolated},
            {"MergedWithPrevious", SplitBehavior::merged_with_previous},
            {"MergedWithNext", SplitBehavior::merged_with_next},
            {"Contiguous", SplitBehavior::contiguous}};
        const std::string name =
            f.one_of("behavior", "", {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"});
        const bool invert = f.boolean("invert");
        TRY_VOID(f.finish());
        TRY_ASSIGN(compiled, read_pattern(*pattern, file_, path + ".pattern"));
        SplitStep step{std::move(compiled), SplitBehavior::isolated, invert};
        for (const auto& [text, behavior] : behaviors)
            if (name == text) step.behavior = behavior;
        parts_.pre_tokenizer.emplace_back(std::move(step));
        return {};
    }

    Result<MetaspaceStep> read_metaspace(Fields& f, const std::string& path) {
        MetaspaceStep step;
        f.require("replacement");
        step.replacement = f.string("replacement");
        const std::string scheme = f.one_of("prepend_scheme", "always", {"always", "never", "first"});
        step.prefix = scheme == "always"  ? MetaspaceStep::Prefix::always
                      : scheme == "first" ? MetaspaceStep::Prefix::first
                                          : MetaspaceStep::Prefix::never;
        if (f.has("add_prefix_space")) {  // the older spelling of "never"
            const bool prefix = f.boolean("add_prefix_space");
            if (!prefix && f.has("prepend_scheme") && scheme != "never")
                f.fail("add_prefix_space", "false beside prepend_scheme " + scheme, "fields that agree");
            if (!prefix) step.prefix = MetaspaceStep::Prefix::never;
        }
        step.split = f.boolean("split", true);
        f.ignore("add_prefix_space");
        f.ignore("str_rep");  // the replacement again
        TRY_VOID(f.finish());
        if (!is_one_character(step.replacement))
            return error(path + ".replacement", in_quotes(step.replacement), "one character");
        return step;
    }

    // ---- post_processor

    Result<void> read_post_processor(const Json& json, const std::string& path) {
        const std::string type = type_of(json);
        if (type == "Sequence")
            return read_sequence(json, path, "processors",
                                 [this](const Json& j, const std::string& p) { return read_post_processor(j, p); });
        if (type == "ByteLevel") return {};  // trims offsets, which nothing here asks for
        if (type == "TemplateProcessing") return read_template(json, path);
        return unknown_type(json, path, "one of Sequence, ByteLevel, TemplateProcessing");
    }

    Result<void> read_template(const Json& json, const std::string& path) {
        Fields f(json, file_, path);
        f.ignore("type");
        f.ignore("pair");  // for two texts at once, which nothing here encodes
        f.require("single");
        f.require("special_tokens");
        const Json* single = f.array("single");
        const Json* specials = f.object("special_tokens");
        TRY_VOID(f.finish());
        std::vector<Token> before, after;
        int sequences = 0;
        for (size_t i = 0; i < single->size(); ++i) {
            const std::string at = path + ".single[" + std::to_string(i) + "]";
            Fields piece((*single)[i], file_, at);
            const Json* sequence = piece.object("Sequence");
            const Json* special = sequence ? nullptr : piece.object("SpecialToken");
            TRY_VOID(piece.finish());
            if (!sequence && !special) return error(at, describe((*single)[i]), "a Sequence or a SpecialToken");
            Fields inner(sequence ? *sequence : *special, file_, at + (sequence ? ".Sequence" : ".SpecialToken"));
            const std::string id = sequence ? inner.one_of("id", "", {"A"}) : inner.string("id");
            inner.ignore("type_id");  // segment ids, which decoder-only models have not
            TRY_VOID(inner.finish());
            if (sequence) {
                ++sequences;
                continue;
            }
            TRY_ASSIGN(ids, template_ids(*specials, id, path + ".special_tokens"));
            auto& side = sequences > 0 ? after : before;
            side.insert(side.end(), ids.begin(), ids.end());
        }
        if (sequences != 1)
            return error(path + ".single", std::to_string(sequences) + " times the text", "the text once");
        parts_.prefix.insert(parts_.prefix.begin(), before.begin(), before.end());
        parts_.suffix.insert(parts_.suffix.end(), after.begin(), after.end());
        return {};
    }

    Result<std::vector<Token>> template_ids(const Json& specials, const std::string& id, const std::string& path) {
        const auto it = specials.find(id);
        if (it == specials.end()) return error(path, "no " + in_quotes(id), "every token that the template names");
        Fields f(*it, file_, path + "[" + in_quotes(id) + "]");
        f.ignore("id");
        f.ignore("tokens");  // the ids again, as text
        f.require("ids");
        const Json* ids = f.array("ids");
        TRY_VOID(f.finish());
        std::vector<Token> out;
        for (const Json& json : *ids) {
            if (!json.is_number_integer() || json < 0 || json > max_id || !knows(json.get<Token>()))
                return error(path + "[" + in_quotes(id) + "].ids", describe(json), "ids of the vocabulary");
            out.push_back(json.get<Token>());
        }
        return out;
    }

    bool knows(Token id) {
        return vocabulary().has(id) ||
               std::any_of(parts_.added.begin(), parts_.added.end(), [id](const AddedToken& t) { return t.id == id; });
    }

    // ---- decoder

    Result<void> read_decoder(const Json& json, const std::string& path) {
        TRY_VOID(check_steps(parts_.decoder.size(), path));
        const std::string type = type_of(json);
        if (type == "Sequence")
            return read_sequence(json, path, "decoders",
                                 [this](const Json& j, const std::string& p) { return read_decoder(j, p); });
        Fields f(json, file_, path);
        f.ignore("type");
        if (type == "ByteLevel") {
            // Of the pre-tokenizer that shares its fields.
            for (const char* key : {"add_prefix_space", "trim_offsets", "use_regex"}) f.ignore(key);
            parts_.decoder.emplace_back(ByteLevelDecoder{});
            return f.finish();
        }
        if (type == "ByteFallback" || type == "Fuse") {
            parts_.decoder.emplace_back(type == "Fuse" ? DecoderStep(FuseDecoder{})
                                                       : DecoderStep(ByteFallbackDecoder{}));
            return f.finish();
        }
        if (type == "Replace") {
            TRY_ASSIGN(replace, read_replace(f, path));
            parts_.decoder.emplace_back(ReplaceDecoder{std::move(replace.pattern), std::move(replace.content)});
            return {};
        }
        if (type == "Metaspace") {
            TRY_ASSIGN(m, read_metaspace(f, path));
            parts_.decoder.emplace_back(MetaspaceDecoder{m.replacement, m.prefix != MetaspaceStep::Prefix::never});
            return {};
        }
        if (type == "Strip") {
            StripDecoder strip;
            f.require("content");
            strip.content = f.string("content");
            strip.start = static_cast<size_t>(f.integer("start", 0, 0, max_id));
            strip.stop = static_cast<size_t>(f.integer("stop", 0, 0, max_id));
            TRY_VOID(f.finish());
            if (!is_one_character(strip.content))
                return error(path + ".content", in_quotes(strip.content), "one character");
            parts_.decoder.emplace_back(std::move(strip));
            return {};
        }
        return unknown_type(json, path, "one of Sequence, ByteLevel, ByteFallback, Fuse, Metaspace, Replace, Strip");
    }

    std::string file_;
    TokenizerParts parts_;
    bool byte_level_ = false;
};

}  // namespace

Result<std::shared_ptr<const Tokenizer>> parse_tokenizer_json(std::string_view text, const std::string& file) {
    TRY_ASSIGN(json, parse_json(text, file, {.max_bytes = max_file_bytes}));
    return Reader(file).read(json);
}

Result<std::shared_ptr<const Tokenizer>> read_tokenizer_json(const std::string& path) {
    TRY_ASSIGN(text, read_text_file(path, max_file_bytes));
    return parse_tokenizer_json(text, path);
}

}  // namespace spartan
