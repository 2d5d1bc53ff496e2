#include "core/adapter/merged_rows.h"

#include <algorithm>

namespace spartan {

template <class T>
MergedRows<T>::OwnRows::OwnRows(const Adapter& adapter, const TablePart& table, const PackedMatrix<T>& base)
    : copy(adapter, table.copy, base.rows(), base.cols()),
      tokens(adapter, table.token_rows, int64_t(table.tokens.size()), base.cols()) {}

template <class T>
MergedRows<T>::MergedRows(const Adapter& adapter, const Weights<T>& base) : adapter_(adapter), base_(base) {
    if (adapter.embedding) embedding_ = {adapter, *adapter.embedding, base.embedding};
    if (adapter.head) head_ = {adapter, *adapter.head, base.output()};
}

template <class T>
void MergedRows<T>::linear(const PackedMatrix<T>& w, const AdapterPart* part, int64_t n, float* out) const {
    w.get_row(n, out);
    if (!part) return;
    const int64_t in = w.cols();
    std::vector<double> sum(static_cast<size_t>(in));
    rotate_back(*part, out, sum);
    if (part->a >= 0) {
        const T* a = blob_at<T>(adapter_, part->a);
        const T* b_t = blob_at<T>(adapter_, part->b_t);
        for (int64_t r = 0; r < part->rank; ++r) {
            const double factor = double(part->scale) * double(to_float(b_t[r * part->out + n]));
            for (int64_t k = 0; k < in; ++k) sum[size_t(k)] += factor * double(to_float(a[r * in + k]));
        }
    }
    const float* gain = blob_at<float>(adapter_, part->gain);
    for (int64_t k = 0; k < in; ++k) out[k] = float(gain ? double(gain[n]) * sum[size_t(k)] : sum[size_t(k)]);
}

template <class T>
void MergedRows<T>::embedding(int64_t token, float* out) const {
    if (!adapter_.embedding) return base_.embedding.get_row(token, out);
    const TablePart& table = *adapter_.embedding;
    own_row(embedding_, table, base_.embedding, token, out);
    const AdapterPart& part = table.part;
    const int64_t hidden = base_.embedding.cols();
    std::vector<double> sum(out, out + hidden);
    if (part.rotation >= 0) rotate_forward(part, out, sum);
    if (part.a >= 0) {
        const T* a_t = blob_at<T>(adapter_, part.a);
        const T* b_t = blob_at<T>(adapter_, part.b_t);
        for (int64_t r = 0; r < part.rank; ++r) {
            const double factor = double(part.scale) * double(to_float(a_t[token * part.rank + r]));
            for (int64_t n = 0; n < hidden; ++n) sum[size_t(n)] += factor * double(to_float(b_t[r * hidden + n]));
        }
    }
    const float* gain = blob_at<float>(adapter_, part.gain);
    for (int64_t n = 0; n < hidden; ++n) out[n] = float(gain ? double(gain[n]) * sum[size_t(n)] : sum[size_t(n)]);
}

template <class T>
void MergedRows<T>::head(int64_t token, float* out) const {
    if (!adapter_.head) return base_.output().get_row(token, out);
    const TablePart& table = *adapter_.head;
    if (!table.has_linear()) return own_row(head_, table, base_.output(), token, out);
    linear(head_.copy.get() ? *head_.copy.get() : base_.output(), &table.part, token, out);
}

// sum[g G + u] = sum over v of row[g G + v] R[g][u][v]: W Rᵀ where rot(x)[v] = sum over u of x[u] R[u][v].
template <class T>
void MergedRows<T>::rotate_back(const AdapterPart& part, const float* row, std::vector<double>& sum) const {
    std::copy_n(row, sum.size(), sum.begin());
    if (part.rotation < 0) return;
    const T* blocks = blob_at<T>(adapter_, part.rotation);
    const int64_t g = part.group;
    for (int64_t u = 0; u < int64_t(sum.size()); ++u) {
        const T* to = blocks + u * g;
        double s = 0;
        for (int64_t v = 0; v < g; ++v) s += double(row[u / g * g + v]) * double(to_float(to[v]));
        sum[size_t(u)] = s;
    }
}

template <class T>
void MergedRows<T>::rotate_forward(const AdapterPart& part, const float* row, std::vector<double>& sum) const {
    std::fill(sum.begin(), sum.end(), 0.0);
    const T* blocks = blob_at<T>(adapter_, part.rotation);
    const int64_t g = part.group;
    for (int64_t u = 0; u < int64_t(sum.size()); ++u)
        for (int64_t v = 0; v < g; ++v)
            sum[size_t(u / g * g + v)] += double(row[u]) * double(to_float(blocks[u * g + v]));
}

template <class T>
void MergedRows<T>::own_row(const OwnRows& own, const TablePart& table, const PackedMatrix<T>& base, int64_t token,
                            float* out) {
    const auto at = std::lower_bound(table.tokens.begin(), table.tokens.end(), token);
    if (own.tokens.get() && at != table.tokens.end() && *at == token)
        return own.tokens.get()->get_row(at - table.tokens.begin(), out);
    (own.copy.get() ? *own.copy.get() : base).get_row(token, out);
}

template class MergedRows<float>;
template class MergedRows<bf16>;
template class MergedRows<f16>;

}  // namespace spartan
