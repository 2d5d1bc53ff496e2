#include "core/adapter/fold.h"

#include "core/base/memory.h"
#include "core/base/run_items.h"
#include "core/base/text.h"
#include "kernels/check.h"
#include "kernels/device.h"
#include "kernels/rounding.h"
#include "kernels/skew.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace spartan {
namespace {

constexpr double kMaxExactError = 1e-4, kWarnedError = 1e-2;

std::string shown(double v) {
    char text[32];
    std::snprintf(text, sizeof text, "%.3g", v);
    return text;
}

template <class T>
T* at(std::byte* blob, int64_t offset) {
    CHECK(offset >= 0);
    return reinterpret_cast<T*>(blob + offset);
}

// Multiplies the factors of each group out and rounds the product once, or keeps them as they are.
template <class T>
class RotationFolder {
public:
    RotationFolder(const AdapterPart& part, const ModuleWeights& weights, const RotationRules& rules,
                   const Progress& progress)
        : part_(part), weights_(weights), rules_(rules), progress_(progress) {}

    Result<double> fold(T* out) {
        const int64_t groups = part_.in / part_.group, size = part_.group * part_.group;
        const int64_t different = rules_.shared ? 1 : groups;
        for (int64_t g = 0; g < different; ++g) {
            const Matrix product = group_matrix(g);
            if (progress_.cancelled()) return Error{"", "", "", "", true};
            TRY_VOID(check_orthogonality(error_, rules_));
            TRY_VOID(round(product, size, out + g * size));
        }
        for (int64_t g = different; g < groups; ++g) std::copy_n(out, size, out + g * size);
        return error_;
    }

    Result<double> keep(T* out) {
        const int64_t b = part_.block_size, blocks = part_.in / b;
        for (int64_t i = 0; i < part_.num_factors * blocks; ++i, out += b * b) {
            if (rules_.shared && i > 0) {
                std::copy_n(out - b * b, b * b, out);
                continue;
            }
            const Matrix q = block(i);
            if (progress_.cancelled()) return Error{"", "", "", "", true};
            TRY_VOID(check_orthogonality(error_, rules_));
            TRY_VOID(round(q, b * b, out));
        }
        return error_;
    }

    // Leaves it for a device, which folds group by group.
    Result<double> leave(SkewHalves& skew) {
        const int64_t b = part_.block_size, m = part_.num_factors, in_group = part_.group / b, blocks = part_.in / b;
        int64_t place = part_.skew;
        for (int64_t g = 0; g < part_.in / part_.group; ++g) {
            if (progress_.cancelled()) return Error{"", "", "", "", true};
            for (int64_t factor = 0; factor < m; ++factor)
                for (int64_t j = 0; j < in_group; ++j, place += skew_values(b))
                    skew.put(place, skew_block(stored(factor * blocks + g * in_group + j), b, rules_), b);
        }
        block(0);
        if (progress_.cancelled()) return Error{"", "", "", "", true};
        if (!skew.too_large()) TRY_VOID(check_orthogonality(error_, rules_));
        return error_;
    }

private:
    // Entries are at most 1, but for those of a series that is cut off.
    static Result<void> round(const Matrix& values, int64_t count, T* out) {
        for (int64_t i = 0; i < count; ++i) {
            out[i] = from_float<T>(float(values[size_t(i)]));
            if (!std::isfinite(to_float(out[i])))
                return Error{"", "", "a rotation with an entry of " + shown(values[size_t(i)]),
                             std::string("entries that ") + name_of(dtype_of<T>) + " can hold"};
        }
        return {};
    }

    const float* stored(int64_t index) const {
        const std::vector<float>& all = rules_.oft ? weights_.oft_r : weights_.boft_r;
        return &all[size_t((rules_.shared ? 0 : index) * stored_values(part_.block_size, rules_))];
    }

    // Block `index` of all factors', one factor after another.
    Matrix block(int64_t index) {
        Matrix q = rotation_block(stored(index), part_.block_size, rules_, progress_);
        // Not std::max: a NaN must stay.
        if (const double error = orthogonality_error(q, part_.block_size, progress_); !(error <= error_))
            error_ = error;
        return q;
    }

