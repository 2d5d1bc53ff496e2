#include "core/tokenizer/decoder.h"

#include "core/tokenizer/byte_map.h"
#include "core/tokenizer/unicode.h"

#include <algorithm>
#include <optional>

namespace spartan {

namespace {

std::optional<char> fallback_byte(std::string_view token) {
    if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
    int value = 0;
    for (char c : token.substr(3, 2)) {
        const int digit = c >= '0' && c <= '9'   ? c - '0'
                          : c >= 'A' && c <= 'F' ? c - 'A' + 10
                          : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                                 : -1;
        if (digit < 0) return std::nullopt;
        value = value * 16 + digit;
    }
    return static_cast<char>(static_cast<uint8_t>(value));
}

// The bytes of a byte-level token; one with any other character stands for itself.
std::string bytes_of(std::string_view token) {
    std::string bytes;
    for (size_t at = 0; at < token.size();) {
        const Utf8Step c = utf8_step(token, at);
        const int byte = byte_map.byte_of(c.code);
        if (byte < 0) return std::string(token);
        bytes += static_cast<char>(static_cast<uint8_t>(byte));
        at += c.size;
    }
    return bytes;
}

// Moves the decided part of `held` out, lossily; with `all`, an unfinished character counts as broken.
std::string take_text(std::string& held, bool all) {
    std::string out;
    size_t at = 0;
    while (at < held.size()) {
        const Utf8Step c = utf8_step(held, at);
        if (c.status == Utf8Status::incomplete && !all) break;
        out += c.status == Utf8Status::valid ? std::string_view(held).substr(at, c.size) : replacement_character;
        at += c.size;
    }
    held.erase(0, at);
    return out;
}

std::string strip(const StripDecoder& step, std::string_view token) {
    for (size_t i = 0; i < step.start && token.starts_with(step.content); ++i) token.remove_prefix(step.content.size());
    for (size_t i = 0; i < step.stop && token.ends_with(step.content); ++i) token.remove_suffix(step.content.size());
    return std::string(token);
}

std::string metaspace(const MetaspaceDecoder& step, std::string_view token, bool first) {
    std::string out;
    for (size_t at = 0; at < token.size();) {
        const size_t size = utf8_size(token, at);
        if (token.substr(at, size) != step.replacement) {
            out += token.substr(at, size);
        } else if (!(first && step.drop_in_first)) {
            out += ' ';
        }
        at += size;
    }
    return out;
}

std::string replace_all(const ReplaceDecoder& step, std::string_view text) {
    PatternScratch scratch(text.size());
    return step.pattern.replace(text, step.content, scratch);
}

}  // namespace

// A token arrives at a step.
struct DecoderStream::Feed {
    DecoderStream& stream;
    size_t step;
    State& state;
    std::string_view token;
    std::string& out;

    void emit(std::string_view text) const { stream.feed(step + 1, text, out); }

    void operator()(const ReplaceDecoder& r) const {
        if (!state.fused) return emit(replace_all(r, token));
        state.held += token;
        if (!r.pattern.is_literal()) return;  // what a match sees is unbounded: decided at the end
        size_t at;
        while ((at = state.held.find(r.pattern.text())) != std::string::npos) {
            emit(state.held.substr(0, at) + r.content);
            state.held.erase(0, at + r.pattern.text().size());
        }
        size_t keep = std::min(state.held.size(), r.pattern.text().size() - 1);
        while (!r.pattern.text().starts_with(std::string_view(state.held).substr(state.held.size() - keep))) --keep;
        const std::string decided = state.held.substr(0, state.held.size() - keep);
        state.held.erase(0, decided.size());
        emit(decided);
    }

    void operator()(const ByteFallbackDecoder&) const {
        if (state.fused) {
            state.held += token;
            if (state.held.size() <= 6 && !state.past_start) return;
            state.past_start = true;
            return emit(std::exchange(state.held, {}));
        }
        if (const auto byte = fallback_byte(token)) {
            state.held += *byte;
            return;
        }
        end_run();
        emit(token);
    }

    void end_run() const {
        if (state.held.empty()) return;
        const std::string run = std::exchange(state.held, {});
        if (run == utf8_lossy(run)) return emit(run);
        for (size_t i = 0; i < run.size(); ++i) emit(replacement_character);
    }

    void operator()(const FuseDecoder&) const { emit(token); }

    void operator()(const StripDecoder& s) const {
        if (!state.fused) return emit(strip(s, token));
        state.held += token;
        while (!state.past_start && state.count < s.start && state.held.starts_with(s.content)) {
            state.held.erase(0, s.content.size());
            ++state.count;
        }
        if (state.held.empty()) return;
        state.past_start = true;
        size_t keep = 0;
        const std::string_view held = state.held;
        for (size_t i = 0; i < s.stop && held.substr(0, held.size() - keep).ends_with(s.content); ++i)
            keep += s.content.size();
        const std::string decided(held.substr(0, held.size() - keep));
        state.held.erase(0, decided.size());
        emit(decided);
    }

    void operator()(const MetaspaceDecoder& m) const {
        emit(metaspace(m, token, state.fused || state.count == 0));
        ++state.count;
    }

    void operator()(const ByteLevelDecoder&) const {
        state.held += state.fused ? std::string(token) : bytes_of(token);
        if (!state.fused) emit(take_text(state.held, false));
    }

    void operator()(const JoinDecoder&) const {
        emit(state.count++ == 0 ? std::string(token) : " " + std::string(token));
    }
};

// The tokens end: what a step still holds goes on.
struct DecoderStream::Flush {
    Feed feed;

    void operator()(const ReplaceDecoder& r) const {
        if (!feed.state.held.empty()) feed.emit(replace_all(r, std::exchange(feed.state.held, {})));
    }
    void operator()(const ByteFallbackDecoder&) const {
        if (!feed.state.fused) return feed.end_run();
        const std::string token = std::exchange(feed.state.held, {});
        if (const auto byte = fallback_byte(token)) {
            feed.emit(static_cast<uint8_t>(*byte) < 0x80 ? std::string_view(&*byte, 1) : replacement_character);
        } else if (!token.empty()) {
            feed.emit(token);
        }
    }
    // What is held are the trailing characters to strip.
    void operator()(const StripDecoder&) const {}
    void operator()(const ByteLevelDecoder&) const {
        if (feed.state.fused) feed.state.held = bytes_of(feed.state.held);
        if (!feed.state.held.empty()) feed.emit(take_text(feed.state.held, true));
    }
    void operator()(const FuseDecoder&) const {}
    void operator()(const MetaspaceDecoder&) const {}
    void operator()(const JoinDecoder&) const {}
};

DecoderStream::DecoderStream(const std::vector<DecoderStep>& steps) : steps_(steps), states_(steps.size()) {
    bool fused = false;
    for (size_t i = 0; i < steps.size(); ++i) {
        states_[i].fused = fused;
        fused = fused || std::holds_alternative<FuseDecoder>(steps[i]) ||
                std::holds_alternative<ByteLevelDecoder>(steps[i]);
    }
}

void DecoderStream::feed(size_t step, std::string_view token, std::string& out) {
    if (step == steps_.size()) {
        out += token;
        return;
    }
    std::visit(Feed{*this, step, states_[step], token, out}, steps_[step]);
}

void DecoderStream::finish(std::string& out) {
    for (size_t i = 0; i < steps_.size(); ++i) std::visit(Flush{{*this, i, states_[i], {}, out}}, steps_[i]);
}

}  // namespace spartan
