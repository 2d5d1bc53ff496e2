#include "kernels/check.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/sample.h"
#include "kernels/sample_arithmetic.h"

#include <cmath>

namespace spartan {

namespace {

constexpr int kThreads = 1024, kWarps = 32, kBins = 2048;
constexpr int kFew = 512;  // candidates that are compared each with each
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
    int num_few;  // may be more than there is room for
    uint32_t few_keys[kFew], few_masses[kFew];
    int32_t few_ids[kFew];
    int chosen;  // of the few
    Mass before_chosen;
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

    // The lane in which before + of_lane(0) + ... + of_lane(lane) reaches the target; adds what is before it.
    __device__ static int step_to(Mass of_lane, Mass target, Mass& before) {
        const Mass up_to_lane = sum_up_to_lane(of_lane);
        const unsigned reached = __ballot_sync(~0u, before + up_to_lane >= target);
        const int chosen = reached ? __ffs(int(reached)) - 1 : 31;
        const Mass passed = __shfl_sync(~0u, up_to_lane, chosen > 0 ? chosen - 1 : 0);
        if (chosen > 0) before += passed;
        return chosen;
    }

    // The least index in [begin, end) for which before + mass(begin) + ... + mass(index) >= target; there is one. Cuts
    // the range in 32, then the piece in which the target is reached, and so on.
    template <class MassOf>
    __device__ Place find(int begin, int end, Mass before, Mass target, const MassOf& mass) {
        while (end - begin > 32) {
            const int span = (end - begin + 1023) / 1024 * 32;
            const int from = begin + warp * span, to = min(from + span, end);
            Mass sum = 0;
#pragma unroll 4
            for (int i = from + lane; i < to; i += 32) sum += mass(i);
            const int chosen = step_to(exchange(sum_of_warp(sum)), target, before);
            begin += chosen * span;
            end = min(begin + span, end);
        }
        const int chosen = step_to(begin + lane < end ? mass(begin + lane) : 0, target, before);
        return {begin + chosen, before};
    }

    // Sums the masses of [0, count) by bin, and finds the bin, of those from 0 to `bins` - 1, in which the sum reaches
    // `target`. Candidates whose bin is negative are left out. A mass is below 2^32.
    template <class BinOf, class MassOf>
    __device__ Place find_bin(int bins, int count, Mass target, const BinOf& bin_of, const MassOf& mass) {
        clear_bins(bins);
#pragma unroll 4
        for (int i = int(threadIdx.x); i < count; i += kThreads) {
            const int bin = bin_of(i);
            const auto m = bin < 0 ? 0u : uint32_t(mass(i));
            if (m != 0) add_to_bin(bin, m);
        }
        return find_in_bins(bins, target);
    }
    __device__ void clear_bins(int bins) {
        __syncthreads();  // they may still be read
        for (int i = int(threadIdx.x); i < bins; i += kThreads) shared.low[i] = shared.high[i] = 0;
        __syncthreads();
    }
    __device__ void add_to_bin(int bin, uint32_t mass) {
        const uint32_t before = atomicAdd(&shared.low[bin], mass);
        if (before + mass < before) atomicAdd(&shared.high[bin], 1u);
    }
    __device__ Place find_in_bins(int bins, Mass target) {
        __syncthreads();  // all have added theirs
        return find(0, bins, 0, target, [&](int i) { return mass_of_bin(i); });
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
            cut.last_id = find(0, count, 0, taken, [&](int i) { return Mass(key(i) == found && mass(i) > 0); }).index;
        return cut;
    }

    // A few candidates, in any order; all threads know how many behind the next barrier. Before the first: clear_few()
    // and a barrier.
    __device__ void clear_few() {
        if (threadIdx.x == 0) shared.num_few = 0;
    }
    __device__ void add_to_few(uint32_t key, int32_t id, uint32_t mass) {
        const int at = atomicAdd(&shared.num_few, 1);
        if (at >= kFew) return;
        shared.few_keys[at] = key;
        shared.few_ids[at] = id;
        shared.few_masses[at] = mass;
    }
    __device__ bool better(int j, int i) const {
        const uint32_t *keys = shared.few_keys, other = keys[j], own = keys[i];
        return other > own || (other == own && shared.few_ids[j] < shared.few_ids[i]);
    }
    // The sum over those that are before candidate i; `before(j, i)` orders them.
    template <class Before>
    __device__ Mass few_before(int i, const Before& before) const {
        Mass sum = 0;
#pragma unroll 4
        for (int j = 0; j < shared.num_few; ++j) sum += before(j, i) ? shared.few_masses[j] : 0;
        return sum;
    }
    // The candidate with which the sum in that order reaches `target`; there is one.
    template <class Before>
    __device__ Place find_of_few(Mass target, const Before& order) {
        if (const int i = int(threadIdx.x); i < shared.num_few) {
            const Mass before = few_before(i, order);
            if (before < target && before + shared.few_masses[i] >= target) {
                shared.chosen = i;
                shared.before_chosen = before;
            }
        }
        __syncthreads();
        return {shared.chosen, shared.before_chosen};
    }
    // Best candidates that reach `target`, when those above all of the few have `above`.
    __device__ Cut cut_few(Mass target, Mass above) {
        const Place last = find_of_few(target - above, [&](int j, int i) { return better(j, i); });
        Cut cut;
        cut.key = shared.few_keys[last.index];
        cut.last_id = shared.few_ids[last.index];
        cut.mass = above + last.before + shared.few_masses[last.index];
        return cut;
    }
};

// Bins of equal width from the largest logit down to `span` below it, and one more behind. Never rises with the logit.
struct Bins {
    float max, scale;
    __device__ Bins(float largest, float span) : max(largest), scale(float(kBins) / span) {}
    __device__ int of(float logit) const { return int(fminf((max - logit) * scale, float(kBins - 1))); }
};

struct Row {
    const float* logits;
    int vocab;
    // A warp's share of a whole pass.
    const int span = (vocab + kWarps - 1) / kWarps;

