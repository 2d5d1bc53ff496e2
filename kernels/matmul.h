// Matrix product of activation rows with a weight that is packed once at load:
//
//     out[m, n] = sum over k of x[m, k] * w[n, k]
//
//     out  [M, N]  f32, must not alias x
//     x    [M, K]  f32; rounded to bf16 first (nearest even) when w is bf16, as the bf16 dot-product instructions do
//     w    [N, K]  T = f32 or bf16, packed
//
// Accumulates in fp32, one accumulator per output in rising k, so that a row's result does not depend on M, on the
// other rows or on the number of threads (bitwise). M, N and K may be any size; M may be 0.
#pragma once

#include "kernels/device.h"
#include "kernels/view.h"

#include <cstddef>
#include <memory>
#include <span>

namespace spartan {

// A weight [rows = N, cols = K] in panels of kPanel outputs, k-major inside a panel (bf16: k in pairs), zero-padded.
// Its memory (64-byte aligned) is its own or a part of what many share. Movable, not copyable: a copy of weights should
// be seen in the code.
template <class T>
class PackedMatrix {
public:
    static int64_t bytes_of(int64_t rows, int64_t cols);  // of the packed storage, a multiple of 64

    PackedMatrix() = default;
    PackedMatrix(int64_t rows, int64_t cols);  // zero-filled, in memory of its own
    PackedMatrix(int64_t rows, int64_t cols,
                 std::shared_ptr<std::byte[]> memory);  // the same in bytes_of() of `memory`
    // What lies packed at `data` (64-byte aligned bytes_of() bytes that someone else keeps), without a copy; read only.
    static PackedMatrix view(int64_t rows, int64_t cols, const T* data);
    PackedMatrix(PackedMatrix&&) = default;
    PackedMatrix& operator=(PackedMatrix&&) = default;

    int64_t rows() const { return rows_; }
    int64_t cols() const { return cols_; }
    bool empty() const { return rows_ == 0; }
    int64_t bytes() const { return bytes_of(rows_, cols_); }

    // Rounds `count` rows of `cols()` floats into place. Different rows may be set from different threads.
    void set_rows(int64_t first, int64_t count, const float* values);
    // Reads row n back as floats (for embeddings, norms of weights, tests).
    void get_row(int64_t n, float* values) const;

    const T* data() const { return reinterpret_cast<const T*>(memory_.get()); }

private:
    T* begin() { return reinterpret_cast<T*>(memory_.get()); }
    int64_t rows_ = 0, cols_ = 0;
    std::shared_ptr<std::byte[]> memory_;
};

extern template class PackedMatrix<float>;
extern template class PackedMatrix<bf16>;

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
