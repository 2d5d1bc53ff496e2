#include "core/engine/batch.h"

#include "kernels/check.h"

namespace spartan {
namespace {

void clear(Batch& batch) {
    batch.ids.clear();
    batch.positions.clear();
    batch.sequences.clear();
    batch.segments.clear();
    batch.heads.clear();
    batch.picking_head.clear();
    batch.sampling.clear();
    batch.sample_position.clear();
    batch.context_tokens = 0;
    batch.follows = false;
}

void add_heads(const Sequence& s, int32_t num_tokens, int32_t row_begin, Batch& batch) {
    const auto index = int32_t(batch.sequences.size());
    const bool complete = s.num_computed_tokens + num_tokens == s.num_tokens();
    const bool sample = complete && s.output_tokens() < s.request.sampling.max_tokens;
    batch.picking_head.push_back(-1);
    for (int32_t i = 0; i < num_tokens; ++i) {
        const int32_t position = s.num_computed_tokens + i;
        const bool logits = s.request.want_logits && position >= s.logits_done && position < s.prompt_tokens();
        const bool last = sample && i + 1 == num_tokens;
        if (last) batch.picking_head.back() = int32_t(batch.heads.size());
        if (logits || last) batch.heads.push_back({row_begin + i, index, logits, last});
    }
}

// The last may still be on its way.
Token token_at(const Sequence& s, int32_t position) {
    if (position < int32_t(s.tokens.size())) return s.tokens[size_t(position)];
    CHECK(s.coming == 1 && position + 1 == s.num_tokens());
    return token_of_head(s.coming_from);
}

}  // namespace

void build_batch(std::span<const ScheduledRow> rows, Batch& batch) {
    clear(batch);
    for (const auto& [sequence, num_tokens] : rows) {
        const Sequence& s = *sequence;
        const auto begin = int32_t(batch.ids.size());
        const int32_t end = begin + num_tokens;
        for (int32_t i = 0; i < num_tokens; ++i) {
            batch.ids.push_back(token_at(s, s.num_computed_tokens + i));
            batch.follows |= batch.ids.back() < 0;
            batch.positions.push_back(s.num_computed_tokens + i);
        }
        if (batch.segments.empty() || batch.segments.back().adapter != s.adapter())
            batch.segments.push_back({s.adapter(), begin, end});
        else
            batch.segments.back().row_end = end;
        add_heads(s, num_tokens, begin, batch);
        const SamplingParams& p = s.request.sampling;
        batch.sampling.push_back({p.temperature, p.top_p, p.top_k, p.seed});
        batch.sample_position.push_back(s.num_tokens());
        batch.sequences.push_back({begin, end, s.num_computed_tokens, &s.block_tables, &s.over});
        batch.context_tokens += s.num_computed_tokens + num_tokens;
    }
}

}  // namespace spartan
