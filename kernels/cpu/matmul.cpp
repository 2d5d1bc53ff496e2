#include "kernels/matmul.h"

#include "kernels/check.h"
#include "kernels/cpu/simd/table.h"
#include "kernels/memory.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace spartan {

namespace {

template <class T>
constexpr int64_t kPair = std::is_same_v<T, float> ? 1 : 2;

int64_t panels_of(int64_t rows) { return (rows + kPanel - 1) / kPanel; }

template <class T>
int64_t padded_cols(int64_t cols) {
    return (cols + kPair<T> - 1) / kPair<T> * kPair<T>;
}

// Element (n, k) of a packed matrix.
template <class T>
int64_t packed_index(int64_t n, int64_t k, int64_t cols) {
    return n / kPanel * kPanel * padded_cols<T>(cols) + k / kPair<T> * kPair<T> * kPanel + n % kPanel * kPair<T> +
           k % kPair<T>;
}

// Rows of x as the inner loop wants them.
struct PreparedRows {
    const void* data;
    int64_t stride;  // bytes
};

// Rows whose distance is a multiple of 2 KB fall into the same few sets of the L1 cache, and a tile reads many at once.
int64_t spread_stride(int64_t bytes) {
    const int64_t lines = (bytes + kLine - 1) / kLine;
    return (lines % 32 == 0 ? lines + 1 : lines) * kLine;
}

constexpr int64_t kPrepareGrain = 64 * 1024;  // values; fewer are rounded before another thread would have woken

PreparedRows prepare(CpuDevice& device, View<const float, 2> x, const PackedMatrix<bf16>&, const CpuKernels& kernels) {
    const int64_t rows = x.shape[0], k = x.shape[1];
    const int64_t stride = spread_stride((k + k % 2) * kernels.prepared_bf16_size);
    auto* data = static_cast<char*>(device.shared_scratch(rows * stride));
    device.parallel_for(rows, kPrepareGrain / (k + 1) + 1, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) kernels.prepare_bf16(data + i * stride, x.row(i), k);
    });
    return {data, stride};
}

PreparedRows prepare(CpuDevice& device, View<const float, 2> x, const PackedMatrix<float>&, const CpuKernels& kernels) {
    const int64_t rows = x.shape[0], bytes = x.shape[1] * 4, stride = spread_stride(bytes);
    if (rows <= kernels.stream_rows_f32 || bytes % 2048 != 0) return {x.data, bytes};
    auto* data = static_cast<char*>(device.shared_scratch(rows * stride));
    device.parallel_for(rows, kPrepareGrain / (x.shape[1] + 1) + 1, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) std::memcpy(data + i * stride, x.row(i), size_t(bytes));
    });
    return {data, stride};
}

// How one product is cut: blocks of rows by ranges of panels, the rows' blocks of one range one after the other, so
// that a range of the weights comes from memory once.
struct MatmulPlan {
    int64_t row_blocks = 1, rows_per_block = 0;
    int64_t ranges = 1, panels_per_range = 1;
};

MatmulPlan plan_matmul(int64_t rows, int64_t panels, int64_t steps, int64_t stream_rows, int threads) {
    constexpr int64_t kMaxRows = 96;            // by a k block: 120 KB of x, in the L2 cache
    constexpr int64_t kLeastRange = 64 * 1024;  // bytes of weights, 5 us from memory: several times a claim's cost
    const int64_t wanted_items = 8 * threads;
    MatmulPlan plan;
    plan.row_blocks = rows <= stream_rows ? 1 : (rows + kMaxRows - 1) / kMaxRows;
    plan.rows_per_block = (rows + plan.row_blocks - 1) / plan.row_blocks;
    const int64_t even = plan.row_blocks * panels / wanted_items;
    const int64_t least = rows <= stream_rows ? std::max(kLeastRange / (steps * kLine + 1), int64_t(4)) : int64_t(2);
    plan.panels_per_range = (std::clamp(even, least, std::max(least, int64_t(64))) + 1) / 2 * 2;
    plan.ranges = (panels + plan.panels_per_range - 1) / plan.panels_per_range;
    return plan;
}

template <class T>
void run_matmul(CpuDevice& device, View<float, 2> out, View<const float, 2> x, const PackedMatrix<T>& w) {
    CHECK(x.shape[1] == w.cols() && out.shape[1] == w.rows() && out.shape[0] == x.shape[0]);
    const int64_t rows = x.shape[0], panels = panels_of(w.rows()), steps = padded_cols<T>(w.cols()) / kPair<T>;
    if (rows == 0 || panels == 0) return;
    const CpuKernels& kernels = kernels_for(device.isa());
    const auto block_kernel = std::is_same_v<T, float> ? kernels.matmul_f32 : kernels.matmul_bf16;
    const PreparedRows prepared = prepare(device, x, w, kernels);
    const int64_t stream_rows = std::is_same_v<T, float> ? kernels.stream_rows_f32 : kernels.stream_rows_bf16;
    const MatmulPlan plan = plan_matmul(rows, panels, steps, stream_rows, device.num_threads());
    const auto run = [&](int64_t item, int) {
        const int64_t row = item % plan.row_blocks * plan.rows_per_block,
                      panel = item / plan.row_blocks * plan.panels_per_range;
        block_kernel({.out = out.row(row),
                      .out_stride = w.rows(),
                      .x = static_cast<const char*>(prepared.data) + row * prepared.stride,
                      .x_stride = prepared.stride,
                      .rows = std::clamp(rows - row, int64_t(0), plan.rows_per_block),
                      .panels = w.data(),
                      .columns = w.rows(),
                      .steps = steps,
                      .panel_begin = panel,
                      .panel_end = std::min(panel + plan.panels_per_range, panels)});
    };
    device.parallel_items(plan.row_blocks * plan.ranges, run);
}

