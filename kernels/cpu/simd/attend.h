// Attention of a few consecutive rows, the query heads of one kv head, over the pages of their sequence: online
// softmax, one page at a time. Page borders are absolute positions, so a row meets the same sums in any chunk.
#pragma once

namespace spartan {
namespace {

template <class T>
struct Attend {
    const AttendBlock<T>& b;
    const int64_t queries = b.rows * b.heads;
    const int64_t score_stride = (b.block_tokens + 15) / 16 * 16;
    float* const q = b.scratch;                         // [queries, head_dim], times the scale
    float* const sums = q + queries * b.head_dim;       // [queries, head_dim]
    float* const scores = sums + queries * b.head_dim;  // [queries, score_stride]
    float* const maxima = scores + queries * score_stride;
    float* const totals = maxima + queries;

    void run() const {
        for (int64_t i = 0; i < queries; ++i) {
            const float* from = b.q + i / b.heads * b.stride + i % b.heads * b.head_dim;
            for (int64_t d = 0; d < b.head_dim; ++d) {
                q[i * b.head_dim + d] = from[d] * b.scale;
                sums[i * b.head_dim + d] = 0;
            }
            maxima[i] = -__builtin_inff();
            totals[i] = 0;
        }
        const int64_t last = b.first_position + b.rows - 1;
        for (int64_t page = 0; page * b.block_tokens <= last; ++page) attend_page(page);
        for (int64_t i = 0; i < queries; ++i) {
            float* to = b.out + i / b.heads * b.stride + i % b.heads * b.head_dim;
            const F inverse = Vec::set1(1.f / totals[i]);
            const float* from = sums + i * b.head_dim;
            for_vectors(
                b.head_dim, [&](auto load, auto store, int64_t at)
                                __attribute__((always_inline)) { store(to + at, Vec::mul(load(from + at), inverse)); });
        }
    }

    void attend_page(int64_t page) const {
        const int64_t begin = page * b.block_tokens;
        const int64_t first_row = begin > b.first_position ? begin - b.first_position : 0;  // the first that sees it
        const T* keys = b.pool + b.pages[page] * b.page_elements + b.key_offset;
        const T* values = b.pool + b.pages[page] * b.page_elements + b.value_offset;
        const int64_t first = first_row * b.heads, count = queries - first;
        // Slots past a row's position are multiplied too (their lanes hold anything), and masked below.
        product<T>({scores + first * score_stride, score_stride, q + first * b.head_dim, b.head_dim, keys,
                    b.block_tokens, count, b.block_tokens, b.head_dim, false});
        for (int64_t row = first_row; row < b.rows; ++row)
            for (int64_t h = 0; h < b.heads; ++h) softmax(row * b.heads + h, visible(row, begin));
        if (visible(first_row, begin) == b.block_tokens) {
            add_values(values, first, count, b.block_tokens);
        } else {
            for (int64_t row = first_row; row < b.rows; ++row)
                add_values(values, row * b.heads, b.heads, visible(row, begin));
        }
    }

    int64_t visible(int64_t row, int64_t begin) const {
        return smaller64(b.block_tokens, b.first_position + row - begin + 1);
    }

    void add_values(const T* values, int64_t first, int64_t count, int64_t tokens) const {
        product<T>({sums + first * b.head_dim, b.head_dim, scores + first * score_stride, score_stride, values,
                    b.head_dim, count, b.head_dim, tokens, true});
    }

    // Turns a query's scores into weights relative to its largest score so far, and rescales what it has summed.
    void softmax(int64_t i, int64_t tokens) const {
        constexpr int L = Vec::kLanes;
        float* s = scores + i * score_stride;
        const F lowest = Vec::set1(-__builtin_inff());
        F highest = lowest;
        for (int64_t j = 0; j < tokens; j += L) highest = Vec::max(highest, masked(s + j, tokens - j, lowest));
        const float block_max = Vec::maximum(highest);
        const float max = block_max > maxima[i] ? block_max : maxima[i];
        F total = Vec::zero();
        for (int64_t j = 0; j < tokens; j += L) {
            F p = exp(Vec::sub(Vec::load(s + j), Vec::set1(max)));
            if (tokens - j < L) p = Vec::keep_first(p, int(tokens - j), Vec::zero());
            Vec::store(s + j, p);
            total = Vec::add(total, p);
        }
        if (!(max == maxima[i])) {
            const F shrink = exp(Vec::set1(maxima[i] - max));
            float* sum = sums + i * b.head_dim;
            for_vectors(
                b.head_dim, [&](auto load, auto store, int64_t at)
                                __attribute__((always_inline)) { store(sum + at, Vec::mul(load(sum + at), shrink)); });
            totals[i] *= Vec::first(shrink);
            maxima[i] = max;
        }
        totals[i] += Vec::sum(total);
    }

    SIMD F masked(const float* p, int64_t count, F fill) {
        const F v = Vec::load(p);
        return count >= Vec::kLanes ? v : Vec::keep_first(v, int(count), fill);
    }
};

template <class T>
void attend_block(const AttendBlock<T>& b) {
    Attend<T>{b}.run();
}

}  // namespace
}  // namespace spartan
