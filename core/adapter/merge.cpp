#include "core/adapter/merge.h"

#include "core/adapter/base_facts.h"
#include "core/adapter/merged_rows.h"
#include "core/base/file.h"
#include "core/base/json.h"
#include "core/base/run_items.h"
#include "core/model/layout.h"
#include "kernels/check.h"
#include "kernels/device.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <functional>

#include <unistd.h>

namespace spartan {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kRowsAtOnce = 16;
constexpr int64_t kValuesAtOnce = 1 << 20;

// Beside the weights: everything that says how text becomes tokens and back.
constexpr const char* kCopied[] = {"tokenizer.json",
                                   "tokenizer_config.json",
                                   "special_tokens_map.json",
                                   "added_tokens.json",
                                   "vocab.json",
                                   "merges.txt",
                                   "tokenizer.model",
                                   "chat_template.jinja",
                                   "chat_template.json",
                                   "generation_config.json"};

// One tensor of the checkpoint: `rows` rows of `cols` values.
struct OutTensor {
    std::string name;
    std::vector<int64_t> shape;
    std::function<void(int64_t row, float* out)> row;
    int64_t rows() const { return shape.size() == 2 ? shape[0] : 1; }
    int64_t cols() const { return shape.back(); }
};

class Merger {
public:
    Merger(const Model& model, const Adapter& adapter, DType dtype, const std::string& dir, Progress& progress)
        : model_(model),
          adapter_(adapter),
          base_(std::get<Weights<float>>(model.weights)),
          rows_(adapter, base_),
          dtype_(dtype),
          dir_(dir),
          progress_(progress) {}

    Result<MergeReport> run() {
        TRY_VOID(check_biases());
        report_.untied = model_.config().tied_embeddings && !tables_stay_tied();
        list_tensors();
        TRY_VOID(write_tensors());
        TRY_VOID(copy_files());
        TRY_VOID(write_config());  // last: a folder that has one is whole
        return report_;
    }

private:
    // A tied pair that the adapter treats alike.
    bool tables_stay_tied() const {
        if (!adapter_.embedding && !adapter_.head) return true;
        if (!adapter_.embedding || !adapter_.head) return false;
        const TablePart &e = *adapter_.embedding, &h = *adapter_.head;
        return !e.has_linear() && !h.has_linear() && e.copy == h.copy && e.token_rows == h.token_rows;
    }

    Result<void> check_biases() const {
        for (const AdapterPart& part : adapter_.parts) {
            if (part.bias < 0 || !base_.layers[size_t(part.layer)].bias[size_t(part.projection)].empty()) continue;
            return Error{
                adapter_.path, std::string(name_of(part.projection)) + " of layer " + std::to_string(part.layer),
                "a bias (lora_bias)", "none: " + model_.info.name + " has no place for it, so it cannot be merged"};
        }
        return {};
    }

    const AdapterPart* part_of(int64_t layer, Projection p) const {
        for (const AdapterPart& part : adapter_.parts)
            if (part.layer == layer && part.projection == p) return &part;
        return nullptr;
    }

    void list_tensors() {
        const ModelConfig& c = model_.config();
        for (const WeightSlot& slot : weight_slots(c)) {
            if (slot.role == WeightRole::head) continue;
            add(slot);
        }
        if (!c.tied_embeddings || report_.untied)
            tensors_.push_back({"lm_head.weight", {c.vocab_size, c.hidden_size}, [this](int64_t row, float* out) {
                                    rows_.head(row, out);
                                }});
    }

    void add(const WeightSlot& slot) {
        if (slot.role == WeightRole::embedding) {
            tensors_.push_back({slot.name, slot.shape, [this](int64_t row, float* out) { rows_.embedding(row, out); }});
        } else if (slot.role == WeightRole::projection) {
            add_projection(slot);
        } else if (slot.role == WeightRole::bias) {
            const AdapterPart* part = part_of(slot.layer, slot.projection);
            const float* own = part ? blob_at<float>(adapter_, part->bias) : nullptr;
            add_vector(slot, own ? own : base_.layers[size_t(slot.layer)].bias[size_t(slot.projection)].data(), 0);
        } else {
            add_norm(slot);
        }
    }