    Matrix group_matrix(int64_t g) {
        const int64_t b = part_.block_size, m = part_.num_factors, in_group = part_.group / b;
        const int64_t blocks = part_.in / b;
        Matrix factors;
        factors.reserve(size_t(m * in_group * b * b));
        for (int64_t factor = 0; factor < m; ++factor) {
            for (int64_t j = 0; j < in_group && !progress_.cancelled(); ++j) {
                const Matrix q = block(factor * blocks + g * in_group + j);
                factors.insert(factors.end(), q.begin(), q.end());
            }
        }
        if (progress_.cancelled() || m == 1) return factors;
        return compose_butterfly(factors, b, m, progress_);
    }

    const AdapterPart& part_;
    const ModuleWeights& weights_;
    const RotationRules& rules_;
    const Progress& progress_;
    double error_ = 0;
};

// row += scale · B[n, :] · A, four ranks at a time so that the row is read and written less often.
void add_low_rank_row(const ModuleWeights& w, const AdapterPart& part, int64_t n, std::vector<float>& row) {
    const float* b = &w.lora_b[size_t(n * part.rank)];
    int64_t r = 0;
    for (; r + 4 <= part.rank; r += 4) {
        const float* a = &w.lora_a[size_t(r * part.in)];
        const float b0 = part.scale * b[r], b1 = part.scale * b[r + 1], b2 = part.scale * b[r + 2],
                    b3 = part.scale * b[r + 3];
        for (int64_t k = 0; k < part.in; ++k)
            row[size_t(k)] += (b0 * a[k] + b1 * a[part.in + k]) + (b2 * a[2 * part.in + k] + b3 * a[3 * part.in + k]);
    }
    for (; r < part.rank; ++r) {
        const float* a = &w.lora_a[size_t(r * part.in)];
        const float factor = part.scale * b[r];
        for (int64_t k = 0; k < part.in; ++k) row[size_t(k)] += factor * a[k];
    }
}

double norm(const std::vector<float>& row) {
    double sums[8] = {};
    size_t k = 0;
    for (; k + 8 <= row.size(); k += 8)
        for (size_t i = 0; i < 8; ++i) sums[i] += double(row[k + i]) * double(row[k + i]);
    for (; k < row.size(); ++k) sums[0] += double(row[k]) * double(row[k]);
    double sum = 0;
    for (const double s : sums) sum += s;
    return std::sqrt(sum);
}

// DoRA: gain[n] = magnitude[n] / |W[n, :] + scale · B[n, :] A|₂ (peft lora/dora.py).
template <class T>
Result<void> fold_dora_gain(const AdapterPart& part, const ModuleWeights& weights, const PackedMatrix<T>& base,
                            float* gain, const Progress& progress) {
    std::vector<float> row(static_cast<size_t>(part.in));
    for (int64_t n = 0; n < part.out; ++n) {
        if (n % 64 == 0 && progress.cancelled()) return Error{"", "", "", "", true};
        base.get_row(n, row.data());
        add_low_rank_row(weights, part, n, row);
        const double length = norm(row);
        gain[n] = float(double(weights.magnitude[size_t(n)]) / length);
        if (!std::isfinite(gain[n]))
            return Error{
                "", "", "row " + std::to_string(n) + " of W + scale · B A of length " + shown(length),
                "a length that magnitude " + shown(double(weights.magnitude[size_t(n)])) + " can be divided by"};
    }
    return {};
}

// DoRA of a lookup: gain[n] = magnitude[n] / the length of column n of the table, over the whole vocabulary.
template <class T>
Result<void> fold_embedding_gain(const PlannedPart& planned, const ModuleWeights& weights, const PackedMatrix<T>& base,
                                 float* gain, const Progress& progress) {
    const AdapterPart& part = planned.part;
    std::vector<float> row(static_cast<size_t>(part.out));
    std::vector<double> squares(static_cast<size_t>(part.out), 0.0);
    for (int64_t token = 0; token < planned.a_width; ++token) {
        if (token % 64 == 0 && progress.cancelled()) return Error{"", "", "", "", true};
        base.get_row(token, row.data());
        for (int64_t n = 0; n < part.out; ++n) {
            float sum = 0;
            for (int64_t r = 0; r < part.rank; ++r)
                sum += weights.lora_a[size_t(r * planned.a_width + token)] * weights.lora_b[size_t(n * part.rank + r)];
            const double v = double(row[size_t(n)] + part.scale * sum);
            squares[size_t(n)] += v * v;
        }
    }
    for (int64_t n = 0; n < part.out; ++n) {
        gain[n] = float(double(weights.magnitude[size_t(n)]) / std::sqrt(squares[size_t(n)]));
        if (!std::isfinite(gain[n]))
            return Error{"", "", "column " + std::to_string(n) + " of length " + shown(std::sqrt(squares[size_t(n)])),
                         "a length that a magnitude can be divided by"};
    }
    return {};
}

template <class T>
void fold_low_rank(const PlannedPart& planned, const ModuleWeights& weights, std::byte* blob) {
    const AdapterPart& part = planned.part;
    const bool is_lookup = planned.place == PlannedPart::Place::embedding;
    const int64_t width = is_lookup ? planned.a_width : part.in;
    if (planned.shares_input < 0) {
        T* a = at<T>(blob, part.a);
        for (int64_t r = 0; r < part.rank; ++r)
            for (int64_t k = 0; k < width; ++k)
                a[is_lookup ? k * part.rank + r : r * width + k] = from_float<T>(weights.lora_a[size_t(r * width + k)]);
    }
    T* b_t = at<T>(blob, part.b_t);
    for (int64_t n = 0; n < part.out; ++n)
        for (int64_t r = 0; r < part.rank; ++r)
            b_t[r * part.out + n] = from_float<T>(weights.lora_b[size_t(n * part.rank + r)]);
}

// The replacement bias: the adapter's own or the base's, plus LoRA's scaled output bias.
Result<void> fold_bias(const AdapterPart& part, const ModuleWeights& weights, const std::vector<float>& base,
                       float* bias) {
    const std::vector<float>& start = weights.bias.empty() ? base : weights.bias;
    for (int64_t n = 0; n < part.out; ++n) {
        double sum = start.empty() ? 0.0 : double(start[size_t(n)]);
        if (!weights.lora_b_bias.empty()) sum += double(part.scale) * double(weights.lora_b_bias[size_t(n)]);
        bias[n] = float(sum);
        if (!std::isfinite(bias[n])) return Error{"", "", "a bias that overflows", "finite sums"};
    }
    return {};
}

template <class T>
const PackedMatrix<T>& base_matrix(const PlannedPart& planned, const Weights<T>& base) {
    if (planned.place == PlannedPart::Place::embedding) return base.embedding;
    if (planned.place == PlannedPart::Place::head) return base.output();
    return base.layers[size_t(planned.part.layer)].projection[size_t(planned.part.projection)];
}

template <class T>
Result<void> fold_gain(const PlannedPart& planned, const ModuleWeights& weights, const Weights<T>& base, float* gain,
                       const Progress& progress) {
    if (weights.magnitude.empty()) {
        std::copy(weights.boft_s.begin(), weights.boft_s.end(), gain);
        return {};
    }
    const PackedMatrix<T>& matrix = base_matrix(planned, base);
    if (planned.place == PlannedPart::Place::embedding)
        return fold_embedding_gain(planned, weights, matrix, gain, progress);
    return fold_dora_gain(planned.part, weights, matrix, gain, progress);
}

template <class T>
Result<double> fold_typed(const PlannedPart& planned, const ModuleWeights& weights, const RotationRules& rules,
                          const Weights<T>& base, std::byte* blob, SkewHalves& skew, const Progress& progress) {
    const AdapterPart& part = planned.part;
    double error = 0;
    if (part.skew >= 0 && planned.shares_input < 0) {
        TRY_ASSIGN(measured, RotationFolder<T>(part, weights, rules, progress).leave(skew));
        error = measured;
    }
    if (part.rotation >= 0 && part.skew < 0 && planned.shares_input < 0) {
        TRY_ASSIGN(measured, RotationFolder<T>(part, weights, rules, progress).fold(at<T>(blob, part.rotation)));
        error = measured;
    }
    if (part.factors >= 0 && planned.shares_input < 0) {
        TRY_ASSIGN(measured, RotationFolder<T>(part, weights, rules, progress).keep(at<T>(blob, part.factors)));
        error = measured;
    }
    if (part.rank > 0) fold_low_rank<T>(planned, weights, blob);
    if (part.gain >= 0) TRY_VOID(fold_gain(planned, weights, base, at<float>(blob, part.gain), progress));
    if (part.bias >= 0) {
        static const std::vector<float> none;
        const bool in_layer = planned.place == PlannedPart::Place::layer;
        const std::vector<float>& start =
            in_layer ? base.layers[size_t(part.layer)].bias[size_t(part.projection)] : none;
        TRY_VOID(fold_bias(part, weights, start, at<float>(blob, part.bias)));
    }
    return error;
}

}  // namespace

