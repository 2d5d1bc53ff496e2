// The steps that turn token texts back into text (the "decoder" of tokenizer.json), written as streams: decoding a
// whole text and decoding it token by token are the same code. Each step follows the file of its name under
// tokenizers/src/decoders (or pre_tokenizers, for ByteLevel and Metaspace).
#pragma once

#include "core/tokenizer/pattern.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace spartan {

struct ReplaceDecoder {
    Pattern pattern;
    std::string content;
};
struct ByteFallbackDecoder {};  // <0xXX> runs to characters; a run that is not UTF-8 gives U+FFFD per byte
struct FuseDecoder {};          // from here on there is one token: everything
struct StripDecoder {           // per token
    std::string content;        // one character
    size_t start = 0, stop = 0;
};
struct MetaspaceDecoder {
    std::string replacement;  // one character
    bool drop_in_first = true;
};
struct ByteLevelDecoder {};  // printable characters to bytes, bytes to text as Rust's from_utf8_lossy
struct JoinDecoder {};       // no decoder in the file: tokens with spaces between
using DecoderStep = std::variant<ReplaceDecoder, ByteFallbackDecoder, FuseDecoder, StripDecoder, MetaspaceDecoder,
                                 ByteLevelDecoder, JoinDecoder>;

class DecoderStream {
public:
    explicit DecoderStream(const std::vector<DecoderStep>& steps);  // which must outlive it

    void push(std::string_view token, std::string& out) { feed(0, token, out); }
    void finish(std::string& out);

private:
    struct State {
        bool fused = false;  // what comes in are stretches of one token
        std::string held;    // input that cannot be decided yet
        uint64_t count = 0;  // tokens seen, or characters stripped
        bool past_start = false;
    };
    struct Feed;
    struct Flush;
    void feed(size_t step, std::string_view token, std::string& out);

    const std::vector<DecoderStep>& steps_;
    std::vector<State> states_;
};

}  // namespace spartan
