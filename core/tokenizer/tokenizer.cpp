#include "core/tokenizer/tokenizer.h"

#include "core/tokenizer/bpe_tokenizer.h"
#include "core/tokenizer/byte_map.h"
#include "core/tokenizer/unicode.h"
#include "kernels/check.h"

namespace spartan {

std::shared_ptr<const Tokenizer> make_byte_tokenizer() {
    RankedBpe model;
    for (Token byte = 0; byte < 256; ++byte) {
        std::string text;
        append_utf8(text, byte_map.code[size_t(byte)]);
        model.vocabulary.insert(text, byte);
    }
    TokenizerParts parts;
    parts.model = std::move(model);
    parts.added.push_back({.content = "<eos>", .id = 256, .special = true});
    parts.pre_tokenizer.emplace_back(ByteLevelStep{});
    parts.decoder.emplace_back(ByteLevelDecoder{});
    parts.kind = "bytes";
    return std::make_shared<BpeTokenizer>(std::move(parts));
}

StreamingDecoder::StreamingDecoder(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special)
    : tokenizer_(std::move(tokenizer)) {
    CHECK(tokenizer_);
    stream_ = tokenizer_->stream(skip_special);
}

std::string StreamingDecoder::push(Token id) {
    std::string out;
    stream_->push(id, out);
    return out;
}

std::string StreamingDecoder::finish() {
    std::string out;
    stream_->finish(out);
    return out;
}

}  // namespace spartan
