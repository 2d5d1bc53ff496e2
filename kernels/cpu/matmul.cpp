#include "kernels/matmul.h"

#include "kernels/check.h"

#include <algorithm>
#include <cstdlib>
#include <new>

namespace spartan {

namespace {

// 16 outputs wide: one cache line holds one k of a panel in fp32, and one pair of k in bf16.
constexpr int64_t kPanel = 16;

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

template <class T>
void plain_matmul(CpuDevice& device, View<float, 2> out, View<const float, 2> x, const PackedMatrix<T>& w) {
    CHECK(x.shape[1] == w.cols() && out.shape[1] == w.rows() && out.shape[0] == x.shape[0]);
    const int64_t m = x.shape[0], k = w.cols();
    device.parallel_for(w.rows(), 16, [&](int64_t begin, int64_t end, int) {
        for (int64_t row = 0; row < m; ++row)
            for (int64_t n = begin; n < end; ++n) {
                float sum = 0;
                for (int64_t i = 0; i < k; ++i)
                    sum += to_float(from_float<T>(x.row(row)[i])) * to_float(w.data()[packed_index<T>(n, i, k)]);
                out.row(row)[n] = sum;
            }
    });
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
void PackedMatrix<T>::Free::operator()(T* p) const {
    std::free(p);
}

template <class T>
PackedMatrix<T>::PackedMatrix(int64_t rows, int64_t cols) : rows_(rows), cols_(cols) {
    CHECK(rows >= 0 && cols >= 0);
    if (bytes() == 0) return;
    data_.reset(static_cast<T*>(std::aligned_alloc(64, size_t(bytes()))));
    if (!data_) throw std::bad_alloc();
    std::fill_n(data_.get(), bytes() / int64_t(sizeof(T)), T{});
}

template <class T>
int64_t PackedMatrix<T>::bytes() const {
    return panels_of(rows_) * kPanel * padded_cols<T>(cols_) * int64_t(sizeof(T));
}

template <class T>
void PackedMatrix<T>::set_rows(int64_t first, int64_t count, const float* values) {
    CHECK(first >= 0 && count >= 0 && first + count <= rows_);
    for (int64_t n = first; n < first + count; ++n)
        for (int64_t k = 0; k < cols_; ++k)
            data_[size_t(packed_index<T>(n, k, cols_))] = from_float<T>(values[(n - first) * cols_ + k]);
}

template <class T>
void PackedMatrix<T>::get_row(int64_t n, float* values) const {
    CHECK(n >= 0 && n < rows_);
    for (int64_t k = 0; k < cols_; ++k) values[k] = to_float(data_[size_t(packed_index<T>(n, k, cols_))]);
}

template class PackedMatrix<float>;
template class PackedMatrix<bf16>;

void matmul(CpuDevice& device, View<float, 2> out, View<const float, 2> x, const PackedMatrix<float>& w) {
    plain_matmul(device, out, x, w);
}

void matmul(CpuDevice& device, View<float, 2> out, View<const float, 2> x, const PackedMatrix<bf16>& w) {
    plain_matmul(device, out, x, w);
}

void gather_rows(CpuDevice& device, View<float, 2> out, const PackedMatrix<float>& w, std::span<const int32_t> ids) {
    gather(device, out, w, ids);
}

void gather_rows(CpuDevice& device, View<float, 2> out, const PackedMatrix<bf16>& w, std::span<const int32_t> ids) {
    gather(device, out, w, ids);
}

}  // namespace spartan
