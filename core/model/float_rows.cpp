#include "core/model/float_rows.h"

#include <cmath>
#include <cstdio>
#include <cstring>

namespace spartan {

std::optional<GgufType> float_type(std::string_view dtype) {
    for (const GgufType type :
         {GgufType::f32, GgufType::f16, GgufType::bf16, GgufType::q4_0, GgufType::q4_1, GgufType::q5_0, GgufType::q5_1,
          GgufType::q8_0, GgufType::q2_k, GgufType::q3_k, GgufType::q4_k, GgufType::q5_k, GgufType::q6_k})
        if (dtype == name_of(type)) return type;
    return std::nullopt;
}

int64_t first_not_representable(const float* values, int64_t count, DType dtype) {
    // From here on a magnitude is infinite or NaN, or rounds up to infinity (bf16: halfway past its largest number;
    // f16: 65520).
    const uint32_t limit = dtype == DType::f32 ? 0x7f800000u : dtype == DType::bf16 ? 0x7f7f8000u : 0x477ff000u;
    const auto too_large = [&](int64_t i) {
        uint32_t bits;
        std::memcpy(&bits, values + i, sizeof bits);
        return uint32_t((bits & 0x7fffffffu) >= limit);
    };
    constexpr int64_t kStep = 1024;  // a branch per block, so that the compiler can vectorise the inside
    for (int64_t begin = 0; begin < count; begin += kStep) {
        const int64_t end = begin + kStep < count ? begin + kStep : count;
        uint32_t any = 0;
        for (int64_t i = begin; i < end; ++i) any |= too_large(i);
        if (!any) continue;
        for (int64_t i = begin; i < end; ++i)
            if (too_large(i)) return i;
    }
    return -1;
}

std::string value_text(float value) {
    if (std::isnan(value)) return "NaN";
    if (std::isinf(value)) return value > 0 ? "infinity" : "-infinity";
    char text[32];
    std::snprintf(text, sizeof text, "%g", double(value));
    return text;
}

std::string shape_text(const std::vector<int64_t>& shape) {
    std::string text = "[";
    for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
    return text + "]";
}

}  // namespace spartan
