// Matrices of 32 x 32 in a warp's registers and their inverses, on the tensor cores in all but fp32.
//
// Lane 4r + q holds rows r + 8a and columns 2q + 8b, 2q + 8b + 1 of block (a, b), a, b < 4: what mma.m16n8k8 gives it
// of its sums. Where sum index 2q is called q and 2q + 1 is called q + 4, those values are also what it wants as the
// left factor, and with each block transposed as the right one.
//
// The tensor cores round their factors to tf32 (11 bits). Each factor is split into what that keeps and the rest, and
// of the four products the three that matter are taken: what is lost is about 2^-21 of a term. Their sums are cut off,
// not rounded, so a product is summed on its own before it is added to what it may nearly cancel.
//
// Gauss-Jordan elimination in place takes 8 pivots at once. With P the inverse of pivot block (k, k), and U = -A[:][k]
// P but P in row k,
//
//     A[i][j] = (i == k ? 0 : A[i][j]) + U[i] A[k][j]      j != k
//     A[i][k] = U[i]
//
// Every step moves the blocks up and to the left by one, so that the pivot is always block (0, 0): four of them move
// all blocks back. No pivots are looked for: use it where the symmetric part is positive definite.
#pragma once

#include "kernels/cuda/skew.cuh"

namespace spartan {

struct Square {
    float v[2][4][4];  // [a / 2][b][a % 2 * 2 + column % 2]

    __device__ __forceinline__ float& at(int a, int b, int odd) { return v[a / 2][b][a % 2 * 2 + odd]; }
};

// a: rows r and r + 8 at sum index q, the same at q + 4. b: sum indices q and q + 4 of column r.
__device__ __forceinline__ void mma_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Up to one unit in the last place.
__device__ __forceinline__ float reciprocal(float v) {
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v));
    return r;
}

// The values of one factor, in the order in which mma_tf32() takes them.
template <int N>
struct Split {
    uint32_t high[N], low[N];

    __device__ __forceinline__ void set(int i, float v) {
        high[i] = (__float_as_uint(v) + 0x1000u) & 0xffffe000u;
        low[i] = __float_as_uint(v - __uint_as_float(high[i]));  // exact; its last bits are not looked at
    }
};
__device__ __forceinline__ Split<4> left_factor(const float (&v)[4]) {
    Split<4> s;
    s.set(0, v[0]);
    s.set(1, v[2]);
    s.set(2, v[1]);
    s.set(3, v[3]);
    return s;
}
// Of a block that is transposed already.
__device__ __forceinline__ Split<2> right_factor(float x, float y) {
    Split<2> s;
    s.set(0, x);
    s.set(1, y);
    return s;
}
__device__ __forceinline__ void multiply(float (&c)[4], const Split<4>& a, const Split<2>& b) {
    c[0] = c[1] = c[2] = c[3] = 0;
    mma_tf32(c, a.low, b.high);
    mma_tf32(c, a.high, b.low);
    mma_tf32(c, a.high, b.high);
}

// An 8 x 8 block: (x, y) from row r, columns 2q and 2q + 1 to rows 2q and 2q + 1, column r.
__device__ __forceinline__ void transpose(float& x, float& y, int lane) {
    const int r = lane / 4, q = lane % 4, odd = r % 2, from = 8 * q + r / 2;
    const float first = __shfl_sync(~0u, odd ? y : x, from + 4 * odd);
    const float second = __shfl_sync(~0u, odd ? x : y, from + 4 - 4 * odd);
    x = odd ? second : first;
    y = odd ? first : second;
}

// The value of lane `from`, of which bits `own` are the asking lane's own: known when compiled, so that no register
// holds where to look.
template <int own>
__device__ __forceinline__ float value_of(float v, int from) {
    float out;
    asm volatile("shfl.sync.idx.b32 %0, %1, %2, %3, -1;" : "=f"(out) : "f"(v), "r"(from), "n"(own << 8 | 31));
    return out;
}

// An 8 x 8 block becomes its inverse.
__device__ __forceinline__ void invert_block(float& x, float& y, int lane) {
    constexpr int kColumn = 3, kRow = 28;  // a lane's own q, r
    const int r = lane / 4, q = lane % 4;
#pragma unroll
    for (int k = 0; k < 8; ++k) {
        const float p = reciprocal(value_of<0>(k % 2 ? y : x, 4 * k + k / 2));
        const float f = value_of<kRow>(k % 2 ? y : x, k / 2);
        float row_x = value_of<kColumn>(x, 4 * k) * p, row_y = value_of<kColumn>(y, 4 * k) * p;
        if (q == k / 2) {
            (k % 2 ? row_y : row_x) = p;
            (k % 2 ? y : x) = 0;
        }
        x = r == k ? row_x : fmaf(-f, row_x, x);
        y = r == k ? row_y : fmaf(-f, row_y, y);
    }
}

