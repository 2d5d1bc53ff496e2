// All launches of a decode layer of Llama 2 7B in the order in which a model's step has them, so that what is lost
// between launches shows. Each kernel's own case checks it; here only that nothing becomes NaN.
#include "kernels/cuda/bench_cases.h"
#include "kernels/cuda/rotate.h"
#include "kernels/cuda/rows.h"

#include <array>
#include <cmath>
#include <memory>

namespace spartan {

namespace {

constexpr int64_t kHidden = 4096, kInner = 11008, kContext = 256, kGroup = 64;
constexpr KvLayout kLayout{32, 32, 128, 16};
constexpr float kEps = 1e-5f;
constexpr int kRotated = 4;  // q, k, v, o

// What of a layer is launched: each includes those before it.
enum class Extent { products, rows, all };

class Layer {
public:
    Layer(KernelBench& bench, Extent extent, int64_t rows, int64_t adapters)
        : bench_(bench),
          extent_(extent),
          rows_(rows),
          adapters_(adapters),
          rounds_(bench.rounds(bytes())),
          x_(bench.device, rows * kHidden, 20, 1),
          weight_(bench.device, kHidden, 21, 1),
          attended_(bench.device, rows * kHidden, 22, 1),
          gate_up_(bench.device, 2 * rows * kInner, 23, 1),
          h_(bench.device, rows * kHidden, 25, 1),
          out_(bench.device, rows * kHidden, 26, 1),
          qkv_(bench.device, 3 * rows * kHidden, 27, 1),
          rotated_(bench.device, 3 * rows * kHidden),
          pool_(bench.device, rows * (kContext / kLayout.block_tokens) * kLayout.page_elements(), 30, 1),
          inv_freq_(frequencies()),
          sequences_(rows, 1, kContext, kLayout.block_tokens, pool_.size() / kLayout.page_elements(), 1),
          gate_(gate_up_.data()),
          up_(gate_up_.data() + rows * kInner),
          q_(qkv_.data()),
          k_(qkv_.data() + rows * kHidden),
          v_(qkv_.data() + 2 * rows * kHidden),
          workspace_(attention_workspace_bytes<bf16>(kLayout, sequences_.bucket())) {
        CHECK_CUDA(cudaMemsetAsync(workspace_.data(), 0, size_t(workspace_.bytes()), bench.device.stream()));
        if (adapters > 0)
            batch_ = std::make_unique<AdapterBatch>(
                AdapterRows{adapters, rows / adapters}, kRotated, rounds_, [&](int64_t round, int64_t adapter, int p) {
                    CudaPart part;
                    part.rotation = weights(round) + kWeights + (adapter * kRotated + p) * kHidden * kGroup;
                    part.group = kGroup;
                    part.rotation_packed = 1;
                    return part;
                });
        const auto prepare = [&](std::span<const MatmulProduct<bf16, bf16>> products, int64_t k) {
            bench.prepare_products<bf16>(products, rows_, k);
        };
        prepare(qkv(h_.data(), 0), kHidden);
        if (adapters > 0) prepare(qkv(rotated_.data(), 0), kHidden);
        prepare(output(attended_.data(), 0), kHidden);
        prepare(gate_up(0), kHidden);
        prepare(down(0), kInner);
    }

    int64_t bytes() const { return 2 * (kWeights + adapters_ * kRotated * kHidden * kGroup); }
    Cost cost() const {
        const int64_t kv = 2 * rows_ * kContext * 2 * kHidden;
        return {.bytes = bytes() + (extent_ == Extent::all ? kv : 0), .flops = 2 * rows_ * kWeights};
    }

    void enqueue(int64_t round) {
        CudaDevice& device = bench_.device;
        if (extent_ != Extent::products) norm(out_.data());
        const bf16* in = rotate_rows(round, h_.data(), 0, 3);
        multiply(qkv(in, round), kHidden);
        if (extent_ == Extent::all) attend();
        multiply(output(rotate_rows(round, attended_.data(), 3, 1), round), kHidden);
        if (extent_ != Extent::products) norm(out_.data());
        multiply(gate_up(round), kHidden);
        if (extent_ != Extent::products) gate_mul<bf16>(device, gate_, gate_, up_, GateKind::silu, rows_, kInner);
        multiply(down(round), kInner);
    }

    std::string wrong() const {
        bench_.device.synchronize();
        std::vector<float> x(static_cast<size_t>(x_.size()));
        CHECK_CUDA(cudaMemcpy(x.data(), x_.data(), x.size() * 4, cudaMemcpyDeviceToHost));
        for (const float v : x)
            if (!std::isfinite(v)) return "not finite";
        return "";
    }

private:
    static constexpr int64_t kSquare = kHidden * kHidden, kWeights = 4 * kSquare + 3 * kHidden * kInner;

