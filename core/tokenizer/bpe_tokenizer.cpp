#include "core/tokenizer/bpe_tokenizer.h"

#include "core/tokenizer/unicode.h"

#include <algorithm>

namespace spartan {

namespace {

std::string with_thousands(size_t n) {
    std::string digits = std::to_string(n);
    for (size_t i = digits.size(); i > 3; i -= 3) digits.insert(i - 3, ",");
    return digits;
}

}  // namespace

// One call to encode().
class BpeTokenizer::Run {
public:
    Run(const BpeTokenizer& tokenizer, std::span<const TextPart> parts) : t_(tokenizer) {
        for (const TextPart& part : parts) {
            text_ += utf8_lossy(part.text);
            borders_.emplace_back(text_.size(), part.mode);
            quotes_ = quotes_ || part.mode == SpecialTokens::as_text;
            parses_ = parses_ || part.mode == SpecialTokens::parse;
        }
        scratch_.emplace(text_.size());
        out_.reserve(text_.size() / 3 + 8);
    }

    std::vector<Token> run(bool add_special) {
        if (add_special) out_ = t_.parts_.prefix;
        const auto allow = [this](size_t begin, size_t end) { return parsed(begin, end); };
        const bool mixed = quotes_ && parses_;
        const auto segments = mixed ? t_.added_.split_raw_mixed(text_, allow) : t_.added_.split_raw(text_, allow);
        for (const Segment& s : segments) {
            if (s.id >= 0) {
                out_.push_back(s.id);
            } else {
                normalized_pass(std::string_view(text_).substr(s.begin, s.end - s.begin), s.begin == 0);
            }
        }
        if (add_special) out_.insert(out_.end(), t_.parts_.suffix.begin(), t_.parts_.suffix.end());
        return std::move(out_);
    }

private:
    // Whether [begin, end) lies in one part that may hold special tokens.
    bool parsed(size_t begin, size_t end) const {
        const auto part = std::upper_bound(borders_.begin(), borders_.end(), begin,
                                           [](size_t at, const auto& border) { return at < border.first; });
        return part != borders_.end() && end <= part->first && part->second == SpecialTokens::parse;
    }

    void normalized_pass(std::string_view raw, bool starts_text) {
        std::string text = apply_normalizer(t_.parts_.normalizer, raw, *scratch_);
        if (!t_.added_.any_normalized()) return model_pass(std::move(text), starts_text);
        const auto allow = [this](size_t, size_t) { return !quotes_; };
        for (const Segment& s : t_.added_.split_normalized(text, allow)) {
            if (s.id >= 0) {
                out_.push_back(s.id);
            } else {
                model_pass(text.substr(s.begin, s.end - s.begin), starts_text && s.begin == 0);
            }
        }
    }

    void model_pass(std::string text, bool starts_text) {
        if (text.empty()) return;
        Pieces pieces{std::move(text), {}, starts_text};
        pieces.ranges.emplace_back(0, pieces.text.size());
        apply_pre_tokenizer(t_.parts_.pre_tokenizer, pieces, *scratch_);
        const std::vector<bool>* forbidden = quotes_ ? &t_.special_ : nullptr;
        std::visit(
            [&](const auto& model) {
                for (const auto& [begin, end] : pieces.ranges)
                    model.encode(std::string_view(pieces.text).substr(begin, end - begin), forbidden, bpe_, out_);
            },
            t_.parts_.model);
    }

    const BpeTokenizer& t_;
    std::string text_;
    std::vector<std::pair<size_t, SpecialTokens>> borders_;  // end of each part
    bool quotes_ = false, parses_ = false;                   // some part is as_text, some part is parse
    std::optional<PatternScratch> scratch_;
    BpeScratch bpe_;
    std::vector<Token> out_;
};

class BpeTokenizer::Stream : public TextStream {
public:
    Stream(const BpeTokenizer& tokenizer, bool skip_special)
        : t_(tokenizer), skip_special_(skip_special), decoder_(tokenizer.parts_.decoder) {}

    void push(Token id, std::string& out) override {
        if (skip_special_ && t_.is_special(id)) return;
        if (const auto it = t_.normalized_texts_.find(id); it != t_.normalized_texts_.end())
            return decoder_.push(it->second, out);
        const bool known = t_.vocabulary().has(id) || t_.added_vocabulary_.has(id);
        decoder_.push(known ? t_.token_text(id) : replacement_character, out);
    }
    void finish(std::string& out) override { decoder_.finish(out); }

private:
    const BpeTokenizer& t_;
    bool skip_special_;
    DecoderStream decoder_;
};

BpeTokenizer::BpeTokenizer(TokenizerParts parts) : parts_(std::move(parts)) {
    const auto normalize = [this](std::string_view text) {
        PatternScratch scratch(text.size());
        return apply_normalizer(parts_.normalizer, text, scratch);
    };
    added_ = AddedTokens(std::move(parts_.added), normalize);
    special_.resize(size_t(vocabulary().end()));
    for (const AddedToken& token : added_.tokens()) {
        added_vocabulary_.insert(token.content, token.id);
        if (token.normalized) normalized_texts_[token.id] = normalize(token.content);
        if (size_t(token.id) >= special_.size()) special_.resize(size_t(token.id) + 1);
        if (token.special) special_[size_t(token.id)] = true;
    }
}

const Vocabulary& BpeTokenizer::vocabulary() const {
    return std::visit([](const auto& model) -> const Vocabulary& { return model.vocabulary; }, parts_.model);
}

std::vector<Token> BpeTokenizer::encode(std::string_view text, bool add_special, SpecialTokens mode) const {
    const TextPart part{text, mode};
    return encode_parts({&part, 1}, add_special);
}

std::vector<Token> BpeTokenizer::encode_parts(std::span<const TextPart> parts, bool add_special) const {
    return Run(*this, parts).run(add_special);
}

std::string BpeTokenizer::decode(std::span<const Token> ids, bool skip_special) const {
    Stream decoder(*this, skip_special);
    std::string out;
    for (Token id : ids) decoder.push(id, out);
    decoder.finish(out);
    return out;
}

std::unique_ptr<TextStream> BpeTokenizer::stream(bool skip_special) const {
    return std::make_unique<Stream>(*this, skip_special);
}

std::string_view BpeTokenizer::token_text(Token id) const {
    return added_vocabulary_.has(id) ? added_vocabulary_.text(id) : vocabulary().text(id);
}

Token BpeTokenizer::find(std::string_view token) const {
    const Token added = added_vocabulary_.find(token);
    return added >= 0 ? added : vocabulary().find(token);
}

std::string BpeTokenizer::description() const {
    size_t n = vocabulary().size();
    for (const AddedToken& token : added_.tokens()) n += vocabulary().has(token.id) ? 0 : 1;
    return parts_.kind + ", " + with_thousands(n) + " tokens";
}

}  // namespace spartan