RotationRules rotation_rules(const PeftConfig& config, const PeftModule& module, int64_t in, int64_t out) {
    RotationRules rules{.oft = config.kind == AdapterKind::oft,
                        .old_oft = module.is_old_oft(),
                        .neumann = config.oft_neumann,
                        .shared = config.kind == AdapterKind::oft && config.oft_block_share,
                        .terms = config.oft_terms,
                        .series = config.oft_series};
    if (!rules.oft || !config.oft_constrained) return rules;
    // COFT: eps over the root of the tensor's rows. PEFT 0.14 and 0.15 multiplied it by ceil(out / blocks) squared.
    const int64_t blocks = in / module.b, outs = divide_up(out, blocks);
    rules.limit =
        config.oft_eps / std::sqrt(rules.shared ? 1. : double(blocks)) * (rules.old_oft ? double(outs * outs) : 1);
    return rules;
}

int64_t stored_values(int64_t b, const RotationRules& rules) {
    return rules.oft && !rules.old_oft ? b * (b - 1) / 2 : b * b;
}

// COFT limits the skew matrix; in PEFT 0.14 and 0.15 it limited what that
// is taken from, with its symmetric part.
Matrix skew_block(const float* stored, int64_t b, const RotationRules& rules) {
    if (!rules.oft || rules.old_oft) {
        std::vector<float> a(stored, stored + b * b);
        limit_norm(a, rules.limit);
        return boft_skew(a.data(), b);
    }
    Matrix skew = oft_skew(stored, b);
    limit_norm(skew, rules.limit);
    return skew;
}