__device__ __forceinline__ void invert(Square& s, int lane) {
#pragma unroll 1
    for (int k = 0; k < 4; ++k) {
        float x = s.at(0, 0, 0), y = s.at(0, 0, 1);
        invert_block(x, y, lane);
        float u[2][4], opposite_x = -x, opposite_y = -y;
        transpose(opposite_x, opposite_y, lane);
        const Split<2> p = right_factor(opposite_x, opposite_y);
#pragma unroll
        for (int t = 0; t < 2; ++t) multiply(u[t], left_factor(s.v[t][0]), p);
        u[0][0] = x;
        u[0][1] = y;
        const Split<4> left[2] = {left_factor(u[0]), left_factor(u[1])};
#pragma unroll
        for (int j = 1; j < 4; ++j) {
            float row_x = s.at(0, j, 0), row_y = s.at(0, j, 1);
            transpose(row_x, row_y, lane);
            const Split<2> right = right_factor(row_x, row_y);
            float sum[2][4];
#pragma unroll
            for (int t = 0; t < 2; ++t) multiply(sum[t], left[t], right);
#pragma unroll
            for (int odd = 0; odd < 2; ++odd) {
#pragma unroll
                for (int a = 1; a < 4; ++a) s.at(a - 1, j - 1, odd) = s.at(a, j, odd) + sum[a / 2][a % 2 * 2 + odd];
                s.at(3, j - 1, odd) = sum[0][odd];
            }
        }
#pragma unroll
        for (int a = 0; a < 4; ++a)
#pragma unroll
            for (int odd = 0; odd < 2; ++odd) s.at((a + 3) % 4, 3, odd) = u[a / 2][a % 2 * 2 + odd];
    }
}

constexpr int kSquare = 32, kSquareValues = kSquare * (kSquare - 1) / 2;

// The triangle of a block's skew half, into shared memory by a warp.
template <class S>
__device__ __forceinline__ void fetch_triangle(float* to, const S* skew, int lane) {
    float v[2][8];
#pragma unroll
    for (int n = 0; n < 2; ++n)
        if (lane * 8 + 256 * n < kSquareValues) load_skew(skew + lane * 8 + 256 * n, v[n]);
#pragma unroll
    for (int n = 0; n < 2; ++n)
        if (lane * 8 + 256 * n < kSquareValues) {
            auto* at = reinterpret_cast<float4*>(to + lane * 8 + 256 * n);
            at[0] = make_float4(v[n][0], v[n][1], v[n][2], v[n][3]);
            at[1] = make_float4(v[n][4], v[n][5], v[n][6], v[n][7]);
        }
}

// I + S, or I - S. S[i][j] lies at rows[i] + j where i < j, and its opposite at columns[j] + i where i > j.
__device__ __forceinline__ void one_plus_skew(Square& s, const float* triangle, bool negative, int lane) {
    const int r = lane / 4, q = lane % 4;
    const float above = negative ? -1.f : 1.f, below = -above;
    int rows[4], columns[4][2];
#pragma unroll
    for (int a = 0; a < 4; ++a) {
        rows[a] = skew_place(8 * a + r, 2 * q, kSquare);
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) columns[a][odd] = skew_place(8 * a + 2 * q + odd, r, kSquare);
    }
#pragma unroll
    for (int a = 0; a < 4; ++a)
#pragma unroll
        for (int b = 0; b < 4; ++b)
#pragma unroll
            for (int odd = 0; odd < 2; ++odd) {
                float& v = s.at(a, b, odd);
                const int in_row = rows[a] + 8 * b + odd, in_column = columns[b][odd] + 8 * a;
                if (a < b)
                    v = above * triangle[in_row];
                else if (a > b)
                    v = below * triangle[in_column];
                else {
                    const bool right = r < 2 * q + odd;
                    v = (right ? above : below) * triangle[max(right ? in_row : in_column, 0)];
                    if (r == 2 * q + odd) v = 1;
                }
            }
}

// Q = 2 (I + S)^-1 - I of one block, or Qᵀ. triangle: in shared memory, which the warp has just written and may write
// again when this returns.
__device__ __forceinline__ void rotation_of_triangle(Square& q, const float* triangle, bool transposed, int lane) {
    __syncwarp();
    one_plus_skew(q, triangle, transposed, lane);
    __syncwarp();
    invert(q, lane);
#pragma unroll
    for (int a = 0; a < 4; ++a)
#pragma unroll
        for (int b = 0; b < 4; ++b)
#pragma unroll
            for (int odd = 0; odd < 2; ++odd)
                q.at(a, b, odd) = 2.f * q.at(a, b, odd) - (a == b && lane / 4 == lane % 4 * 2 + odd ? 1.f : 0.f);
}

}  // namespace spartan
