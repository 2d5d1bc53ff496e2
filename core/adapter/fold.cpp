#include "core/adapter/fold.h"

#include "core/base/memory.h"
#include "core/base/text.h"
#include "kernels/check.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace spartan {
namespace {

constexpr double kMaxExactError = 1e-4;

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

// One b x b block Q from its stored parameters.
Matrix rotation_block(const float* stored, int64_t b, int64_t rows, const RotationRules& rules,
                      const Progress& progress) {
    if (!rules.oft) return cayley(boft_skew(stored, b), b, progress);
    Matrix skew = oft_skew(stored, b);
    if (rules.constrained) limit_norm(skew, rules.eps / std::sqrt(double(rows)));
    return rules.neumann ? neumann(skew, b, rules.terms, rules.series, progress) : cayley(skew, b, progress);
}

// Multiplies the factors of each group out and rounds the product once.
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
            if (!(error_ <= (rules_.is_exact() ? kMaxExactError : 1e30)))
                return Error{"", "", "a rotation that is not orthogonal: |RᵀR - I| = " + shown(error_),
                             "less than " + shown(kMaxExactError)};
            for (int64_t i = 0; i < size; ++i) out[g * size + i] = from_float<T>(float(product[size_t(i)]));
        }
        for (int64_t g = different; g < groups; ++g) std::copy_n(out, size, out + g * size);
        return error_;
    }

private:
    Matrix group_matrix(int64_t g) {
        const int64_t b = part_.block_size, m = part_.num_factors, in_group = part_.group / b;
        const int64_t blocks = part_.in / b;
        Matrix factors;
        factors.reserve(size_t(m * in_group * b * b));
        for (int64_t factor = 0; factor < m; ++factor) {
            for (int64_t j = 0; j < in_group && !progress_.cancelled(); ++j) {
                const int64_t index = factor * blocks + g * in_group + j;
                const float* stored = rules_.oft ? &weights_.oft_r[size_t(index * b * (b - 1) / 2)]
                                                 : &weights_.boft_r[size_t(index * b * b)];
                const Matrix q = rotation_block(stored, b, rules_.shared ? 1 : blocks, rules_, progress_);
                // Not std::max: a NaN must stay.
                if (const double error = orthogonality_error(q, b, progress_); !(error <= error_)) error_ = error;
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

template <class T>
void fold_low_rank(const AdapterPart& part, const ModuleWeights& weights, std::byte* blob) {
    T* a = at<T>(blob, part.a);
    for (int64_t i = 0; i < part.rank * part.in; ++i) a[i] = from_float<T>(weights.lora_a[size_t(i)]);
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
Result<double> fold_typed(const PlannedPart& planned, const ModuleWeights& weights, const RotationRules& rules,
                          const LayerWeights<T>& layer, std::byte* blob, const Progress& progress) {
    const AdapterPart& part = planned.part;
    const auto p = size_t(part.projection);
    double error = 0;
    if (part.rotation >= 0) {
        TRY_ASSIGN(measured, RotationFolder<T>(part, weights, rules, progress).fold(at<T>(blob, part.rotation)));
        error = measured;
    }
    if (part.rank > 0) fold_low_rank<T>(part, weights, blob);
    if (!weights.magnitude.empty()) {
        TRY_VOID(fold_dora_gain(part, weights, layer.projection[p], at<float>(blob, part.gain), progress));
    } else if (part.gain >= 0) {
        std::copy(weights.boft_s.begin(), weights.boft_s.end(), at<float>(blob, part.gain));
    }
    if (part.bias >= 0) TRY_VOID(fold_bias(part, weights, layer.bias[p], at<float>(blob, part.bias)));
    return error;
}

int64_t reserve(int64_t& end, int64_t bytes) {
    const int64_t offset = (end + 63) / 64 * 64;
    end = offset + bytes;
    return offset;
}

}  // namespace

Result<void> check_memory(int64_t bytes, const std::string& path) {
    const int64_t available = available_memory_bytes();
    if (bytes <= available) return {};
    return Error{path, "memory", format_bytes(bytes) + " needed for the folded adapter",
                 "at most the " + format_bytes(available) + " available"};
}

int64_t place_parts(std::vector<PlannedPart>& parts, DType dtype) {
    int64_t end = 0;
    for (PlannedPart& planned : parts) {
        AdapterPart& p = planned.part;
        if (p.group > 0) p.rotation = reserve(end, p.in * p.group * size_of(dtype));
        if (p.rank > 0) {
            p.a = reserve(end, p.rank * p.in * size_of(dtype));
            p.b_t = reserve(end, p.rank * p.out * size_of(dtype));
        }
        if (planned.has_gain) p.gain = reserve(end, p.out * int64_t(sizeof(float)));
        if (planned.has_bias) p.bias = reserve(end, p.out * int64_t(sizeof(float)));
    }
    return (end + 63) / 64 * 64;
}

Result<double> fold_part(const PlannedPart& planned, const ModuleWeights& weights, const RotationRules& rules,
                         const Model& model, std::byte* blob, const Progress& progress) {
    return std::visit(
        [&](const auto& base) {
            return fold_typed(planned, weights, rules, base.layers[size_t(planned.part.layer)], blob, progress);
        },
        model.weights);
}

}  // namespace spartan
