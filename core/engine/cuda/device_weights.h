// A model's weights in device memory: one allocation, matrices row-major as in the checkpoint, vectors in fp32.
#pragma once

#include "core/model/model.h"
#include "kernels/cuda/device.h"

#include <array>
#include <vector>

namespace spartan {

template <class T>
struct DeviceLayer {
    const float* attention_norm = nullptr;  // [hidden]
    const float* mlp_norm = nullptr;
    const float* q_norm = nullptr;  // [head_dim]; null: none
    const float* k_norm = nullptr;
    std::array<const T*, kNumProjections> projection{};  // [out, in]
    std::array<const float*, kNumProjections> bias{};    // [out]; null: none
};

template <class T>
class DeviceWeights {
public:
    // What upload() will take.
    static int64_t bytes_of(const Weights<T>& weights);

    // Copies everything; `threads` convert rows while the one before them travels. Throws DeviceError.
    DeviceWeights(CudaDevice& device, const Weights<T>& weights, int threads);

    int64_t layer_bytes() const { return layer_bytes_; }  // of all layers: what every step reads

    const T* embedding = nullptr;  // [vocab, hidden]
    const T* head = nullptr;       // [vocab, hidden]; the embedding when tied
    const float* final_norm = nullptr;
    const float* inv_freq = nullptr;
    std::vector<DeviceLayer<T>> layers;

private:
    DeviceMemory memory_;
    int64_t layer_bytes_ = 0;
};

extern template class DeviceWeights<float>;
extern template class DeviceWeights<bf16>;
extern template class DeviceWeights<f16>;

}  // namespace spartan
