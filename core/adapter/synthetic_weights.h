// The weights of synthetic adapters.
#pragma once

#include "core/adapter/fold.h"

#include <array>

namespace spartan {

inline constexpr std::array kSyntheticTargets = {Projection::q, Projection::k, Projection::v, Projection::o};

// Weights of one module from (seed, global_index, layer, projection) alone, in integer arithmetic up to the last
// rounding, so that they are the same everywhere. Every value is exact in bf16. Sized to turn or shift a layer's output
// by roughly a tenth to a quarter: other answers, still words.
ModuleWeights synthetic_weights(const AdapterPart& part, AdapterKind kind, int64_t global_index, uint64_t seed);

}  // namespace spartan
