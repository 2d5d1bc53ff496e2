#include "kernels/check.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/sample.h"
#include "kernels/sample_arithmetic.h"

#include <cmath>

namespace spartan {

namespace {

constexpr int kThreads = 1024, kWarps = 32, kBins = 2048;
using Mass = unsigned long long;

__device__ Mass sum_of_warp(Mass v) {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) v += __shfl_xor_sync(~0u, v, offset);
    return v;
}
__device__ Mass max_of_warp(Mass v) {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) v = max(v, __shfl_xor_sync(~0u, v, offset));
    return v;
}
__device__ Mass sum_up_to_lane(Mass v) {
    const int lane = int(threadIdx.x % 32);
#pragma unroll
    for (int offset = 1; offset < 32; offset <<= 1) {
        const Mass below = __shfl_up_sync(~0u, v, offset);
        if (lane >= offset) v += below;
    }
    return v;
}

struct Shared {
    uint32_t low[kBins], high[kBins];  // masses summed by bin; there is no fast atomic addition of 64 bits here
    Mass of_warp[2][kWarps];
    uint32_t key_of_thread[kThreads];
};

// Best candidates: those with a larger key, and those with this key up to this id.
struct Cut {
    uint32_t key = 0;
    int32_t last_id = 0x7fffffff;
    Mass mass = 0;  // of all of them
    __device__ bool keeps(uint32_t k, int32_t id) const { return k > key || (k == key && id <= last_id); }
};

// Where a running sum reaches its target, and the sum before that place.
struct Place {
    int index;
    Mass before;
};

// What all threads of the block do together for one row. Every result is the same in all of them.
struct Team {
    Shared& shared;
    const int warp = int(threadIdx.x / 32), lane = int(threadIdx.x % 32);
    int turn = 0;  // the half of of_warp to write next: the other may still be read

    // The value of each warp, that of warp i in lane i.
    __device__ Mass exchange(Mass of_warp) {
        if (lane == 0) shared.of_warp[turn][warp] = of_warp;
        __syncthreads();
        const Mass v = shared.of_warp[turn][lane];
        turn ^= 1;
        return v;
    }
    __device__ Mass sum(Mass v) { return sum_of_warp(exchange(sum_of_warp(v))); }
    __device__ Mass largest(Mass v) { return max_of_warp(exchange(max_of_warp(v))); }

    // The least index in [0, end) for which mass(0) + ... + mass(index) >= target; there is one. Cuts the range in 32,
    // then the piece in which the target is reached, and so on.
    template <class MassOf>
    __device__ Place find(int end, Mass target, const MassOf& mass) {
        int begin = 0;
        Mass before = 0;
        const auto step_to = [&](Mass up_to_lane) {  // the lane in which the target is reached
            const unsigned reached = __ballot_sync(~0u, before + up_to_lane >= target);
            const int chosen = reached ? __ffs(int(reached)) - 1 : 31;
            const Mass passed = __shfl_sync(~0u, up_to_lane, chosen > 0 ? chosen - 1 : 0);
            if (chosen > 0) before += passed;
            return chosen;
        };
        while (end - begin > 32) {
            const int span = (end - begin + 1023) / 1024 * 32;
            const int from = begin + warp * span, to = min(from + span, end);
            Mass sum = 0;
#pragma unroll 4
            for (int i = from + lane; i < to; i += 32) sum += mass(i);
            const int chosen = step_to(sum_up_to_lane(exchange(sum_of_warp(sum))));
            begin += chosen * span;
            end = min(begin + span, end);
        }
        const int chosen = step_to(sum_up_to_lane(begin + lane < end ? mass(begin + lane) : 0));
        return {begin + chosen, before};
    }

    // Sums the masses of [0, count) by bin, and finds the bin, of those from 0 to `bins` - 1, in which the sum reaches
    // `target`. Candidates whose bin is negative are left out. A mass is below 2^32.
    template <class BinOf, class MassOf>
    __device__ Place find_bin(int bins, int count, Mass target, const BinOf& bin_of, const MassOf& mass) {
        __syncthreads();  // the bins may still be read
        for (int i = int(threadIdx.x); i < bins; i += kThreads) shared.low[i] = shared.high[i] = 0;
        __syncthreads();
#pragma unroll 4
        for (int i = int(threadIdx.x); i < count; i += kThreads) {
            const int bin = bin_of(i);
            const auto m = bin < 0 ? 0u : uint32_t(mass(i));
            if (m == 0) continue;
            const uint32_t before = atomicAdd(&shared.low[bin], m);
            if (before + m < before) atomicAdd(&shared.high[bin], 1u);
        }
        __syncthreads();
        return find(bins, target, [&](int i) { return mass_of_bin(i); });
    }
    __device__ Mass mass_of_bin(int i) const { return Mass(shared.high[i]) << 32 | shared.low[i]; }

