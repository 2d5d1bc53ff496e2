#include "core/tokenizer/pre_tokenizer.h"

#include "core/tokenizer/byte_map.h"
#include "core/tokenizer/unicode.h"

#include <algorithm>
#include <string_view>

namespace spartan {

namespace {

using Ranges = std::vector<std::pair<size_t, size_t>>;

// Extends the last span when `join`, else starts a new one.
void join_or_push(std::vector<Span>& out, const Span& span, bool join) {
    if (join && !out.empty()) {
        out.back().begin = std::min(out.back().begin, span.begin);
        out.back().end = std::max(out.back().end, span.end);
    } else {
        out.push_back({span.begin, span.end, false});
    }
}

// A pass over every piece; `cut(piece, emit)` calls emit(begin, end), relative to the piece, for what remains of it.
template <class Cut>
void split_pieces(Pieces& pieces, Cut&& cut) {
    Ranges out;
    out.reserve(pieces.ranges.size() + pieces.text.size() / 4);
    for (const auto& [begin, end] : pieces.ranges) {
        const size_t base = begin;
        const auto emit = [&out, base](size_t b, size_t e) {
            if (b < e) out.emplace_back(base + b, base + e);
        };
        cut(std::string_view(pieces.text).substr(begin, end - begin), emit);
    }
    pieces.ranges = std::move(out);
}

// A pass that rewrites every piece; `write(piece, is_start, out)` appends the new piece.
template <class Write>
void rewrite_pieces(Pieces& pieces, Write&& write) {
    std::string text;
    text.reserve(pieces.text.size() + pieces.text.size() / 2);
    Ranges ranges;
    ranges.reserve(pieces.ranges.size());
    const bool keeps_start = pieces.starts_text && !pieces.ranges.empty() && pieces.ranges[0].first == 0;
    for (const auto& [begin, end] : pieces.ranges) {
        const size_t from = text.size();
        write(std::string_view(pieces.text).substr(begin, end - begin), keeps_start && begin == 0, text);
        if (text.size() > from) ranges.emplace_back(from, text.size());
    }
    pieces = {std::move(text), std::move(ranges), keeps_start};
}

struct Apply {
    Pieces& pieces;
    PatternScratch& scratch;

    void operator()(const SplitStep& step) const {
        std::vector<Span> spans;
        split_pieces(pieces, [&](std::string_view piece, auto&& emit) {
            spans.clear();
            step.pattern.spans(piece, scratch, spans);
            if (step.invert)
                for (Span& s : spans) s.match = !s.match;
            if (step.behavior == SplitBehavior::isolated) {
                for (const Span& s : spans) emit(s.begin, s.end);
                return;
            }
            for (const Span& s : group_spans(spans, step.behavior))
                if (!s.match) emit(s.begin, s.end);
        });
    }

    void operator()(const DigitsStep& step) const {
        split_pieces(pieces, [&](std::string_view piece, auto&& emit) {
            size_t begin = 0;
            bool before = false;
            for (size_t at = 0; at < piece.size();) {
                const Utf8Step c = utf8_step(piece, at);
                const bool numeric = is_numeric(c.code);
                if (numeric != before || (numeric && step.individual)) {
                    emit(begin, at);
                    begin = at;
                }
                before = numeric;
                at += c.size;
            }
            emit(begin, piece.size());
        });
    }

    void operator()(const ByteLevelStep& step) const {
        if (step.add_prefix_space)
            rewrite_pieces(pieces, [](std::string_view piece, bool, std::string& out) {
                if (piece[0] != ' ') out += ' ';
                out += piece;
            });
        for (const Pattern& pattern : step.split) (*this)(SplitStep{pattern, SplitBehavior::isolated, false});
        rewrite_pieces(pieces, [](std::string_view piece, bool, std::string& out) { append_byte_level(out, piece); });
    }

    void operator()(const MetaspaceStep& step) const {
        using Prefix = MetaspaceStep::Prefix;
        rewrite_pieces(pieces, [&](std::string_view piece, bool is_start, std::string& out) {
            const bool wanted = step.prefix == Prefix::always || (step.prefix == Prefix::first && is_start);
            if (wanted && piece[0] != ' ' && !piece.starts_with(step.replacement)) out += step.replacement;
            for (char c : piece) {
                if (c == ' ') {
                    out += step.replacement;
                } else {
                    out += c;
                }
            }
        });
        if (step.split) (*this)(SplitStep{Pattern::literal(step.replacement), SplitBehavior::merged_with_next, false});
    }
};

}  // namespace

void append_byte_level(std::string& out, std::string_view bytes) {
    for (char c : bytes) append_utf8(out, byte_map.code[static_cast<uint8_t>(c)]);
}

std::vector<Span> group_spans(const std::vector<Span>& spans, SplitBehavior behavior) {
    std::vector<Span> out;
    bool before = false;
    switch (behavior) {
        case SplitBehavior::removed:
            return spans;
        case SplitBehavior::isolated:
            for (const Span& s : spans) out.push_back({s.begin, s.end, false});
            break;
        case SplitBehavior::contiguous:
            for (const Span& s : spans) {
                join_or_push(out, s, s.match == before);
                before = s.match;
            }
            break;
        case SplitBehavior::merged_with_previous:
            for (const Span& s : spans) {
                join_or_push(out, s, s.match && !before);
                before = s.match;
            }
            break;
        case SplitBehavior::merged_with_next:
            for (auto s = spans.rbegin(); s != spans.rend(); ++s) {
                join_or_push(out, *s, s->match && !before);
                before = s->match;
            }
            std::reverse(out.begin(), out.end());
            break;
    }
    return out;
}

void apply_pre_tokenizer(const std::vector<PreTokenizerStep>& steps, Pieces& pieces, PatternScratch& scratch) {
    for (const PreTokenizerStep& step : steps) std::visit(Apply{pieces, scratch}, step);
}

}  // namespace spartan
