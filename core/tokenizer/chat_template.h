// Chat templates of the common families, recognised by content; the model's own text is never executed.
#pragma once

#include "core/base/ids.h"
#include "core/tokenizer/tokenizer.h"

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace spartan {

struct ChatMessage {
    std::string role;  // "system", "user", "assistant"
    std::string content;
};

class ChatTemplate {
public:
    enum class Family : uint8_t { plain, chatml, llama2, llama3, mistral };

    // `source` is the Jinja text (may be empty). An unknown one is plain text; note() says so.
    static std::shared_ptr<const ChatTemplate> recognise(std::string_view source);

    Family family() const { return family_; }
    std::string name() const;                          // "ChatML", "Llama-2", "Llama-3", "Mistral", "plain text"
    const std::string& note() const { return note_; }  // why it is plain text; empty otherwise
    // What the template itself puts when the conversation has no system message; empty: nothing.
    const std::string& default_system_prompt() const { return default_system_; }

    // Ids ready to generate the assistant's turn. Only the template's own special tokens become special; the text of
    // the messages never does. `tokenizer` must be the model's.
    std::vector<Token> encode(const Tokenizer& tokenizer, const std::vector<ChatMessage>& messages) const;
    // The same as text, for showing.
    std::string render(const std::vector<ChatMessage>& messages) const;

private:
    // A stretch of the conversation's text: what the template writes, or what it quotes.
    struct Piece {
        enum class Kind : uint8_t { scaffold, quote, bos, eos } kind;
        std::string text;
    };
    struct Writer;

    std::vector<Piece> write(const std::vector<ChatMessage>& messages) const;
    void write_chatml(Writer&, const std::vector<ChatMessage>&) const;
    void write_llama2(Writer&, const std::vector<ChatMessage>&) const;
    void write_llama3(Writer&, const std::vector<ChatMessage>&) const;
    void write_mistral(Writer&, const std::vector<ChatMessage>&) const;
    void read_mistral(std::string_view source);

    Family family_ = Family::plain;
    std::string note_, default_system_;
    bool writes_bos_ = false, trims_ = false;
    std::string preamble_;  // Llama-3.1's dates, before the system text
    // Mistral's versions differ in spaces, and in which user turn carries the system text.
    std::string user_open_, user_close_, answer_open_, answer_close_;
    bool trims_user_ = false, system_in_last_user_ = false;
};

}  // namespace spartan
