// Tokenizers from GGUF metadata. The file names its way of splitting text (tokenizer.ggml.pre) without writing it down,
// so only names whose Hugging Face original is known are taken.
#include "core/base/text.h"
#include "core/tokenizer/bpe_tokenizer.h"

#include <algorithm>
#include <numeric>

namespace spartan {

namespace {

enum TokenType : int32_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

constexpr const char* space_mark = "\xE2\x96\x81";  // U+2581
constexpr size_t max_tokens = 16'777'216;

constexpr const char* llama3_expression =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* qwen2_expression =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr const char* tekken_expression =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* deepseek3_expressions[] = {
    R"(\p{N}{1,3})", R"([一-龥぀-ゟ゠-ヿ]+)",
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};

constexpr const char* deepseek_coder_expressions[] = {R"([\r\n])", R"(\s?\p{L}+)", R"(\s?\p{P}+)",
                                                      R"([一-龥ࠀ-一가-퟿]+)", R"(\p{N})"};

enum class Family : uint8_t { gpt2, smollm, llama3, qwen2, tekken, deepseek3, deepseek_coder };
struct PreName {
    const char* name;
    Family family;
};
// "" and "default" are files from before the key existed: GPT-2's own splitting.
constexpr PreName pre_names[] = {
    {"", Family::gpt2},           {"default", Family::gpt2},          {"gpt-2", Family::gpt2},
    {"smollm", Family::smollm},   {"llama-bpe", Family::llama3},      {"llama3", Family::llama3},
    {"llama-v3", Family::llama3}, {"qwen2", Family::qwen2},           {"deepseek-r1-qwen", Family::qwen2},
    {"tekken", Family::tekken},   {"deepseek-v3", Family::deepseek3}, {"deepseek-coder", Family::deepseek_coder}};

std::string in_quotes(std::string_view s) { return '"' + escape_control(shorten(s, 80)) + '"'; }

class Builder {
public:
    Builder(GgufTokenizerData data, const std::string& file) : data_(std::move(data)), file_(file) {}

    Result<std::shared_ptr<const Tokenizer>> build() {
        TRY_VOID(check_sizes());
        if (data_.model == "gpt2") {
            TRY_VOID(build_ranked());
        } else if (data_.model == "llama") {
            TRY_VOID(build_scored());
        } else {
            return error("model", in_quotes(data_.model), "gpt2 (byte-level BPE) or llama (SentencePiece BPE)");
        }
        return std::shared_ptr<const Tokenizer>(std::make_shared<BpeTokenizer>(std::move(parts_)));
    }

private:
    Error error(const std::string& key, std::string found, std::string expected) const {
        return Error{file_, "tokenizer.ggml." + key, std::move(found), std::move(expected)};
    }
    int32_t type_of(size_t i) const { return data_.token_type.empty() ? int32_t{normal} : data_.token_type[i]; }

    Result<void> check_sizes() const {
        const size_t n = data_.tokens.size();
        if (n == 0) return error("tokens", "no tokens", "at least one");
        if (n > max_tokens)
            return error("tokens", std::to_string(n) + " tokens", "at most " + std::to_string(max_tokens));
        const std::string as_many = std::to_string(n) + ", one for each token";
        if (!data_.token_type.empty() && data_.token_type.size() != n)
            return error("token_type", std::to_string(data_.token_type.size()) + " entries", as_many);
        if (data_.model == "llama" && data_.scores.size() != n)
            return error("scores", std::to_string(data_.scores.size()) + " entries", as_many);
        for (const auto& [key, id] :
             {std::pair{"bos_token_id", data_.bos}, {"eos_token_id", data_.eos}, {"unknown_token_id", data_.unk}})
            if (id < -1 || id >= int64_t(n)) return error(key, std::to_string(id), "an id below " + std::to_string(n));
        return {};
    }

