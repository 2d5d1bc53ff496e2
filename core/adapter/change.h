// How much an adapter changes its base, for views: how strongly, where.
#pragma once

#include "core/adapter/adapter.h"

#include <cstdint>
#include <vector>

namespace spartan {

// Of one linear layer that the adapter changes: |W' - W| / |W| in the Frobenius norm, with W' the weight that would
// give the adapter's output from the unchanged input,
//
//     W' = gain * ( W · R + scale · B A )        R: rot(x) = R x
//
// over the rows that were looked at: all of up to kMostRows, else so many evenly spaced ones. Biases do not count.
struct PartChange {
    int layer = 0;
    Projection projection{};
    double relative = 0;
};
constexpr int64_t kMostRows = 64;

// In the order of adapter.parts. `adapter` was loaded for `model`. Counts parts in `progress`; ends early, with what it
// has, when that is cancelled.
std::vector<PartChange> measure_change(const Adapter& adapter, const Model& model, Progress& progress);

// Layers that the adapter treats alike, in words: "q k v o, layers 0-29: b 16, m 2, groups of 32".
std::vector<std::string> describe_structure(const Adapter& adapter);

}  // namespace spartan
