// The weights that an adapter amounts to, row by row: what merging writes and what change is measured on.
#pragma once

#include "core/adapter/own_table.h"

#include <vector>

namespace spartan {

template <class V>
const V* blob_at(const Adapter& adapter, int64_t offset) {
    return offset < 0 ? nullptr : reinterpret_cast<const V*>(adapter.blob.data() + offset);
}

// W' of the linear layers and tables of a base whose weights and the adapter's are T: the weight that gives the
// adapter's output from the unchanged input. Biases and norms are not of it. Throws bad_alloc where a table's rows find
// no memory.
template <class T>
class MergedRows {
public:
    MergedRows(const Adapter& adapter, const Weights<T>& base);

    // Row n of a linear layer [out, in], gain[n] (W[n] Rᵀ + scale B[n] A); `part` null: W[n].
    void linear(const PackedMatrix<T>& w, const AdapterPart* part, int64_t n, float* out) const;
    // Row `token` of the embedding, gain (row R + scale A[:, token] B), and of the output head, as of a linear layer.
    void embedding(int64_t token, float* out) const;
    void head(int64_t token, float* out) const;

private:
    // The rows that an adapter's table brings.
    struct OwnRows {
        OwnRows() = default;
        OwnRows(const Adapter& adapter, const TablePart& table, const PackedMatrix<T>& base);
        OwnTable<T> copy, tokens;
    };

    void rotate_back(const AdapterPart& part, const float* row, std::vector<double>& sum) const;
    void rotate_forward(const AdapterPart& part, const float* row, std::vector<double>& sum) const;
    static void own_row(const OwnRows& own, const TablePart& table, const PackedMatrix<T>& base, int64_t token,
                        float* out);

    const Adapter& adapter_;
    const Weights<T>& base_;
    OwnRows embedding_, head_;
};

extern template class MergedRows<float>;
extern template class MergedRows<bf16>;
extern template class MergedRows<f16>;

}  // namespace spartan