    // The smallest set of best candidates of [0, count) whose mass reaches `target`. coarse(i), from 0 to kBins - 1,
    // never falls as the key does: it spreads the candidates over many bins. The rest goes digit by digit of the key.
    // Candidates with equal keys have equal masses, mass_of_key(key); a mass of 0: no candidate.
    template <class Coarse, class KeyOf, class MassOf, class MassOfKey>
    __device__ Cut select(int count, Mass target, const Coarse& coarse, const KeyOf& key, const MassOf& mass,
                          const MassOfKey& mass_of_key) {
        const Place piece = find_bin(kBins, count, target, coarse, mass);
        uint32_t found = 0, known = 0;  // digits, and their bits
        Mass above = piece.before, tied = 0;
        for (int digit = 0; digit < 3; ++digit) {
            const int shift = digit == 0 ? 21 : digit == 1 ? 10 : 0, size = digit == 2 ? 1024 : 2048;
            const auto digit_of = [&](int i) {  // 0 for the largest
                if (coarse(i) != piece.index) return -1;
                const uint32_t k = key(i);
                return (k & known) != found ? -1 : size - 1 - int(k >> shift & uint32_t(size - 1));
            };
            const Place place = find_bin(size, count, target - above, digit_of, mass);
            above += place.before;
            tied = mass_of_bin(place.index);
            found |= uint32_t(size - 1 - place.index) << shift;
            known |= uint32_t(size - 1) << shift;
        }
        const Mass each = mass_of_key(found), taken = (target - above + each - 1) / each;
        Cut cut;
        cut.key = found;
        cut.mass = above + taken * each;
        if (taken * each < tied)
            cut.last_id = find(count, taken, [&](int i) { return Mass(key(i) == found && mass(i) > 0); }).index;
        return cut;
    }
};

struct Row {
    const float* logits;
    int vocab;

    __device__ uint32_t key(int id) const { return key_of_logit(logits[id]); }

    // Every logit that may be among the k largest has at least this key: k threads have met one that large.
    __device__ uint32_t bound_of_top_k(Team& team, int k) const {
        if (k > kThreads) return key_of_logit(-INFINITY);
        const uint32_t* keys = team.shared.key_of_thread;
        return team
            .select(
                kThreads, Mass(k), [](int) { return 0; }, [&](int i) { return keys[i]; }, [](int) { return Mass(1); },
                [](uint32_t) { return Mass(1); })
            .key;
    }

    __device__ int32_t pick(Team& team, const CudaSampleParams& p) const {
        constexpr float kInfinity = INFINITY;
        float highest = -kInfinity;
        int id = 0;
        bool bad = false;
#pragma unroll 8
        for (int i = int(threadIdx.x); i < vocab; i += kThreads) {
            const float v = logits[i];
            bad |= !(v < kInfinity);
            if (v > highest) {
                highest = v;
                id = i;
            }
        }
        team.shared.key_of_thread[threadIdx.x] = key_of_logit(highest);
        if (__syncthreads_or(bad)) return -1;
        const Mass best = team.largest(Mass(key_of_logit(highest)) << 32 | (0xffffffffu - uint32_t(id)));
        const float max = logit_of_key(uint32_t(best >> 32));
        if (max == -kInfinity) return -1;
        if (p.temperature == 0) return int32_t(0xffffffffu - uint32_t(best));
        return draw(team, p, max);
    }

    __device__ int32_t draw(Team& team, const CudaSampleParams& p, float max) const {
        const auto weight = [&](float logit) {
            if (logit - max < -21.f * p.temperature) return Mass(0);  // what weigh_logit() finds too: under 2^-30
            return Mass(weigh_logit(logit, max, p.temperature));
        };
        // Bins of equal width from the largest logit down to `span` below it.
        const auto coarse_over = [&](float span) {
            return [this, max, scale = float(kBins) / span](int i) {
                return int(fminf((max - logits[i]) * scale, float(kBins - 1)));
            };
        };
        Cut cut;
        const bool limited = p.top_k > 0 && p.top_k < vocab;
        if (limited) {
            const uint32_t bound = bound_of_top_k(team, p.top_k);
            cut = team.select(
                vocab, Mass(p.top_k), coarse_over(max - logit_of_key(bound)), [&](int i) { return key(i); },
                [&](int i) { return Mass(key(i) >= bound); }, [](uint32_t) { return Mass(1); });
        }
        const auto weight_of = [&](int i, const Cut& c) {
            const float logit = logits[i];
            return c.keeps(key_of_logit(logit), i) ? weight(logit) : Mass(0);
        };
        Mass total = 0;
#pragma unroll 4
        for (int i = int(threadIdx.x); i < vocab; i += kThreads) total += weight_of(i, cut);
        total = team.sum(total);

        Cut likely;
        if (p.top_p < 1) {
            const Mass least = limited ? 1 : Mass(least_top_p_weight(total, p.top_p, vocab));
            const auto mass = [&](int i) {
                const Mass w = weight_of(i, cut);
                return w < least ? Mass(0) : w;
            };
            likely = team.select(
                vocab, top_p_target(total, p.top_p), coarse_over(21.f * p.temperature), [&](int i) { return key(i); },
                mass, [&](uint32_t k) { return weight(logit_of_key(k)); });
            total = likely.mass;
        }
        const Mass point = draw_point(total, random_24_bits(p.seed, uint64_t(p.position)));
        return team.find(vocab, point + 1, [&](int i) { return likely.keeps(key(i), i) ? weight_of(i, cut) : Mass(0); })
            .index;
    }
};

__global__ void __launch_bounds__(kThreads)
    sample_kernel(int32_t* tokens, const float* logits, int vocab, const CudaSampleParams* params) {
    __shared__ Shared shared;
    pdl_trigger();
    const CudaSampleParams p = params[blockIdx.x];
    pdl_wait();
    if (!p.sample) return;
    Team team{shared};
    const Row row{logits + int64_t(blockIdx.x) * vocab, vocab};
    const int32_t token = row.pick(team, p);
    if (threadIdx.x == 0) tokens[blockIdx.x] = token;
}

}  // namespace

void sample(CudaDevice& device, int32_t* tokens, View<const float, 2> logits, const CudaSampleParams* params) {
    const int64_t rows = logits.shape[0], vocab = logits.shape[1];
    CHECK(rows >= 0 && vocab >= 0 && vocab <= int64_t(1) << 30);
    launch(device, sample_kernel, dim3(unsigned(rows)), kThreads, 0, tokens, logits.data, int(vocab), params);
}

}  // namespace spartan