Matrix rotation_block(const float* stored, int64_t b, const RotationRules& rules, const Progress& progress) {
    const Matrix skew = skew_block(stored, b, rules);
    return rules.is_exact() ? cayley(skew, b, progress) : neumann(skew, b, rules.terms, rules.series, progress);
}

Result<void> check_orthogonality(double error, const RotationRules& rules) {
    if (error <= (rules.is_exact() ? kMaxExactError : 1e30)) return {};
    return Error{"", "", "a rotation that is not orthogonal: |RᵀR - I| = " + shown(error),
                 "less than " + shown(kMaxExactError)};
}

std::optional<std::string> orthogonality_warning(double error) {
    if (error <= kWarnedError) return std::nullopt;
    return "rotations are not quite orthogonal: |RᵀR - I| = " + shown(error) + ", as PEFT's Neumann series leaves them";
}

int64_t reserve(int64_t& end, int64_t bytes) {
    const int64_t offset = round_up(end, 64);
    end = offset + bytes;
    return offset;
}

ModuleWeights rows_of(const PlannedPart& planned, const ModuleWeights& weights) {
    ModuleWeights rows = weights;
    const auto cut = [&](std::vector<float>& values, int64_t width) {
        if (values.empty()) return;
        const auto first = values.begin() + planned.first_row * width;
        values = std::vector<float>(first, first + planned.part.out * width);
    };
    cut(rows.lora_b, planned.part.rank);
    for (std::vector<float>* values : {&rows.boft_s, &rows.lora_b_bias, &rows.magnitude, &rows.bias}) cut(*values, 1);
    return rows;
}

Result<void> check_memory(int64_t bytes, const std::string& path) {
    const int64_t available = available_memory_bytes();
    if (bytes <= available) return {};
    return Error{path, "memory", format_bytes(bytes) + " needed for the folded adapter",
                 "at most the " + format_bytes(available) + " available"};
}

