#include "kernels/cuda/blas.h"

#include <string>

namespace spartan {

namespace {

constexpr size_t kWorkspaceBytes = 32 << 20;  // what NVIDIA advises for Hopper

void check_blas(cublasStatus_t status, const char* call) {
    if (status != CUBLAS_STATUS_SUCCESS) throw DeviceError(std::string(call) + ": " + cublasLtGetStatusName(status));
}
#define CHECK_BLAS(call) check_blas((call), #call)

cudaDataType_t data_type(DType t) { return t == DType::f32 ? CUDA_R_32F : t == DType::bf16 ? CUDA_R_16BF : CUDA_R_16F; }

// cuBLAS is column-major: it computes out^T [n, m] = w [n, k] * x^T [k, m], from w as [k, n] transposed.
struct Description {
    cublasLtMatmulDescOpaque_t operation = {};
    cublasLtMatrixLayoutOpaque_t w = {}, x = {}, out = {};

    Description(const BlasShape& s, const BlasOperands& o) {
        const auto m = uint64_t(s.m), n = uint64_t(s.n), k = uint64_t(s.k);
        const cublasOperation_t transposed = CUBLAS_OP_T;
        CHECK_BLAS(cublasLtMatmulDescInit(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
        CHECK_BLAS(
            cublasLtMatmulDescSetAttribute(&operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed));
        CHECK_BLAS(cublasLtMatrixLayoutInit(&w, data_type(s.in), k, n, s.k));
        CHECK_BLAS(cublasLtMatrixLayoutInit(&x, data_type(s.in), k, m, s.k));
        CHECK_BLAS(cublasLtMatrixLayoutInit(&out, data_type(s.out), n, m, s.n));
        if (s.count == 1) return;
        const auto repeat = [&](cublasLtMatrixLayoutOpaque_t& layout, int64_t step) {
            const auto count = int32_t(s.count);
            CHECK_BLAS(
                cublasLtMatrixLayoutSetAttribute(&layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count));
            CHECK_BLAS(cublasLtMatrixLayoutSetAttribute(&layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step,
                                                        sizeof step));
        };
        repeat(w, o.w_step);
        repeat(x, o.x_step);
        repeat(out, o.out_step);
    }
};

template <class Value>
void prefer(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute, Value value) {
    CHECK_BLAS(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value));
}

}  // namespace

Blas::Blas() : workspace_(int64_t(kWorkspaceBytes)) { CHECK_BLAS(cublasLtCreate(&handle_)); }

Blas::~Blas() {
    if (handle_) cublasLtDestroy(handle_);
}

std::vector<cublasLtMatmulAlgo_t> Blas::algorithms(const BlasShape& shape, const BlasOperands& operands, int most) {
    Description d(shape, operands);
    cublasLtMatmulPreferenceOpaque_t preference = {};
    CHECK_BLAS(cublasLtMatmulPreferenceInit(&preference));
    prefer(&preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t(kWorkspaceBytes));
    prefer(&preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    for (const auto alignment :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
        prefer(&preference, alignment, uint32_t(16));
    std::vector<cublasLtMatmulHeuristicResult_t> results(static_cast<size_t>(most));
    int found = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle_, &d.operation, &d.w, &d.x, &d.out, &d.out,
                                                                 &preference, most, results.data(), &found);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED) return {};
    check_blas(status, "cublasLtMatmulAlgoGetHeuristic");
    std::vector<cublasLtMatmulAlgo_t> algorithms;
    for (size_t i = 0; i < size_t(found); ++i)
        if (results[i].state == CUBLAS_STATUS_SUCCESS) algorithms.push_back(results[i].algo);
    return algorithms;
}

bool Blas::accepts(const BlasShape& shape, const BlasOperands& operands, const cublasLtMatmulAlgo_t& algorithm) {
    Description d(shape, operands);
    cublasLtMatmulHeuristicResult_t result = {};
    const cublasStatus_t status =
        cublasLtMatmulAlgoCheck(handle_, &d.operation, &d.w, &d.x, &d.out, &d.out, &algorithm, &result);
    return status == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= kWorkspaceBytes;
}

bool Blas::multiply(CudaDevice& device, const BlasShape& shape, const BlasOperands& o,
                    const cublasLtMatmulAlgo_t& algorithm, bool onto) {
    Description d(shape, o);
    const float one = 1, of_out = onto ? 1 : 0;
    const cublasStatus_t status =
        cublasLtMatmul(handle_, &d.operation, &one, o.w, &d.w, o.x, &d.x, &of_out, o.out, &d.out, o.out, &d.out,
                       &algorithm, workspace_.data(), kWorkspaceBytes, device.stream());
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) return false;
    check_blas(status, "cublasLtMatmul");
    return true;
}

}  // namespace spartan
