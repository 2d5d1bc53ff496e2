#include "core/tokenizer/chat_template.h"

#include "core/base/text.h"
#include "core/tokenizer/jinja_interpreter.h"
#include "core/tokenizer/unicode.h"

#include <algorithm>
#include <array>

namespace spartan {

namespace {

using jinja::Failure;
using jinja::Text;
using jinja::Value;

constexpr size_t max_source_bytes = 1 << 20;

std::string place(const Failure& failure, int line) {
    return "line " + std::to_string(failure.line > 0 ? failure.line : line) + ": " +
           shorten(escape_control(failure.message), 300);
}

// Roles that an application gives are the template's own words: some templates write '<|' + role + '|>'. Any other is
// text like what a person typed.
bool is_known_role(const std::string& role) {
    constexpr std::array<std::string_view, 6> known = {"system", "user", "assistant", "tool", "developer", "function"};
    return std::find(known.begin(), known.end(), role) != known.end();
}

Value as_value(const std::vector<ChatMessage>& messages) {
    std::vector<Value> out;
    for (const ChatMessage& m : messages)
        out.push_back(Value::dict({{Value::of("role"), Value::of(Text(utf8_lossy(m.role), !is_known_role(m.role)))},
                                   {Value::of("content"), Value::of(Text(utf8_lossy(m.content), true))}}));
    return Value::list(std::move(out));
}

std::tm local_time() {
    const std::time_t seconds = std::time(nullptr);
    std::tm out{};
    localtime_r(&seconds, &out);
    return out;
}

uint64_t bytes_of(const std::vector<ChatMessage>& messages) {
    uint64_t bytes = 0;
    for (const ChatMessage& m : messages) bytes += m.role.size() + m.content.size();
    return bytes;
}

Text plain_text(const std::vector<ChatMessage>& messages) {
    Text out;
    for (size_t i = 0; i < messages.size(); ++i) {
        if (i > 0) out.append("\n\n", true);
        out.append(messages[i].content, true);
    }
    return out;
}

}  // namespace

std::shared_ptr<const ChatTemplate> ChatTemplate::make(ChatSource source) {
    auto made = std::make_shared<ChatTemplate>();
    const auto is_space = [](char c) { return c == ' ' || (c >= '\t' && c <= '\r'); };
    if (std::all_of(source.text.begin(), source.text.end(), is_space)) {
        made->note_ = "The model has no chat template; messages are sent as plain text.";
        return made;
    }
    const auto give_up = [&](const std::string& why) {
        made->template_ = nullptr;
        made->note_ = "The chat template cannot be run (" + why + "); messages are sent as plain text.";
    };
    made->source_ = std::move(source);
    if (made->source_.text.size() > max_source_bytes) {
        give_up("it has more than " + std::to_string(max_source_bytes) + " bytes");
        return made;
    }
    try {
        made->template_ = jinja::parse(utf8_lossy(made->source_.text));
        made->source_.text = {};
    } catch (const Failure& failure) {
        give_up(place(failure, 0));
        return made;
    }
    // One that refuses a conversation may take others; one that fails on the simplest is of no use.
    Failure::Kind kind = Failure::Kind::raised;
    if (const auto tried = made->write({{"user", "Hello"}}, "", {}, &kind); !tried && kind != Failure::Kind::raised) {
        give_up(tried.error().found);
        return made;
    }
    made->find_default_system();
    return made;
}

// The text that stands, without a system message, where a system message's text would.
void ChatTemplate::find_default_system() {
    const std::string mark = "a system message like no other";
    const auto with = render({{"system", mark}, {"user", "Hello"}}), without = render({{"user", "Hello"}});
    if (!with || !without) return;
    const size_t at = with->find(mark);
    if (at == std::string::npos) return;
    const std::string_view before = std::string_view(*with).substr(0, at),
                           after = std::string_view(*with).substr(at + mark.size());
    if (without->size() <= before.size() + after.size() || !without->starts_with(before) || !without->ends_with(after))
        return;
    default_system_ = without->substr(before.size(), without->size() - before.size() - after.size());
}

Result<Text> ChatTemplate::write(const std::vector<ChatMessage>& messages, const std::string& bos,
                                 const ChatOptions& options, Failure::Kind* failed) const {
    if (is_plain()) return plain_text(messages);
    jinja::Context context;
    bool has_bos = false, has_eos = false;
    for (const auto& [name, text] : source_.specials) {
        context.emplace_back(name, Value::of(text));
        has_bos = has_bos || name == "bos_token";
        has_eos = has_eos || name == "eos_token";
    }
    if (!has_bos) context.emplace_back("bos_token", Value::of(bos));
    if (!has_eos) context.emplace_back("eos_token", Value::of(""));
    context.emplace_back("messages", as_value(messages));
    context.emplace_back("tools", Value::none());
    context.emplace_back("documents", Value::none());
    context.emplace_back("add_generation_prompt", Value::of(options.add_generation_prompt));
    jinja::Interpreter interpreter(*template_, context, bytes_of(messages), options.now.value_or(local_time()));
    try {
        return interpreter.run();
    } catch (const Failure& failure) {
        if (failed) *failed = failure.kind;
        return make_error(place(failure, interpreter.line()));
    }
}

Result<std::vector<Token>> ChatTemplate::encode(const Tokenizer& tokenizer, const std::vector<ChatMessage>& messages,
                                                const ChatOptions& options) const {
    // For models that name no bos_token: what the tokenizer itself begins with.
    std::string bos;
    const std::vector<Token> around_nothing = tokenizer.encode("", true, SpecialTokens::parse);
    if (!around_nothing.empty() && tokenizer.is_special(around_nothing[0]))
        bos = tokenizer.token_text(around_nothing[0]);
    auto text = write(messages, bos, options, nullptr);
    if (!text) return make_error("The chat template does not take this conversation: " + text.error().found);
    std::vector<TextPart> parts;
    size_t begin = 0;
    for (const Text::Stretch& s : text->stretches()) {
        parts.push_back({std::string_view(text->bytes()).substr(begin, s.end - begin),
                         s.quoted ? SpecialTokens::as_text : SpecialTokens::parse});
        begin = s.end;
    }
    return tokenizer.encode_parts(parts, is_plain());
}

Result<std::string> ChatTemplate::render(const std::vector<ChatMessage>& messages, const ChatOptions& options) const {
    auto text = write(messages, "", options, nullptr);
    if (!text) return make_error("The chat template does not take this conversation: " + text.error().found);
    return text->bytes();
}

}  // namespace spartan
