#include "kernels/adapter_ops.h"

#include "kernels/check.h"
#include "kernels/cpu/simd/table.h"

#include <algorithm>
#include <vector>

namespace spartan {

namespace {

// About what a thread does in the time that waking one takes.
constexpr int64_t kSmallWork = 64 * 1024;  // bytes of adapter, or multiply-adds / 8

// Rows [row, row + rows) of segment `segment`, parts [begin, end) of it (groups, ranks or columns).
struct Item {
    int64_t segment, row, rows, begin, end;
};

template <class Segment>
void check_segments(std::span<const Segment> segments, int64_t rows) {
    int64_t end = 0;
    for (const Segment& s : segments) {
        CHECK(s.row_begin >= end && s.row_end >= s.row_begin && s.row_end <= rows);
        end = s.row_end;
    }
}

// One thread does little work itself; more is shared out item by item.
template <class Run>
void run_items(CpuDevice& device, const std::vector<Item>& items, int64_t work, const Run& run) {
    if (work < kSmallWork) {
        for (const Item& item : items) run(item, 0);
        return;
    }
    device.parallel_items(int64_t(items.size()), [&](int64_t i, int thread) { run(items[size_t(i)], thread); });
}

// What the thread that runs `item` takes afterwards, most likely: the others take those between. Null at the end.
const Item* item_after(const CpuDevice& device, const std::vector<Item>& items, const Item& item) {
    const int64_t left = items.data() + items.size() - &item;
    return device.num_threads() < left ? &item + device.num_threads() : nullptr;
}

// Cuts [0, parts) of a segment into pieces of about `work / pieces` each.
void cut_parts(std::vector<Item>& items, Item whole, int64_t pieces) {
    const int64_t parts = whole.end;
    pieces = std::clamp(pieces, int64_t(1), std::max(parts, int64_t(1)));
    for (int64_t i = 0; i < pieces; ++i) {
        whole.begin = parts * i / pieces;
        whole.end = parts * (i + 1) / pieces;
        items.push_back(whole);
    }
}

template <class T>
auto rotate_kernel(const CpuKernels& kernels) {
    if constexpr (std::is_same_v<T, float>)
        return kernels.rotate_f32;
    else
        return kernels.rotate_bf16;
}
template <class T>
auto shrink_kernel(const CpuKernels& kernels) {
    if constexpr (std::is_same_v<T, float>)
        return kernels.shrink_f32;
    else
        return kernels.shrink_bf16;
}
template <class T>
auto expand_kernel(const CpuKernels& kernels) {
    if constexpr (std::is_same_v<T, float>)
        return kernels.expand_f32;
    else
        return kernels.expand_bf16;
}

constexpr int64_t kCopy = -1;  // Item::segment of rows that no adapter rotates

void copy_rows(View<float, 2> out, View<const float, 2> x, int64_t row, int64_t rows) {
    std::copy_n(x.row(row), rows * x.shape[1], out.row(row));
}

int64_t work_of(int64_t rows, int64_t weights, int64_t weight_size) {
    return weights * std::max(weight_size, rows / 8);
}

template <class T>
int64_t lora_work(const LoraSegment<T>& s, int64_t in, int64_t out) {
    return work_of(s.row_end - s.row_begin, s.rank * (in + out), int64_t(sizeof(T)));
}

// The low-rank products of `item`'s ranks, into low [item.rows, rank].
template <class T>
void shrink(const CpuKernels& kernels, const LoraSegment<T>& s, const Item& item, View<const float, 2> x, float* low,
            const T* next) {
    shrink_kernel<T>(kernels)({.low = low + item.begin,
                               .low_stride = s.rank,
                               .x = x.row(item.row),
                               .rows = item.rows,
                               .in = x.shape[1],
                               .a = s.a + item.begin * x.shape[1],
                               .ranks = item.end - item.begin,
                               .scale = s.scale,
                               .next = next});
}

template <class T>
void expand(const CpuKernels& kernels, const LoraSegment<T>& s, const Item& item, View<float, 2> out, const float* low,
            const T* next) {
    expand_kernel<T>(kernels)({.out = out.row(item.row) + item.begin,
                               .out_stride = out.shape[1],
                               .low = low,
                               .low_stride = s.rank,
                               .rows = item.rows,
                               .b_t = s.b_t + item.begin,
                               .b_stride = out.shape[1],
                               .columns = item.end - item.begin,
                               .ranks = s.rank,
                               .next = next});
}

// Enough segments, or rows in them, for every thread: each item does both products of some rows of one segment.
template <class T>
void lora_by_rows(CpuDevice& device, View<float, 2> out, View<const float, 2> x,
                  std::span<const LoraSegment<T>> segments, int64_t work, int64_t rows_per_item) {
    std::vector<Item> items;
    for (size_t i = 0; i < segments.size(); ++i)
        for (int64_t row = segments[i].row_begin; row < segments[i].row_end; row += rows_per_item)
            items.push_back({int64_t(i), row, std::min(rows_per_item, segments[i].row_end - row), 0, 0});
    const CpuKernels& kernels = kernels_for(device.isa());
    run_items(device, items, work, [&](const Item& of_rows, int thread) {
        Item item = of_rows;
        const LoraSegment<T>& s = segments[size_t(item.segment)];
        auto* low = static_cast<float*>(device.thread_scratch(thread, item.rows * s.rank * 4));
        item.end = s.rank;
        shrink(kernels, s, item, x, low, s.b_t);
        item.end = out.shape[1];
        const Item* after = item_after(device, items, of_rows);
        expand(kernels, s, item, out, low, after ? segments[size_t(after->segment)].a : nullptr);
    });
}

// One large adapter for a few rows: first its ranks are shared out, then its columns.
template <class T>
void lora_by_parts(CpuDevice& device, View<float, 2> out, View<const float, 2> x,
                   std::span<const LoraSegment<T>> segments, int64_t work) {
    const int64_t pieces = 2 * device.num_threads();
    std::vector<Item> shrinks, expands;
    std::vector<int64_t> offsets;
    int64_t floats = 0;
    for (size_t i = 0; i < segments.size(); ++i) {
        const LoraSegment<T>& s = segments[i];
        const int64_t rows = s.row_end - s.row_begin;
        offsets.push_back(floats);
        floats += rows * s.rank;
        if (rows == 0) continue;
        cut_parts(shrinks, {int64_t(i), s.row_begin, rows, 0, s.rank}, std::min(pieces, s.rank / 4));
        cut_parts(expands, {int64_t(i), s.row_begin, rows, 0, out.shape[1]}, std::min(pieces, out.shape[1] / 64));
    }
    auto* low = static_cast<float*>(device.shared_scratch(floats * 4));
    const CpuKernels& kernels = kernels_for(device.isa());
    run_items(device, shrinks, work, [&](const Item& item, int) {
        shrink<T>(kernels, segments[size_t(item.segment)], item, x, low + offsets[size_t(item.segment)], nullptr);
    });
    run_items(device, expands, work, [&](const Item& item, int) {
        expand<T>(kernels, segments[size_t(item.segment)], item, out, low + offsets[size_t(item.segment)], nullptr);
    });
}

}  // namespace

template <class T>
void rotate(CpuDevice& device, View<float, 2> out, View<const float, 2> x, std::span<const RotateSegment<T>> segments) {
    CHECK(out.shape == x.shape);
    check_segments(segments, x.shape[0]);
    const int64_t dim = x.shape[1];
    constexpr int64_t kCopyRows = 64;
    std::vector<Item> items;
    int64_t work = 0, covered = 0;
    const auto copy_until = [&](int64_t row_end) {
        for (; covered < row_end; covered += std::min(kCopyRows, row_end - covered))
            items.push_back({kCopy, covered, std::min(kCopyRows, row_end - covered), 0, 0});
    };
    for (size_t i = 0; i < segments.size(); ++i) {
        const RotateSegment<T>& s = segments[i];
        if (!s.blocks || s.row_begin == s.row_end) continue;
        CHECK(s.group > 0 && dim % s.group == 0);
        copy_until(s.row_begin);
        covered = s.row_end;
        const int64_t rows = s.row_end - s.row_begin, segment_work = work_of(rows, dim * s.group, int64_t(sizeof(T)));
        cut_parts(items, {int64_t(i), s.row_begin, rows, 0, dim / s.group},
                  std::min(segment_work / (kSmallWork / 2), int64_t(8 * device.num_threads())));
        work += segment_work;
    }
    copy_until(x.shape[0]);
    const auto kernel = rotate_kernel<T>(kernels_for(device.isa()));
    const auto blocks_of = [&](const Item& item) {
        const RotateSegment<T>& s = segments[size_t(item.segment)];
        return s.blocks + item.begin * s.group * s.group;
    };
    run_items(device, items, work, [&](const Item& item, int) {
        if (item.segment == kCopy) return copy_rows(out, x, item.row, item.rows);
        const RotateSegment<T>& s = segments[size_t(item.segment)];
        const int64_t at = item.begin * s.group;
        const Item* after = item_after(device, items, item);
        kernel({.out = out.row(item.row) + at,
                .x = x.row(item.row) + at,
                .stride = dim,
                .rows = item.rows,
                .blocks = blocks_of(item),
                .group = s.group,
                .groups = item.end - item.begin,
                .next = after && after->segment != kCopy ? blocks_of(*after) : nullptr});
    });
}

template <class T>
void lora(CpuDevice& device, View<float, 2> out, View<const float, 2> x, std::span<const LoraSegment<T>> segments) {
    CHECK(out.shape[0] == x.shape[0]);
    check_segments(segments, x.shape[0]);
    constexpr int64_t kRows = 16;  // per item where rows are many: an adapter's bytes are read once for that many
    int64_t work = 0, items = 0, largest = 0;
    for (const LoraSegment<T>& s : segments) {
        CHECK(s.rank >= 0);
        const int64_t rows = s.row_end - s.row_begin, segment_work = rows ? lora_work(s, x.shape[1], out.shape[1]) : 0;
        work += segment_work;
        items += (rows + kRows - 1) / kRows;
        largest = std::max(largest, segment_work / std::max((rows + kRows - 1) / kRows, int64_t(1)));
    }
    const bool lopsided = items < 2 * device.num_threads() || largest > work / device.num_threads();
    if (lopsided && work >= 2 * kSmallWork && device.num_threads() > 1)
        lora_by_parts(device, out, x, segments, work);
    else
        lora_by_rows(device, out, x, segments, work, kRows);
}

void scale_bias(CpuDevice& device, View<float, 2> out, std::span<const ScaleBiasSegment> segments) {
    check_segments(segments, out.shape[0]);
    const int64_t dim = out.shape[1];
    constexpr int64_t kRows = 32;
    std::vector<Item> items;
    int64_t rows = 0;
    for (size_t i = 0; i < segments.size(); ++i) {
        const ScaleBiasSegment& s = segments[i];
        if (!s.gain && !s.bias) continue;
        for (int64_t row = s.row_begin; row < s.row_end; row += kRows)
            items.push_back({int64_t(i), row, std::min(kRows, s.row_end - row), 0, 0});
        rows += s.row_end - s.row_begin;
    }
    const auto kernel = kernels_for(device.isa()).scale_bias;
    run_items(device, items, rows * dim * 2, [&](const Item& item, int) {
        const ScaleBiasSegment& s = segments[size_t(item.segment)];
        for (int64_t row = item.row; row < item.row + item.rows; ++row) kernel(out.row(row), s.gain, s.bias, dim);
    });
}

template <class T>
void embedding_lora(CpuDevice& device, View<float, 2> out, std::span<const int32_t> ids,
                    std::span<const EmbeddingLoraSegment<T>> segments) {
    CHECK(int64_t(ids.size()) == out.shape[0]);
    check_segments(segments, out.shape[0]);
    const auto kernel = expand_kernel<T>(kernels_for(device.isa()));
    for (const EmbeddingLoraSegment<T>& s : segments)
        device.parallel_for(s.row_end - s.row_begin, 16, [&](int64_t begin, int64_t end, int thread) {
            auto* low = static_cast<float*>(device.thread_scratch(thread, s.rank * 4));
            for (int64_t row = s.row_begin + begin; row < s.row_begin + end; ++row) {
                const int64_t id = ids[size_t(row)];
                CHECK(id >= 0 && id < s.vocab);
                for (int64_t r = 0; r < s.rank; ++r) low[r] = s.scale * to_float(s.a_t[id * s.rank + r]);
                kernel({.out = out.row(row),
                        .out_stride = out.shape[1],
                        .low = low,
                        .low_stride = s.rank,
                        .rows = 1,
                        .b_t = s.b_t,
                        .b_stride = out.shape[1],
                        .columns = out.shape[1],
                        .ranks = s.rank,
                        .next = nullptr});
            }
        });
}

template void embedding_lora<float>(CpuDevice&, View<float, 2>, std::span<const int32_t>,
                                    std::span<const EmbeddingLoraSegment<float>>);
template void embedding_lora<bf16>(CpuDevice&, View<float, 2>, std::span<const int32_t>,
                                   std::span<const EmbeddingLoraSegment<bf16>>);
template void rotate<float>(CpuDevice&, View<float, 2>, View<const float, 2>, std::span<const RotateSegment<float>>);
template void rotate<bf16>(CpuDevice&, View<float, 2>, View<const float, 2>, std::span<const RotateSegment<bf16>>);
template void lora<float>(CpuDevice&, View<float, 2>, View<const float, 2>, std::span<const LoraSegment<float>>);
template void lora<bf16>(CpuDevice&, View<float, 2>, View<const float, 2>, std::span<const LoraSegment<bf16>>);

}  // namespace spartan
