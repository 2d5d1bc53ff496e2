#include "core/engine/cuda/strategy_merge.h"

#include "kernels/check.h"
#include "kernels/cuda/merge.h"
#include "kernels/rounding.h"

#include <algorithm>

namespace spartan {
namespace {

constexpr int64_t kAlignment = 256;
int64_t aligned(int64_t bytes) { return round_up(bytes, kAlignment); }

// The one place that knows how a linear layer's weight lies in device memory: row-major, [out, in].
template <class T>
const T*& row_major(DeviceWeights<T>& weights, size_t layer, size_t projection) {
    return weights.layers[layer].projection[projection];
}

// Of one layer's weights, from the first to the end of the last, whatever lies between: products may rely on their
// places beside each other.
template <class T>
struct LayerSpan {
    const std::byte *begin = nullptr, *end = nullptr;
};
template <class T>
LayerSpan<T> span_of(DeviceWeights<T>& weights, const ModelConfig& c, size_t layer) {
    LayerSpan<T> span;
    for (size_t p = 0; p < size_t(kNumProjections); ++p) {
        const auto* w = reinterpret_cast<const std::byte*>(row_major(weights, layer, p));
        const int64_t bytes = in_features(c, Projection(p)) * out_features(c, Projection(p)) * int64_t(sizeof(T));
        span.begin = span.begin ? std::min(span.begin, w) : w;
        span.end = std::max(span.end, w + bytes);
    }
    return span;
}

}  // namespace

template <class T>
int64_t DeviceMerger<T>::bytes_of(const ModelConfig& c) {
    int64_t bytes = 0;
    for (int p = 0; p < kNumProjections; ++p)
        bytes += aligned(in_features(c, Projection(p)) * out_features(c, Projection(p)) * int64_t(sizeof(T))) +
                 aligned(out_features(c, Projection(p)) * int64_t(sizeof(float)));  // biases may lie between
    return bytes * c.num_layers;
}

template <class T>
DeviceMerger<T>::DeviceMerger(CudaDevice& device, const ModelConfig& config, DeviceWeights<T>& weights)
    : device_(device) {
    int64_t bytes = 0;
    for (size_t l = 0; l < weights.layers.size(); ++l) {
        const auto span = span_of(weights, config, l);
        bytes += aligned(span.end - span.begin);
    }
    CHECK(bytes <= bytes_of(config));
    memory_ = DeviceMemory(bytes);
    std::byte* at = memory_.data();
    for (size_t l = 0; l < weights.layers.size(); ++l) {
        const auto span = span_of(weights, config, l);
        CHECK_CUDA(
            cudaMemcpyAsync(at, span.begin, size_t(span.end - span.begin), cudaMemcpyDeviceToDevice, device_.stream()));
        for (size_t p = 0; p < size_t(kNumProjections); ++p) {
            const T*& w = row_major(weights, l, p);
            Linear linear;
            linear.own = w;
            linear.copy = reinterpret_cast<T*>(at + (reinterpret_cast<const std::byte*>(w) - span.begin));
            linear.out = out_features(config, Projection(p));
            linear.in = in_features(config, Projection(p));
            w = linear.copy;
            linears_.push_back(linear);
        }
        at += aligned(span.end - span.begin);
    }
}

// All that an earlier adapter changed, but those that are written anew.
template <class T>
int64_t DeviceMerger<T>::restore(const std::vector<bool>& but) {
    int64_t written = 0;
    for (size_t i = 0; i < linears_.size(); ++i) {
        Linear& linear = linears_[i];
        if (!linear.changed || but[i]) continue;
        CHECK_CUDA(cudaMemcpyAsync(linear.copy, linear.own, size_t(linear.bytes()), cudaMemcpyDeviceToDevice,
                                   device_.stream()));
        linear.changed = false;
        written += linear.bytes();
    }
    return written;
}

template <class T>
int64_t DeviceMerger<T>::merge(const Adapter* adapter, const std::byte* blob, const KeepGoing& keep_going) {
    const auto changes = [](const AdapterPart& part) { return part.rotation >= 0 || part.a >= 0 || part.gain >= 0; };
    const auto index_of = [](const AdapterPart& part) {
        return size_t(part.layer) * kNumProjections + size_t(part.projection);
    };
    const auto at = [&](int64_t offset) { return offset < 0 ? nullptr : blob + offset; };
    std::vector<bool> anew(linears_.size());
    if (adapter)
        for (const AdapterPart& part : adapter->parts)
            if (changes(part)) anew[index_of(part)] = true;
    int64_t written = restore(anew);
    if (adapter)
        for (const AdapterPart& part : adapter->parts) {
            if (!changes(part)) continue;
            if (!keep_going()) {
                restore(std::vector<bool>(linears_.size()));
                return -1;
            }
            Linear& linear = linears_[index_of(part)];
            CudaPart placed;
            placed.rotation = at(part.rotation);
            placed.a = at(part.a);
            placed.b_t = at(part.b_t);
            placed.gain = reinterpret_cast<const float*>(at(part.gain));
            placed.group = int32_t(part.group);
            placed.rank = int32_t(part.rank);
            placed.scale = part.scale;
            merge_part<T>(device_, linear.copy, linear.own, placed, linear.out, linear.in);
            linear.changed = true;
            written += linear.bytes();
        }
    device_.synchronize();
    return written;
}

template class DeviceMerger<float>;
template class DeviceMerger<bf16>;
template class DeviceMerger<f16>;

}  // namespace spartan