template <class T>
void gather(CpuDevice& device, View<float, 2> out, const PackedMatrix<T>& w, std::span<const int32_t> ids) {
    CHECK(out.shape[0] == int64_t(ids.size()) && out.shape[1] == w.cols());
    for (const int32_t id : ids) CHECK(id >= 0 && id < w.rows());
    device.parallel_for(out.shape[0], 32, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) w.get_row(ids[size_t(i)], out.row(i));
    });
}

}  // namespace

template <class T>
int64_t PackedMatrix<T>::bytes_of(int64_t rows, int64_t cols) {
    const int64_t bytes = panels_of(rows) * kPanel * padded_cols<T>(cols) * int64_t(sizeof(T));
    static_assert(kPanel * kPair<T> * sizeof(T) == kLine);
    return bytes;
}

template <class T>
PackedMatrix<T>::PackedMatrix(int64_t rows, int64_t cols)
    : PackedMatrix(rows, cols, std::shared_ptr<std::byte[]>(allocate_memory(bytes_of(rows, cols)))) {}

template <class T>
PackedMatrix<T>::PackedMatrix(int64_t rows, int64_t cols, std::shared_ptr<std::byte[]> memory)
    : rows_(rows), cols_(cols), memory_(std::move(memory)) {
    CHECK(rows >= 0 && cols >= 0);
    if (bytes() == 0) return;
    if (!memory_) throw std::bad_alloc();
    CHECK(reinterpret_cast<uintptr_t>(memory_.get()) % 64 == 0);
    std::fill_n(begin(), bytes() / int64_t(sizeof(T)), T{});
}

template <class T>
PackedMatrix<T> PackedMatrix<T>::view(int64_t rows, int64_t cols, const T* data) {
    CHECK(rows >= 0 && cols >= 0 && reinterpret_cast<uintptr_t>(data) % 64 == 0);
    PackedMatrix m;
    m.rows_ = rows;
    m.cols_ = cols;
    // Owned by nobody: an empty pointer's count, this address.
    m.memory_ = {std::shared_ptr<std::byte[]>(), const_cast<std::byte*>(reinterpret_cast<const std::byte*>(data))};
    return m;
}

template <class T>
void PackedMatrix<T>::set_rows(int64_t first, int64_t count, const float* values) {
    CHECK(first >= 0 && count >= 0 && first + count <= rows_);
    constexpr int64_t kPart = 128;  // columns whose lines of the panel stay in the L1 cache while its rows are written
    for (int64_t n = first; n < first + count;) {
        const int64_t end = std::min(first + count, (n / kPanel + 1) * kPanel);
        for (int64_t k0 = 0; k0 < cols_; k0 += kPart)
            for (int64_t i = n; i < end; ++i) {
                const float* from = values + (i - first) * cols_;
                T* to = begin() + packed_index<T>(i, 0, cols_);
                for (int64_t k = k0; k < std::min(k0 + kPart, cols_); ++k)
                    to[k / kPair<T> * kPair<T> * kPanel + k % kPair<T>] = from_float<T>(from[k]);
            }
        n = end;
    }
}

template <class T>
void PackedMatrix<T>::get_row(int64_t n, float* values) const {
    CHECK(n >= 0 && n < rows_);
    const T* from = data() + packed_index<T>(n, 0, cols_);
    for (int64_t k = 0; k < cols_; ++k) values[k] = to_float(from[k / kPair<T> * kPair<T> * kPanel + k % kPair<T>]);
}

template class PackedMatrix<float>;
template class PackedMatrix<bf16>;

void matmul(CpuDevice& device, View<float, 2> out, View<const float, 2> x, const PackedMatrix<float>& w) {
    run_matmul(device, out, x, w);
}

void matmul(CpuDevice& device, View<float, 2> out, View<const float, 2> x, const PackedMatrix<bf16>& w) {
    run_matmul(device, out, x, w);
}

void gather_rows(CpuDevice& device, View<float, 2> out, const PackedMatrix<float>& w, std::span<const int32_t> ids) {
    gather(device, out, w, ids);
}

void gather_rows(CpuDevice& device, View<float, 2> out, const PackedMatrix<bf16>& w, std::span<const int32_t> ids) {
    gather(device, out, w, ids);
}

}  // namespace spartan
