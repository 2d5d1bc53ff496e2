#include "core/tokenizer/chat_template.h"

#include "core/tokenizer/unicode.h"

#include <algorithm>
#include <optional>

namespace spartan {

namespace {

bool contains(std::string_view text, std::string_view what) { return text.find(what) != std::string_view::npos; }

std::string_view skip_spaces(std::string_view s) {
    while (!s.empty() && (s[0] == ' ' || s[0] == '\n' || s[0] == '\t' || s[0] == '\r')) s.remove_prefix(1);
    return s;
}

// Python's str.strip().
std::string_view trimmed(std::string_view s) {
    while (!s.empty() && is_white_space(utf8_step(s, 0).code)) s.remove_prefix(utf8_step(s, 0).size);
    while (!s.empty() && is_white_space(last_character(s))) {
        size_t at = s.size() - 1;
        while (at > 0 && (static_cast<uint8_t>(s[at]) & 0xC0u) == 0x80u) --at;
        s = s.substr(0, at);
    }
    return s;
}

// The value of a Jinja string literal that begins `s` (at its quote), and what follows it.
struct Literal {
    std::string value;
    std::string_view rest;
};
std::optional<Literal> read_literal(std::string_view s) {
    if (s.empty() || (s[0] != '\'' && s[0] != '"')) return std::nullopt;
    std::string value;
    for (size_t i = 1; i < s.size(); ++i) {
        if (s[i] == s[0]) return Literal{std::move(value), s.substr(i + 1)};
        if (s[i] != '\\' || i + 1 == s.size()) {
            value += s[i];
            continue;
        }
        const char c = s[++i];
        value += c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c;
        if (std::string_view("ntr\\'\"").find(c) == std::string_view::npos) value.insert(value.size() - 1, "\\");
    }
    return std::nullopt;
}

// Every string literal inside {{ }} and {% %}, in order. Linear: nothing is run.
template <class Visit>
void for_each_literal(std::string_view source, Visit&& visit) {
    bool inside = false;
    while (!source.empty()) {
        const std::string_view two = source.substr(0, 2);
        if (!inside) {
            inside = two == "{{" || two == "{%";
            source.remove_prefix(inside ? 2 : 1);
        } else if (two == "}}" || two == "%}") {
            inside = false;
            source.remove_prefix(2);
        } else if (source[0] == '\'' || source[0] == '"') {
            const auto literal = read_literal(source);
            if (!literal) return;
            visit(*literal);
            source = literal->rest;
        } else {
            source.remove_prefix(1);
        }
    }
}

// ChatML templates write their own system turn as one literal, '<|im_start|>system\nTEXT<|im_end|>\n', or as template
// text.
std::string chatml_default_system(std::string_view source) {
    constexpr std::string_view open = "<|im_start|>system\n", close = "<|im_end|>";
    std::string found;
    const auto take = [&](std::string_view text) {
        const size_t begin = text.find(open);
        const size_t end = begin == std::string_view::npos ? begin : text.find(close, begin);
        if (!found.empty() || end == std::string_view::npos) return;
        const std::string_view body = text.substr(begin + open.size(), end - begin - open.size());
        if (!contains(body, "{{") && !contains(body, "{%")) found = body;
    };
    for_each_literal(source, [&](const Literal& literal) { take(literal.value); });
    if (found.empty()) take(source);
    return found;
}

// Whether only other "set" tags stand between `before`, which ends inside a tag, and an "else" tag.
bool in_else_branch(std::string_view before) {
    for (size_t tag = before.rfind("{%"); tag != std::string_view::npos && tag > 0;) {
        tag = before.rfind("{%", tag - 1);
        if (tag == std::string_view::npos) return false;
        std::string_view inside = before.substr(tag + 2);
        if (inside.starts_with("-")) inside.remove_prefix(1);
        inside = skip_spaces(inside);
        if (inside.starts_with("else")) return true;
        if (!inside.starts_with("set ")) return false;
    }
    return false;
}

// {% else %}{% set system_message = 'TEXT' %}: what the variable holds when the conversation brings none. A literal
// under any other condition (Llama-2's "elif false") is not what the template does by itself.
std::string assigned_default_system(std::string_view source) {
    for (const char* name : {"system_message", "default_system_message", "system_prompt"}) {
        const std::string target = std::string("set ") + name;
        for (size_t at = source.find(target); at != std::string_view::npos; at = source.find(target, at + 1)) {
            std::string_view rest = skip_spaces(source.substr(at + target.size()));
            if (rest.empty() || rest[0] != '=') continue;
            const auto literal = read_literal(skip_spaces(rest.substr(1)));
            const bool is_default =
                std::string_view(name) == "default_system_message" || in_else_branch(source.substr(0, at));
            if (literal && is_default && !literal->value.empty()) return literal->value;
        }
    }
    return "";
}

// message['content'] | trim, or .strip()
bool trims_content(std::string_view source) {
    for (size_t at = source.find("content"); at != std::string_view::npos; at = source.find("content", at + 1)) {
        std::string_view rest = source.substr(at + 7);
        while (!rest.empty() && (rest[0] == '\'' || rest[0] == '"' || rest[0] == ']')) rest.remove_prefix(1);
        if (rest.starts_with(".strip()")) return true;
        rest = skip_spaces(rest);
        if (rest.starts_with("|") && skip_spaces(rest.substr(1)).starts_with("trim")) return true;
    }
    return false;
}

// Whether `bos_token` is written anywhere, as opposed to merely mentioned in a comment.
bool writes_bos(std::string_view source) { return contains(source, "bos_token"); }

// Llama-3.1 and later put two dates before the system text. Today's date would make answers depend on the day, so it is
// the one that the template itself falls back to.
std::string llama3_preamble(std::string_view source) {
    constexpr std::string_view knowledge = "Cutting Knowledge Date: ";
    std::string preamble, today = "26 Jul 2024";
    for_each_literal(source, [&](const Literal& literal) {
        if (preamble.empty() && literal.value.starts_with(knowledge)) preamble = literal.value;
    });
    if (preamble.empty()) return "";
    const size_t at = source.find("set date_string = \"");
    if (at != std::string_view::npos)
        if (const auto literal = read_literal(source.substr(at + 18))) today = literal->value;
    return preamble + "Today Date: " + today + "\n\n";
}

}  // namespace

struct ChatTemplate::Writer {
    std::vector<Piece> pieces;
    bool trims = false;

