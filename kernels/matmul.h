// Matrix product of activation rows with a weight that is packed once at load:
//
//     out[m, n] = sum over k of x[m, k] * w[n, k]
//
//     out  [M, N]  f32, must not alias x
//     x    [M, K]  f32; rounded to bf16 first (nearest even) when w is bf16, as the bf16 dot-product instructions do
//     w    [N, K]  T = f32 or bf16, packed; f16 is only kept and read back, for a GPU
//
// Accumulates in fp32, one accumulator per output in rising k, so that a row's result does not depend on M, on the
// other rows or on the number of threads (bitwise). M, N and K may be any size; M may be 0.
#pragma once

#include "kernels/dequantise.h"
#include "kernels/device.h"
#include "kernels/view.h"

#include <cstddef>
#include <memory>
#include <optional>
#include <span>

namespace spartan {

// A weight [rows = N, cols = K] in panels of kPanel outputs, k-major inside a panel (16-bit types: k in pairs), padded
// with zeros. Either dense, every value a T, or kept: the quantised blocks of a file in as many bytes, widened to T a
// piece of a panel at a time while they are used. Keeping changes no bit of a product: its values are those that a
// dense matrix would hold, and they are added in the same order. Its memory (64-byte aligned) is its own or a part of
// what many share. Movable, not copyable: a copy of weights should be seen in the code.
template <class T>
class PackedMatrix {
public:
    using Value = T;
    using Kept = std::optional<GgufType>;  // none: dense

    // Of the packed storage, a multiple of 64. A kept type needs whole blocks: cols a multiple of its block_elements().
    static int64_t bytes_of(int64_t rows, int64_t cols, Kept kept = {});

    // Every row is to be set before it is read.
    PackedMatrix() = default;
    PackedMatrix(int64_t rows, int64_t cols);  // dense, in memory of its own
    PackedMatrix(int64_t rows, int64_t cols, std::shared_ptr<std::byte[]> memory, Kept kept = {});
    // What lies packed at `data` (64-byte aligned bytes_of() bytes that someone else keeps), without a copy; read only.
    static PackedMatrix view(int64_t rows, int64_t cols, const T* data);
    PackedMatrix(PackedMatrix&&) noexcept = default;
    PackedMatrix& operator=(PackedMatrix&&) noexcept = default;

    int64_t rows() const { return rows_; }
    int64_t cols() const { return cols_; }
    bool empty() const { return rows_ == 0; }
    Kept kept() const { return kept_; }
    int64_t bytes() const { return bytes_of(rows_, cols_, kept_); }

    // Rounds `count` rows of `cols()` floats into place (dense). Different rows may be set from different threads, but
    // those of one panel of a kept matrix from one.
    void set_rows(int64_t first, int64_t count, const float* values);
    // Puts `count` rows of a file's blocks into place (kept). Their scales must be finite.
    void set_blocks(int64_t first, int64_t count, const std::byte* blocks);
    // Reads row n back as floats (for embeddings, norms of weights, tests).
    void get_row(int64_t n, float* values) const;

    const std::byte* storage() const { return memory_.get(); }                   // bytes() of it
    const T* data() const { return reinterpret_cast<const T*>(memory_.get()); }  // of a dense matrix

private:
    void clear_padding();

    int64_t rows_ = 0, cols_ = 0;
    Kept kept_;
    std::shared_ptr<std::byte[]> memory_;
};

extern template class PackedMatrix<float>;
extern template class PackedMatrix<bf16>;
extern template class PackedMatrix<f16>;

void matmul(CpuDevice&, View<float, 2> out, View<const float, 2> x, const PackedMatrix<float>& w);
void matmul(CpuDevice&, View<float, 2> out, View<const float, 2> x, const PackedMatrix<bf16>& w);

// out[i] = row ids[i] of w. Every id must be in [0, w.rows()).
void gather_rows(CpuDevice&, View<float, 2> out, const PackedMatrix<float>& w, std::span<const int32_t> ids);
void gather_rows(CpuDevice&, View<float, 2> out, const PackedMatrix<bf16>& w, std::span<const int32_t> ids);

template <class T>
constexpr Cost matmul_cost(int64_t m, int64_t n, int64_t k) {
    return {.bytes = n * k * int64_t(sizeof(T)) + 4 * m * (n + k), .flops = 2 * m * n * k};
}

}  // namespace spartan