    __device__ uint32_t key(int id) const { return key_of_logit(logits[id]); }

    // All logits, each by one thread: body(id, logit), and body(-1, -infinity) beyond the last. Many loads before the
    // first use: one block has to hide all latency.
    template <class Body>
    __device__ void each(const Team& team, const Body& body) const {
        constexpr int kAtOnce = 16;
        const int begin = team.warp * span, end = min(begin + span, vocab);
        for (int first = begin; first < end; first += 32 * kAtOnce) {
            float x[kAtOnce];
#pragma unroll
            for (int j = 0; j < kAtOnce; ++j) {
                const int id = first + 32 * j + team.lane;
                x[j] = id < end ? logits[id] : -INFINITY;
            }
#pragma unroll
            for (int j = 0; j < kAtOnce; ++j) {
                const int id = first + 32 * j + team.lane;
                body(id < end ? id : -1, x[j]);
            }
        }
    }

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
        each(team, [&](int i, float v) {
            bad |= !(v < kInfinity);
            if (v > highest) {
                highest = v;
                id = i;
            }
        });
        team.shared.key_of_thread[threadIdx.x] = key_of_logit(highest);
        if (__syncthreads_or(bad)) return -1;
        const Mass best = team.largest(Mass(key_of_logit(highest)) << 32 | (0xffffffffu - uint32_t(id)));
        const float max = logit_of_key(uint32_t(best >> 32));
        if (max == -kInfinity) return -1;
        if (p.temperature == 0) return int32_t(0xffffffffu - uint32_t(best));
        return draw(team, p, max);
    }

    // Whose weight decides.
    struct Draw {
        const CudaSampleParams& p;
        float max;

        __device__ Mass weight(float logit) const {
            if (logit - max < -21.f * p.temperature) return 0;  // what weigh_logit() finds too: under 2^-30
            return Mass(weigh_logit(logit, max, p.temperature));
        }
        __device__ Mass point_of(Mass total) const {
            return draw_point(total, random_24_bits(p.seed, uint64_t(p.position)));
        }
    };

    __device__ int32_t draw(Team& team, const CudaSampleParams& p, float max) const {
        const Draw d{p, max};
        int32_t token = -1;
        const bool limited = p.top_k > 0 && p.top_k < vocab;
        const bool done = limited ? draw_of_best(team, d, token) : draw_of_likely(team, d, token);
        return done ? token : draw_of_many(team, d, limited);
    }

    // One of the k best, unless more than a few might be among them (false): at least k threads have met a logit in the
    // bins up to the one in which the threads' largest come to k, so that the k best are all there.
    __device__ bool draw_of_best(Team& team, const Draw& d, int32_t& token) const {
        const int k = d.p.top_k;
        if (k > kFew) return false;
        const uint32_t* keys = team.shared.key_of_thread;
        const auto least_key = ~uint32_t(team.largest(~keys[threadIdx.x]));
        const Bins bins(d.max, d.max - logit_of_key(least_key));
        team.clear_few();
        const int last_bin = team.find_bin(
                                     kBins, kThreads, Mass(k), [&](int i) { return bins.of(logit_of_key(keys[i])); },
                                     [](int) { return Mass(1); })
                                 .index;
        each(team, [&](int id, float logit) {
            if (logit > -INFINITY && bins.of(logit) <= last_bin) team.add_to_few(key_of_logit(logit), id, 1);
        });
        __syncthreads();
        const int count = team.shared.num_few;
        if (count > kFew) return false;

        const int i = int(threadIdx.x);
        uint32_t mass = 0;
        if (i < count && team.few_before(i, [&](int j, int own) { return team.better(j, own); }) < Mass(k))
            mass = uint32_t(d.weight(logit_of_key(team.shared.few_keys[i])));
        const Mass total = team.sum(mass);  // a barrier: all ranks are known
        if (i < count) team.shared.few_masses[i] = mass;
        __syncthreads();
        Cut likely;
        likely.mass = total;
        if (d.p.top_p < 1) {
            likely = team.cut_few(top_p_target(total, d.p.top_p), 0);
            if (i < count && !likely.keeps(team.shared.few_keys[i], team.shared.few_ids[i])) mass = 0;
            __syncthreads();
            if (i < count) team.shared.few_masses[i] = mass;
            __syncthreads();
        }
        const int32_t* ids = team.shared.few_ids;
        token =
            ids[team.find_of_few(d.point_of(likely.mass) + 1, [&](int j, int own) { return ids[j] < ids[own]; }).index];
        return true;
    }

