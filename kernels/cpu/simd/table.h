// The inner loops of the CPU kernels, compiled once per instruction set (simd_*.cpp) and chosen by the device's level.
// What is here works on one thread and on ranges that the caller has checked; threads, checks and scratch memory are
// the business of kernels/cpu/*.cpp.
#pragma once

#include "kernels/dequantise.h"
#include "kernels/device.h"
#include "kernels/view.h"

#include <cstdint>

namespace spartan {

// Outputs in one panel of a packed matrix. One step is one cache line of a panel: 16 outputs by one k in fp32, by two k
// in bf16.
constexpr int64_t kPanel = 16;
constexpr int64_t kLine = 64;

// out[rows, panels' columns] = x · w. Rows are those of x and out from their first; columns are given by the panels.
struct MatmulBlock {
    float* out = nullptr;
    int64_t out_stride = 0;
    const void* x = nullptr;  // as prepare_bf16 leaves it, or float
    int64_t x_stride = 0;     // bytes
    int64_t rows = 0;
    const void* panels = nullptr;  // of the whole matrix
    int64_t columns = 0, steps = 0;
    int64_t panel_begin = 0, panel_end = 0;
    bool add = false;  // to what out holds: the sums over the k before these
};

// For weights kept in one of a file's quantised types (kernels/cpu/kept.h).
struct KeptKernels {
    // Pieces of 32 k [first, first + count) of one panel to a panel of T.
    void (*widen_f32)(const uint8_t* panel, int64_t first, int64_t count, float* out) = nullptr;
    void (*widen_bf16)(const uint8_t* panel, int64_t first, int64_t count, bf16* out) = nullptr;
    // The product of up to kept_rows rows in fp32 with the panels themselves; `steps` of the block counts pieces.
    void (*rows_f32)(const MatmulBlock&) = nullptr;
};

// `next` of the adapters' blocks: what is read after this block, or null. It is fetched along the way, since adapters
// are many short streams, each at its end before the processor's own prefetcher has found it.

template <class T>
struct RotateBlock {  // `groups` groups from the pointers on
    float* out = nullptr;
    const float* x = nullptr;
    int64_t stride = 0, rows = 0;
    const T* blocks = nullptr;
    int64_t group = 0, groups = 0;
    const T* next = nullptr;
};

template <class T>
struct ShrinkBlock {  // low[row, r] = scale * sum over k of a[r, k] * x[row, k]
    float* low = nullptr;
    int64_t low_stride = 0;
    const float* x = nullptr;
    int64_t rows = 0, in = 0;
    const T* a = nullptr;
    int64_t ranks = 0;
    float scale = 1;
    const T* next = nullptr;
};

template <class T>
struct ExpandBlock {  // out[row, n] += sum over r of low[row, r] * b_t[r, n], n < columns
    float* out = nullptr;
    int64_t out_stride = 0;
    const float* low = nullptr;
    int64_t low_stride = 0, rows = 0;
    const T* b_t = nullptr;
    int64_t b_stride = 0, columns = 0, ranks = 0;
    const T* next = nullptr;
};

// `rows` consecutive tokens of one sequence, the query heads that share one kv head.
template <class T>
struct AttendBlock {
    float* out = nullptr;      // of the first row's first query head
    const float* q = nullptr;  // the same
    int64_t stride = 0, rows = 0, first_position = 0;
    int64_t heads = 0, head_dim = 0, block_tokens = 0;
    const int32_t* pages = nullptr;
    const T* pool = nullptr;
    int64_t page_elements = 0, key_offset = 0, value_offset = 0;  // of this kv head inside a page
    float scale = 1;
    int64_t window = 0;        // keys a row sees at the most; 0: all up to its own
    float* scratch = nullptr;  // attend_scratch_floats()
};

struct CpuKernels {
    int64_t stream_rows_f32, stream_rows_bf16;  // up to this many rows one pass over the weights does
    int64_t prepared_bf16_size;                 // bytes of one element of x as the bf16 product wants it

    // Of kept weights so many k are widened at a time.
    int64_t kept_depth, kept_rows;
    KeptKernels (*kept)(GgufType type);

    void (*matmul_f32)(const MatmulBlock&);
    void (*matmul_bf16)(const MatmulBlock&);
    // Rounds one row; pads an odd k with a zero, or to a whole line where the product reads lines.
    void (*prepare_bf16)(void* out, const float* x, int64_t k);

    void (*rms_norm)(float* out, const float* x, const float* weight, int64_t dim, float eps);
    void (*silu_mul)(float* out, const float* gate, const float* up, int64_t n);
    void (*gelu_mul)(float* out, const float* gate, const float* up, int64_t n);
    void (*gelu_tanh_mul)(float* out, const float* gate, const float* up, int64_t n);
    void (*add)(float* out, const float* a, const float* b, int64_t n);
    void (*add_scaled)(float* out, const float* a, const float* b, float scale, int64_t n);
    void (*scale)(float* out, const float* x, float scale, int64_t n);
    void (*scale_bias)(float* out, const float* gain, const float* bias, int64_t n);
    void (*cos_sin)(float* cos, float* sin, float position, const float* inv_freq, int64_t half);
    void (*rope_head)(float* head, const float* cos, const float* sin, int64_t half);

    void (*rotate_f32)(const RotateBlock<float>&);
    void (*rotate_bf16)(const RotateBlock<bf16>&);
    void (*shrink_f32)(const ShrinkBlock<float>&);
    void (*shrink_bf16)(const ShrinkBlock<bf16>&);
    void (*expand_f32)(const ExpandBlock<float>&);
    void (*expand_bf16)(const ExpandBlock<bf16>&);
    void (*attend_f32)(const AttendBlock<float>&);
    void (*attend_bf16)(const AttendBlock<bf16>&);
    void (*round_bf16)(bf16* out, const float* x, int64_t n);

    // Maxima of blocks of 64 logits; true when one of them is NaN or +infinity.
    bool (*block_maxima)(float* maxima, const float* logits, int64_t blocks);
    // weights[i] = 2^30 * exp((logits[i] - max) / temperature), truncated; the same bits from every table.
    void (*weigh_logits)(int32_t* weights, const float* logits, int64_t n, float max, float temperature);

    // Runs a full tile of the matmul `rounds` times on what stays in the L1 cache; returns the flops done.
    double (*peak_f32)(int64_t rounds, float* sink);
    double (*peak_bf16)(int64_t rounds, float* sink);
    // Sums `bytes` of memory (a multiple of 1024) at the speed that it can be read.
    float (*read_memory)(const void* data, int64_t bytes);
};

extern const CpuKernels kGenericKernels;
#if defined(__x86_64__)
extern const CpuKernels kAvx2Kernels;
extern const CpuKernels kAvx512Kernels;
extern const CpuKernels kAvx512Bf16Kernels;
extern const CpuKernels kAvx512AmxKernels;
#endif

const CpuKernels& kernels_for(CpuIsa isa);

// Floats of scratch that one AttendBlock of up to `queries` = rows * heads needs.
int64_t attend_scratch_floats(int64_t queries, int64_t head_dim, int64_t block_tokens);

}  // namespace spartan
