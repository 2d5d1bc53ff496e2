#include "kernels/cuda/bench_cases.h"
#include "kernels/cuda/fold.h"
#include "kernels/cuda/rotate.h"

#include <algorithm>

namespace spartan {

namespace {

constexpr int64_t kDim = 4096;
using Dense = std::vector<double>;

// Q = 2 (I + S)^-1 - I of one block, by elimination in double precision.
Dense rotation_block(const KernelBench& bench, const bf16* skew, int64_t b) {
    Dense a(size_t(b * b), 0.0);
    for (int64_t i = 0, at = 0; i < b; ++i) {
        a[size_t(i * b + i)] = 1;
        for (int64_t j = i + 1; j < b; ++j, ++at) {
            a[size_t(i * b + j)] = bench.cold.at(skew + at);
            a[size_t(j * b + i)] = -a[size_t(i * b + j)];
        }
    }
    for (int64_t k = 0; k < b; ++k) {
        const double p = 1 / a[size_t(k * b + k)];
        Dense row(a.begin() + k * b, a.begin() + (k + 1) * b);
        for (double& v : row) v *= p;
        row[size_t(k)] = p;
        for (int64_t i = 0; i < b; ++i) {
            const double f = a[size_t(i * b + k)];
            for (int64_t j = 0; j < b; ++j)
                a[size_t(i * b + j)] =
                    i == k ? row[size_t(j)] : (j == k ? 0 : a[size_t(i * b + j)]) - f * row[size_t(j)];
        }
    }
    for (int64_t i = 0; i < b * b; ++i) a[size_t(i)] = 2 * a[size_t(i)] - (i / b == i % b ? 1 : 0);
    return a;
}

// The features of block `block` of a factor, in a group.
int64_t feature_of(int64_t b, int64_t factor, int64_t block, int64_t t) {
    const int64_t stride = int64_t(1) << factor, half = b / 2;
    return factor == 0 ? block * b + t
                       : block / stride * stride * b + (block % stride + t / half * stride) * half + t % half;
}

// Row u of one group's product.
Dense product_row(const KernelBench& bench, const bf16* skew, int64_t b, int64_t m, int64_t u) {
    const int64_t blocks = int64_t(1) << (m - 1);
    Dense row(size_t(b * blocks), 0.0);
    row[size_t(u)] = 1;
    for (int64_t factor = m - 1; factor >= 0; --factor)
        for (int64_t block = 0; block < blocks; ++block) {
            const Dense q = rotation_block(bench, skew + (factor * blocks + block) * skew_values(b), b);
            Dense out(size_t(b), 0.0);
            for (int64_t t = 0; t < b; ++t)
                for (int64_t v = 0; v < b; ++v)
                    out[size_t(v)] += row[size_t(feature_of(b, factor, block, t))] * q[size_t(t * b + v)];
            for (int64_t v = 0; v < b; ++v) row[size_t(feature_of(b, factor, block, v))] = out[size_t(v)];
        }
    return row;
}

// `layers` rotations of 4096 features from skew halves in bf16 to the packed form.
void bench_fold(KernelBench& bench, int64_t b, int64_t m, int64_t layers, int most_blocks) {
    std::string name = KernelBench::named("fold", {{"b", b}, {"m", m}, {"rotations", layers}});
    if (most_blocks > 0) name += " by " + std::to_string(most_blocks) + " blocks";
    if (!bench.wants(name)) return;
    const int64_t group = b << (m - 1), groups = kDim / group, values = skew_values_of(kDim, b, m);
    const int64_t bytes = 2 * layers * values;
    const OutputArray<bf16> out(bench.device, layers * kDim * group);
    const int64_t scratch_bytes = fold_scratch_bytes(b, m) * groups;
    const OutputArray<float> scratch(bench.device, std::max<int64_t>(layers * scratch_bytes / 4, 1));
    std::vector<FoldJob> jobs;
    for (int64_t round = 0; round < bench.rounds(bytes); ++round)
        for (int64_t l = 0; l < layers; ++l) {
            FoldJob& job = jobs.emplace_back();
            job.skew = bench.piece_at(round, bytes) + l * values;
            job.rotation = out.data() + l * kDim * group;
            if (scratch_bytes > 0) job.factors = scratch.data() + l * scratch_bytes / 4;
            job.group = int32_t(group);
            job.groups = int32_t(groups);
            job.half = job.packed = true;
        }
    const TableArray<FoldJob> on_device(jobs);
    const auto enqueue = [&](int64_t round) {
        fold_rotations<bf16>(bench.device, on_device.data() + round * layers, int(layers),
                             {int32_t(b), int32_t(m), int32_t(groups)}, most_blocks);
    };
    enqueue(0);
    const auto want = [&](int64_t i) {
        const PackedPlace place = packed_rotation_place(group, i % (kDim * group));
        const bf16* skew =
            bench.piece_at(0, bytes) + i / (kDim * group) * values + place.column / group * skew_values_of_group(b, m);
        return product_row(bench, skew, b, m, place.u)[size_t(place.column % group)] -
               (place.u == place.column % group ? 1 : 0);
    };
    const std::string wrong = check_values(bench.device, out.data(), out.size(), 24, 4e-3, want);
    // Elimination, and the terms of the products that are not zero.
    const int64_t blocks = layers * groups * m << (m - 1);
    const int64_t terms = layers * groups * group * b * b / 2 * ((int64_t(1) << m) - 2);
    const Cost cost{.bytes = bytes + 2 * layers * kDim * group, .flops = 2 * (blocks * b * b * b + terms)};
    bench.time({.name = name, .cost = cost, .wrong = wrong, .cold_bytes = bytes, .enqueue = enqueue, .in_f32 = true});
}

}  // namespace

void bench_folds(KernelBench& bench) {
    constexpr int64_t kPiece = 16;  // rotations that come in at once: 4 MB of skew halves
    for (const int most_blocks : {0, 32, 64}) bench_fold(bench, 32, 2, kPiece, most_blocks);
    bench_fold(bench, 64, 2, kPiece / 2, 0);
    bench_fold(bench, 32, 1, kPiece, 0);
    bench_fold(bench, 16, 1, 2 * kPiece, 0);
    bench_fold(bench, 128, 1, kPiece / 4, 0);
}

}  // namespace spartan