    void add_projection(const WeightSlot& slot) {
        const Projection p = slot.projection;
        const PackedMatrix<float>* w = &base_.layers[size_t(slot.layer)].projection[size_t(p)];
        const AdapterPart* part = part_of(slot.layer, p);
        const auto row = [this, w, part](int64_t n, float* out) { rows_.linear(*w, part, n, out); };
        const bool fused = has_fused_projections(model_.config()) && p != Projection::o && p != Projection::down;
        if (!fused) {
            tensors_.push_back({slot.name, slot.shape, row});
            return;
        }
        // The rows of q, k and v, or of gate and up, under one name; slots come in this order.
        const bool first = p == Projection::q || p == Projection::gate;
        const std::string prefix = "model.layers." + std::to_string(slot.layer);
        if (first) {
            tensors_.push_back(
                {prefix + (p == Projection::q ? ".self_attn.qkv_proj.weight" : ".mlp.gate_up_proj.weight"),
                 {w->rows(), w->cols()},
                 row});
            return;
        }
        OutTensor& all = tensors_.back();
        const int64_t before = all.shape[0];
        all.shape[0] += w->rows();
        all.row = [row, before, earlier = all.row](int64_t n, float* out) {
            n < before ? earlier(n, out) : row(n - before, out);
        };
    }

    void add_vector(const WeightSlot& slot, const float* values, float offset) {
        const int64_t count = slot.shape[0];
        tensors_.push_back({slot.name, slot.shape, [values, count, offset](int64_t, float* out) {
                                for (int64_t i = 0; i < count; ++i) out[i] = values[i] - offset;
                            }});
    }

    void add_norm(const WeightSlot& slot) {
        const NormRole role = norm_role(slot.name);
        const float* values = base_norm(base_, role, slot.layer);
        for (const NormPart& norm : adapter_.norms)
            if (norm.role == role && (role == NormRole::final || norm.layer == slot.layer))
                values = blob_at<float>(adapter_, norm.weight);
        add_vector(slot, values, norm_offset(model_.config()));
    }

    const char* dtype_name() const { return dtype_ == DType::f32 ? "F32" : "BF16"; }

    std::string header() {
        Json json = {{"__metadata__", {{"format", "pt"}}}};
        int64_t end = 0;
        for (const OutTensor& t : tensors_) {
            const int64_t bytes = t.rows() * t.cols() * size_of(dtype_);
            json[t.name] = {{"dtype", dtype_name()}, {"shape", t.shape}, {"data_offsets", {end, end + bytes}}};
            end += bytes;
        }
        std::string text = json.dump();
        text.append((8 - text.size() % 8) % 8, ' ');
        const uint64_t size = text.size();
        std::string start(reinterpret_cast<const char*>(&size), 8);
        report_.bytes = int64_t(8 + text.size()) + end;
        return start + text;
    }

    Result<void> write_tensors() {
        const std::string path = dir_ + "/model.safetensors";
        const std::string start = header();
        progress_.done = 0;
        progress_.total = report_.bytes;
        TRY_VOID(check_room(path));
        TRY_ASSIGN(file, ReplacementFile::create(path));
        TRY_VOID(write_all(file.fd(), path, start.data(), start.size()));
        for (const OutTensor& t : tensors_) TRY_VOID(write_tensor(file.fd(), path, t));
        return file.commit();
    }

    Result<void> check_room(const std::string& path) const {
        std::error_code code;
        const fs::space_info space = fs::space(dir_, code);
        if (code || int64_t(space.available) >= report_.bytes) return {};
        return Error{path, "", std::to_string(space.available >> 20) + " MiB free on the disk",
                     "the " + std::to_string((report_.bytes >> 20) + 1) + " MiB that the merged model takes"};
    }