    // One of all, or of the most likely, unless more than a few are about as likely as the last of those (false).
    __device__ bool draw_of_likely(Team& team, const Draw& d, int32_t& token) const {
        Mass mass = 0;
        each(team, [&](int, float logit) { mass += d.weight(logit); });
        Mass of_warps = team.exchange(sum_of_warp(mass));
        Cut likely;
        likely.mass = sum_of_warp(of_warps);
        if (d.p.top_p < 1) {
            const Mass target = top_p_target(likely.mass, d.p.top_p);
            const auto least = Mass(least_top_p_weight(likely.mass, d.p.top_p, vocab));
            // What is further below the largest weighs less than that.
            const float depth = (30.01f - log2f(float(least))) * 0.6932f * d.p.temperature;
            const Bins bins(d.max, depth);
            team.clear_few();
            const Place last = find_bin_of_likely(team, d, bins, depth, least, target);
            mass = 0;
            each(team, [&](int id, float logit) {
                if (d.max - logit > depth) return;
                const int bin = bins.of(logit);
                if (bin > last.index) return;
                const Mass weight = d.weight(logit);
                if (bin < last.index)
                    mass += weight;
                else if (weight >= least)
                    team.add_to_few(key_of_logit(logit), id, uint32_t(weight));
            });
            __syncthreads();
            const int count = team.shared.num_few;
            if (count > kFew) return false;
            likely = team.cut_few(target, last.before);
            for (int i = team.lane; i < count; i += 32) {
                const int32_t id = team.shared.few_ids[i];
                if (id / span == team.warp && likely.keeps(team.shared.few_keys[i], id))
                    mass += team.shared.few_masses[i];
            }
            of_warps = team.exchange(sum_of_warp(mass));
        }
        const Mass wanted = d.point_of(likely.mass) + 1;
        Mass before = 0;
        const int begin = Team::step_to(of_warps, wanted, before) * span;
        token = team.find(begin, min(begin + span, vocab), before, wanted,
                          [&](int i) {
                              const float logit = logits[i];
                              return likely.keeps(key_of_logit(logit), i) ? d.weight(logit) : Mass(0);
                          })
                    .index;
        return true;
    }
    __device__ Place find_bin_of_likely(Team& team, const Draw& d, const Bins& bins, float depth, Mass least,
                                        Mass target) const {
        team.clear_bins(kBins);
        each(team, [&](int, float logit) {
            if (d.max - logit > depth) return;
            const Mass weight = d.weight(logit);
            if (weight >= least) team.add_to_bin(bins.of(logit), uint32_t(weight));
        });
        return team.find_in_bins(kBins, target);
    }

    // The same for as many candidates as there are.
    __device__ int32_t draw_of_many(Team& team, const Draw& d, bool limited) const {
        const CudaSampleParams& p = d.p;
        const auto coarse_over = [&](float span_of_bins) {
            return [this, bins = Bins(d.max, span_of_bins)](int i) { return bins.of(logits[i]); };
        };
        Cut cut;
        if (limited) {
            const uint32_t bound = bound_of_top_k(team, p.top_k);
            cut = team.select(
                vocab, Mass(p.top_k), coarse_over(d.max - logit_of_key(bound)), [&](int i) { return key(i); },
                [&](int i) { return Mass(key(i) >= bound); }, [](uint32_t) { return Mass(1); });
        }
        const auto weight_of = [&](int i, const Cut& c) {
            const float logit = logits[i];
            return c.keeps(key_of_logit(logit), i) ? d.weight(logit) : Mass(0);
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
                mass, [&](uint32_t k) { return d.weight(logit_of_key(k)); });
            total = likely.mass;
        }
        return team
            .find(0, vocab, 0, d.point_of(total) + 1,
                  [&](int i) { return likely.keeps(key(i), i) ? weight_of(i, cut) : Mass(0); })
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
