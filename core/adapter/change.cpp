#include "core/adapter/change.h"

#include "kernels/check.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <type_traits>

namespace spartan {
namespace {

template <class T>
class RowChange {
public:
    RowChange(const Adapter& adapter, const AdapterPart& part) : adapter_(adapter), part_(part) {}

    // changed = row `n` of W', from row `n` of W.
    void apply(int64_t n, const std::vector<float>& row, std::vector<float>& changed) const {
        changed = row;
        if (part_.rotation >= 0) rotate(row, changed);
        if (part_.a >= 0) add_low_rank(n, changed);
        if (part_.gain < 0) return;
        const float gain = at<float>(part_.gain)[n];
        for (float& v : changed) v *= gain;
    }

private:
    template <class U>
    const U* at(int64_t offset) const {
        return reinterpret_cast<const U*>(adapter_.blob.data() + offset);
    }

    // rot(x)[v] = sum over u of x[u] block[u, v], so W · R has sum over v of W[v] block[u, v] in column u.
    void rotate(const std::vector<float>& row, std::vector<float>& changed) const {
        const int64_t g = part_.group;
        const T* block = at<T>(part_.rotation);
        for (int64_t first = 0; first < part_.in; first += g)
            for (int64_t u = 0; u < g; ++u, block += g) {
                float sum = 0;
                for (int64_t v = 0; v < g; ++v) sum += row[size_t(first + v)] * to_float(block[v]);
                changed[size_t(first + u)] = sum;
            }
    }

    void add_low_rank(int64_t n, std::vector<float>& changed) const {
        const T *a = at<T>(part_.a), *b_t = at<T>(part_.b_t);
        for (int64_t r = 0; r < part_.rank; ++r, a += part_.in) {
            const float b = part_.scale * to_float(b_t[r * part_.out + n]);
            for (int64_t k = 0; k < part_.in; ++k) changed[size_t(k)] += b * to_float(a[k]);
        }
    }

    const Adapter& adapter_;
    const AdapterPart& part_;
};

template <class T>
double relative_change(const Adapter& adapter, const AdapterPart& part, const PackedMatrix<T>& w,
                       const Progress& progress) {
    std::vector<float> row(size_t(part.in)), changed;
    const RowChange<T> change(adapter, part);
    double difference = 0, whole = 0;
    const int64_t rows = std::min(part.out, kMostRows);
    for (int64_t i = 0; i < rows && !progress.cancelled(); ++i) {
        const int64_t n = i * part.out / rows;
        w.get_row(n, row.data());
        change.apply(n, row, changed);
        for (size_t k = 0; k < row.size(); ++k) {
            const double d = double(changed[k]) - double(row[k]);
            difference += d * d;
            whole += double(row[k]) * double(row[k]);
        }
    }
    return whole > 0 ? std::sqrt(difference / whole) : 0;
}

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

std::string short_name(Projection p) {
    const std::string name = name_of(p);
    return name.substr(0, name.find('_'));
}

}  // namespace

std::vector<PartChange> measure_change(const Adapter& adapter, const Model& model, Progress& progress) {
    std::vector<PartChange> changes;
    progress.total = int64_t(adapter.parts.size());
    std::visit(
        [&](const auto& weights) {
            using T = typename std::remove_cvref_t<decltype(weights.embedding)>::Value;
            CHECK(adapter.dtype == dtype_of<T>);
            for (const AdapterPart& part : adapter.parts) {
                if (progress.cancelled()) return;
                const auto& w = weights.layers[size_t(part.layer)].projection[size_t(part.projection)];
                changes.push_back({part.layer, part.projection, relative_change<T>(adapter, part, w, progress)});
                progress.add(1);
            }
        },
        model.weights);
    return changes;
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
            lines.emplace_back(what, short_name(key.first));
        else
            same->second += " " + short_name(key.first);
    }
    std::vector<std::string> text;
    for (const auto& [what, projections] : lines) text.push_back(projections + ", " + what);
    if (adapter.embedding) text.push_back("the embedding");
    if (adapter.head) text.push_back("the output head");
    if (!adapter.norms.empty()) text.push_back(std::to_string(adapter.norms.size()) + " norms");
    return text;
}

}  // namespace spartan