    Result<void> fill(Vocabulary& vocabulary) {
        vocabulary.reserve(data_.tokens.size());
        for (size_t i = 0; i < data_.tokens.size(); ++i) {
            const std::string& text = data_.tokens[i];
            const auto path = [i] { return "tokens[" + std::to_string(i) + "]"; };
            if (!is_valid_utf8(text)) return error(path(), in_quotes(text), "valid UTF-8");
            const int32_t type = type_of(i);
            if (type < normal || type > byte)
                return error("token_type[" + std::to_string(i) + "]", std::to_string(type), "1 to 6");
            const auto id = static_cast<Token>(i);
            if (vocabulary.insert(text, id) != Vocabulary::Insert::done)
                return error(path(), in_quotes(text) + ", as tokens[" + std::to_string(vocabulary.find(text)) + "]",
                             "each token once");
            if (type == control || type == unknown || type == user_defined)
                parts_.added.push_back({.content = text, .id = id, .special = type != user_defined});
        }
        return {};
    }

    Result<void> add_ends(bool default_bos) {
        if (data_.add_bos.value_or(default_bos && data_.bos >= 0)) {
            if (data_.bos < 0) return error("bos_token_id", "nothing", "an id, because add_bos_token is true");
            parts_.prefix.push_back(static_cast<Token>(data_.bos));
        }
        if (data_.add_eos.value_or(false)) {
            if (data_.eos < 0) return error("eos_token_id", "nothing", "an id, because add_eos_token is true");
            parts_.suffix.push_back(static_cast<Token>(data_.eos));
        }
        return {};
    }

    // ---- gpt2

    Result<void> build_ranked() {
        const auto pre = std::find_if(std::begin(pre_names), std::end(pre_names),
                                      [&](const PreName& p) { return data_.pre == p.name; });
        if (pre == std::end(pre_names))
            return error("pre", in_quotes(data_.pre),
                         "one of default, gpt-2, smollm, llama-bpe, qwen2, tekken, deepseek-v3, deepseek-coder; the "
                         "model's tokenizer.json works too, "
                         "beside the file");
        auto& model = parts_.model.emplace<RankedBpe>();
        TRY_VOID(fill(model.vocabulary));
        TRY_VOID(read_merges(model));
        const bool whole_pieces = pre->family == Family::llama3 || pre->family == Family::tekken;
        model.ignore_merges = whole_pieces;
        if (pre->family == Family::qwen2) parts_.normalizer.emplace_back(UnicodeForm{NormalForm::nfc});
        TRY_VOID(add_splitting(pre->family));
        parts_.decoder.emplace_back(ByteLevelDecoder{});
        parts_.kind = "byte-level BPE";
        return add_ends(whole_pieces);
    }

    Result<void> add_splitting(Family family) {
        const auto pattern = [this](const char* expression) {
            return Pattern::regex(expression, file_, "tokenizer.ggml.pre");
        };
        std::vector<const char*> expressions;
        if (family == Family::llama3) expressions = {llama3_expression};
        if (family == Family::qwen2) expressions = {qwen2_expression};
        if (family == Family::tekken) expressions = {tekken_expression};
        if (family == Family::deepseek3)
            expressions.assign(std::begin(deepseek3_expressions), std::end(deepseek3_expressions));
        if (family == Family::deepseek_coder)
            expressions.assign(std::begin(deepseek_coder_expressions), std::end(deepseek_coder_expressions));
        for (const char* expression : expressions) {
            TRY_ASSIGN(compiled, pattern(expression));
            parts_.pre_tokenizer.emplace_back(SplitStep{std::move(compiled), SplitBehavior::isolated, false});
        }
        if (family == Family::smollm) parts_.pre_tokenizer.emplace_back(DigitsStep{true});
        ByteLevelStep bytes;
        if (expressions.empty()) {
            TRY_ASSIGN(compiled, pattern(gpt2_expression));
            bytes.split.push_back(std::move(compiled));
        }
        parts_.pre_tokenizer.emplace_back(std::move(bytes));
        return {};
    }

    Result<void> read_merges(RankedBpe& model) {
        if (data_.merges.empty()) return error("merges", "nothing", "the merges of model gpt2");
        model.merges.reserve(data_.merges.size());
        for (size_t i = 0; i < data_.merges.size(); ++i) {
            const std::string_view text = data_.merges[i];
            const std::string path = "merges[" + std::to_string(i) + "]";
            const size_t space = text.find(' ', 1);
            if (space == std::string_view::npos || space + 1 == text.size())
                return error(path, in_quotes(text), "two tokens with a space between");
            const std::string_view left = text.substr(0, space), right = text.substr(space + 1);
            const std::string joined = std::string(left) + std::string(right);
            const Token ids[3] = {model.vocabulary.find(left), model.vocabulary.find(right),
                                  model.vocabulary.find(joined)};
            const std::string_view texts[3] = {left, right, joined};
            for (int k = 0; k < 3; ++k)
                if (ids[k] < 0) return error(path, in_quotes(texts[k]), "a token of tokenizer.ggml.tokens");
            model.merges.insert_or_assign(RankedBpe::key(ids[0], ids[1]), {static_cast<uint32_t>(i), ids[2]});
        }
        return {};
    }

