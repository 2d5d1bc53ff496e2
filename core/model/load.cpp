// load_model(): reads, hashes, converts, checks and packs the weights in small pieces from several threads.
#include "core/base/memory.h"
#include "core/base/run_items.h"
#include "core/base/sha256.h"
#include "core/base/text.h"
#include "core/model/float_rows.h"
#include "core/model/layout.h"
#include "core/model/model.h"
#include "kernels/check.h"
#include "kernels/memory.h"

#include <algorithm>
#include <bit>
#include <map>
#include <numeric>

namespace spartan {
namespace {

constexpr int64_t kPanelRows = 16;         // of PackedMatrix: whole panels keep threads on cache lines of their own
constexpr int64_t kChunkValues = 1 << 16;  // fp32 values converted at a time: they stay in the L2 cache

// Rows of one tensor that are read, hashed and packed at once. A function of the shape alone, so that the content hash,
// which is taken over the chunks' digests, does not depend on the number of threads.
int64_t rows_per_chunk(int64_t rows, int64_t cols) {
    const int64_t fitting = kChunkValues / std::max<int64_t>(1, cols) / kPanelRows * kPanelRows;
    const int64_t least = cols <= 4 * kChunkValues ? kPanelRows : 1;
    return std::clamp<int64_t>(fitting, std::min(least, rows), std::max<int64_t>(1, rows));
}

struct Chunk {
    int32_t slot = 0;
    int64_t first = 0, count = 0;
};

Error cancelled_error(const std::string& path) {
    Error error{path, "", "loading was cancelled", ""};
    error.cancelled = true;
    return error;
}

// The type in which a tensor's blocks can stay; none: it is converted.
std::optional<GgufType> kept_type(const TensorSource& t) {
    const std::optional<GgufType> type = float_type(t.dtype);
    const bool possible = type && can_keep(*type) && t.read_stored && t.cols() % block_elements(*type) == 0;
    return possible ? type : std::nullopt;
}

// What one thread works in.
struct Scratch {
    std::vector<std::byte> stored;
    std::vector<float> values;
    Sha256 sha;
};

std::string index_text(const TensorSource& t, int64_t index) {
    if (t.shape.size() < 2) return t.name + "[" + std::to_string(index) + "]";
    return t.name + "[" + std::to_string(index / t.cols()) + ", " + std::to_string(index % t.cols()) + "]";
}

// What of the config changes the result without showing in the tensors' shapes.
std::string config_text(const ModelConfig& c) {
    std::string text = c.kind;
    for (const int64_t n : {c.num_heads, c.num_kv_heads, c.head_dim, c.rope.original_max_position})
        text += " " + std::to_string(n);
    text += " " + c.rope.type;
    for (const double v :
         {double(c.rms_norm_eps), c.rope.theta, c.rope.factor, c.rope.low_freq_factor, c.rope.high_freq_factor})
        text += " " + std::to_string(std::bit_cast<uint64_t>(v));
    for (const float v : c.rope.divisors) text += " " + std::to_string(std::bit_cast<uint32_t>(v));
    const ModelConfig plain;  // what differs from it, so that the text of a plain Llama stays what it was
    const auto note = [&](const char* name, double value, double usual) {
        if (value != usual) text += std::string(" ") + name + " " + std::to_string(std::bit_cast<uint64_t>(value));
    };
    note("rotary_dim", double(c.rotary_dim), 0);
    note("gate_function", double(c.gate_function), 0);
    note("embedding_multiplier", double(c.embedding_multiplier), double(plain.embedding_multiplier));
    note("attention_multiplier", double(c.attention_multiplier), double(plain.attention_multiplier));
    note("residual_multiplier", double(c.residual_multiplier), double(plain.residual_multiplier));
    note("logits_scaling", double(c.logits_scaling), double(plain.logits_scaling));
    if (c.rope.type == "yarn")
        for (const double v : {c.rope.beta_fast, c.rope.beta_slow, c.rope.truncate ? 1. : 0., c.rope.attention_factor})
            note("yarn", v, -1);
    for (const int64_t window : c.windows) note("window", double(window), -1);
    for (const uint8_t rotates : c.rope_layers) note("rope", double(rotates), -1);
    return text + "\n";
}

template <class T>
class Loader {
public:
    Loader(const OpenedModel& opened, bool keep_quantised, int threads, Progress& progress)
        : opened_(opened),
          keep_quantised_(keep_quantised),
          threads_(std::max(1, threads)),
          progress_(progress),
          slots_(weight_slots(opened.config)) {
        CHECK(slots_.size() == opened.tensors.size());
    }

