// Attention of a few consecutive rows, the query heads of one kv head, over the pages of their sequence: online
// softmax, one page at a time. Page borders are absolute positions, so a row meets the same sums in any chunk. In a
// page a row sees slots [first_slot, end_slot), a window moving the first.
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
        for (int64_t page = first_key(0) / b.block_tokens; page * b.block_tokens <= last; ++page) attend_page(page);
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
        const int64_t end_row = rows_before_window_passes(begin + b.block_tokens);
        const T* keys = b.pool + b.pages[page] * b.page_elements + b.key_offset;
        const T* values = b.pool + b.pages[page] * b.page_elements + b.value_offset;
        const int64_t first = first_row * b.heads, count = end_row * b.heads - first;
        // Slots that a row does not see are multiplied too (their lanes hold anything), and masked below.
        product<T>({scores + first * score_stride, score_stride, q + first * b.head_dim, b.head_dim, keys,
                    b.block_tokens, count, b.block_tokens, b.head_dim, false});
        for (int64_t row = first_row; row < end_row; ++row)
            for (int64_t h = 0; h < b.heads; ++h)
                softmax(row * b.heads + h, first_slot(row, begin), end_slot(row, begin));
        if (end_slot(first_row, begin) == b.block_tokens && first_slot(end_row - 1, begin) == 0) {
            add_values(values, first, count, 0, b.block_tokens);
        } else {
            for (int64_t row = first_row; row < end_row; ++row)
                add_values(values, row * b.heads, b.heads, first_slot(row, begin), end_slot(row, begin));
        }
    }

    // The first key that a row sees.
    int64_t first_key(int64_t row) const {
        const int64_t behind = b.first_position + row + 1 - b.window;
        return b.window > 0 && behind > 0 ? behind : 0;
    }
    // How many rows still see a key before `end`; at least one does.
    int64_t rows_before_window_passes(int64_t end) const {
        return b.window > 0 ? smaller64(b.rows, end + b.window - 1 - b.first_position) : b.rows;
    }
    int64_t first_slot(int64_t row, int64_t begin) const {
        const int64_t key = first_key(row);
        return key > begin ? key - begin : 0;
    }
    int64_t end_slot(int64_t row, int64_t begin) const {
        return smaller64(b.block_tokens, b.first_position + row - begin + 1);
    }

    void add_values(const T* values, int64_t first, int64_t count, int64_t begin, int64_t end) const {
        product<T>({sums + first * b.head_dim, b.head_dim, scores + first * score_stride + begin, score_stride,
                    values + begin * b.head_dim, b.head_dim, count, b.head_dim, end - begin, true});
    }

    // Turns a query's scores of slots [first, tokens) into weights relative to its largest score so far, and rescales
    // what it has summed.
    void softmax(int64_t i, int64_t first, int64_t tokens) const {
        constexpr int L = Vec::kLanes;
        float* s = scores + i * score_stride;
        const F lowest = Vec::set1(-__builtin_inff());
        F highest = lowest;
        for (int64_t j = 0; j < tokens; j += L)
            highest = Vec::max(highest, masked(Vec::load(s + j), first - j, tokens - j, lowest));
        const float block_max = Vec::maximum(highest);
        const float max = block_max > maxima[i] ? block_max : maxima[i];
        F total = Vec::zero();
        for (int64_t j = 0; j < tokens; j += L) {
            const F p = masked(exp(Vec::sub(Vec::load(s + j), Vec::set1(max))), first - j, tokens - j, Vec::zero());
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

    // v in lanes [first, end), else `fill`.
    SIMD F masked(F v, int64_t first, int64_t end, F fill) {
        if (end < Vec::kLanes) v = Vec::keep_first(v, int(end), fill);
        return first <= 0 ? v : Vec::keep_first(fill, int(smaller64(first, Vec::kLanes)), v);
    }
};

template <class T>
void attend_block(const AttendBlock<T>& b) {
    Attend<T>{b}.run();
}

}  // namespace
}  // namespace spartan
