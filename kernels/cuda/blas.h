// The one product of cuBLASLt that matmul() uses, behind a handle and working memory of its own. 16-bit factors, fp32
// sums.
#pragma once

#include "kernels/cuda/device.h"
#include "kernels/view.h"

#include <tuple>
#include <vector>

#include <cublasLt.h>

namespace spartan {

struct BlasShape {  // out [m, n] = x [m, k] * w [n, k]^T, all row-major, `count` of them; in: bf16 or f16; out: the
                    // same or f32
    int64_t m = 0, n = 0, k = 0, count = 1;
    DType out = DType::bf16, in = DType::bf16;

    bool operator<(const BlasShape& other) const {
        return std::tie(m, n, k, count, out, in) <
               std::tie(other.m, other.n, other.k, other.count, other.out, other.in);
    }
};

struct BlasOperands {  // of the first of them, and how many elements further the next one's lie
    void* out = nullptr;
    const void *x = nullptr, *w = nullptr;
    int64_t out_step = 0, x_step = 0, w_step = 0;
};

class Blas {
public:
    Blas();
    ~Blas();
    Blas(const Blas&) = delete;
    Blas& operator=(const Blas&) = delete;

    // At most `most` algorithms for the shape, the library's favourite first; none that would add partial sums rounded
    // to the storage type. Pointers and steps are to be multiples of 16 bytes.
    std::vector<cublasLtMatmulAlgo_t> algorithms(const BlasShape& shape, const BlasOperands& operands, int most);

    // Whether the library takes an algorithm that was kept for this shape.
    bool accepts(const BlasShape& shape, const BlasOperands& operands, const cublasLtMatmulAlgo_t& algorithm);

    // Launches one; onto: added to out. False, and nothing launched, when the algorithm does not take this shape (it
    // was found for another).
    bool multiply(CudaDevice& device, const BlasShape& shape, const BlasOperands& operands,
                  const cublasLtMatmulAlgo_t& algorithm, bool onto = false);

private:
    cublasLtHandle_t handle_ = nullptr;
    DeviceMemory workspace_;
};

}  // namespace spartan
