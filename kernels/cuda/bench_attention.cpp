#include "kernels/cuda/bench_cases.h"

#include <algorithm>
#include <cmath>

namespace spartan {

namespace {

constexpr KvLayout kMha{32, 32, 128, 16}, kGqa{32, 4, 128, 16};
constexpr float kScale = 0.08838835f;

int64_t pages_in(const RandomArray<bf16>& memory, const KvLayout& l) { return memory.size() / l.page_elements(); }

struct AttentionShape {
    KvLayout layout;
    int64_t sequences, rows, context;  // the last `rows` of `context` tokens are in the batch

    // Of round 0, in double precision.
    double value(const AttentionBatch& batch, const RandomArray<bf16>& pool, const RandomArray<bf16>& q,
                 int64_t i) const {
        const KvLayout& l = layout;
        const int64_t row = i / (l.num_heads * l.head_dim), head = i / l.head_dim % l.num_heads, d = i % l.head_dim;
        const int64_t kv_head = head / (l.num_heads / l.kv_heads), position = context - rows + row % rows;
        double total = 0, sum = 0;
        for (int64_t j = 0; j <= position; ++j) {
            const int64_t page = batch.page(0, row / rows, j / l.block_tokens);
            const int64_t key = page * l.page_elements() + (kv_head * l.block_tokens + j % l.block_tokens) * l.head_dim;
            double score = 0;
            for (int64_t c = 0; c < l.head_dim; ++c) score += q[i - d + c] * pool[key + c];
            const double weight = std::exp(score * double(kScale));  // scores are a few units at most
            total += weight;
            sum += weight * pool[key + l.page_elements() / 2 + d];
        }
        return sum / total;
    }
    Cost cost() const {
        const int64_t pairs = sequences * (rows * context - rows * (rows - 1) / 2), width = 2 * layout.head_dim;
        return {.bytes = sequences * (context * 2 * layout.kv_heads + rows * 2 * layout.num_heads) * width,
                .flops = 4 * pairs * layout.num_heads * layout.head_dim};
    }
};

void bench_shape(KernelBench& bench, const std::string& name, const AttentionShape& s) {
    if (!bench.wants(name)) return;
    const KvLayout& l = s.layout;
    const int64_t rows = s.sequences * s.rows, width = l.num_heads * l.head_dim, bytes = s.cost().bytes;
    const AttentionBatch batch(s.sequences, s.rows, s.context, l.block_tokens, pages_in(bench.cold, l),
                               bench.rounds(bytes));
    const RandomArray<bf16> q(bench.device, rows * width, 6, 64);
    const OutputArray<bf16> out(bench.device, rows * width);
    const DeviceMemory workspace(attention_workspace_bytes<bf16>(l, batch.bucket()));
    if (workspace.bytes() > 0)
        CHECK_CUDA(cudaMemsetAsync(workspace.data(), 0, size_t(workspace.bytes()), bench.device.stream()));
    const auto enqueue = [&](int64_t round) {
        attention<bf16>(bench.device, {out.data(), {rows, width}}, {q.data(), {rows, width}}, bench.cold.data(), l,
                        kScale, 0, batch.tables(round), batch.bucket(), {workspace.data(), batch.bucket()});
    };
    enqueue(0);
    const int samples = int(std::clamp<int64_t>((1 << 16) / s.context, 4, 32));
    const std::string wrong = check_values(bench.device, out.data(), out.size(), samples, 1e-2,
                                           [&](int64_t i) { return s.value(batch, bench.cold, q, i); });
    bench.time({name, s.cost(), wrong, 0, bytes, enqueue});
}

// The step before attention: rotary embedding of q and k, and k and v into their pages. Every row at its own place.
void bench_store(KernelBench& bench, int64_t sequences, int64_t rows_each) {
    const int64_t rows = sequences * rows_each, context = rows_each + 255;
    const std::string name = KernelBench::named("store_qkv 32 heads of 128", {{"rows", rows}});
    if (!bench.wants(name)) return;
    const KvLayout& l = kMha;
    const int64_t width = l.num_heads * l.head_dim,
                  pages = sequences * ((context + l.block_tokens - 1) / l.block_tokens);
    const AttentionBatch batch(sequences, rows_each, context, l.block_tokens, pages, 1);
    const RandomArray<bf16> q(bench.device, rows * width, 7, 1), k(bench.device, rows * width, 8, 1),
        v(bench.device, rows * width, 9, 1);
    const OutputArray<bf16> pool(bench.device, pages * l.page_elements());
    std::vector<float> frequencies;
    for (int64_t i = 0; i < l.head_dim / 2; ++i)
        frequencies.push_back(float(std::pow(10000.0, -2.0 * double(i) / double(l.head_dim))));
    const TableArray<float> inv_freq(frequencies);
    QkvSteps steps;
    steps.inv_freq = inv_freq.data();
    steps.rotated = l.head_dim;
    const auto enqueue = [&](int64_t) {
        store_qkv<bf16>(bench.device, pool.data(), l, {q.data(), {rows, width}}, {k.data(), {rows, width}},
                        {v.data(), {rows, width}}, steps, batch.tables());
    };
    enqueue(0);
    const auto rotated = [&](const RandomArray<bf16>& x, int64_t i) {
        const int64_t d = i % l.head_dim, half = l.head_dim / 2, position = 255 + i / width % rows_each;
        const double angle = double(float(position) * frequencies[size_t(d % half)]);
        return x[i] * std::cos(angle) + (d < half ? -x[i + half] : x[i - half]) * std::sin(angle);
    };
    std::string wrong =
        check_values(bench.device, q.data(), q.size(), 64, 4e-3, [&](int64_t i) { return rotated(q, i); });
    // One row's keys and values, where they belong.
    const int64_t row = rows - 1, position = context - 1;
    const int64_t page = batch.page(0, sequences - 1, position / l.block_tokens) * l.page_elements();
    for (int half = 0; half < 2 && wrong.empty(); ++half) {
        const int64_t head = 17, at = row * width + head * l.head_dim;
        const bf16* stored = pool.data() + page + half * l.page_elements() / 2 +
                             (head * l.block_tokens + position % l.block_tokens) * l.head_dim;
        wrong = check_values(bench.device, stored, l.head_dim, 64, 4e-3,
                             [&](int64_t i) { return half == 0 ? rotated(k, at + i) : v[at + i]; });
    }
    bench.time({name, {.bytes = 12 * rows * width, .flops = 0}, wrong, 0, 0, enqueue});
}

}  // namespace

void bench_attention(KernelBench& bench) {
    for (const bool gqa : {false, true})
        for (const int64_t context : {256, 272, 1024, 8192})  // 272: a little more than a whole piece
            for (const int64_t batch : {1, 32, 96, 256})
                bench_shape(bench,
                            KernelBench::named(gqa ? "decode attention GQA 32/4" : "decode attention MHA 32",
                                               {{"batch", batch}, {"context", context}}),
                            {gqa ? kGqa : kMha, batch, 1, context});
    bench_shape(bench, "prefill attention MHA 32 1x2048", {kMha, 1, 2048, 2048});
    bench_shape(bench, "prefill attention MHA 32 8x512", {kMha, 8, 512, 512});
    bench_shape(bench, "prefill attention GQA 32/4 1x2048", {kGqa, 1, 2048, 2048});
    for (const int64_t rows : {1, 32, 96}) bench_store(bench, rows, 1);
    bench_store(bench, 4, 512);
}

}  // namespace spartan
