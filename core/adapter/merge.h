// A model with an adapter multiplied into its weights, as PEFT's merge_and_unload() leaves it.
#pragma once

#include "core/adapter/adapter.h"

#include <string>
#include <vector>

namespace spartan {

struct MergeReport {
    int64_t bytes = 0;                // of model.safetensors
    bool untied = false;              // embedding and head were one tensor and are two now
    std::vector<std::string> copied;  // files of the base's folder
};

// Fills `dir`, which exists, with model.safetensors, config.json and the tokenizer's files:
//
//     W' = diag(gain) (W Rᵀ + scale · B A),  bias' = the adapter's        of each linear layer (R: rot(x) = Rᵀ x)
//
// in fp32 and rounded once to `dtype` (f32, bf16). Model and adapter are in f32. The base is a Hugging Face folder; the
// checkpoint is written as that family has it. Refuses a bias where the base has no place for one. Progress counts
// bytes written; when cancelled, `dir` holds a part.
Result<MergeReport> write_merged(const Model& model, const Adapter& adapter, DType dtype, const std::string& dir,
                                 Progress& progress);

}  // namespace spartan
