#include "core/engine/adapter_strategy.h"

#include "core/base/text.h"

#include <algorithm>
#include <iterator>
#include <map>

namespace spartan {
namespace {

constexpr const char* kNames[] = {"folded", "common_block", "sequential", "merged"};

template <class T>
int64_t dense_bytes(const Weights<T>& weights) {
    int64_t bytes = 0;
    for (const LayerWeights<T>& layer : weights.layers)
        for (const PackedMatrix<T>& w : layer.projection) bytes += PackedMatrix<T>::bytes_of(w.rows(), w.cols());
    return bytes;
}

Error refuse(const Adapter& adapter, const std::string& what, std::string found, std::string expected) {
    return Error{adapter.path, "adapter " + adapter.name + (what.empty() ? "" : ", " + what), std::move(found),
                 std::move(expected)};
}

Result<void> check_common_block(const Adapter& adapter) {
    if (std::any_of(adapter.parts.begin(), adapter.parts.end(), [](const auto& p) { return p.rotation >= 0; }))
        return refuse(adapter, "", "folded rotations", "their factors, to be loaded for adapter_strategy common_block");
    for (const auto& [table, name] :
         {std::pair(&adapter.embedding, "embed_tokens"), std::pair(&adapter.head, "lm_head")})
        if (*table && (*table)->part.rotates())
            return refuse(adapter, name, "a rotation",
                          "rotations of linear layers alone: adapter_strategy common_block has no others");
    return {};
}

}  // namespace

const char* name_of(AdapterStrategy strategy) { return kNames[size_t(strategy)]; }

const std::vector<std::string>& adapter_strategy_names() {
    static const std::vector<std::string> names(std::begin(kNames), std::end(kNames));
    return names;
}

Result<AdapterStrategy> parse_adapter_strategy(const std::string& name) {
    const auto found = std::find(std::begin(kNames), std::end(kNames), name);
    if (found != std::end(kNames)) return AdapterStrategy(found - std::begin(kNames));
    return Error{"", "adapter_strategy", '"' + shorten(name, 80) + '"',
                 "one of " + join(adapter_strategy_names(), ", ")};
}

int64_t merged_copy_bytes(const Model& model, AdapterStrategy strategy) {
    if (strategy != AdapterStrategy::merged) return 0;
    return std::visit([](const auto& weights) { return dense_bytes(weights); }, model.weights);
}

int64_t bytes_beside_merged(const Adapter& adapter) {
    const int64_t t = size_of(adapter.dtype);
    std::map<int64_t, int64_t> merged;  // by offset: parts of a fused module share theirs
    for (const AdapterPart& part : adapter.parts) {
        merged[part.rotation] = part.in * part.group * t;
        merged[part.a] = part.rank * part.in * t;
        merged[part.b_t] = part.rank * part.out * t;
        merged[part.gain] = part.out * int64_t(sizeof(float));
    }
    int64_t bytes = adapter.bytes();
    for (const auto& [offset, size] : merged)
        if (offset >= 0) bytes -= size;
    return bytes;
}

Result<void> check_strategy(const Adapter& adapter, AdapterStrategy strategy) {
    if (strategy == AdapterStrategy::common_block) return check_common_block(adapter);
    if (adapter.factor_bytes > 0)
        return refuse(adapter, "", "factors of rotations",
                      std::string("folded rotations, to be loaded for adapter_strategy ") + name_of(strategy));
    return {};
}

}  // namespace spartan
