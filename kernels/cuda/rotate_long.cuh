// How a warp takes many rows through an item of a packed rotation: their inputs are on the way to shared memory some
// steps of 8 rows ahead, in a ring of the warp's own, and serve as factors and as what the product is added to.
#pragma once

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/rotate.h"
#include "kernels/cuda/words.cuh"

namespace spartan {

struct RotateRing {
    static constexpr int kUnits = 512;  // of 16 bytes
    uint4 units[kUnits];
};

// The same operations in the same order as rotate.cu's rotate_by_item(). G: 32 to 256; 16 takes too many registers.
template <class T, int G>
struct LongRotation {
    static constexpr int kOutputs = int(kPackedItem) / G, kM = (G < kOutputs ? G : kOutputs) / 16, kK = G / 16;
    static constexpr int kGroups = 16 / (kM * kK);
    static constexpr int kUnits = (G < kOutputs ? kOutputs : G) / 8;  // of a row's features that an item reads
    static constexpr int kSteps = RotateRing::kUnits / (8 * kUnits);
    static_assert(G >= 32 && kSteps >= 2);

    RotateRing& ring;
    const T* const x;  // of the tile's first row
    T* const out;
    const int rows, dim, column, lane;
    const int base = G > 64 ? column / G* G : column;  // the first feature that is read
    const int r = lane / 4, q = lane % 4;

    // Feature `feature` from `base` on of row `row` of a step. Units are swapped such that 8 lanes meet all banks once,
    // both those with 4 neighbouring units of 2 rows and those with 2 units of 4 rows.
    __device__ __forceinline__ const void* at(int step, int row, int feature) const {
        const int unit = feature / 8 ^ (row / 2 * 2 ^ row % 2 * 4);
        return reinterpret_cast<const T*>(&ring.units[(step % kSteps * 8 + row) * kUnits + unit]) + feature % 8;
    }
    template <int N>
    __device__ __forceinline__ void load(uint32_t (&words)[N], int step, int row, int feature) const {
        const void* p = at(step, row, feature);
        if constexpr (N == 4) {
            const uint4 v = *static_cast<const uint4*>(p);
            words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w;
        } else if constexpr (N == 2) {
            const uint2 v = *static_cast<const uint2*>(p);
            words[0] = v.x, words[1] = v.y;
        } else {
            words[0] = *static_cast<const uint32_t*>(p);
        }
    }
    __device__ __forceinline__ void request(int step) const {
#pragma unroll
        for (int i = 0; i < kUnits / 4; ++i) {
            const int at_unit = lane + 32 * i, row = at_unit / kUnits, unit = at_unit % kUnits;
            const int from_row = 8 * step + row, feature = base + 8 * unit;
            if (from_row < rows && feature < dim)
                copy_async<16>(&ring.units[(step % kSteps * 8 + row) * kUnits + (unit ^ (row / 2 * 2 ^ row % 2 * 4))],
                               x + (from_row * dim + feature));
        }
        end_copy_group();
    }

    __device__ __forceinline__ void run(const uint4 (&w)[16]) const {
        for (int step = 0; step < kSteps - 1; ++step) request(step);
#pragma unroll 1
        for (int step = 0; 8 * step < rows; ++step) {
            wait_for_copies<kSteps - 2>();
            __syncwarp();  // this step is here for all, and all are done with the one that is overwritten next
            request(step + kSteps - 1);
            const int first = 8 * step + 2 * q, second = first + 1;  // the rows that this lane gets
#pragma unroll
            for (int g = 0; g < kGroups; ++g) {
                const int skip = g * G;
                if (kGroups > 1 && column + skip >= dim) continue;  // padding of the last item
                const int own = column - base + skip + r * 2 * kM;
                uint32_t y0[kM], y1[kM];
                load(y0, step, 2 * q, own);
                load(y1, step, 2 * q + 1, own);
                float c[kM][4];
#pragma unroll
                for (int m = 0; m < kM; ++m) {
                    c[m][0] = low_of<T>(y0[m]);
                    c[m][2] = high_of<T>(y0[m]);
                    c[m][1] = low_of<T>(y1[m]);
                    c[m][3] = high_of<T>(y1[m]);
                }
#pragma unroll
                for (int k = 0; k < kK; k += 2) {
                    uint32_t b[4];
                    load(b, step, r, skip + 16 * k + 8 * q);
#pragma unroll
                    for (int half = 0; half < 2; ++half)
#pragma unroll
                        for (int m = 0; m < kM; ++m)
                            mma<T>(c[m], w[(g * kM + m) * kK + k + half], b[2 * half], b[2 * half + 1]);
                }
#pragma unroll
                for (int m = 0; m < kM; ++m) {
                    y0[m] = pack<T>(c[m][0], c[m][2]);
                    y1[m] = pack<T>(c[m][1], c[m][3]);
                }
                T* const to = out + (column + skip + r * 2 * kM);
                if (first < rows) store_words(to + first * dim, y0);
                if (second < rows) store_words(to + second * dim, y1);
            }
        }
        __syncwarp();  // the next item's requests overwrite the ring
    }
};

}  // namespace spartan
