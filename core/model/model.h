// Opening and loading a base model. Two steps, so that a person can see what it is and whether it fits before any
// weight is read: open_model() reads headers only; load_model() reads, converts and packs the weights.
#pragma once

#include "core/base/file.h"
#include "core/base/progress.h"
#include "core/base/result.h"
#include "core/model/config.h"
#include "kernels/matmul.h"
#include "kernels/view.h"

#include <array>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

namespace spartan {

class Tokenizer;
class ChatTemplate;

template <class T>
struct LayerWeights {
    std::vector<float> attention_norm, mlp_norm;              // [hidden]; what rows are multiplied by
    std::vector<float> q_norm, k_norm;                        // [head_dim]; empty: none
    std::array<PackedMatrix<T>, kNumProjections> projection;  // [out, in], by Projection
    std::array<std::vector<float>, kNumProjections> bias;     // [out]; empty: none
};

template <class T>
struct Weights {
    PackedMatrix<T> embedding;  // [vocab, hidden]
    std::vector<LayerWeights<T>> layers;
    std::vector<float> final_norm;  // [hidden]
    PackedMatrix<T> head;           // [vocab, hidden]; empty: tied to the embedding
    std::vector<float> inv_freq;    // [rotary_size / 2]
    const PackedMatrix<T>& output() const { return head.empty() ? embedding : head; }
};

// One tensor as it lies in a file: rows of `cols` values that can be read as fp32 in any order and from any thread.
struct TensorSource {
    std::string name;  // in Hugging Face's naming
    std::vector<int64_t> shape;
    std::string dtype;  // as stored: F32, BF16, F16 or a quantised type of GGUF
    int64_t bytes = 0;  // stored
    // Reads rows [first, first + count) as fp32 (rank-1 tensors are one row).
    std::function<Result<void>(int64_t first, int64_t count, float* out)> read_rows;
    // The same rows as they are stored, bytes / rows() each, for hashing and converting in one pass; empty for made-up
    // tensors. Rows come in Hugging Face's order whatever the file's.
    std::function<Result<void>(int64_t first, int64_t count, std::byte* out)> read_stored;

    int64_t rows() const { return shape.size() < 2 ? 1 : shape[0]; }
    int64_t cols() const { return shape.empty() ? 1 : shape.back(); }
    int64_t row_bytes() const { return rows() > 0 ? bytes / rows() : 0; }
};

struct OpenedModel {
    std::string path;    // as the user gave it: folder, .gguf or synthetic:SHAPE
    std::string name;    // short, for a title: "SmolLM2-135M-Instruct"
    std::string source;  // "safetensors", "gguf", "synthetic"
    std::string dtype;   // the most common stored dtype
    ModelConfig config;
    bool norms_hold_one = false;        // the 1 of config.norm_adds_one is already in the stored norms (GGUF)
    std::vector<TensorSource> tensors;  // those the model uses, in the order of the layers
    std::vector<std::shared_ptr<InputFile>> files;  // held open until load_model() has read them
    int64_t parameters = 0, file_bytes = 0;      // values in all tensors of the files; size of the files that hold them
    std::shared_ptr<const Tokenizer> tokenizer;  // null: runs on ids only
    std::string tokenizer_error;                 // why it is null although the model has one; empty otherwise
    std::shared_ptr<const ChatTemplate> chat_template;  // never null; plain text when the model has none
    uint64_t seed = 0;                                  // of a synthetic model's weights
    std::vector<std::string> warnings, problems;        // problems: why load_model() would refuse it
};

Result<OpenedModel> open_model(const std::string& path, uint64_t seed = 42);

// What a model computes in, and whether weights that a file holds quantised stay so in memory (Q4_0, Q4_1, Q8_0, Q4_K,
// Q6_K; others are converted, with a warning). Keeping changes no bit of any result.
struct Precision {
    Precision(DType type, bool keep = false) : dtype(type), keep_quantised(keep) {}
    DType dtype;
    bool keep_quantised;
    bool operator==(const Precision&) const = default;
};

struct Model {
    OpenedModel info;  // without open files
    DType dtype = DType::f32;
    int64_t kept_bytes = 0;  // of weight_bytes, in the file's own quantised types
    std::variant<Weights<float>, Weights<bf16>, Weights<f16>> weights;
    std::string
        content_hash;  // SHA-256 over names, shapes and a digest of the tensors' stored bytes; synthetic: of the spec
    int64_t weight_bytes = 0;  // in memory

    const ModelConfig& config() const { return info.config; }
};

// Uses `threads` threads; progress counts stored bytes. Refuses NaN and infinity in weights, naming tensor and index.
Result<std::shared_ptr<const Model>> load_model(OpenedModel opened, Precision precision, int threads,
                                                Progress& progress);

// Bytes that load_model() will hold: packed weights. From the config alone, so also before files are at hand.
int64_t weight_bytes_needed(const OpenedModel&, Precision precision);
int64_t weight_bytes_needed(const ModelConfig&, DType dtype);
// Of those, what is kept as it is stored.
int64_t kept_bytes_needed(const OpenedModel&);

// "auto": bf16 on a GPU and where the CPU multiplies bf16 itself, else f32. f16 is for a GPU: refused on a CPU.
Error f16_on_cpu();  // why there is no f16 on a CPU
Result<DType> choose_dtype(const std::string& name, bool on_gpu = false);

// The shapes that synthetic:SHAPE knows.
std::vector<std::string> synthetic_shapes();

}  // namespace spartan
