#include "kernels/cuda/bench_cases.h"
#include "kernels/cuda/lora.h"
#include "kernels/cuda/rotate.h"

#include <algorithm>

namespace spartan {

namespace {

constexpr int64_t kDim = 4096;
constexpr int kParts = 3;  // q, k, v

// Sizes that adapters have in turn: groups or ranks. Where in a round's piece of cold memory each part lies.
class Sizes {
public:
    Sizes(std::vector<int> turn, int64_t adapters, int64_t elements_per_size, int parts)
        : turn_(std::move(turn)), elements_per_size_(elements_per_size), parts_(parts) {
        for (int64_t a = 0; a < adapters; ++a)
            for (int p = 0; p < parts; ++p) {
                begins_.push_back(total_);
                total_ += of(a) * elements_per_size_;
            }
    }
    int of(int64_t adapter) const { return turn_[size_t(adapter) % turn_.size()]; }
    int largest() const { return *std::max_element(turn_.begin(), turn_.end()); }
    int64_t begin(int64_t adapter, int part) const { return begins_[size_t(adapter * parts_ + part)]; }
    int64_t bytes() const { return 2 * total_; }
    int64_t total(int64_t adapters) const {
        int64_t sum = 0;
        for (int64_t a = 0; a < adapters; ++a) sum += of(a);
        return sum;
    }

private:
    std::vector<int> turn_;
    int64_t elements_per_size_, total_ = 0;
    int parts_;
    std::vector<int64_t> begins_;
};

void bench_rotation(KernelBench& bench, const std::string& what, const std::vector<int>& groups, AdapterRows rows) {
    const std::string name =
        KernelBench::named("rotate q,k,v " + what, {{"adapters", rows.adapters}, {"rows", rows.total()}});
    if (!bench.wants(name)) return;
    const Sizes sizes(groups, rows.adapters, kDim, kParts);
    const int64_t bytes = sizes.bytes(), total = rows.total();
    const RandomArray<bf16> x(bench.device, total * kDim, 3, 1);
    const OutputArray<bf16> out(bench.device, kParts * total * kDim);
    const AdapterBatch batch(rows, kParts, bench.rounds(bytes), [&](int64_t round, int64_t adapter, int p) {
        CudaPart part;
        part.rotation = bench.piece_at(round, bytes) + sizes.begin(adapter, p);
        part.group = sizes.of(adapter);
        part.rotation_packed = 1;
        return part;
    });
    const auto enqueue = [&](int64_t round) {
        rotate<bf16>(bench.device, out.data(), x.data(), batch.tiles(round), batch.num_tiles(), 0, kParts, total, kDim,
                     sizes.largest(), false);
    };
    enqueue(0);
    const auto want = [&](int64_t i) {
        const int64_t row = i / kDim % total, column = i % kDim, adapter = row / rows.rows;
        const int64_t group = sizes.of(adapter), first = column / group * group;
        const bf16* packed = bench.piece_at(0, bytes) + sizes.begin(adapter, int(i / (total * kDim)));
        double sum = x[row * kDim + column];
        for (int64_t u = 0; u < group; ++u)
            sum += x[row * kDim + first + u] * bench.cold.at(packed + packed_rotation_offset(group, column, u));
        return sum;
    };
    const std::string wrong = check_values(bench.device, out.data(), out.size(), 200, 4e-3, want);
    const Cost cost{.bytes = bytes + (1 + kParts) * total * kDim * 2,
                    .flops = 2 * kParts * kDim * rows.rows * sizes.total(rows.adapters)};
    bench.time({name, cost, wrong, 0, bytes, enqueue});
}

void bench_low_rank(KernelBench& bench, const std::string& what, const std::vector<int>& ranks, AdapterRows rows,
                    int parts = kParts, bool sets = false) {
    const std::string layers = std::string(sets ? "lora to set " : "lora ") + (parts == 1 ? "o " : "q,k,v ");
    const std::string name = KernelBench::named(layers + what, {{"adapters", rows.adapters}, {"rows", rows.total()}});
    if (!bench.wants(name)) return;
    constexpr float kScale = 1;
    const Sizes sizes(ranks, rows.adapters, 2 * kDim, parts);  // A, then B transposed
    const int64_t bytes = sizes.bytes(), total = rows.total();
    const RandomArray<bf16> x(bench.device, total * kDim, 4, 1), out(bench.device, parts * total * kDim, 5, 1);
    const OutputArray<float> workspace(bench.device, lora_workspace_bytes(parts, total, kDim, sizes.largest()) / 4);
    const AdapterBatch batch(rows, parts, bench.rounds(bytes), [&](int64_t round, int64_t adapter, int p) {
        const bf16* a = bench.piece_at(round, bytes) + sizes.begin(adapter, p);
        CudaPart part;
        part.rank = sizes.of(adapter);
        part.a = a;
        part.b_t = a + part.rank * kDim;
        part.scale = kScale;
        return part;
    });
    LoraOutputs<bf16> outputs;
    for (int p = 0; p < parts; ++p) {
        outputs.out[p] = out.data() + p * total * kDim;
        outputs.width[p] = kDim;
    }
    const auto enqueue = [&](int64_t round) {
        lora<bf16>(bench.device, outputs, x.data(), batch.tiles(round), batch.num_tiles(), 0, parts, total, kDim,
                   sizes.largest(), workspace.data(), sets);
    };
    enqueue(0);
    const auto want = [&](int64_t i) {
        const int64_t row = i / kDim % total, column = i % kDim, adapter = row / rows.rows, rank = sizes.of(adapter);
        const bf16* a = bench.piece_at(0, bytes) + sizes.begin(adapter, int(i / (total * kDim)));
        const bf16* b = a + rank * kDim;
        double sum = sets ? 0 : out[i];
        for (int64_t r = 0; r < rank; ++r) {
            double low = 0;
            for (int64_t k = 0; k < kDim; ++k) low += x[row * kDim + k] * bench.cold.at(a + r * kDim + k);
            sum += double(kScale) * low * bench.cold.at(b + r * kDim + column);
        }
        return sum;
    };
    const std::string wrong = check_values(bench.device, out.data(), out.size(), 24, 4e-3, want);
    const Cost cost{.bytes = bytes + (1 + (sets ? 1 : 2) * parts) * total * kDim * 2,
                    .flops = 4 * parts * kDim * rows.rows * sizes.total(rows.adapters)};
    bench.time({name, cost, wrong, 0, bytes, enqueue});
}

}  // namespace

void bench_rotations(KernelBench& bench) {
    for (const int64_t n : {1, 8, 16, 32, 96}) bench_rotation(bench, "G=64", {64}, {n, 1});
    for (const int group : {16, 32, 128, 256}) bench_rotation(bench, "G=" + std::to_string(group), {group}, {32, 1});
    for (const int64_t n : {8, 32, 96}) bench_rotation(bench, "G=16…256", {16, 32, 64, 128, 256}, {n, 1});
    bench_rotation(bench, "G=64", {64}, {8, 12});
    bench_rotation(bench, "G=64", {64}, {8, 512});
}

void bench_low_ranks(KernelBench& bench) {
    for (const int64_t n : {1, 8, 32, 96}) bench_low_rank(bench, "r=64", {64}, {n, 1});
    for (const int64_t n : {8, 32, 96}) bench_low_rank(bench, "r=8…128", {8, 16, 32, 64, 128}, {n, 1});
    bench_low_rank(bench, "r=64", {64}, {8, 12});
    for (const int parts : {kParts, 1})
        for (const bool sets : {false, true}) bench_low_rank(bench, "r=64", {64}, {8, 512}, parts, sets);
    bench_low_rank(bench, "r=8…128", {8, 16, 32, 64, 128}, {8, 512});
}

}  // namespace spartan
