// How much an adapter changes its base, for views: how strongly, where.
#pragma once

#include "core/adapter/adapter.h"

#include <cstdint>
#include <string>
#include <vector>

namespace spartan {

// What an adapter can change; first the projections, in their order.
enum class ChangedPart : uint8_t {
    q,
    k,
    v,
    o,
    gate,
    up,
    down,
    attention_norm,
    mlp_norm,
    q_norm,
    k_norm,
    final_norm,
    embedding,
    head
};
const char* name_of(ChangedPart part);  // "q" … "down", "attention norm" …, "embed", "head"

// Of one linear layer, table or norm that the adapter changes: |W' - W| / |W| in the Frobenius norm, with W' the weight
// that would give the adapter's output from the unchanged input (merged_rows.h), over the rows that were looked at: all
// of up to kMostRows, else so many evenly spaced ones, and every trained token's. Biases do not count.
struct PartChange {
    int layer = -1;  // -1: of no layer
    ChangedPart part{};
    double relative = 0;
};
constexpr int64_t kMostRows = 64;

// Linear layers in the order of adapter.parts, then norms, embedding and head. `adapter` was loaded for `model`. Counts
// them in `progress`; ends early, with what it has, when that is cancelled. Empty where memory for it cannot be had.
std::vector<PartChange> measure_change(const Adapter& adapter, const Model& model, Progress& progress);

// Layers that the adapter treats alike, in words: "q k v o, layers 0-29: b 16, m 2, groups of 32".
std::vector<std::string> describe_structure(const Adapter& adapter);

}  // namespace spartan
