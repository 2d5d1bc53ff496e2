#include "core/engine/cuda/device_weights.h"

#include "core/engine/cuda/upload.h"
#include "kernels/rounding.h"

#include <vector>

namespace spartan {
namespace {

constexpr int64_t kAlignment = 256;

// Calls matrix(PackedMatrix, place of its pointer) and vector(values, place) for everything the model has; `out` may be
// null when only sizes matter.
template <class T, class Matrix, class Vector>
void for_each_weight(const Weights<T>& w, DeviceWeights<T>* out, const Matrix& matrix, const Vector& vector) {
    DeviceLayer<T> unused;
    const T* table = nullptr;
    const float* values = nullptr;
    matrix(w.embedding, out ? out->embedding : table);
    for (size_t l = 0; l < w.layers.size(); ++l) {
        const LayerWeights<T>& from = w.layers[l];
        DeviceLayer<T>& to = out ? out->layers[l] : unused;
        vector(from.attention_norm, to.attention_norm);
        vector(from.mlp_norm, to.mlp_norm);
        vector(from.q_norm, to.q_norm);
        vector(from.k_norm, to.k_norm);
        // Matrices of one size side by side can be one product.
        for (size_t p = 0; p < size_t(kNumProjections); ++p) matrix(from.projection[p], to.projection[p]);
        for (size_t p = 0; p < size_t(kNumProjections); ++p) vector(from.bias[p], to.bias[p]);
    }
    vector(w.final_norm, out ? out->final_norm : values);
    vector(w.inv_freq, out ? out->inv_freq : values);
    if (!w.head.empty()) matrix(w.head, out ? out->head : table);
}

template <class T>
int64_t bytes_in(const PackedMatrix<T>& m) {
    return round_up(m.rows() * m.cols() * int64_t(sizeof(T)), kAlignment);
}
int64_t bytes_in(const std::vector<float>& v) { return round_up(int64_t(v.size() * sizeof(float)), kAlignment); }

}  // namespace

template <class T>
int64_t DeviceWeights<T>::bytes_of(const Weights<T>& weights) {
    int64_t bytes = 0;
    const auto add = [&](const auto& weight, auto&) { bytes += bytes_in(weight); };
    for_each_weight<T>(weights, nullptr, add, add);
    return bytes;
}

template <class T>
DeviceWeights<T>::DeviceWeights(CudaDevice& device, const Weights<T>& weights, int threads)
    : layers(weights.layers.size()), memory_(bytes_of(weights)) {
    CpuDevice converter(threads);
    Uploader uploader(device);
    std::byte* at = memory_.data();
    const auto matrix = [&](const PackedMatrix<T>& m, const T*& place) {
        place = reinterpret_cast<const T*>(at);
        const int64_t cols = m.cols();
        uploader.copy(at, m.rows(), cols * int64_t(sizeof(T)), [&](int64_t first, int64_t n, std::byte* buffer) {
            T* rows = reinterpret_cast<T*>(buffer);
            converter.parallel_for(n, 16, [&](int64_t begin, int64_t end, int) {
                unpack_rows(m, first + begin, end - begin, rows + begin * cols);
            });
        });
        at += bytes_in(m);
    };
    const auto vector = [&](const std::vector<float>& v, const float*& place) {
        if (v.empty()) return;
        place = reinterpret_cast<const float*>(at);
        uploader.copy(at, v.data(), int64_t(v.size() * sizeof(float)));
        at += bytes_in(v);
    };
    for_each_weight<T>(weights, this, matrix, vector);
    if (!head) head = embedding;
    for (const LayerWeights<T>& layer : weights.layers) {
        for (const PackedMatrix<T>& m : layer.projection) layer_bytes_ += m.rows() * m.cols() * int64_t(sizeof(T));
        for (const std::vector<float>& b : layer.bias) layer_bytes_ += int64_t(b.size() * sizeof(float));
        layer_bytes_ += int64_t((layer.attention_norm.size() + layer.mlp_norm.size()) * sizeof(float));
    }
    uploader.finish();
}

template class DeviceWeights<float>;
template class DeviceWeights<bf16>;
template class DeviceWeights<f16>;

}  // namespace spartan