    // ---- llama

    Result<void> build_scored() {
        auto& model = parts_.model.emplace<ScoredBpe>();
        TRY_VOID(fill(model.vocabulary));
        TRY_VOID(rank_scores(model));
        model.unmergeable.resize(data_.tokens.size());
        for (size_t i = 0; i < data_.tokens.size(); ++i) {
            const int32_t type = type_of(i);
            model.unmergeable[i] = type == control || type == unknown || type == byte;
        }
        TRY_VOID(read_bytes(model));
        model.unknown.unknown = static_cast<Token>(data_.unk);
        model.unknown.fuse = true;
        const bool prefix = data_.add_space_prefix.value_or(true);
        if (prefix) parts_.normalizer.emplace_back(Prepend{space_mark});
        parts_.normalizer.emplace_back(ReplaceAll{Pattern::literal(" "), space_mark});
        parts_.decoder.emplace_back(ReplaceDecoder{Pattern::literal(space_mark), " "});
        parts_.decoder.emplace_back(ByteFallbackDecoder{});
        parts_.decoder.emplace_back(FuseDecoder{});
        if (prefix) parts_.decoder.emplace_back(StripDecoder{" ", 1, 0});
        parts_.kind = "SentencePiece BPE";
        return add_ends(true);
    }

    Result<void> rank_scores(ScoredBpe& model) const {
        const std::vector<float>& scores = data_.scores;
        for (size_t i = 0; i < scores.size(); ++i)
            if (scores[i] != scores[i]) return error("scores[" + std::to_string(i) + "]", "NaN", "a number");
        std::vector<uint32_t> by_score(scores.size());
        std::iota(by_score.begin(), by_score.end(), 0u);
        std::sort(by_score.begin(), by_score.end(), [&](uint32_t a, uint32_t b) { return scores[a] > scores[b]; });
        model.rank.resize(scores.size());
        for (size_t k = 0; k < by_score.size(); ++k) {
            const bool tie = k > 0 && scores[by_score[k]] == scores[by_score[k - 1]];
            model.rank[by_score[k]] = tie ? model.rank[by_score[k - 1]] : static_cast<uint32_t>(k);
        }
        return {};
    }

    Result<void> read_bytes(ScoredBpe& model) const {
        constexpr std::string_view hex = "0123456789ABCDEF";
        size_t found = 0;
        for (size_t i = 0; i < data_.tokens.size(); ++i) {
            if (type_of(i) != byte) continue;
            const std::string& t = data_.tokens[i];
            const bool framed = t.size() == 6 && t.starts_with("<0x") && t[5] == '>';
            const size_t high = framed ? hex.find(t[3]) : std::string_view::npos;
            const size_t low = framed ? hex.find(t[4]) : std::string_view::npos;
            if (high == std::string_view::npos || low == std::string_view::npos)
                return error("tokens[" + std::to_string(i) + "]", in_quotes(t) + " as a byte token",
                             "<0x00> to <0xFF>");
            model.unknown.byte_tokens[high * 16 + low] = static_cast<Token>(i);
            ++found;
        }
        if (found != 256 && data_.unk < 0)
            return error("tokens", std::to_string(found) + " byte tokens and no unknown_token_id",
                         "256 byte tokens, or an unknown token");
        model.unknown.byte_fallback = found > 0;
        return {};
    }

    GgufTokenizerData data_;
    const std::string& file_;
    TokenizerParts parts_;
};

}  // namespace

Result<std::shared_ptr<const Tokenizer>> make_gguf_tokenizer(GgufTokenizerData data, const std::string& file) {
    return Builder(std::move(data), file).build();
}

}  // namespace spartan
