#include "kernels/cuda/tensor_map.h"

#include "kernels/check.h"

#include <type_traits>

#include <cuda_runtime.h>

namespace spartan {

namespace {

using EncodeTiled = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                                 const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                                 CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

// Null where the driver has none.
EncodeTiled encode_tiled() {
    static const EncodeTiled function = [] {
        void* found = nullptr;
        cudaDriverEntryPointQueryResult result{};
#if CUDART_VERSION >= 12050
        const cudaError_t status =
            cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
#else
        const cudaError_t status =
            cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &result);
#endif
        return status == cudaSuccess && result == cudaDriverEntryPointSuccess ? reinterpret_cast<EncodeTiled>(found)
                                                                              : nullptr;
    }();
    return function;
}

}  // namespace

bool has_tensor_maps() { return encode_tiled(); }

template <class T>
CUtensorMap tensor_map(const T* matrix, int64_t rows, int64_t k, int box_rows) {
    constexpr auto kType = std::is_same_v<T, bf16> ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    CUtensorMap map = {};
    const cuuint64_t sizes[2] = {cuuint64_t(k), cuuint64_t(rows)}, row_bytes[1] = {cuuint64_t(k) * 2};
    const cuuint32_t box[2] = {64, cuuint32_t(box_rows)}, steps[2] = {1, 1};
    const CUresult status = encode_tiled()(&map, kType, 2, const_cast<T*>(matrix), sizes, row_bytes, box, steps,
                                           CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                           CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    CHECK(status == CUDA_SUCCESS);
    return map;
}

template CUtensorMap tensor_map(const bf16*, int64_t, int64_t, int);
template CUtensorMap tensor_map(const f16*, int64_t, int64_t, int);

}  // namespace spartan
