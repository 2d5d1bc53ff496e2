// One adapter, folded at load into the one formula that serves all kinds (see kernels/adapter_ops.h):
//
//     y = gain * ( W · rot(x) + scale · B (A x) ) + bias        per layer and projection
//
// and, where it was trained, what it brings to the embedding, the output head and the norms.
#pragma once

#include "core/base/ids.h"
#include "core/base/progress.h"
#include "core/base/result.h"
#include "core/model/model.h"

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace spartan {

enum class AdapterKind : uint8_t { boft, oft, lora, dora };
const char* name_of(AdapterKind);

// How a linear layer's rotation lies in an adapter: multiplied out, as it is served; as the factors it is trained as,
// which the strategy `common_block` alone computes with; or as the skew halves of its blocks, which a device folds when
// it takes the adapter in (those that it cannot are folded). A table's rotation is folded in all.
enum class AdapterForm : uint8_t { folded, factored, skew };

// Where one module's parts lie in Adapter::blob (byte offsets, 64-byte aligned; -1: absent).
struct AdapterPart {
    int layer = 0;
    Projection projection{};
    int64_t in = 0, out = 0;

    int64_t rotation = -1;  // T [in / group][group][group]; behind the blob's end while it is not folded …
    int64_t skew = -1;      // … and where its skew halves begin in Adapter::skew, in values (kernels/skew.h)
    int64_t factors = -1;   // T [num_factors][in / block_size][block_size][block_size], in its place when factored
    int64_t group = 0;      // features a rotation group spans: b * 2^(m-1) for BOFT, b for OFT
    int64_t a = -1;         // T [rank, in]
    int64_t b_t = -1;       // T [rank, out]
    int64_t rank = 0;
    float scale = 1;
    int64_t gain = -1;  // f32 [out]: BOFT's s, DoRA's magnitude over norm
    int64_t bias = -1;  // f32 [out]: replaces the base's

    // As the file had it, for the layout view and inspect: BOFT block size b and number of factors m (OFT: m = 1).
    int64_t block_size = 0, num_factors = 0;

    bool rotates() const { return rotation >= 0 || factors >= 0; }
};

// What an adapter brings to the embedding or to the output head, both [vocab, hidden]; absent parts leave them alone.
//
//     embedding:  x = gain * ( rot(row of the token) + scale · B A[:, token] )
//     head:       logits = gain * ( W · rot(x) + scale · B (A x) ) + bias
struct TablePart {
    AdapterPart part;             // the embedding's A lies as T [vocab, rank], so that a token's ranks are one run
    int64_t copy = -1;            // T, packed [vocab, hidden]: replaces the base's rows (modules_to_save)
    std::vector<int32_t> tokens;  // rising: whose rows (of the head: logits) come from …
    int64_t token_rows = -1;      // … T, packed [tokens, hidden] (trainable_token_indices)
    bool has_linear() const { return part.rotation >= 0 || part.a >= 0 || part.gain >= 0 || part.bias >= 0; }
};

// A norm's weight that replaces the base's (modules_to_save).
enum class NormRole : uint8_t { attention, mlp, q, k, final };
constexpr int kNumNormRoles = 5;
struct NormPart {
    NormRole role{};
    int layer = 0;  // 0 for final
    int64_t dim = 0;
    int64_t weight = -1;  // f32 [dim], in Adapter::blob
};

struct Adapter {
    std::string name;  // a label, unique in a library
    std::string path;  // folder or synthetic spec
    AdapterKind kind{};
    std::string content_hash;  // SHA-256 of config and tensors; with the AdapterId it is the identity
    DType dtype = DType::f32;  // of the blob's T parts
    std::vector<std::byte> blob;
    int64_t factor_bytes = 0;        // of the blob's start, where the factors lie; 0: folded
    std::vector<std::byte> skew;     // of rotations that are not folded yet, in skew_dtype
    DType skew_dtype = DType::f32;   // bf16 only where that costs a rotation no more than its own rounding to bf16
    int64_t unfolded_bytes = 0;      // that those rotations take behind the blob
    std::vector<AdapterPart> parts;  // by layer, then projection
    std::optional<TablePart> embedding, head;
    std::vector<NormPart> norms;
    int64_t file_bytes = 0;
    // Largest |QᵀQ - I| over all factors' blocks (infinity norm), of rotations that are not folded yet over the first
    // block of each; 0 without rotations.
    double orthogonality_error = 0;
    std::vector<std::string> warnings;

    int64_t bytes() const { return int64_t(blob.size()) + unfolded_bytes; }             // as it is served
    int64_t host_bytes() const { return int64_t(blob.size()) + int64_t(skew.size()); }  // as it is kept and travels

    std::string geometry() const;  // "BOFT b16 m2", "LoRA r8", "OFT b32"; mixed sizes joined by "/"
    std::string targets() const;   // "q k v o"
};

// Reads, checks and folds a PEFT folder for `model`. Everything that would change the result and is not supported is
// refused in words. Sources: see each formula in peft.cpp.
Result<std::shared_ptr<const Adapter>> load_adapter(const std::string& name, const std::string& dir, const Model& model,
                                                    Progress& progress, AdapterForm form = AdapterForm::folded);

// The same adapter with all its rotations folded, on the CPU.
Result<std::shared_ptr<const Adapter>> fold_rotations(const Adapter& adapter, const Progress& progress);

// What a folder holds, without a base model: shapes and problems. `modules` names are without "base_model.model.".
struct AdapterModule {
    std::string name;
    int64_t b = 0, m = 0, r = 0, in = 0, out = 0;  // 0 or -1 where it does not apply or is not known without the base
};
struct AdapterInfo {
    AdapterKind kind{};
    std::string base_name;  // base_model_name_or_path
    std::vector<AdapterModule> modules;
    int64_t bytes = 0;
    std::vector<std::string> warnings, problems;
};
Result<AdapterInfo> inspect_adapter(const std::string& dir);

// `synthetic:KIND:COUNT:SIZES` (see README): random adapters of known geometry, made in memory. `first_index` runs over
// all specs of a command and, with `seed`, decides names' numbers and weights.
struct SyntheticSpec {
    AdapterKind kind{};
    int64_t count = 0;
    struct Size {
        int64_t b = 0, m = 1, r = 0;
    };
    std::vector<Size> sizes;  // dealt out in turn
};
Result<SyntheticSpec> parse_synthetic_spec(const std::string& spec);
std::string synthetic_name(const SyntheticSpec&, int64_t index_in_spec, int64_t global_index);
Result<std::shared_ptr<const Adapter>> make_synthetic_adapter(const SyntheticSpec&, int64_t index_in_spec,
                                                              int64_t global_index, uint64_t seed, const Model& model,
                                                              AdapterForm form = AdapterForm::folded);
// The same adapter as a PEFT folder.
Result<void> write_synthetic_adapter(const SyntheticSpec&, int64_t index_in_spec, int64_t global_index, uint64_t seed,
                                     const ModelConfig&, const std::string& base_name, const std::string& dir);

// NAME=DIR or a synthetic spec, as --adapter and workload files take it; expands to one entry per adapter.
struct AdapterRequest {
    std::string name;
    std::string dir;  // empty: synthetic
    SyntheticSpec spec;
    int64_t index_in_spec = 0, global_index = 0;
};
// Relative folders are taken from `base_dir`. Refuses bad and duplicate names.
Result<std::vector<AdapterRequest>> parse_adapter_arguments(const std::vector<std::string>& arguments,
                                                            const std::string& base_dir);
Result<std::shared_ptr<const Adapter>> load_adapter(const AdapterRequest&, const Model& model, uint64_t seed,
                                                    Progress& progress, AdapterForm form = AdapterForm::folded);

}  // namespace spartan
