// WIDEST_VECTORS before a function: it is compiled for several vector widths, and the widest that the machine has runs.
// Nothing is reordered or fused (-ffp-contract=off), so the values are the same everywhere. Sanitizers start too late
// for functions that are chosen while a program loads.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define WIDEST_VECTORS __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define WIDEST_VECTORS
#endif
