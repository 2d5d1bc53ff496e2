// The one product of cuBLASLt that matmul() uses, behind a handle and working memory of its own. bf16 factors, fp32
// sums.
#pragma once

#include "kernels/cuda/device.h"
#include "kernels/view.h"

#include <tuple>
#include <vector>

#include <cublasLt.h>

namespace spartan {

struct BlasShape {  // out [m, n] = x [m, k] * w [n, k]^T, all row-major; out is bf16 or f32
    int64_t m = 0, n = 0, k = 0;
    DType out = DType::bf16;

    bool operator<(const BlasShape& other) const {
        return std::tie(m, n, k, out) < std::tie(other.m, other.n, other.k, other.out);
    }
};

class Blas {
public:
    Blas();
    ~Blas();
    Blas(const Blas&) = delete;
    Blas& operator=(const Blas&) = delete;

    // At most `most` algorithms for the shape, the library's favourite first; none that would add partial sums rounded
    // to the storage type. Pointers are to be 16-byte aligned.
    std::vector<cublasLtMatmulAlgo_t> algorithms(const BlasShape& shape, int most);

    // Launches one. False, and nothing launched, when the algorithm does not take this shape (it was found for
    // another).
    bool multiply(CudaDevice& device, const BlasShape& shape, const cublasLtMatmulAlgo_t& algorithm, void* out,
                  const bf16* x, const bf16* w);

private:
    cublasLtHandle_t handle_ = nullptr;
    DeviceMemory workspace_;
};

}  // namespace spartan
