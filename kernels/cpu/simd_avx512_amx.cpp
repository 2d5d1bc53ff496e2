#include "kernels/cpu/simd/vec_avx512.h"
//
#include "kernels/cpu/simd/kernels.h"
//
#include "kernels/cpu/simd/tiles.h"

#include <limits>

namespace spartan {
namespace {

// The compiler knows neither that tile loads read memory nor that tile stores write it: each says so itself.
struct AmxTiles {
    template <int Register>
    SIMD void load(const void* from, int64_t stride) {
        __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(Register) : "memory");
    }
    template <int Register>
    SIMD void store(void* to, int64_t stride) {
        __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(Register) : "memory");
    }
    template <int Register>
    SIMD void zero() {
        __asm__ volatile("tilezero %%tmm%c0" ::"i"(Register));
    }
    template <int Sum, int X, int W>
    SIMD void dot() {
        __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sum), "i"(X), "i"(W));
    }
    // So many rows in the first and the second tile of x; a tile without rows must have no columns either.
    SIMD void configure(int64_t low, int64_t high) {
        struct alignas(64) {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t row_bytes[16] = {};
            uint8_t rows[16] = {};
        } config;
        const int64_t rows[8] = {low, low, high, high, low, high, kTileLines, kTileLines};
        for (int i = 0; i < 8; ++i) {
            config.rows[i] = uint8_t(rows[i]);
            config.row_bytes[i] = rows[i] ? uint16_t(kLine) : uint16_t(0);
        }
        __asm__ volatile("ldtilecfg %0" ::"m"(config));
    }
    // The registers' 8 KB need not be saved when the thread is switched away.
    SIMD void release() { __asm__ volatile("tilerelease"); }
};

constexpr CpuKernels with_tiles() {
    CpuKernels kernels = kKernels;
    kernels.stream_rows_bf16 = kPassRows;
    kernels.kept_depth = std::numeric_limits<int64_t>::max();  // tiles start from zero
    kernels.matmul_bf16 = matmul_tiles<AmxTiles>;
    kernels.prepare_bf16 = prepare_bf16_lines;
    kernels.peak_bf16 = peak_tiles<AmxTiles>;
    return kernels;
}

}  // namespace

const CpuKernels kAvx512AmxKernels = with_tiles();

}  // namespace spartan
