// From one module's tensors as PEFT keeps them to the parts of the one formula, in memory order of Adapter::blob.
#pragma once

#include "core/adapter/adapter.h"
#include "core/adapter/peft_folder.h"
#include "core/adapter/rotation.h"
#include "core/adapter/skew_halves.h"

#include <limits>
#include <optional>
#include <string>
#include <vector>

namespace spartan {

// In fp32, all values finite. Those that do not apply are empty.
struct ModuleWeights {
    std::vector<float> boft_r;       // [m, D, b, b]
    std::vector<float> boft_s;       // [out]
    std::vector<float> oft_r;        // [blocks, b (b - 1) / 2]; one row when shared. BOFT's [1, blocks, b, b] when old
    std::vector<float> lora_a;       // [r, in]; of an embedding [r, vocab]
    std::vector<float> lora_b;       // [out, r]
    std::vector<float> lora_b_bias;  // [out]
    std::vector<float> magnitude;    // [out]
    std::vector<float> bias;         // [out]
};

// How OFT's matrices follow from their parameters; BOFT's are always exact.
struct RotationRules {
    bool oft = false, old_oft = false, neumann = false, shared = false;
    int64_t terms = 5;
    NeumannSeries series = NeumannSeries::peft_0_18;
    double limit = std::numeric_limits<double>::infinity();  // of the norm of a block's parameters (COFT)

    bool is_exact() const { return !oft || old_oft || !neumann; }
};

// Of a module with `in` inputs and `out` outputs.
RotationRules rotation_rules(const PeftConfig& config, const PeftModule& module, int64_t in, int64_t out);

// How many parameters a b x b block is stored as, and the block Q that follows from them.
int64_t stored_values(int64_t b, const RotationRules& rules);
Matrix rotation_block(const float* stored, int64_t b, const RotationRules& rules, const Progress& progress);
// S of an exact one.
Matrix skew_block(const float* stored, int64_t b, const RotationRules& rules);

// What is wrong with rotations of which |QᵀQ - I| is `error`, without file and field; and what is to be said of them.
Result<void> check_orthogonality(double error, const RotationRules& rules);
std::optional<std::string> orthogonality_warning(double error);

// A module with its geometry (AdapterPart's layer … out, group, rank, scale, block_size, num_factors) before its place
// in the blob is known, and which optional parts it has.
struct PlannedPart {
    enum class Place : uint8_t { layer, embedding, head };
    AdapterPart part;
    std::string name;  // of the module, for messages
    bool has_gain = false, has_bias = false;
    bool leaves_skew = false;  // in AdapterForm::skew: leave_skew()
    Place place = Place::layer;
    int64_t a_width = 0;    // values in a row of A: the vocabulary of an embedding; 0: part.in
    int64_t first_row = 0;  // of the module's outputs: parts of a fused module take part.out rows each
    int shares_input = -1;  // the part of the same fused module that holds rotation and A; -1: this one does
};

// The rows of a fused module's weights that `planned` takes; what acts on inputs stays whole.
ModuleWeights rows_of(const PlannedPart& planned, const ModuleWeights& weights);

// Takes `bytes` of the blob at its end, 64-byte aligned.
int64_t reserve(int64_t& end, int64_t bytes);

// Gives every part its offsets, factors first; returns how much of the blob is taken. T has `dtype`.
struct PlacedParts {
    int64_t bytes = 0, factor_bytes = 0;
};
PlacedParts place_parts(std::vector<PlannedPart>& parts, DType dtype, AdapterForm form);

// Decides which rotations of layers are left for a device to fold: exact ones of geometries that it folds.
bool leave_skew(const AdapterPart& part, const RotationRules& rules);
// Gives those their places behind adapter.blob, which has its size by now, and returns how many values their skew
// halves are.
int64_t place_skew(std::vector<PlannedPart>& parts, Adapter& adapter);

// What is wrong, without file and field; or the rotation's measured orthogonality error (0 without a rotation).
// Writes only the part's own ranges of `blob` and `skew`, so parts may be folded on different threads.
Result<double> fold_part(const PlannedPart& planned, const ModuleWeights& weights, const RotationRules& rules,
                         const Model& model, std::byte* blob, SkewHalves& skew, const Progress& progress);

// Refused when the machine has not `bytes` left for the folded adapter.
Result<void> check_memory(int64_t bytes, const std::string& path);

}  // namespace spartan