    static std::vector<float> frequencies() {
        std::vector<float> list;
        for (int64_t i = 0; i < kLayout.head_dim / 2; ++i)
            list.push_back(float(std::pow(10000.0, -2.0 * double(i) / double(kLayout.head_dim))));
        return list;
    }
    const bf16* weights(int64_t round) const { return bench_.piece_at(round, bytes()); }

    void norm(const bf16* delta) {
        add_rms_norm<bf16>(bench_.device, h_.data(), x_.data(), delta, 1, weight_.data(), kEps, rows_, kHidden);
    }
    const bf16* rotate_rows(int64_t round, const bf16* in, int first, int count) {
        if (!batch_) return in;
        rotate<bf16>(bench_.device, rotated_.data(), in, batch_->tiles(round), batch_->num_tiles(), first, count, rows_,
                     kHidden, kGroup, false);
        return rotated_.data();
    }
    template <size_t kCount>
    using Products = std::array<MatmulProduct<bf16, bf16>, kCount>;
    Products<3> qkv(const bf16* in, int64_t round) const {
        const int64_t apart = in == rotated_.data() ? rows_ * kHidden : 0;
        const bf16* const w = weights(round);
        return {{{q_, in, w, kHidden},
                 {k_, in + apart, w + kSquare, kHidden},
                 {v_, in + 2 * apart, w + 2 * kSquare, kHidden}}};
    }
    Products<1> output(const bf16* in, int64_t round) const {
        return {{{out_.data(), in, weights(round) + 3 * kSquare, kHidden}}};
    }
    Products<2> gate_up(int64_t round) const {
        const bf16* const w = weights(round) + 4 * kSquare;
        return {{{gate_, h_.data(), w, kInner}, {up_, h_.data(), w + kHidden * kInner, kInner}}};
    }
    Products<1> down(int64_t round) const {
        return {{{out_.data(), gate_, weights(round) + 4 * kSquare + 2 * kHidden * kInner, kHidden}}};
    }
    void multiply(std::span<const MatmulProduct<bf16, bf16>> products, int64_t k) {
        matmul<bf16, bf16>(bench_.device, bench_.plans, products, rows_, k);
    }
    void attend() {
        const View<bf16, 2> q{q_, {rows_, kHidden}}, out{attended_.data(), {rows_, kHidden}};
        QkvSteps steps;
        steps.inv_freq = inv_freq_.data();
        steps.rotated = kLayout.head_dim;
        store_qkv<bf16>(bench_.device, pool_.data(), kLayout, q, {k_, {rows_, kHidden}}, {v_, {rows_, kHidden}}, steps,
                        sequences_.tables());
        attention<bf16>(bench_.device, out, q, pool_.data(), kLayout, 0.08838835f, 0, sequences_.tables(),
                        sequences_.bucket(), {workspace_.data(), sequences_.bucket()});
    }

    KernelBench& bench_;
    Extent extent_;
    int64_t rows_, adapters_, rounds_;
    RandomArray<float> x_, weight_;
    RandomArray<bf16> attended_, gate_up_, h_, out_, qkv_;
    OutputArray<bf16> rotated_;
    RandomArray<bf16> pool_;
    TableArray<float> inv_freq_;
    AttentionBatch sequences_;
    bf16 *gate_, *up_, *q_, *k_, *v_;
    DeviceMemory workspace_;
    std::unique_ptr<AdapterBatch> batch_;
};

void bench_layer(KernelBench& bench, const std::string& what, Extent extent, int64_t rows, int64_t adapters) {
    const std::string name = KernelBench::named("layer " + what, {{"M", rows}});
    if (!bench.wants(name)) return;
    Layer layer(bench, extent, rows, adapters);
    for (int i = 0; i < 3; ++i) layer.enqueue(0);
    bench.time({name, layer.cost(), layer.wrong(), 0, layer.bytes(), [&](int64_t round) { layer.enqueue(round); }});
}

}  // namespace

void bench_layers(KernelBench& bench) {
    for (const int64_t rows : {1, 8, 32, 96}) {
        bench_layer(bench, "products only", Extent::products, rows, 0);
        bench_layer(bench, "and norms, gate", Extent::rows, rows, 0);
        bench_layer(bench, "base", Extent::all, rows, 0);
        bench_layer(bench, "BOFT, 1 adapter", Extent::all, rows, 1);
        if (rows > 1) bench_layer(bench, "BOFT, an adapter each", Extent::all, rows, rows);
    }
}

}  // namespace spartan
