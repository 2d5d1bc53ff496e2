// What adapters that change the output head do around its product, for the few batches that have any: plain kernels.
//
//     logits[i] = gain * (W · rot(x[i]) + scale · B (A x[i])) + bias
//     logits[i][token] = token_rows[token] · x[i]      for tokens that have rows of their own
//
// Row i of the heads is row head_rows[i] of the batch, and tables[tile of that row] says how; null: nothing is changed.
// fp32 sums, one rounding.
#pragma once

#include "kernels/cuda/attention.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/tables.h"

namespace spartan {

// In device memory, complete before the step.
struct HeadTables {
    const int32_t* head_rows = nullptr;
    const CudaRow* rows = nullptr;
    const CudaTable* const* tables = nullptr;  // [tile]; part.a is T [rank, hidden], part.b_t [rank, vocab]
};

// out [count, hidden] = rot(x), or x where there is no rotation; must not alias. Rotations are not packed.
template <class T>
void rotate_heads(CudaDevice&, T* out, const T* x, const HeadTables&, int64_t count, int64_t hidden);

// Everything behind the product, in place on logits [count, vocab]; x [count, hidden] is not rotated.
template <class T>
void change_logits(CudaDevice&, float* logits, const T* x, const HeadTables&, int64_t count, int64_t hidden,
                   int64_t vocab);

}  // namespace spartan
