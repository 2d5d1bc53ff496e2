#include "core/model/fused.h"

#include "core/model/float_rows.h"

#include <initializer_list>
#include <set>
#include <unordered_map>

namespace spartan {
namespace {

// Rows [first, first + count) of a matrix as a tensor of its own.
TensorSource rows_of(const TensorSource& whole, const std::string& name, int64_t first, int64_t count) {
    TensorSource part = whole;
    part.name = name;
    part.shape[0] = count;
    part.bytes = count * whole.row_bytes();
    part.read_rows = [read = whole.read_rows, first](int64_t row, int64_t n, float* out) {
        return read(first + row, n, out);
    };
    part.read_stored = [read = whole.read_stored, first](int64_t row, int64_t n, std::byte* out) {
        return read(first + row, n, out);
    };
    return part;
}

}  // namespace

Result<std::vector<TensorSource>> split_fused(const ModelConfig& c, std::vector<TensorSource> tensors,
                                              const std::string& file) {
    if (!c.fused_projections) return tensors;
    std::unordered_map<std::string, size_t> index;
    for (size_t i = 0; i < tensors.size(); ++i) index.emplace(tensors[i].name, i);
    std::vector<TensorSource> parts;
    std::set<size_t> taken;
    const auto split = [&](const std::string& module, const std::string& fused,
                           std::initializer_list<Projection> projections) -> Result<void> {
        const std::string name = module + fused + ".weight";
        std::vector<int64_t> shape = {0, c.hidden_size};
        for (const Projection p : projections) shape[0] += out_features(c, p);
        const auto it = index.find(name);
        if (it == index.end()) return Error{file, name, "no such tensor", "shape " + shape_text(shape)};
        const TensorSource& whole = tensors[it->second];
        if (whole.shape != shape) return Error{file, name, "shape " + shape_text(whole.shape), shape_text(shape)};
        taken.insert(it->second);
        int64_t first = 0;
        for (const Projection p : projections) {
            parts.push_back(rows_of(whole, module + name_of(p) + ".weight", first, out_features(c, p)));
            first += out_features(c, p);
        }
        return {};
    };
    for (int64_t layer = 0; layer < c.num_layers; ++layer) {
        const std::string prefix = "model.layers." + std::to_string(layer);
        TRY_VOID(split(prefix + ".self_attn.", "qkv_proj", {Projection::q, Projection::k, Projection::v}));
        TRY_VOID(split(prefix + ".mlp.", "gate_up_proj", {Projection::gate, Projection::up}));
    }
    for (size_t i = 0; i < tensors.size(); ++i)
        if (!taken.count(i)) parts.push_back(std::move(tensors[i]));
    return parts;
}

}  // namespace spartan