    Result<void> write_tensor(int fd, const std::string& path, const OutTensor& t) {
        const int64_t step = std::clamp<int64_t>(kValuesAtOnce / t.cols(), 1, t.rows());
        std::vector<float> values(static_cast<size_t>(step * t.cols()));
        std::vector<bf16> rounded;
        for (int64_t first = 0; first < t.rows(); first += step) {
            const int64_t count = std::min(step, t.rows() - first);
            const int64_t items = (count + kRowsAtOnce - 1) / kRowsAtOnce;
            TRY_VOID(run_items(items, usable_cpus(), path, [&](int64_t item, int) -> Result<void> {
                if (progress_.cancelled()) return Error{"", "", "", "", true};
                for (int64_t i = item * kRowsAtOnce; i < std::min(count, (item + 1) * kRowsAtOnce); ++i)
                    t.row(first + i, &values[size_t(i * t.cols())]);
                return {};
            }));
            const auto n = size_t(count * t.cols());
            const void* data = values.data();
            if (dtype_ != DType::f32) {
                rounded.resize(n);
                std::transform(values.begin(), values.begin() + std::ptrdiff_t(n), rounded.begin(), to_bf16);
                data = rounded.data();
            }
            TRY_VOID(write_all(fd, path, data, n * size_t(size_of(dtype_))));
        }
        return {};
    }

    Result<void> write_all(int fd, const std::string& path, const void* data, size_t size) {
        const auto* from = static_cast<const char*>(data);
        while (size > 0) {
            const ssize_t written = ::write(fd, from, size);
            if (written < 0 && errno == EINTR) continue;
            if (written <= 0) return Error{path, "", std::strerror(errno), "room for the merged model"};
            from += written;
            size -= size_t(written);
            progress_.add(written);
        }
        return {};
    }

    Result<void> copy_files() {
        for (const char* name : kCopied) {
            const std::string from = model_.info.path + "/" + name;
            std::error_code code;
            if (!fs::is_regular_file(from, code)) continue;
            if (!fs::copy_file(from, dir_ + "/" + name, code) || code)
                return Error{dir_ + "/" + name, "", code.message(), "a copy of " + from};
            report_.copied.emplace_back(name);
        }
        return {};
    }

    Result<void> write_config() {
        TRY_ASSIGN(config, read_json_file(model_.info.path + "/config.json"));
        if (report_.untied || config.contains("tie_word_embeddings"))
            config["tie_word_embeddings"] = model_.config().tied_embeddings && !report_.untied;
        const char* dtype = dtype_ == DType::f32 ? "float32" : "bfloat16";
        bool named = false;
        for (const char* key : {"dtype", "torch_dtype"})
            if (config.contains(key)) config[key] = dtype, named = true;
        if (!named) config["dtype"] = dtype;
        return write_file_atomically(dir_ + "/config.json", config.dump(2) + "\n");
    }

    const Model& model_;
    const Adapter& adapter_;
    const Weights<float>& base_;
    const MergedRows<float> rows_;
    const DType dtype_;
    const std::string dir_;
    Progress& progress_;
    std::vector<OutTensor> tensors_;
    MergeReport report_;
};

}  // namespace

Result<MergeReport> write_merged(const Model& model, const Adapter& adapter, DType dtype, const std::string& dir,
                                 Progress& progress) {
    CHECK(model.dtype == DType::f32 && adapter.dtype == DType::f32 && dtype != DType::f16);
    if (model.info.source != "safetensors")
        return Error{model.info.path, "", "a model from " + model.info.source,
                     "a Hugging Face folder, whose config and tokenizer the merged model takes"};
    return Merger(model, adapter, dtype, dir, progress).run();
}

}  // namespace spartan
