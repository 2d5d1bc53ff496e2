// The rotation of linear layers' inputs by the adapters of a batch's tiles:
//
//     out[p][row][g·G + v] = sum over u of x[row][g·G + u] * R[g][u][v]         p < num_projections, g < dim / G
//
// where R and its group size G are those of the part [first_part + p] of the row's tile; without one the row is copied.
// Rows of no tile are left alone. fp32 sums, one rounding. A row's bits depend on its own values and adapter only.
//
// Parts with rotation_packed (16-bit types) hold D = R - I in items of 8 KB, each 16 operands of mma.m16n8k16 in the
// order in which a warp's lanes want them, and the sum starts from x: what rounding D costs scales with |R - I|, not
// with 1. An item yields 4096 / G output columns. Other parts hold R as kernels/adapter_ops.h has it, in T.
#pragma once

#include "kernels/cuda/device.h"
#include "kernels/cuda/tables.h"

namespace spartan {

// out [num_projections, rows, dim] must not alias x [rows, dim]; both aligned to 16 bytes, as are packed rotations.
// max_group: at least the largest group of the packed rotations that these parts may have; 0: there are none.
// any_plain: whether any of these parts may have a rotation that is not packed. ahead: device.h; asked for when all
// rotations have been.
template <class T>
void rotate(CudaDevice&, T* out, const T* x, const CudaTile* tiles, int num_tiles, int first_part, int num_projections,
            int64_t rows, int64_t dim, int max_group, bool any_plain, const Ahead& ahead = {});

constexpr int64_t kPackedItem = 4096;  // values

// Whether a rotation of this geometry has a packed form.
constexpr bool packs(int64_t dim, int64_t group, DType dtype) {
    const bool fits = group == 16 || group == 32 || group == 64 || group == 128 || group == 256;
    return dtype != DType::f32 && fits && dim > 0 && dim % group == 0;
}
// Whole items: the last one is padded with zeros where dim * group is not a multiple of them.
constexpr int64_t packed_rotation_items(int64_t dim, int64_t group) {
    return (dim * group + kPackedItem - 1) / kPackedItem;
}
constexpr int64_t packed_rotation_bytes(int64_t dim, int64_t group) {
    return packed_rotation_items(dim, group) * kPackedItem * 2;
}

// Where D[g][u][column % group], g = column / group, lies in the packed form, in values.
HOST_DEVICE constexpr int64_t packed_rotation_offset(int64_t group, int64_t column, int64_t u) {
    const int64_t outputs = kPackedItem / group;  // of an item
    const int64_t m_tiles = (group < outputs ? group : outputs) / 16, k_tiles = group / 16;
    const int64_t item = column / outputs, part = column % outputs / (16 * m_tiles);
    const int64_t j = column % outputs % (16 * m_tiles);  // = 2 m_tiles · r + 2 m + h
    const int64_t r = j / (2 * m_tiles), m = j / 2 % m_tiles, h = j % 2, e = u % 4;
    const int64_t k = k_tiles == 1 ? 0 : u / 32 * 2 + u / 4 % 2, q = k_tiles == 1 ? u / 4 : u / 8 % 4;
    const int64_t tile = (part * m_tiles + m) * k_tiles + k;
    return item * kPackedItem + (tile * 32 + 4 * r + q) * 8 + e / 2 * 4 + h * 2 + e % 2;
}

// What lies at an offset: the inverse. Columns of dim and beyond are padding.
struct PackedPlace {
    int64_t column = 0, u = 0;
};
HOST_DEVICE constexpr PackedPlace packed_rotation_place(int64_t group, int64_t offset) {
    const int64_t outputs = kPackedItem / group;
    const int64_t m_tiles = (group < outputs ? group : outputs) / 16, k_tiles = group / 16;
    const int64_t tile = offset % kPackedItem / 256, lane = offset % 256 / 8, r = lane / 4, q = lane % 4;
    const int64_t h = offset / 2 % 2, e = offset / 4 % 2 * 2 + offset % 2;
    const int64_t k = tile % k_tiles, m = tile / k_tiles % m_tiles, part = tile / k_tiles / m_tiles;
    return {offset / kPackedItem * outputs + part * 16 * m_tiles + r * 2 * m_tiles + 2 * m + h,
            k_tiles == 1 ? 4 * q + e : k / 2 * 32 + 8 * q + k % 2 * 4 + e};
}

// packed [packed_rotation_bytes()] = T(R - I) of r, R as [dim / group][group][group], for a geometry that packs().
// They must not alias.
template <class T, class R>
void pack_rotation(CudaDevice&, T* packed, const R* r, int64_t dim, int64_t group);

// The same for `count` rotations in T at once; `jobs` lie in device memory, none with more than `most_items` of
// packed_rotation_items().
template <class T>
struct PackJob {
    const T* r = nullptr;
    T* packed = nullptr;
    int32_t dim = 0, group = 0;
};
template <class T>
void pack_rotations(CudaDevice&, const PackJob<T>* jobs, int count, int64_t most_items);

extern template void rotate<float>(CudaDevice&, float*, const float*, const CudaTile*, int, int, int, int64_t, int64_t,
                                   int, bool, const Ahead&);
extern template void rotate<bf16>(CudaDevice&, bf16*, const bf16*, const CudaTile*, int, int, int, int64_t, int64_t,
                                  int, bool, const Ahead&);
extern template void rotate<f16>(CudaDevice&, f16*, const f16*, const CudaTile*, int, int, int, int64_t, int64_t, int,
                                 bool, const Ahead&);

}  // namespace spartan