PlacedParts place_parts(std::vector<PlannedPart>& parts, DType dtype, AdapterForm form) {
    int64_t end = 0;
    for (PlannedPart& planned : parts) {
        AdapterPart& p = planned.part;
        if (form != AdapterForm::factored || planned.place != PlannedPart::Place::layer || p.group == 0) continue;
        p.factors = planned.shares_input < 0 ? reserve(end, p.num_factors * p.in * p.block_size * size_of(dtype))
                                             : parts[size_t(planned.shares_input)].part.factors;
    }
    const int64_t factor_bytes = round_up(end, 64);
    for (PlannedPart& planned : parts) {
        AdapterPart& p = planned.part;
        const AdapterPart* shared = planned.shares_input < 0 ? nullptr : &parts[size_t(planned.shares_input)].part;
        if (p.group > 0 && p.factors < 0 && !planned.leaves_skew)
            p.rotation = shared ? shared->rotation : reserve(end, p.in * p.group * size_of(dtype));
        if (p.rank > 0) {
            const int64_t width = planned.a_width > 0 ? planned.a_width : p.in;
            p.a = shared ? shared->a : reserve(end, p.rank * width * size_of(dtype));
            p.b_t = reserve(end, p.rank * p.out * size_of(dtype));
        }
        if (planned.has_gain) p.gain = reserve(end, p.out * int64_t(sizeof(float)));
        if (planned.has_bias) p.bias = reserve(end, p.out * int64_t(sizeof(float)));
    }
    return {round_up(end, 64), factor_bytes};
}

bool leave_skew(const AdapterPart& part, const RotationRules& rules) {
    return part.group > 0 && rules.is_exact() && device_folds(part.block_size, part.num_factors);
}

int64_t place_skew(std::vector<PlannedPart>& parts, Adapter& adapter) {
    const auto begin = int64_t(adapter.blob.size());
    int64_t end = begin, values = 0;
    for (PlannedPart& planned : parts) {
        AdapterPart& p = planned.part;
        if (!planned.leaves_skew) continue;
        if (planned.shares_input >= 0) {
            p.rotation = parts[size_t(planned.shares_input)].part.rotation;
            p.skew = parts[size_t(planned.shares_input)].part.skew;
            continue;
        }
        p.rotation = reserve(end, p.in * p.group * size_of(adapter.dtype));
        p.skew = values;
        values += skew_values_of(p.in, p.block_size, p.num_factors);
    }
    adapter.unfolded_bytes = round_up(end, 64) - begin;
    return values;
}

Result<double> fold_part(const PlannedPart& planned, const ModuleWeights& weights, const RotationRules& rules,
                         const Model& model, std::byte* blob, SkewHalves& skew, const Progress& progress) {
    return std::visit([&](const auto& base) { return fold_typed(planned, weights, rules, base, blob, skew, progress); },
                      model.weights);
}

namespace {

template <class T>
void fold_skew_of(const Adapter& adapter, const AdapterPart& part, T* out, const Progress& progress) {
    const int64_t b = part.block_size, m = part.num_factors, size = part.group * part.group;
    int64_t place = part.skew;
    for (int64_t g = 0; g < part.in / part.group && !progress.cancelled(); ++g, out += size) {
        Matrix factors;
        for (int64_t i = 0; i < m << (m - 1); ++i, place += skew_values(b)) {
            const Matrix q = cayley(skew_of(adapter, place, b), b, progress);
            factors.insert(factors.end(), q.begin(), q.end());
        }
        if (m > 1) factors = compose_butterfly(factors, b, m, progress);
        for (int64_t i = 0; i < size; ++i) out[i] = from_float<T>(float(factors[size_t(i)]));
    }
}

}  // namespace

Result<std::shared_ptr<const Adapter>> fold_rotations(const Adapter& adapter, const Progress& progress) {
    TRY_VOID(check_memory(adapter.bytes(), adapter.path));
    auto folded = std::make_shared<Adapter>(adapter);
    folded->blob.resize(size_t(adapter.bytes()));
    folded->unfolded_bytes = 0;
    folded->skew = {};
    std::vector<const AdapterPart*> to_fold;  // fused modules' parts share theirs
    for (const AdapterPart& part : adapter.parts) {
        const bool known = std::any_of(to_fold.begin(), to_fold.end(),
                                       [&](const AdapterPart* other) { return other->rotation == part.rotation; });
        if (part.skew >= 0 && !known) to_fold.push_back(&part);
    }
    TRY_VOID(run_items(int64_t(to_fold.size()), usable_cpus(), adapter.path, [&](int64_t i, int) -> Result<void> {
        const AdapterPart& part = *to_fold[size_t(i)];
        std::byte* out = folded->blob.data() + part.rotation;
        with_type(adapter.dtype, [&]<class T>(T) { fold_skew_of(adapter, part, reinterpret_cast<T*>(out), progress); });
        if (progress.cancelled()) return Error{"", "", "", "", true};
        return {};
    }));
    for (AdapterPart& part : folded->parts) part.skew = -1;
    return std::shared_ptr<const Adapter>(std::move(folded));
}

}  // namespace spartan
