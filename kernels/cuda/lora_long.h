// lora.h for batches of many rows: both kernels keep whole tiles' data on the way in shared memory. The bits of a row
// are those that lora.cu's kernels for few rows give it.
#pragma once

#include "kernels/cuda/lora.h"

namespace spartan {

struct LoraMiddle;

constexpr int kMostLongRank = 128;  // that expand_long() takes

// mid (split) = the inner sums of all tiles' rows, ranks padded with zeros to multiples of 16. `in` is a multiple of 8,
// x and all a are aligned to 16 bytes; T is bf16 or f16.
template <class T>
void shrink_long(CudaDevice& device, const LoraMiddle& mid, const T* x, const CudaTile* tiles, int num_tiles,
                 int first_part, int in, int max_rank);

// shrink_long()'s where code for compute capability 9.0a was built, on such GPUs only. mid.data has room for the sums
// of all slabs, as lora_workspace_bytes() counts them, though in the end it holds one.
template <class T>
void shrink_hopper(CudaDevice& device, const LoraMiddle& mid, const T* x, const CudaTile* tiles, int num_tiles,
                   int first_part, int in, int max_rank);

// out += scale * B * mid, or, if sets, out = that and zeros in rows without a part, which only expand_hopper() can.
// Widths are multiples of 8, outs and all b_t are aligned to 16 bytes, max_rank is at most kMostLongRank.
template <class T>
void expand_long(CudaDevice& device, const LoraOutputs<T>& outputs, const LoraMiddle& mid, const CudaTile* tiles,
                 int num_tiles, int first_part, int max_rank, bool sets);

constexpr int kMostHopperRank = 64;  // that expand_hopper() takes

// Whether these rows take the kernels for compute capability 9.0a. Warpgroup products are always of 64 rows: tiles of
// few are faster without. The bits are the same.
bool takes_warpgroups(const CudaDevice& device, int64_t rows, int num_tiles);

// expand_long()'s where code for compute capability 9.0a was built, on such GPUs only.
template <class T>
void expand_hopper(CudaDevice& device, const LoraOutputs<T>& outputs, const LoraMiddle& mid, const CudaTile* tiles,
                   int num_tiles, int first_part, bool sets);

}  // namespace spartan
