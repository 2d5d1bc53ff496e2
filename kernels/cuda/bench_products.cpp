#include "kernels/check.h"
#include "kernels/cuda/bench_cases.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace spartan {

namespace {

// `parts` products of n x k in one call. separate: each has an input of its own, as q, k and v behind a rotation.
struct ProductShape {
    const char* name;
    int parts;
    int64_t n, k;
    bool separate;
};
enum class ProductWay : uint8_t { usual, invariant, onto };

template <class Out>
void bench_product(KernelBench& bench, const ProductShape& s, int64_t m, ProductWay way = ProductWay::usual) {
    const int64_t all = s.parts * s.n, weight_bytes = 2 * all * s.k, inputs = s.separate ? s.parts : 1;
    const bool invariant = way == ProductWay::invariant, onto = way == ProductWay::onto;
    const char* const what = invariant ? "invariant product " : onto ? "product onto " : "product ";
    const std::string name = KernelBench::named(what + std::string(s.name), {{"M", m}});
    if (!bench.wants(name)) return;
    MatmulPlans& plans = invariant ? bench.invariant_plans : bench.plans;
    const RandomArray<bf16> x(bench.device, inputs * m * s.k, 2, 1);
    const OutputArray<Out> output(bench.device, onto ? 0 : m * all);
    RandomArray<Out> before(bench.device, onto ? m * all : 0, 3, 1);
    Out* const out = onto ? before.data() : output.data();
    const auto products_of = [&](int64_t round) {
        std::array<MatmulProduct<Out, bf16>, kMostProducts> products;
        for (int p = 0; p < s.parts; ++p)
            products[size_t(p)] = {out + p * m * s.n, x.data() + (s.separate ? p * m * s.k : 0),
                                   bench.piece_at(round, weight_bytes) + p * s.n * s.k, s.n};
        return products;
    };
    const auto enqueue = [&](int64_t round) {
        const auto products = products_of(round);
        const auto of_shape = std::span<const MatmulProduct<Out, bf16>>(products).first(size_t(s.parts));
        if constexpr (std::is_same_v<Out, bf16>)
            if (onto) {
                CHECK(multiply_onto<bf16>(bench.device, plans, of_shape, m, s.k));
                return;
            }
        matmul<Out, bf16>(bench.device, plans, of_shape, m, s.k);
    };
    const auto first = products_of(0);
    if (!invariant) bench.prepare_products<Out>(std::span(first).first(size_t(s.parts)), m, s.k);
    before.fill();  // prepare_products() has written to it
    enqueue(0);
    const std::string wrong = check_values(bench.device, out, m * all, 64, 4e-3, [&](int64_t i) {
        const int64_t part = i / (m * s.n), row = i % (m * s.n) / s.n, column = part * s.n + i % s.n;
        const int64_t input = (s.separate ? part * m : 0) + row;
        double sum = onto ? before[i] : 0;
        for (int64_t c = 0; c < s.k; ++c)
            sum += x[input * s.k + c] * bench.cold.at(bench.piece_at(0, weight_bytes) + column * s.k + c);
        return sum;
    });
    const Cost cost{.bytes = weight_bytes + inputs * m * s.k * 2 + (onto ? 2 : 1) * m * all * int64_t(sizeof(Out)),
                    .flops = 2 * m * all * s.k};
    // The peer gets one product with all rows of W.
    std::vector<MatmulRun<Out, bf16>> peers;
    for (int64_t i = 0; i < bench.rounds(weight_bytes); ++i)
        peers.push_back({.first = {out, x.data(), bench.piece_at(i, weight_bytes), all}});
    const int64_t calls = m <= 256 ? KernelBench::launches(weight_bytes) : 4;
    bench.device.set_overlap_launches(false);
    const double peer = bench.plans.best_blas_us<Out, bf16>(bench.device, peers, m, s.k, calls);
    bench.time({name, cost, wrong, std::isfinite(peer) ? peer : 0, weight_bytes, enqueue});
}

}  // namespace

void bench_products(KernelBench& bench) {
    constexpr ProductShape kShapes[] = {{"o 4096x4096", 1, 4096, 4096, false},
                                        {"q,k,v 3x4096x4096", 3, 4096, 4096, true},
                                        {"gate,up 2x11008x4096", 2, 11008, 4096, false},
                                        {"down 4096x11008", 1, 4096, 11008, false}};
    constexpr int64_t kRows[] = {1, 8, 16, 32, 48, 96, 256, 2048, 4096};
    for (const ProductShape& shape : kShapes)
        for (const int64_t m : kRows) bench_product<bf16>(bench, shape, m);
    for (const ProductShape& shape : kShapes)
        for (const int64_t m : {1, 8, 32, 96, 2048}) bench_product<bf16>(bench, shape, m, ProductWay::invariant);
    for (const ProductShape& shape : kShapes)
        for (const int64_t m : {2048, 4096}) bench_product<bf16>(bench, shape, m, ProductWay::onto);
    for (const int64_t m : kRows)
        if (m <= 256) bench_product<float>(bench, {"head to f32 32000x4096", 1, 32000, 4096, false}, m);
}

}  // namespace spartan
