#include "kernels/sample.h"

#include "kernels/check.h"
#include "kernels/cpu/simd/table.h"
#include "kernels/sample_arithmetic.h"

#include <algorithm>
#include <limits>
#include <vector>

namespace spartan {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kBlock = 64;         // logits per block maximum
constexpr int64_t kGrain = 16 * 1024;  // logits per thread worth a wake-up

// Probabilities are integers, 2^30 * exp((logit - max) / temperature): sums of these are exact, so no reduction order,
// thread count or vector width can change which token is drawn. One below about 2^-30 of the largest counts as zero.
using Weights = std::vector<int32_t>;

struct Scan {
    float max = -kInfinity;
    bool bad = false;  // NaN or +infinity was met
};

// Maxima of the blocks [first, end) of kBlock logits, and of all.
Scan scan_blocks(const CpuKernels& kernels, std::span<const float> logits, int64_t first, int64_t end,
                 float* block_max) {
    const int64_t whole = std::min(end, int64_t(logits.size()) / kBlock);
    Scan all;
    all.bad =
        kernels.block_maxima(block_max + first, logits.data() + first * kBlock, std::max(whole - first, int64_t(0)));
    if (whole < end) {  // the last, partial block
        float padded[kBlock];
        std::fill_n(padded, kBlock, -kInfinity);
        std::copy(logits.begin() + whole * kBlock, logits.end(), padded);
        all.bad |= kernels.block_maxima(block_max + whole, padded, 1);
    }
    for (int64_t b = first; b < end; ++b) all.max = std::max(all.max, block_max[b]);
    return all;
}

struct Candidate {
    uint32_t key;  // of its logit
    uint32_t weight;
    int32_t id;
};

// The end of the best candidates: those with a larger key, and those with this key up to this id.
struct Cut {
    uint32_t key = 0;
    int32_t last_id = std::numeric_limits<int32_t>::max();
    bool keeps(const Candidate& c) const { return c.key > key || (c.key == key && c.id <= last_id); }
};

// The smallest set of best candidates whose mass reaches `target`, found digit by digit of the key (a radix select:
// linear time, no sort). `mass` is 1 each for top-k and the weight for top-p. The candidates are in rising id order.
template <class Mass>
Cut select_best(const std::vector<Candidate>& candidates, uint64_t target, const Mass& mass) {
    std::vector<Candidate> boundary = candidates;
    std::vector<uint64_t> sums;
    uint64_t above = 0;
    constexpr int kDigits[3][2] = {{21, 2048}, {10, 2048}, {0, 1024}};
    for (const auto& [shift, size] : kDigits) {
        const auto digit = [s = shift, m = uint32_t(size - 1)](const Candidate& c) { return c.key >> s & m; };
        sums.assign(size_t(size), 0);
        for (const Candidate& c : boundary) sums[digit(c)] += mass(c);
        size_t d = size_t(size) - 1;
        while (d > 0 && above + sums[d] < target) above += sums[d--];
        std::erase_if(boundary, [&](const Candidate& c) { return digit(c) != d; });
    }
    if (boundary.empty()) return {};
    Cut cut{boundary[0].key, boundary[0].id};
    for (const Candidate& c : boundary) {
        cut.last_id = c.id;
        above += mass(c);
        if (above >= target) break;
    }
    return cut;
}

void keep_best(std::vector<Candidate>& candidates, const Cut& cut) {
    std::erase_if(candidates, [&](const Candidate& c) { return !cut.keeps(c); });
}

uint64_t total_weight(const std::vector<Candidate>& candidates) {
    uint64_t sum = 0;
    for (const Candidate& c : candidates) sum += c.weight;
    return sum;
}

int32_t draw(const std::vector<Candidate>& candidates, uint64_t total, uint32_t random) {
    uint64_t left = draw_point(total, random);
    for (const Candidate& c : candidates) {
        if (left < c.weight) return c.id;
        left -= c.weight;
    }
    CHECK(false);
}

// Every logit that may be among the k largest: at least k blocks have a maximum at or over the k-th largest block
// maximum.
std::vector<Candidate> top_k_candidates(const CpuKernels& kernels, std::span<const float> logits,
                                        std::span<const float> block_max, int64_t k, float max, float temperature) {
    float bound = -kInfinity;
    if (k <= int64_t(block_max.size())) {
        std::vector<float> maxima(block_max.begin(), block_max.end());
        std::nth_element(maxima.begin(), maxima.begin() + (k - 1), maxima.end(), std::greater<>());
        bound = maxima[size_t(k - 1)];
    }
    std::vector<Candidate> candidates;
    for (size_t b = 0; b < block_max.size(); ++b) {
        if (block_max[b] < bound) continue;
        const size_t end = std::min((b + 1) * size_t(kBlock), logits.size());
        for (size_t i = b * size_t(kBlock); i < end; ++i)
            if (logits[i] >= bound) candidates.push_back({key_of_logit(logits[i]), 0, int32_t(i)});
    }
    if (int64_t(candidates.size()) > k)
        keep_best(candidates, select_best(candidates, uint64_t(k), [](const Candidate&) { return uint64_t(1); }));
    std::vector<float> kept;
    for (const Candidate& c : candidates) kept.push_back(logits[size_t(c.id)]);
    Weights weights(kept.size());
    kernels.weigh_logits(weights.data(), kept.data(), int64_t(kept.size()), max, temperature);
    for (size_t i = 0; i < candidates.size(); ++i) candidates[i].weight = uint32_t(weights[i]);
    return candidates;
}

// The weights of all logits, and their sum.
uint64_t weigh_all(CpuDevice& device, std::span<const float> logits, float max, float temperature, Weights& weights) {
    const CpuKernels& kernels = kernels_for(device.isa());
    weights.resize(logits.size());
    std::vector<uint64_t> sums(size_t(device.num_threads()), 0);
    device.parallel_for(int64_t(logits.size()), kGrain, [&](int64_t begin, int64_t end, int thread) {
        kernels.weigh_logits(weights.data() + begin, logits.data() + begin, end - begin, max, temperature);
        uint64_t sum = 0;
        for (int64_t i = begin; i < end; ++i) sum += uint32_t(weights[size_t(i)]);
        sums[size_t(thread)] += sum;
    });
    uint64_t total = 0;
    for (const uint64_t s : sums) total += s;
    return total;
}

int32_t draw_from_all(const Weights& weights, uint64_t total, uint32_t random) {
    uint64_t left = draw_point(total, random);
    for (size_t begin = 0; begin < weights.size(); begin += kBlock) {
        const size_t end = std::min(begin + size_t(kBlock), weights.size());
        uint64_t sum = 0;
        for (size_t i = begin; i < end; ++i) sum += uint32_t(weights[i]);
        if (left >= sum) {
            left -= sum;
            continue;
        }
        for (size_t i = begin; i < end; ++i) {
            if (left < uint32_t(weights[i])) return int32_t(i);
            left -= uint32_t(weights[i]);
        }
    }
    CHECK(false);
}

std::vector<Candidate> top_p_candidates(std::span<const float> logits, const Weights& weights, uint64_t total,
                                        float top_p) {
    const int32_t least = least_top_p_weight(total, top_p, int64_t(logits.size()));
    std::vector<Candidate> candidates;
    for (size_t i = 0; i < weights.size(); ++i)
        if (weights[i] >= least) candidates.push_back({key_of_logit(logits[i]), uint32_t(weights[i]), int32_t(i)});
    const auto weight = [](const Candidate& c) { return uint64_t(c.weight); };
    keep_best(candidates, select_best(candidates, top_p_target(total, top_p), weight));
    return candidates;
}

}  // namespace

