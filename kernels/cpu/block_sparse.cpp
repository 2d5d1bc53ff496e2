#include "kernels/block_sparse.h"

#include "kernels/check.h"
#include "kernels/widest_vectors.h"

#include <algorithm>
#include <vector>

namespace spartan {
namespace {

constexpr int64_t kRows = 16;  // of an item: a cell is read once for that many

// sums [rows][cell] = gathered [rows][block] · values [block][cell]. `line` holds one row of values as floats.
struct ColumnProduct {
    float *sums, *line;
    const float* gathered;
    int64_t rows, block, cell;
};

template <class T>
[[gnu::always_inline]] inline void multiply(const ColumnProduct& p, const T* values) {
    std::fill_n(p.sums, p.rows * p.cell, 0.f);
    for (int64_t u = 0; u < p.block; ++u, values += p.cell) {
        for (int64_t n = 0; n < p.cell; ++n) p.line[n] = to_float(values[n]);
        for (int64_t row = 0; row < p.rows; ++row) {
            const float x = p.gathered[row * p.block + u];
            float* sums = p.sums + row * p.cell;
            for (int64_t n = 0; n < p.cell; ++n) sums[n] += x * p.line[n];
        }
    }
}

WIDEST_VECTORS void multiply_column(const ColumnProduct& p, const float* values) { multiply(p, values); }
WIDEST_VECTORS void multiply_column(const ColumnProduct& p, const bf16* values) { multiply(p, values); }

struct Item {
    int64_t segment, row, rows, first_block, end_block;  // segment < 0: rows to be copied
};

template <class T>
std::vector<Item> items_of(std::span<const BlockSparseSegment<T>> segments, int64_t rows, int64_t dim) {
    constexpr int64_t kCopyRows = 64, kValues = 32 * 1024;  // of one item, about
    std::vector<Item> items;
    int64_t covered = 0;
    const auto copy_until = [&](int64_t end) {
        for (; covered < end; covered += kCopyRows)
            items.push_back({-1, covered, std::min(kCopyRows, end - covered), 0, 0});
    };
    for (size_t i = 0; i < segments.size(); ++i) {
        const BlockSparseSegment<T>& s = segments[i];
        if (!s.cells || s.row_begin == s.row_end) continue;
        copy_until(s.row_begin);
        covered = s.row_end;
        const int64_t blocks = dim / s.block, step = std::max<int64_t>(1, kValues / (s.block * s.block));
        for (int64_t row = s.row_begin; row < s.row_end; row += kRows)
            for (int64_t block = 0; block < blocks; block += step)
                items.push_back(
                    {int64_t(i), row, std::min(kRows, s.row_end - row), block, std::min(blocks, block + step)});
    }
    copy_until(rows);
    return items;
}

template <class T>
void multiply_item(View<float, 2> out, View<const float, 2> x, int64_t cell, const BlockSparseSegment<T>& s,
                   const Item& item, float* scratch) {
    float *gathered = scratch, *sums = gathered + item.rows * s.block, *line = sums + item.rows * cell;
    const auto feature = [&](int64_t i) { return s.map ? int64_t(s.map[i]) : i; };
    for (int64_t block = item.first_block; block < item.end_block; ++block) {
        for (int64_t row = 0; row < item.rows; ++row)
            for (int64_t u = 0; u < s.block; ++u)
                gathered[row * s.block + u] = x.row(item.row + row)[feature(block * s.block + u)];
        for (int64_t j = block * s.block / cell; j < (block + 1) * s.block / cell; ++j) {
            const T* values = s.cells + block_column(s.block, cell, j).value;
            multiply_column({sums, line, gathered, item.rows, s.block, cell}, values);
            for (int64_t row = 0; row < item.rows; ++row)
                for (int64_t n = 0; n < cell; ++n)
                    out.row(item.row + row)[feature(j * cell + n)] = sums[row * cell + n];
        }
    }
}

}  // namespace

template <class T>
void block_sparse(CpuDevice& device, View<float, 2> out, View<const float, 2> x, int64_t cell,
                  std::span<const BlockSparseSegment<T>> segments) {
    CHECK(out.shape == x.shape && cell > 0);
    int64_t end = 0;
    for (const BlockSparseSegment<T>& s : segments) {
        CHECK(s.row_begin >= end && s.row_end >= s.row_begin && s.row_end <= x.shape[0]);
        CHECK(!s.cells || (s.block > 0 && s.block % cell == 0 && x.shape[1] % s.block == 0));
        end = s.row_end;
    }
    const std::vector<Item> items = items_of(segments, x.shape[0], x.shape[1]);
    device.parallel_items(int64_t(items.size()), [&](int64_t i, int thread) {
        const Item& item = items[size_t(i)];
        if (item.segment < 0) {
            std::copy_n(x.row(item.row), item.rows * x.shape[1], out.row(item.row));
            return;
        }
        const BlockSparseSegment<T>& s = segments[size_t(item.segment)];
        const int64_t floats = item.rows * (s.block + cell) + cell;
        multiply_item(out, x, cell, s, item, static_cast<float*>(device.thread_scratch(thread, floats * 4)));
    });
}

template <class T>
void cut_blocks(CpuDevice& device, T* cells, const T* blocks, int64_t count, int64_t block, int64_t cell) {
    CHECK(cell > 0 && block % cell == 0);
    device.parallel_for(count, 1 + 64 * 1024 / (block * block), [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i)
            for (int64_t j = 0; j < block / cell; ++j)
                for (int64_t u = 0; u < block; ++u)
                    std::copy_n(blocks + (i * block + u) * block + j * cell, cell,
                                cells + i * block * block + (j * block + u) * cell);
    });
}

template void block_sparse<float>(CpuDevice&, View<float, 2>, View<const float, 2>, int64_t,
                                  std::span<const BlockSparseSegment<float>>);
template void block_sparse<bf16>(CpuDevice&, View<float, 2>, View<const float, 2>, int64_t,
                                 std::span<const BlockSparseSegment<bf16>>);
template void cut_blocks<float>(CpuDevice&, float*, const float*, int64_t, int64_t, int64_t);
template void cut_blocks<bf16>(CpuDevice&, bf16*, const bf16*, int64_t, int64_t, int64_t);

}  // namespace spartan
