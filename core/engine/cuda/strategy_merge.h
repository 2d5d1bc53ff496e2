// The strategy `merged` on a GPU: the forward pass runs on a copy of the linear layers, into which one adapter at a
// time is multiplied from the model's own weights.
#pragma once

#include "core/adapter/adapter.h"
#include "core/engine/cuda/device_weights.h"
#include "core/engine/model_runner.h"

#include <array>
#include <vector>

namespace spartan {

template <class T>
class DeviceMerger {
public:
    // What the copy will take.
    static int64_t bytes_of(const ModelConfig& config);

    // Takes the copy's memory and turns the linear layers of `weights` to it. The model's own stay where they are.
    DeviceMerger(CudaDevice& device, const ModelConfig& config, DeviceWeights<T>& weights);

    int64_t bytes() const { return memory_.bytes(); }
    // `blob` holds the adapter as its Adapter::blob does; null: nobody is merged, and the copy is the model's weights
    // bit for bit. Waits for the GPU. Returns the bytes written; negative when abandoned, and then nobody is merged.
    int64_t merge(const Adapter* adapter, const std::byte* blob, const KeepGoing& keep_going);

private:
    struct Linear {
        const T* own = nullptr;  // the model's
        T* copy = nullptr;
        int64_t out = 0, in = 0;
        bool changed = false;
        int64_t bytes() const { return out * in * int64_t(sizeof(T)); }
    };
    int64_t restore(const std::vector<bool>& but);

    CudaDevice& device_;
    DeviceMemory memory_;
    std::vector<Linear> linears_;  // [layer * kNumProjections + projection]
};

extern template class DeviceMerger<float>;
extern template class DeviceMerger<bf16>;
extern template class DeviceMerger<f16>;

}  // namespace spartan
