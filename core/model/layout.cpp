#include "core/model/layout.h"

#include "core/base/text.h"
#include "core/model/float_rows.h"

#include <map>
#include <unordered_map>

namespace spartan {
namespace {

constexpr size_t kMaxListed = 8;  // problems of one kind said one by one

bool has_bias(const ModelConfig& c, Projection p) {
    switch (p) {
        case Projection::q:
        case Projection::k:
        case Projection::v:
            return c.qkv_bias;
        case Projection::o:
            return c.o_bias;
        default:
            return c.mlp_bias;
    }
}

void add_layer(std::vector<WeightSlot>& slots, const ModelConfig& c, int64_t layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    slots.push_back({prefix + "input_layernorm.weight", {c.hidden_size}, WeightRole::attention_norm, layer, {}});
    slots.push_back({prefix + "post_attention_layernorm.weight", {c.hidden_size}, WeightRole::mlp_norm, layer, {}});
    if (c.qk_norm) {
        slots.push_back({prefix + "self_attn.q_norm.weight", {c.head_dim}, WeightRole::q_norm, layer, {}});
        slots.push_back({prefix + "self_attn.k_norm.weight", {c.head_dim}, WeightRole::k_norm, layer, {}});
    }
    for (int i = 0; i < kNumProjections; ++i) {
        const auto p = Projection(i);
        const std::string name = prefix + (p < Projection::gate ? "self_attn." : "mlp.") + name_of(p);
        slots.push_back({name + ".weight", {out_features(c, p), in_features(c, p)}, WeightRole::projection, layer, p});
        if (has_bias(c, p)) slots.push_back({name + ".bias", {out_features(c, p)}, WeightRole::bias, layer, p});
    }
}

// Says at most kMaxListed of a kind and counts the rest.
class Listing {
public:
    Listing(std::vector<std::string>& out, std::string rest) : out_(out), rest_(std::move(rest)) {}
    ~Listing() {
        if (count_ > kMaxListed) out_.push_back("and " + std::to_string(count_ - kMaxListed) + rest_);
    }
    Listing(const Listing&) = delete;
    Listing& operator=(const Listing&) = delete;
    void add(const Error& error) {
        if (count_++ < kMaxListed) out_.push_back(error.message());
    }

private:
    std::vector<std::string>& out_;
    std::string rest_;
    size_t count_ = 0;
};

bool is_ignored(const std::string& name) { return name.ends_with("rotary_emb.inv_freq"); }

}  // namespace

std::vector<WeightSlot> weight_slots(const ModelConfig& c) {
    std::vector<WeightSlot> slots;
    slots.push_back({"model.embed_tokens.weight", {c.vocab_size, c.hidden_size}, WeightRole::embedding, -1, {}});
    for (int64_t layer = 0; layer < c.num_layers; ++layer) add_layer(slots, c, layer);
    slots.push_back({"model.norm.weight", {c.hidden_size}, WeightRole::final_norm, -1, {}});
    if (!c.tied_embeddings)
        slots.push_back({"lm_head.weight", {c.vocab_size, c.hidden_size}, WeightRole::head, -1, {}});
    return slots;
}

void match_tensors(OpenedModel& opened, std::vector<TensorSource> found, const std::string& file) {
    std::unordered_map<std::string, size_t> by_name;
    for (size_t i = 0; i < found.size(); ++i) by_name.emplace(found[i].name, i);
    Listing missing(opened.problems, " more tensors are missing"), wrong(opened.problems, " more tensors do not fit");
    for (const WeightSlot& slot : weight_slots(opened.config)) {
        const auto it = by_name.find(slot.name);
        if (it == by_name.end()) {
            missing.add({file, slot.name, "no such tensor", "shape " + shape_text(slot.shape)});
            continue;
        }
        TensorSource& tensor = found[it->second];
        if (tensor.shape != slot.shape)
            wrong.add({file, slot.name, "shape " + shape_text(tensor.shape), shape_text(slot.shape)});
        else if (!float_type(tensor.dtype))
            wrong.add({file, slot.name, "dtype " + tensor.dtype, kGgufTypeNames});
        else
            opened.tensors.push_back(std::move(tensor));
        by_name.erase(it);
    }
    std::map<size_t, std::string> left;  // in the file's order
    for (const auto& [name, index] : by_name)
        if (!is_ignored(name)) left.emplace(index, shorten(name, 120));
    if (left.empty()) return;
    const std::string first = left.begin()->second;
    opened.warnings.push_back(left.size() == 1
                                  ? "tensor " + first + " is not used"
                                  : std::to_string(left.size()) + " tensors are not used, the first is " + first);
}

std::string most_common_dtype(const std::vector<TensorSource>& tensors) {
    std::map<std::string, int64_t> values;
    for (const TensorSource& t : tensors) values[t.dtype] += t.rows() * t.cols();
    std::string best;
    for (const auto& [dtype, count] : values)
        if (best.empty() || count > values[best]) best = dtype;
    return best;
}

}  // namespace spartan
