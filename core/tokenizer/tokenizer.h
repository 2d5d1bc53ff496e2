// Text to token ids and back, exactly as the model's own tokenizer file says.
#pragma once

#include "core/base/ids.h"
#include "core/base/json.h"
#include "core/base/result.h"

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace spartan {

enum class SpecialTokens : uint8_t {
    parse,    // the written form of a special token becomes its id, as the reference does
    as_text,  // what a person typed never becomes a special token
};

// A stretch of a text with its own rule; parts are joined before anything else happens, so merges cross their borders.
struct TextPart {
    std::string_view text;
    SpecialTokens mode = SpecialTokens::parse;
};

// The decoder of one text, fed id by id. Everything it gives is whole characters.
class TextStream {
public:
    virtual ~TextStream() = default;
    virtual void push(Token id, std::string& out) = 0;  // appends what became certain
    virtual void finish(std::string& out) = 0;          // appends the rest; nothing may be pushed afterwards
};

class Tokenizer {
public:
    virtual ~Tokenizer() = default;

    // add_special: the post-processor's own tokens (BOS) as the file says. `text` may hold any bytes; invalid UTF-8 is
    // replaced by U+FFFD first.
    virtual std::vector<Token> encode(std::string_view text, bool add_special, SpecialTokens mode) const = 0;
    // As encode() of the joined text, with each part's own mode: what a chat template writes may be special while what
    // it quotes is not.
    virtual std::vector<Token> encode_parts(std::span<const TextPart> parts, bool add_special) const = 0;
    // The whole text of `ids`; ids outside the vocabulary give U+FFFD.
    virtual std::string decode(std::span<const Token> ids, bool skip_special) const = 0;

    // decode() of a growing text. The tokenizer must outlive it.
    virtual std::unique_ptr<TextStream> stream(bool skip_special) const = 0;

    virtual int64_t vocab_size() const = 0;  // highest id + 1
    virtual bool is_special(Token id) const = 0;
    virtual std::string_view token_text(Token id) const = 0;  // as the vocabulary writes it; empty if unknown
    virtual Token find(std::string_view token) const = 0;     // -1 if the vocabulary has no such token
    virtual std::string description() const = 0;              // "byte-level BPE, 49,152 tokens"
};

// tokenizer.json: byte-level BPE, BPE with byte fallback (Llama-2) and unigram. Unknown components are refused by name.
Result<std::shared_ptr<const Tokenizer>> read_tokenizer_json(const std::string& path);
// The same from text in memory; `file` names it in errors.
Result<std::shared_ptr<const Tokenizer>> parse_tokenizer_json(std::string_view text, const std::string& file);

// The tokenizer.ggml.* metadata of a GGUF file. Optional fields are those whose default, when the key is absent,
// depends on the model: leave them empty then.
struct GgufTokenizerData {
    std::string model, pre;  // tokenizer.ggml.model (gpt2 | llama), tokenizer.ggml.pre
    std::vector<std::string> tokens, merges;
    std::vector<float> scores;
    std::vector<int32_t> token_type;  // 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte
    int64_t bos = -1, eos = -1, unk = -1;
    std::optional<bool> add_bos, add_eos, add_space_prefix;
};
Result<std::shared_ptr<const Tokenizer>> make_gguf_tokenizer(GgufTokenizerData data, const std::string& file);

// id = byte, eos 256; carried by synthetic models.
std::shared_ptr<const Tokenizer> make_byte_tokenizer();

// Turns a stream of ids into text that never ends in half a character and equals decode() of the whole when it is done.
// Text that a later id may still change is held back: bytes of an unfinished character, and with byte fallback
// (Llama-2) the run of byte tokens, which is characters only if the whole run is.
class StreamingDecoder {
public:
    explicit StreamingDecoder(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special = true);
    std::string push(Token id);  // the newly complete text; may be empty
    std::string finish();        // what is left, incomplete bytes as U+FFFD

private:
    std::shared_ptr<const Tokenizer> tokenizer_;
    std::unique_ptr<TextStream> stream_;
};

}  // namespace spartan
