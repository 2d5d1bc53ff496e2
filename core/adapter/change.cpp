#include "core/adapter/change.h"

#include "core/adapter/base_facts.h"
#include "core/adapter/merged_rows.h"
#include "kernels/check.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <new>
#include <type_traits>

namespace spartan {
namespace {

double square(float v) { return double(v) * double(v); }

class ChangeMeter {
public:
    ChangeMeter(const Adapter& adapter, Progress& progress) : adapter_(adapter), progress_(progress) {
        progress.total = int64_t(adapter.parts.size() + adapter.norms.size()) + adapter.embedding.has_value() +
                         adapter.head.has_value();
    }

    template <class T>
    void measure(const Weights<T>& base) {
        const MergedRows<T> merged(adapter_, base);
        for (const AdapterPart& part : adapter_.parts) {
            const auto& w = base.layers[size_t(part.layer)].projection[size_t(part.projection)];
            add(part.layer, ChangedPart(part.projection),
                of_rows(w, {}, [&](int64_t n, float* out) { merged.linear(w, &part, n, out); }));
        }
        for (const NormPart& norm : adapter_.norms)
            add(norm.role == NormRole::final ? -1 : norm.layer, part_of(norm.role), of_norm(norm, base));
        if (adapter_.embedding)
            add(-1, ChangedPart::embedding,
                of_rows(base.embedding, adapter_.embedding->tokens,
                        [&](int64_t n, float* out) { merged.embedding(n, out); }));
        if (adapter_.head)
            add(-1, ChangedPart::head,
                of_rows(base.output(), adapter_.head->tokens, [&](int64_t n, float* out) { merged.head(n, out); }));
    }

    std::vector<PartChange> take() { return std::move(changes_); }

private:
    static ChangedPart part_of(NormRole role) {
        constexpr ChangedPart parts[kNumNormRoles] = {ChangedPart::attention_norm, ChangedPart::mlp_norm,
                                                      ChangedPart::q_norm, ChangedPart::k_norm,
                                                      ChangedPart::final_norm};
        return parts[size_t(role)];
    }

    void add(int layer, ChangedPart part, double relative) {
        if (progress_.cancelled()) return;
        changes_.push_back({layer, part, relative});
        progress_.add(1);
    }

    // Rows of `tokens` count as they are, the evenly spaced ones for those between them.
    template <class T, class Row>
    double of_rows(const PackedMatrix<T>& w, const std::vector<int32_t>& tokens, Row merged_row) const {
        const int64_t rows = std::min(w.rows(), kMostRows);
        const double share = double(w.rows()) / double(rows);
        std::vector<float> before(static_cast<size_t>(w.cols())), after(before.size());
        double difference = 0, whole = 0;
        const auto look_at = [&](int64_t n, double counts_whole, double counts_difference) {
            w.get_row(n, before.data());
            merged_row(n, after.data());
            for (size_t k = 0; k < before.size(); ++k) {
                whole += counts_whole * square(before[k]);
                difference += counts_difference * square(after[k] - before[k]);
            }
        };
        for (int64_t i = 0; i < rows && !progress_.cancelled(); ++i) {
            const int64_t n = i * w.rows() / rows;
            look_at(n, share, std::binary_search(tokens.begin(), tokens.end(), n) ? 0 : share);
        }
        for (size_t i = 0; i < tokens.size() && !progress_.cancelled(); ++i) look_at(tokens[i], 0, 1);
        return whole > 0 ? std::sqrt(difference / whole) : 0;
    }

    template <class T>
    double of_norm(const NormPart& norm, const Weights<T>& base) const {
        const float *before = base_norm(base, norm.role, norm.layer), *after = blob_at<float>(adapter_, norm.weight);
        double difference = 0, whole = 0;
        for (int64_t k = 0; k < norm.dim; ++k) {
            whole += square(before[k]);
            difference += square(after[k] - before[k]);
        }
        return whole > 0 ? std::sqrt(difference / whole) : 0;
    }