    Result<Weights<T>> load() {
        weights_.layers.resize(size_t(opened_.config.num_layers));
        TRY_VOID(allocate());
        plan();
        std::vector<Scratch> scratch = std::vector<Scratch>(size_t(threads_));
        TRY_VOID(
            run_items(int64_t(chunks_.size()), threads_, opened_.path, [&](int64_t item, int thread) -> Result<void> {
                if (progress_.cancelled()) return cancelled_error(opened_.path);
                return load_chunk(item, scratch[size_t(thread)]);
            }));
        for (const auto& file : opened_.files) TRY_VOID(file->check_unchanged());
        if (progress_.cancelled()) return cancelled_error(opened_.path);
        weights_.inv_freq = rope_inv_freq(opened_.config);
        return std::move(weights_);
    }

    std::string content_hash() const {
        Sha256 sha;
        sha.update(config_text(opened_.config));
        size_t chunk = 0;
        for (size_t i = 0; i < slots_.size(); ++i) {
            const TensorSource& t = opened_.tensors[i];
            sha.update(t.name + " " + t.dtype + " " + shape_text(t.shape) + "\n");
            for (; chunk < chunks_.size() && size_t(chunks_[chunk].slot) == i; ++chunk)
                sha.update(digests_[chunk].data(), digests_[chunk].size());
        }
        return to_hex(sha.finish());
    }

private:
    PackedMatrix<T>* matrix_of(const WeightSlot& slot) {
        switch (slot.role) {
            case WeightRole::embedding:
                return &weights_.embedding;
            case WeightRole::head:
                return &weights_.head;
            case WeightRole::projection:
                return &weights_.layers[size_t(slot.layer)].projection[size_t(slot.projection)];
            default:
                return nullptr;
        }
    }

    std::vector<float>* vector_of(const WeightSlot& slot) {
        switch (slot.role) {
            case WeightRole::attention_norm:
                return &weights_.layers[size_t(slot.layer)].attention_norm;
            case WeightRole::mlp_norm:
                return &weights_.layers[size_t(slot.layer)].mlp_norm;
            case WeightRole::q_norm:
                return &weights_.layers[size_t(slot.layer)].q_norm;
            case WeightRole::k_norm:
                return &weights_.layers[size_t(slot.layer)].k_norm;
            case WeightRole::bias:
                return &weights_.layers[size_t(slot.layer)].bias[size_t(slot.projection)];
            case WeightRole::final_norm:
                return &weights_.final_norm;
            default:
                return nullptr;
        }
    }

    // All matrices lie in one piece of memory. Touching it first costs as much as filling it, so it is shared out as
    // well.
    Result<void> allocate() {
        std::vector<int64_t> offsets = {0};
        for (size_t i = 0; i < slots_.size(); ++i) {
            const WeightSlot& slot = slots_[i];
            offsets.push_back(offsets.back());
            if (slot.is_matrix()) offsets.back() += PackedMatrix<T>::bytes_of(slot.shape[0], slot.shape[1], kept(i));
        }
        const std::shared_ptr<std::byte[]> memory = allocate_memory(offsets.back());
        if (!memory && offsets.back() > 0)
            return Error{opened_.path, "memory", format_bytes(offsets.back()) + " needed for the weights",
                         "as much as the system grants"};
        for (size_t i = 0; i < slots_.size(); ++i) {
            const WeightSlot& slot = slots_[i];
            if (PackedMatrix<T>* m = matrix_of(slot))
                *m = PackedMatrix<T>(slot.shape[0], slot.shape[1], {memory, memory.get() + offsets[i]}, kept(i));
            if (std::vector<float>* v = vector_of(slot)) v->resize(size_t(slot.shape[0]));
        }
        return {};
    }

    std::optional<GgufType> kept(size_t slot) const {
        return keep_quantised_ && slots_[slot].is_matrix() ? kept_type(opened_.tensors[slot]) : std::nullopt;
    }

