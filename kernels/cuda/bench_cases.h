// What the cases of bench.h share: memory to read from, names to leave out, the clock.
#pragma once

#include "kernels/bench.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/bench_data.h"
#include "kernels/cuda/matmul.h"

#include <functional>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

namespace spartan {

class KernelBench {
public:
    KernelBench(CudaDevice& device, const MachineLimits& limits, const std::string& only,
                const std::function<bool()>& cancelled);

    CudaDevice& device;
    RandomArray<bf16> cold;  // weights, adapters and pages: far more than the L2 cache
    MatmulPlans plans, invariant_plans{true};

    // "what a=1 b=2"
    static std::string named(const std::string& what,
                             std::initializer_list<std::pair<const char*, int64_t>> sizes = {});
    bool wants(const std::string& name) const;

    // How many pieces of `cold` launches go round among, each reading `bytes`, and the first element of a piece.
    int64_t rounds(int64_t bytes) const;
    int64_t piece(int64_t round, int64_t bytes) const;
    const bf16* piece_at(int64_t round, int64_t bytes) const { return cold.data() + piece(round, bytes); }

    // Launches in a graph that reads so much in each.
    static int64_t launches(int64_t bytes);

    // Chooses how these products run, the first time that it is asked. They read pieces of `cold`: the first round's.
    template <class Out>
    void prepare_products(std::span<const MatmulProduct<Out, bf16>> products, int64_t m, int64_t k);

    struct Case {
        std::string name;
        Cost cost;
        std::string wrong;  // of the check before: then it is not timed
        double peer_us = 0;
        int64_t cold_bytes = 0;                      // that a launch reads of `cold`
        std::function<void(int64_t round)> enqueue;  // round < rounds(cold_bytes)
        bool in_f32 = false;                         // its arithmetic is none for tensor cores
    };
    void time(const Case& c);

    std::vector<GpuKernelTiming> take() { return std::move(timings_); }

private:
    double median_us(const Case& c, bool overlapping);
    GpuKernelTiming::Timing share_of(const Case& c, double us) const;

    MachineLimits limits_;
    std::string only_;
    const std::function<bool()>& cancelled_;
    std::vector<GpuKernelTiming> timings_;
};

// Sequences of `context` tokens whose last `rows` are in the batch, one table of pages for each of `rounds`. Pages are
// scattered over `num_pages`.
class AttentionBatch {
public:
    AttentionBatch(int64_t sequences, int64_t rows, int64_t context, int64_t block_tokens, int64_t num_pages,
                   int64_t rounds);

    CudaBatchTables tables(int64_t round = 0) const;
    const AttentionBucket& bucket() const { return bucket_; }
    int32_t page(int64_t round, int64_t sequence, int64_t block) const;

private:
    static AttentionPlan planned(const std::vector<CudaSequence>& sequences);
    std::vector<CudaSequence> sequences_of(int64_t rows, int64_t context) const;
    std::vector<CudaRow> rows_of(int64_t rows, int64_t context) const;
    std::vector<int32_t> pages_of(int64_t rounds) const;

    int64_t num_sequences_, num_pages_, blocks_;
    AttentionPlan plan_;
    AttentionBucket bucket_;
    TableArray<CudaRow> rows_;
    TableArray<CudaSequence> sequences_;
    TableArray<int32_t> pages_, counts_;
    TableArray<CudaAttentionItem> decode_, prefill_;
};

// How a batch's rows use adapters: `adapters` of them in turn, `rows` consecutive rows each.
struct AdapterRows {
    int64_t adapters = 0, rows = 0;
    int64_t total() const { return adapters * rows; }
};

// Tiles for each of `rounds`. make(round, adapter, part) gives the CudaPart, part < num_parts.
class AdapterBatch {
public:
    using Make = std::function<CudaPart(int64_t round, int64_t adapter, int part)>;
    AdapterBatch(const AdapterRows& rows, int num_parts, int64_t rounds, const Make& make);

    const CudaTile* tiles(int64_t round) const { return tiles_.data() + round * num_tiles_; }
    int num_tiles() const { return int(num_tiles_); }

private:
    static std::vector<CudaPart> parts_of(const AdapterRows& rows, int num_parts, int64_t rounds, const Make& make);
    std::vector<CudaTile> tiles_of(const AdapterRows& rows, int num_parts, int64_t rounds) const;

    int64_t num_tiles_;
    TableArray<CudaPart> parts_;
    TableArray<CudaTile> tiles_;
};

void bench_products(KernelBench&);
void bench_rotations(KernelBench&);
void bench_low_ranks(KernelBench&);
void bench_folds(KernelBench&);
void bench_attention(KernelBench&);
void bench_rows(KernelBench&);
void bench_sampling(KernelBench&);
void bench_layers(KernelBench&);

}  // namespace spartan