float philox_uniform(uint64_t seed, uint64_t position) { return float(random_24_bits(seed, position)) * 0x1p-24f; }

int32_t sample(CpuDevice& device, std::span<const float> logits, const SampleParams& p, int64_t position) {
    CHECK(logits.size() <= size_t(std::numeric_limits<int32_t>::max()));
    CHECK(p.temperature >= 0 && p.temperature < kInfinity && p.top_p > 0 && p.top_p <= 1 && p.top_k >= 0);
    const int64_t n = int64_t(logits.size()), blocks = (n + kBlock - 1) / kBlock;
    const CpuKernels& kernels = kernels_for(device.isa());
    std::vector<float> block_max(static_cast<size_t>(blocks));
    std::vector<Scan> scans(size_t(device.num_threads()));
    device.parallel_for(blocks, kGrain / kBlock, [&](int64_t begin, int64_t end, int thread) {
        const Scan s = scan_blocks(kernels, logits, begin, end, block_max.data());
        Scan& mine = scans[size_t(thread)];
        mine = {std::max(mine.max, s.max), mine.bad || s.bad};
    });
    Scan all;
    for (const Scan& s : scans) all = {std::max(all.max, s.max), all.bad || s.bad};
    if (all.bad || all.max == -kInfinity) return -1;
    if (p.temperature == 0) {
        const auto block = std::find(block_max.begin(), block_max.end(), all.max) - block_max.begin();
        return int32_t(std::find(logits.begin() + block * kBlock, logits.end(), all.max) - logits.begin());
    }

    const uint32_t random = random_24_bits(p.seed, uint64_t(position));
    const auto weight = [](const Candidate& c) { return uint64_t(c.weight); };
    std::vector<Candidate> candidates;
    if (p.top_k > 0 && p.top_k < n) {
        candidates = top_k_candidates(kernels, logits, block_max, p.top_k, all.max, p.temperature);
        const uint64_t target = top_p_target(total_weight(candidates), p.top_p);
        if (p.top_p < 1) keep_best(candidates, select_best(candidates, target, weight));
    } else {
        Weights weights;
        const uint64_t total = weigh_all(device, logits, all.max, p.temperature, weights);
        if (p.top_p == 1) return draw_from_all(weights, total, random);
        candidates = top_p_candidates(logits, weights, total, p.top_p);
    }
    return draw(candidates, total_weight(candidates), random);
}

}  // namespace spartan
