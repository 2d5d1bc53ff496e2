// What the bulk copy engine of compute capability 9.0 has to know of a matrix.
#pragma once

#include "kernels/view.h"

#include <cstdint>

#include <cuda.h>

namespace spartan {

// Whether the driver, which is not linked, makes them.
bool has_tensor_maps();

// Boxes of `box_rows` (at most 256) rows and 64 k of a row-major [rows, k] matrix of 16-bit T, 16-byte aligned, k a
// multiple of 8: each an operand_along_k() (hopper.cuh) in shared memory.
template <class T>
CUtensorMap tensor_map(const T* matrix, int64_t rows, int64_t k, int box_rows);

}  // namespace spartan