    void scaffold(std::string text) { add(Piece::Kind::scaffold, std::move(text)); }
    void quote(std::string_view text) { add(Piece::Kind::quote, std::string(text)); }
    void content(std::string_view text) { quote(trims ? trimmed(text) : text); }
    void bos() { pieces.push_back({Piece::Kind::bos, ""}); }
    void eos() { pieces.push_back({Piece::Kind::eos, ""}); }

private:
    void add(Piece::Kind kind, std::string text) {
        if (!text.empty()) pieces.push_back({kind, std::move(text)});
    }
};

std::shared_ptr<const ChatTemplate> ChatTemplate::recognise(std::string_view source) {
    auto made = std::make_shared<ChatTemplate>();
    ChatTemplate& t = *made;
    t.writes_bos_ = writes_bos(source);
    t.trims_ = trims_content(source);
    if (contains(source, "<|im_start|>") && contains(source, "<|im_end|>")) {
        t.family_ = Family::chatml;
        t.default_system_ = chatml_default_system(source);
        if (t.default_system_.empty()) t.default_system_ = assigned_default_system(source);
    } else if (contains(source, "<|start_header_id|>") && contains(source, "<|eot_id|>")) {
        t.family_ = Family::llama3;
        t.preamble_ = llama3_preamble(source);
        t.default_system_ = assigned_default_system(source);
    } else if (contains(source, "[INST]") && contains(source, "<<SYS>>")) {
        t.family_ = Family::llama2;
        t.default_system_ = assigned_default_system(source);
    } else if (contains(source, "[INST]")) {
        t.family_ = Family::mistral;
        t.read_mistral(source);
    } else {
        t.note_ =
            skip_spaces(source).empty()
                ? "The model has no chat template; messages are sent as plain text."
                : "The chat template is not ChatML, Llama-2, Llama-3 or Mistral; messages are sent as plain text.";
    }
    return made;
}

void ChatTemplate::read_mistral(std::string_view source) {
    user_open_ = "[INST] ";
    user_close_ = " [/INST]";
    bool opened = false, closed = false;
    for_each_literal(source, [&](const Literal& literal) {
        const std::string_view after = skip_spaces(literal.rest);
        if (!opened && contains(literal.value, "[INST]")) {
            user_open_ = literal.value;
            opened = true;
            trims_user_ = trims_content(literal.rest.substr(0, literal.rest.find("[/INST]")));
        } else if (!closed && contains(literal.value, "[/INST]")) {
            user_close_ = literal.value;
            closed = true;
        } else if (literal.value == " " && after.starts_with("+") && contains(after.substr(0, 24), "content")) {
            answer_open_ = " ";
        }
    });
    const size_t eos = source.find("eos_token");
    if (eos != std::string_view::npos) {
        std::string_view rest = skip_spaces(source.substr(eos + 9));
        if (rest.starts_with("+"))
            if (const auto literal = read_literal(skip_spaces(rest.substr(1)))) answer_close_ = literal->value;
    }
    system_in_last_user_ = contains(source, "loop.last and system_message");
}

std::string ChatTemplate::name() const {
    switch (family_) {
        case Family::chatml:
            return "ChatML";
        case Family::llama2:
            return "Llama-2";
        case Family::llama3:
            return "Llama-3";
        case Family::mistral:
            return "Mistral";
        case Family::plain:
            break;
    }
    return "plain text";
}

void ChatTemplate::write_chatml(Writer& w, const std::vector<ChatMessage>& messages) const {
    const bool has_system = !messages.empty() && messages[0].role == "system";
    if (writes_bos_) w.bos();
    if (!has_system && !default_system_.empty()) w.scaffold("<|im_start|>system\n" + default_system_ + "<|im_end|>\n");
    for (const ChatMessage& m : messages) {
        w.scaffold("<|im_start|>");
        w.quote(m.role);
        w.scaffold("\n");
        w.content(m.content);
        w.scaffold("<|im_end|>\n");
    }
    w.scaffold("<|im_start|>assistant\n");
}

void ChatTemplate::write_llama3(Writer& w, const std::vector<ChatMessage>& messages) const {
    const auto open = [&](std::string_view role) {
        w.scaffold("<|start_header_id|>");
        w.quote(role);
        w.scaffold("<|end_header_id|>\n\n");
    };
    const bool has_system = !messages.empty() && messages[0].role == "system";
    w.bos();
    if (has_system || !preamble_.empty() || !default_system_.empty()) {
        open("system");
        w.scaffold(preamble_ + (has_system ? "" : default_system_));
        if (has_system) w.content(messages[0].content);
        w.scaffold("<|eot_id|>");
    }
    for (size_t i = has_system ? 1 : 0; i < messages.size(); ++i) {
        open(messages[i].role);
        w.content(messages[i].content);
        w.scaffold("<|eot_id|>");
    }
    open("assistant");
}

void ChatTemplate::write_llama2(Writer& w, const std::vector<ChatMessage>& messages) const {
    const bool has_system = !messages.empty() && messages[0].role == "system";
    const std::string system = has_system ? messages[0].content : default_system_;
    bool system_due = !system.empty() || has_system;
    for (size_t i = has_system ? 1 : 0; i < messages.size(); ++i) {
        const std::string_view content = messages[i].content;
        if (messages[i].role == "assistant") {
            w.scaffold(" ");
            w.quote(trimmed(content));
            w.scaffold(" ");
            w.eos();
            continue;
        }
        w.bos();
        w.scaffold("[INST] ");
        if (std::exchange(system_due, false)) {
            w.scaffold("<<SYS>>\n");
            w.quote(system);
            w.scaffold("\n<</SYS>>\n\n");
            // The template trims both together, so only the end of what the user wrote.
            const size_t end = trimmed("." + std::string(content)).size() - 1;
            w.quote(content.substr(0, end));
        } else {
            w.quote(trimmed(content));
        }
        w.scaffold(" [/INST]");
    }
}

void ChatTemplate::write_mistral(Writer& w, const std::vector<ChatMessage>& messages) const {
    const bool has_system = !messages.empty() && messages[0].role == "system";
    size_t carrier = messages.size();  // the user turn that the system text goes into
    for (size_t i = 0; has_system && i < messages.size(); ++i)
        if (messages[i].role == "user" && (system_in_last_user_ || carrier == messages.size())) carrier = i;
    w.bos();
    for (size_t i = has_system ? 1 : 0; i < messages.size(); ++i) {
        if (messages[i].role == "assistant") {
            w.scaffold(answer_open_);
            w.content(messages[i].content);
            w.eos();
            w.scaffold(answer_close_);
            continue;
        }
        w.scaffold(user_open_);
        if (i == carrier) {
            w.quote(messages[0].content);
            w.scaffold("\n\n");
        }
        w.quote(trims_user_ ? trimmed(messages[i].content) : messages[i].content);
        w.scaffold(user_close_);
    }
}

std::vector<ChatTemplate::Piece> ChatTemplate::write(const std::vector<ChatMessage>& messages) const {
    Writer w;
    w.trims = trims_;
    switch (family_) {
        case Family::chatml:
            write_chatml(w, messages);
            break;
        case Family::llama2:
            write_llama2(w, messages);
            break;
        case Family::llama3:
            write_llama3(w, messages);
            break;
        case Family::mistral:
            write_mistral(w, messages);
            break;
        case Family::plain:
            for (const ChatMessage& m : messages) {
                if (!w.pieces.empty()) w.scaffold("\n\n");
                w.quote(m.content);
            }
            break;
    }
    return std::move(w.pieces);
}

namespace {

struct Ends {
    std::string bos, eos;
};

Ends usual_ends(ChatTemplate::Family family) {
    if (family == ChatTemplate::Family::llama3) return {"<|begin_of_text|>", "<|eot_id|>"};
    if (family == ChatTemplate::Family::chatml || family == ChatTemplate::Family::plain) return {};
    return {"<s>", "</s>"};
}

// The tokens of this vocabulary: BOS as the tokenizer itself puts it, else under the family's name; none if it has
// neither.
Ends ends_of(const Tokenizer& tokenizer, ChatTemplate::Family family) {
    Ends ends = usual_ends(family);
    if (tokenizer.find(ends.eos) < 0) ends.eos.clear();
    if (tokenizer.find(ends.bos) < 0) ends.bos.clear();
    const std::vector<Token> around_nothing = tokenizer.encode("", true, SpecialTokens::parse);
    if (!around_nothing.empty() && tokenizer.is_special(around_nothing[0]))
        ends.bos = tokenizer.token_text(around_nothing[0]);
    return ends;
}

}  // namespace

std::vector<Token> ChatTemplate::encode(const Tokenizer& tokenizer, const std::vector<ChatMessage>& messages) const {
    const std::vector<Piece> pieces = write(messages);
    const Ends ends = ends_of(tokenizer, family_);
    std::vector<TextPart> parts;
    for (const Piece& piece : pieces) {
        const bool quote = piece.kind == Piece::Kind::quote || family_ == Family::plain;
        const std::string& text = piece.kind == Piece::Kind::bos   ? ends.bos
                                  : piece.kind == Piece::Kind::eos ? ends.eos
                                                                   : piece.text;
        parts.push_back({text, quote ? SpecialTokens::as_text : SpecialTokens::parse});
    }
    return tokenizer.encode_parts(parts, family_ == Family::plain);
}

std::string ChatTemplate::render(const std::vector<ChatMessage>& messages) const {
    const Ends ends = usual_ends(family_);
    std::string out;
    for (const Piece& piece : write(messages))
        out += piece.kind == Piece::Kind::bos ? ends.bos : piece.kind == Piece::Kind::eos ? ends.eos : piece.text;
    return out;
}

}  // namespace spartan
