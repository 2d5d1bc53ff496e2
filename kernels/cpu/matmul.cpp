#include "kernels/matmul.h"

#include "kernels/check.h"
#include "kernels/cpu/kept.h"
#include "kernels/cpu/simd/table.h"
#include "kernels/memory.h"
#include "kernels/rounding.h"

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

constexpr int64_t kMostBlockBytes = 256;
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

// A block of a kept matrix: so many panels and so much depth at a time are widened into `scratch`, then multiplied.
struct KeptPiece {
    int64_t panels, depth;  // depth: k, a multiple of 32
};

template <class T>
KeptPiece kept_piece(const CpuKernels& kernels, bool streams, int64_t cols) {
    // Streaming walks four panels side by side; with many rows one or two are walked for long.
    return {streams ? 4 : 2, std::min(std::min(kernels.kept_depth, cols) * (streams ? 1 : 4) * kPair<T>, cols)};
}

template <class T>
int64_t kept_piece_bytes(const KeptPiece& piece) {
    return piece.panels * piece.depth / kPair<T> * kLine;
}

// As block_kernel(whole) would with the dense matrix of the same values.
template <class T>
void run_kept_block(const CpuKernels& kernels, void (*block_kernel)(const MatmulBlock&), const PackedMatrix<T>& w,
                    const MatmulBlock& whole, const KeptPiece& piece, void* scratch) {
    const KeptKernels kept = kernels.kept(*w.kept());
    const auto widen = [&](const uint8_t* panel, int64_t first, int64_t count, T* out) {
        if constexpr (std::is_same_v<T, float>)
            kept.widen_f32(panel, first, count, out);
        else
            kept.widen_bf16(panel, first, count, out);
    };
    const int64_t x_size = std::is_same_v<T, float> ? 4 : kernels.prepared_bf16_size;
    const int64_t panel_bytes = kPanel * w.cols() / block_elements(*w.kept()) * block_bytes(*w.kept());
    for (int64_t panel = whole.panel_begin; panel < whole.panel_end; panel += piece.panels) {
        MatmulBlock b = whole;
        b.panels = scratch;
        b.out += panel * kPanel;
        b.columns -= panel * kPanel;
        b.panel_begin = 0;
        b.panel_end = std::min(piece.panels, whole.panel_end - panel);
        for (int64_t k = 0; k < w.cols(); k += piece.depth) {
            const int64_t depth = std::min(piece.depth, w.cols() - k);
            b.steps = depth / kPair<T>;
            for (int64_t i = 0; i < b.panel_end; ++i)
                widen(reinterpret_cast<const uint8_t*>(w.storage()) + (panel + i) * panel_bytes, k / 32, depth / 32,
                      static_cast<T*>(scratch) + i * b.steps * kLine / int64_t(sizeof(T)));
            b.x = static_cast<const char*>(whole.x) + k * x_size;
            b.add = k > 0;
            block_kernel(b);
        }
    }
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
    const bool fused = w.kept() && std::is_same_v<T, float> && rows <= kernels.kept_rows;
    const KeptPiece piece = kept_piece<T>(kernels, rows <= stream_rows, w.cols());
    const auto run = [&](int64_t item, int thread) {
        const int64_t row = item % plan.row_blocks * plan.rows_per_block,
                      panel = item / plan.row_blocks * plan.panels_per_range;
        const MatmulBlock block{.out = out.row(row),
                                .out_stride = w.rows(),
                                .x = static_cast<const char*>(prepared.data) + row * prepared.stride,
                                .x_stride = prepared.stride,
                                .rows = std::clamp(rows - row, int64_t(0), plan.rows_per_block),
                                .panels = w.storage(),
                                .columns = w.rows(),
                                .steps = fused ? w.cols() / 32 : steps,
                                .panel_begin = panel,
                                .panel_end = std::min(panel + plan.panels_per_range, panels)};
        if (fused)
            kernels.kept(*w.kept()).rows_f32(block);
        else if (w.kept())
            run_kept_block(kernels, block_kernel, w, block, piece,
                           device.thread_scratch(thread, kept_piece_bytes<T>(piece)));
        else
            block_kernel(block);
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
int64_t PackedMatrix<T>::bytes_of(int64_t rows, int64_t cols, Kept kept) {
    static_assert(kPanel * kPair<T> * sizeof(T) == kLine);
    if (!kept) return panels_of(rows) * kPanel * padded_cols<T>(cols) * int64_t(sizeof(T));
    CHECK(can_keep(*kept) && cols % block_elements(*kept) == 0);
    return (panels_of(rows) * kPanel * (cols / block_elements(*kept)) * block_bytes(*kept) + kLine - 1) / kLine * kLine;
}

template <class T>
PackedMatrix<T>::PackedMatrix(int64_t rows, int64_t cols)
    : PackedMatrix(rows, cols, std::shared_ptr<std::byte[]>(allocate_memory(bytes_of(rows, cols)))) {}

template <class T>
PackedMatrix<T>::PackedMatrix(int64_t rows, int64_t cols, std::shared_ptr<std::byte[]> memory, Kept kept)
    : rows_(rows), cols_(cols), kept_(kept), memory_(std::move(memory)) {
    CHECK(rows >= 0 && cols >= 0);
    if (bytes() == 0) return;
    if (!memory_) throw std::bad_alloc();
    CHECK(is_aligned(memory_.get(), 64));
    clear_padding();
}

// The last panel's outputs that are not there, and the second half of a last pair.
template <class T>
void PackedMatrix<T>::clear_padding() {
    const int64_t panels = panels_of(rows_), panel_bytes = bytes() / panels;
    if (rows_ % kPanel != 0) std::memset(memory_.get() + (panels - 1) * panel_bytes, 0, size_t(panel_bytes));
    if (kept_ || padded_cols<T>(cols_) == cols_) return;
    for (int64_t panel = 1; panel <= panels; ++panel)
        std::memset(memory_.get() + panel * panel_bytes - kLine, 0, size_t(kLine));
}

template <class T>
PackedMatrix<T> PackedMatrix<T>::view(int64_t rows, int64_t cols, const T* data) {
    CHECK(rows >= 0 && cols >= 0 && is_aligned(data, 64));
    PackedMatrix m;
    m.rows_ = rows;
    m.cols_ = cols;
    // Owned by nobody: an empty pointer's count, this address.
    m.memory_ = {std::shared_ptr<std::byte[]>(), const_cast<std::byte*>(reinterpret_cast<const std::byte*>(data))};
    return m;
}

template <class T>
void PackedMatrix<T>::set_rows(int64_t first, int64_t count, const float* values) {
    CHECK(!kept_ && first >= 0 && count >= 0 && first + count <= rows_);
    T* const data = reinterpret_cast<T*>(memory_.get());
    constexpr int64_t kPart = 128;  // columns whose lines of the panel stay in the L1 cache while its rows are written
    for (int64_t n = first; n < first + count;) {
        const int64_t end = std::min(first + count, (n / kPanel + 1) * kPanel);
        for (int64_t k0 = 0; k0 < cols_; k0 += kPart)
            for (int64_t i = n; i < end; ++i) {
                const float* from = values + (i - first) * cols_;
                T* to = data + packed_index<T>(i, 0, cols_);
                for (int64_t k = k0; k < std::min(k0 + kPart, cols_); ++k)
                    to[k / kPair<T> * kPair<T> * kPanel + k % kPair<T>] = from_float<T>(from[k]);
            }
        n = end;
    }
}

template <class T>
void PackedMatrix<T>::set_blocks(int64_t first, int64_t count, const std::byte* blocks) {
    CHECK(kept_ && first >= 0 && count >= 0 && first + count <= rows_);
    const int64_t block = block_bytes(*kept_), group = kPanel * block, groups = cols_ / block_elements(*kept_);
    const auto* from = reinterpret_cast<const uint8_t*>(blocks);
    auto* const data = reinterpret_cast<uint8_t*>(memory_.get());
    for (int64_t n = first; n < first + count; ++n)
        for (int64_t i = 0; i < groups; ++i, from += block)
            pack_kept_block(*kept_, from, data + (n / kPanel * groups + i) * group, int(n % kPanel));
}

template <class T>
void PackedMatrix<T>::get_row(int64_t n, float* values) const {
    CHECK(n >= 0 && n < rows_);
    if (!kept_) {
        const T* from = reinterpret_cast<const T*>(memory_.get()) + packed_index<T>(n, 0, cols_);
        for (int64_t k = 0; k < cols_; ++k) values[k] = to_float(from[k / kPair<T> * kPair<T> * kPanel + k % kPair<T>]);
        return;
    }
    const int64_t elements = block_elements(*kept_), group = kPanel * block_bytes(*kept_), groups = cols_ / elements;
    const auto* from = reinterpret_cast<const uint8_t*>(memory_.get()) + n / kPanel * groups * group;
    uint8_t block[kMostBlockBytes];
    for (int64_t i = 0; i < groups; ++i, from += group, values += elements) {
        unpack_kept_block(*kept_, from, int(n % kPanel), block);
        dequantise_row(*kept_, block, elements, values);
        for (int64_t k = 0; k < elements; ++k) values[k] = to_float(from_float<T>(values[k]));
    }
}

template class PackedMatrix<float>;
template class PackedMatrix<bf16>;
template class PackedMatrix<f16>;

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