    void plan() {
        for (size_t i = 0; i < slots_.size(); ++i) {
            const TensorSource& t = opened_.tensors[i];
            const int64_t step = rows_per_chunk(t.rows(), t.cols());
            for (int64_t first = 0; first < t.rows(); first += step)
                chunks_.push_back({int32_t(i), first, std::min(step, t.rows() - first)});
        }
        digests_.resize(chunks_.size());
    }

    Result<void> load_chunk(int64_t item, Scratch& scratch) {
        const Chunk& chunk = chunks_[size_t(item)];
        const WeightSlot& slot = slots_[size_t(chunk.slot)];
        const TensorSource& t = opened_.tensors[size_t(chunk.slot)];
        const int64_t count = chunk.count * t.cols();
        scratch.values.resize(std::max(scratch.values.size(), size_t(count)));
        float* const values = scratch.values.data();
        if (t.read_stored)
            TRY_VOID(read_and_hash(t, chunk, scratch, digests_[size_t(item)]));
        else
            TRY_VOID(t.read_rows(chunk.first, chunk.count, values));
        if (const int64_t bad = first_not_representable(values, count, dtype_of<T>); bad >= 0)
            return Error{opened_.path, index_text(t, chunk.first * t.cols() + bad), value_text(values[bad]),
                         std::string("a finite value that fits ") + name_of(dtype_of<T>)};
        if (slot.is_norm() && opened_.config.norm_adds_one && !opened_.norms_hold_one)
            for (int64_t i = 0; i < count; ++i) values[i] += 1;
        if (kept(size_t(chunk.slot)))
            matrix_of(slot)->set_blocks(chunk.first, chunk.count, scratch.stored.data());
        else if (slot.is_matrix())
            matrix_of(slot)->set_rows(chunk.first, chunk.count, values);
        else
            std::copy_n(values, count, vector_of(slot)->data());
        progress_.add(chunk.count * t.row_bytes());
        return {};
    }

    static Result<void> read_and_hash(const TensorSource& t, const Chunk& chunk, Scratch& scratch,
                                      Sha256::Digest& digest) {
        const auto bytes = size_t(chunk.count * t.row_bytes());
        scratch.stored.resize(std::max(scratch.stored.size(), bytes));
        TRY_VOID(t.read_stored(chunk.first, chunk.count, scratch.stored.data()));
        scratch.sha.update(scratch.stored.data(), bytes);
        digest = scratch.sha.finish();
        dequantise_row(*float_type(t.dtype), scratch.stored.data(), chunk.count * t.cols(), scratch.values.data());
        return {};
    }