    const Adapter& adapter_;
    Progress& progress_;
    std::vector<PartChange> changes_;
};

std::string sizes_of(const AdapterPart& part) {
    std::string text;
    const auto add = [&](const std::string& words) { text += (text.empty() ? "" : ", ") + words; };
    if (part.rotation >= 0) {
        add("b " + std::to_string(part.block_size));
        if (part.num_factors > 1)
            add("m " + std::to_string(part.num_factors) + " folded to groups of " + std::to_string(part.group));
    }
    if (part.a >= 0) {
        char scale[32];
        std::snprintf(scale, sizeof scale, "%.4g", double(part.scale));
        add("rank " + std::to_string(part.rank) + ", scale " + scale);
    }
    if (part.gain >= 0) add("a gain per output");
    if (part.bias >= 0) add("a bias");
    return text;
}

// "0-29", "0, 4-7".
std::string ranges_of(const std::vector<int>& layers) {
    std::string text;
    for (size_t i = 0; i < layers.size();) {
        size_t last = i;
        while (last + 1 < layers.size() && layers[last + 1] == layers[last] + 1) ++last;
        text += (text.empty() ? "" : ", ") + std::to_string(layers[i]);
        if (last > i) text += "-" + std::to_string(layers[last]);
        i = last + 1;
    }
    return text;
}

// "the embedding: rank 4, scale 2", "the output head: its own copy, 3 trained tokens".
std::string describe_table(const char* name, const TablePart& table) {
    std::string text = sizes_of(table.part);
    const auto add = [&](const std::string& words) { text += (text.empty() ? "" : ", ") + words; };
    if (table.copy >= 0) add("its own copy");
    if (!table.tokens.empty())
        add(std::to_string(table.tokens.size()) + (table.tokens.size() == 1 ? " trained token" : " trained tokens"));
    return text.empty() ? name : name + (": " + text);
}

}  // namespace

const char* name_of(ChangedPart part) {
    constexpr const char* names[] = {
        "q",        "k",      "v",      "o",          "gate",  "up",  "down", "attention norm",
        "mlp norm", "q norm", "k norm", "final norm", "embed", "head"};
    return names[size_t(part)];
}

std::vector<PartChange> measure_change(const Adapter& adapter, const Model& model, Progress& progress) {
    if (!adapter.skew.empty()) {
        const auto folded = fold_rotations(adapter, progress);
        return folded ? measure_change(**folded, model, progress) : std::vector<PartChange>();
    }
    ChangeMeter meter(adapter, progress);
    const auto measure = [&](const auto& weights) {
        CHECK(adapter.dtype == dtype_of<typename std::remove_cvref_t<decltype(weights.embedding)>::Value>);
        meter.measure(weights);
    };
    try {
        std::visit(measure, model.weights);
    } catch (const std::bad_alloc&) {
        return {};
    }
    return meter.take();
}

std::vector<std::string> describe_structure(const Adapter& adapter) {
    // First by layers and sizes, so that projections of the same kind share a line.
    std::map<std::pair<Projection, std::string>, std::vector<int>> layers;
    for (const AdapterPart& part : adapter.parts) layers[{part.projection, sizes_of(part)}].push_back(part.layer);
    std::vector<std::pair<std::string, std::string>> lines;  // "layers 0-29: b 16", "q k v o"
    for (const auto& [key, where] : layers) {
        const std::string what = (where.size() == 1 ? "layer " : "layers ") + ranges_of(where) + ": " + key.second;
        const auto same = std::find_if(lines.begin(), lines.end(), [&](const auto& l) { return l.first == what; });
        if (same == lines.end())
            lines.emplace_back(what, name_of(ChangedPart(key.first)));
        else
            same->second += std::string(" ") + name_of(ChangedPart(key.first));
    }
    std::vector<std::string> text;
    for (const auto& [what, projections] : lines) text.push_back(projections + ", " + what);
    if (adapter.embedding) text.push_back(describe_table("the embedding", *adapter.embedding));
    if (adapter.head) text.push_back(describe_table("the output head", *adapter.head));
    if (!adapter.norms.empty()) text.push_back(std::to_string(adapter.norms.size()) + " norms");
    return text;
}

}  // namespace spartan
