// The skew halves of an adapter's rotations (kernels/skew.h) while they are gathered.
#pragma once

#include "core/adapter/adapter.h"
#include "core/adapter/rotation.h"

#include <atomic>
#include <vector>

namespace spartan {

class SkewHalves {
public:
    explicit SkewHalves(int64_t values) : values_(size_t(values)) {}

    // S [b, b] of one block, skew_values(b) from `place` on; different blocks from different threads.
    void put(int64_t place, const Matrix& s, int64_t b);

    // Whether a block has an entry beyond kMostSkew, with which a device cannot be trusted.
    bool too_large() const { return too_large_.load(); }

    // Moves them into the adapter: in bf16 when its own type is, and no block Q changes by more than what rounding Q
    // itself to bf16 costs.
    void hand_over(Adapter& adapter);

private:
    std::vector<float> values_;
    std::atomic<bool> too_large_{false}, needs_f32_{false};
};

// S [b, b] of the block at `place` of adapter.skew.
Matrix skew_of(const Adapter& adapter, int64_t place, int64_t b);

}  // namespace spartan
