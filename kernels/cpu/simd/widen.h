// Kept weights (a file's blocks in the order of panels, kernels/cpu/kept.h) to panels as the product reads them.
#pragma once

namespace spartan {
namespace {

constexpr int kPanelParts = int(kPanel) / Vec::kLanes;  // vectors across a panel's outputs

// Two k of one vector of outputs, where the product with weights of type T wants them.
SIMD void put_pair(float* out, int lane, F even, F odd) {
    Vec::store(out + lane, even);
    Vec::store(out + kPanel + lane, odd);
}
SIMD void put_pair(bf16* out, int lane, F even, F odd) { Vec::store_pairs(out + 2 * lane, even, odd); }

// 32 k of 4-bit weights. `value` takes a nibble and the index of its vector of outputs.
template <class T, class Value>
SIMD void widen_nibbles(const uint8_t* nibbles, T* out, const Value& value) {
    for (int pair = 0; pair < 16; ++pair, nibbles += kPanel, out += 2 * kPanel)
        for (int part = 0; part < kPanelParts; ++part) {
            F even, odd;
            Vec::nibbles(nibbles + part * Vec::kLanes, even, odd);
            put_pair(out, part * Vec::kLanes, value(even, part), value(odd, part));
        }
}

// One f16 for each output of a panel.
struct PanelScales {
    F values[kPanelParts];
    explicit PanelScales(const uint8_t* halves) {
        for (int part = 0; part < kPanelParts; ++part)
            values[part] = Vec::finite_halves(halves + part * Vec::kLanes * 2);
    }
};

// out = the blocks [first, first + count) of `panel`.
template <class T>
void widen_q4_0(const uint8_t* panel, int64_t first, int64_t count, T* out) {
    constexpr int64_t kBytes = kPanel * 18;
    const F eight = Vec::set1(8);
    for (const uint8_t* at = panel + first * kBytes; count > 0; --count, at += kBytes, out += 32 * kPanel) {
        const PanelScales d(at);
        widen_nibbles(
            at + 2 * kPanel, out, [&](F q, int part) __attribute__((always_inline)) {
                return Vec::mul(d.values[part], Vec::sub(q, eight));
            });
    }
}

template <class T>
void widen_q4_1(const uint8_t* panel, int64_t first, int64_t count, T* out) {
    constexpr int64_t kBytes = kPanel * 20;
    for (const uint8_t* at = panel + first * kBytes; count > 0; --count, at += kBytes, out += 32 * kPanel) {
        const PanelScales d(at), m(at + 2 * kPanel);
        widen_nibbles(
            at + 4 * kPanel, out, [&](F q, int part) __attribute__((always_inline)) {
                return Vec::add(Vec::mul(d.values[part], q), m.values[part]);
            });
    }
}

template <class T>
void widen_q8_0(const uint8_t* panel, int64_t first, int64_t count, T* out) {
    constexpr int64_t kBytes = kPanel * 34;
    for (const uint8_t* at = panel + first * kBytes; count > 0; --count, at += kBytes) {
        const PanelScales d(at);
        const uint8_t* q = at + 2 * kPanel;
        for (int pair = 0; pair < 16; ++pair, q += 2 * kPanel, out += 2 * kPanel)
            for (int part = 0; part < kPanelParts; ++part) {
                const int lane = part * Vec::kLanes;
                put_pair(out, lane, Vec::mul(d.values[part], Vec::signed_bytes(q + lane)),
                         Vec::mul(d.values[part], Vec::signed_bytes(q + kPanel + lane)));
            }
    }
}

// Null for a type that cannot be kept.
template <class T>
WidenPanel<T> widen_panel(GgufType type) {
    switch (type) {
        case GgufType::q4_0:
            return widen_q4_0<T>;
        case GgufType::q4_1:
            return widen_q4_1<T>;
        case GgufType::q8_0:
            return widen_q8_0<T>;
        default:
            return nullptr;
    }
}

}  // namespace
}  // namespace spartan