    const OpenedModel& opened_;
    const bool keep_quantised_;
    const int threads_;
    Progress& progress_;
    const std::vector<WeightSlot> slots_;
    std::vector<Chunk> chunks_;
    std::vector<Sha256::Digest> digests_;
    Weights<T> weights_;
};

int64_t packed_bytes(const WeightSlot& slot, DType dtype) {
    if (!slot.is_matrix()) return 4 * slot.shape[0];
    return with_type(dtype, [&]<class T>(T) { return PackedMatrix<T>::bytes_of(slot.shape[0], slot.shape[1]); });
}

// Calls f(slot, bytes in memory) for what can stay as it is stored.
template <class Function>
void for_each_kept(const OpenedModel& opened, const Function& f) {
    const std::vector<WeightSlot> slots = weight_slots(opened.config);
    for (size_t i = 0; i < std::min(slots.size(), opened.tensors.size()); ++i) {
        const TensorSource& t = opened.tensors[i];
        if (const auto type = slots[i].is_matrix() ? kept_type(t) : std::nullopt)
            f(slots[i], PackedMatrix<float>::bytes_of(t.rows(), t.cols(), type));
    }
}

// Says which quantised tensors are converted although they were to be kept.
void warn_of_converted(OpenedModel& opened) {
    std::map<std::string, int> converted;
    const std::vector<WeightSlot> slots = weight_slots(opened.config);
    bool kept = false;
    for (size_t i = 0; i < slots.size(); ++i) {
        const TensorSource& t = opened.tensors[i];
        const auto type = slots[i].is_matrix() ? float_type(t.dtype) : std::nullopt;
        if (type && kept_type(t)) kept = true;
        if (type && !kept_type(t) && block_elements(*type) > 1) ++converted[t.dtype];
    }
    for (const auto& [dtype, count] : converted)
        opened.warnings.push_back(std::to_string(count) + " tensors of type " + dtype +
                                  " cannot be kept as they are stored: converted");
    if (!kept && converted.empty())
        opened.warnings.push_back("no weight is stored quantised: there is nothing to keep");
}

template <class T>
Result<void> load_into(Model& model, bool keep_quantised, int threads, Progress& progress) {
    Loader<T> loader(model.info, keep_quantised, threads, progress);
    TRY_ASSIGN(weights, loader.load());
    model.weights = std::move(weights);
    model.content_hash = model.info.source == "synthetic"
                             ? sha256_hex(model.info.path + " seed " + std::to_string(model.info.seed))
                             : loader.content_hash();
    return {};
}

Result<void> check_loadable(const OpenedModel& opened, Precision precision) {
    const DType dtype = precision.dtype;
    if (!opened.problems.empty()) {
        std::string text = opened.problems.front();
        if (opened.problems.size() > 1)
            text += " (and " + std::to_string(opened.problems.size() - 1) + " more problems)";
        return make_error(text);
    }
    const int64_t needed = weight_bytes_needed(opened, precision), available = available_memory_bytes();
    if (needed > available)
        return Error{opened.path, "memory",
                     format_bytes(needed) + " needed for the weights" +
                         (precision.keep_quantised ? "" : std::string(" in ") + name_of(dtype)),
                     "at most the " + format_bytes(available) + " available"};
    return {};
}

}  // namespace

int64_t weight_bytes_needed(const ModelConfig& config, DType dtype) {
    const std::vector<WeightSlot> slots = weight_slots(config);
    return std::accumulate(slots.begin(), slots.end(), 4 * (config.rotary_size() / 2),
                           [&](int64_t sum, const WeightSlot& slot) { return sum + packed_bytes(slot, dtype); });
}

int64_t weight_bytes_needed(const OpenedModel& opened, Precision precision) {
    int64_t bytes = weight_bytes_needed(opened.config, precision.dtype);
    if (!precision.keep_quantised) return bytes;
    for_each_kept(opened,
                  [&](const WeightSlot& slot, int64_t kept) { bytes += kept - packed_bytes(slot, precision.dtype); });
    return bytes;
}

int64_t kept_bytes_needed(const OpenedModel& opened) {
    int64_t bytes = 0;
    for_each_kept(opened, [&](const WeightSlot&, int64_t kept) { bytes += kept; });
    return bytes;
}

Error f16_on_cpu() { return Error{"", "dtype", "f16", "f32, bf16 or auto on a CPU: only a GPU computes in f16"}; }

Result<DType> choose_dtype(const std::string& name, bool on_gpu) {
    if (name == "f32") return DType::f32;
    if (name == "bf16") return DType::bf16;
    if (name == "f16" && on_gpu) return DType::f16;
    if (name == "auto") return on_gpu || best_cpu_isa() >= CpuIsa::avx512_bf16 ? DType::bf16 : DType::f32;
    if (name == "f16") return f16_on_cpu();
    return Error{"", "dtype", '"' + shorten(name, 80) + '"', "f32, bf16, f16 or auto"};
}

Result<std::shared_ptr<const Model>> load_model(OpenedModel opened, Precision precision, int threads,
                                                Progress& progress) {
    TRY_VOID(check_loadable(opened, precision));
    if (precision.keep_quantised) warn_of_converted(opened);
    progress.done = 0;
    progress.total = std::accumulate(opened.tensors.begin(), opened.tensors.end(), int64_t(0),
                                     [](int64_t sum, const TensorSource& t) { return sum + t.bytes; });
    auto model = std::make_shared<Model>();
    model->info = std::move(opened);
    model->dtype = precision.dtype;
    model->weight_bytes = weight_bytes_needed(model->info, precision);
    model->kept_bytes = precision.keep_quantised ? kept_bytes_needed(model->info) : 0;
    TRY_VOID(with_type(precision.dtype,
                       [&]<class T>(T) { return load_into<T>(*model, precision.keep_quantised, threads, progress); }));
    model->info.files.clear();
    for (TensorSource& t : model->info.tensors) t.read_rows = nullptr, t.read_stored = nullptr;
    return std::shared_ptr<const Model>(std::move(model));
}

}  // namespace spartan
