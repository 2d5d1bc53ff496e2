// A model's own chat template: its Jinja text, run by the interpreter in jinja_*.h as transformers runs it, within
// limits.
#pragma once

#include "core/base/ids.h"
#include "core/base/result.h"
#include "core/tokenizer/jinja_error.h"
#include "core/tokenizer/jinja_text.h"
#include "core/tokenizer/tokenizer.h"

#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace spartan {

namespace jinja {
class Template;
}

struct ChatMessage {
    std::string role;  // "system", "user", "assistant"
    std::string content;
};

// What a model brings along for its chats.
struct ChatSource {
    std::string text;                                           // Jinja; empty: none
    std::vector<std::pair<std::string, std::string>> specials;  // "bos_token" -> "<s>": variables of the template
};

// From chat_template.jinja or tokenizer_config.json of a Hugging Face folder, which may lack both. Of several named
// templates the one called "default" is taken.
Result<ChatSource> read_chat_source(const std::string& folder);

struct ChatOptions {
    bool add_generation_prompt = true;  // begin the assistant's turn
    std::optional<std::tm> now;         // what strftime_now() tells; the local time if empty
};

class ChatTemplate {
public:
    // Never fails: a text that cannot be run, even on the simplest conversation, gives plain text, and note() says why.
    static std::shared_ptr<const ChatTemplate> make(ChatSource source);

    bool is_plain() const { return !template_; }
    std::string name() const { return is_plain() ? "plain text" : "the model's own (Jinja)"; }
    const std::string& note() const { return note_; }  // why it is plain text; empty otherwise
    // What the template itself puts when the conversation has no system message; empty: nothing.
    const std::string& default_system_prompt() const { return default_system_; }

    // Ids of the rendered conversation. Only what the template writes can become special tokens; the text of the
    // messages never does. BOS is there if and only if the template writes it. `tokenizer` must be the model's. Fails
    // where the template refuses the conversation (raise_exception) or leaves its limits.
    Result<std::vector<Token>> encode(const Tokenizer& tokenizer, const std::vector<ChatMessage>& messages,
                                      const ChatOptions& options = {}) const;
    // The same as text, for showing.
    Result<std::string> render(const std::vector<ChatMessage>& messages, const ChatOptions& options = {}) const;

private:
    Result<jinja::Text> write(const std::vector<ChatMessage>& messages, const std::string& bos,
                              const ChatOptions& options, jinja::Failure::Kind* failed) const;
    void find_default_system();

    ChatSource source_;
    std::shared_ptr<const jinja::Template> template_;  // null: plain text
    std::string note_, default_system_;
};

}  // namespace spartan
