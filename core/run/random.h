// Repeatable random draws for plans and prompts: Philox4x32-10 (Salmon et al. 2011) of (seed; index, repeat, purpose),
// so that draw i is the same whatever was drawn before it and however many requests there are.
#pragma once

#include "kernels/philox.h"

#include <array>
#include <cstdint>

namespace spartan {

// One endless stream of draws, restarted for each index.
class RandomStream {
public:
    // `purpose` separates streams of one seed (arrivals, lengths, …), `repeat` those of one purpose.
    RandomStream(uint64_t seed, uint16_t purpose, uint32_t repeat, uint64_t index)
        : seed_(seed), purpose_(purpose), repeat_(repeat), index_(index) {}

    uint64_t bits();             // 64 random bits
    double uniform();            // [0, 1), 53 bits
    double uniform_open();       // (0, 1)
    uint64_t below(uint64_t n);  // [0, n), n > 0; unbiased
    double normal();             // mean 0, standard deviation 1 (Box-Muller)
    double gamma(double shape);  // scale 1 (Marsaglia and Tsang 2000; shape < 1 by their power boost)

private:
    uint64_t seed_;
    uint16_t purpose_;
    uint32_t repeat_;
    uint64_t index_;
    uint32_t block_ = 0;
    int used_ = 2;
    std::array<uint64_t, 2> words_{};
};

}  // namespace spartan
