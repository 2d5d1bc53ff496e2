#include "kernels/dequantise.h"

#include "kernels/check.h"
#include "kernels/view.h"

#include <bit>
#include <cstring>

namespace spartan {

namespace {

// Without branches, so that loops over it become vector code. A half's exponent and mantissa, shifted to where a float
// keeps them, name a value 2^112 too small (exact, as a subnormal float at the least). Inf and NaN need all exponent
// bits.
inline float half_to_float(uint16_t h) {
    const uint32_t magnitude = uint32_t(h & 0x7fffu) << 13;
    const uint32_t special = (h & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;
    const uint32_t sign = uint32_t(h & 0x8000u) << 16;
    const float scaled = std::bit_cast<float>(magnitude) * 0x1p112f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(scaled) | special | sign);
}

inline uint16_t read_u16(const uint8_t* p) {
    uint16_t v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

void q4_0_block(const uint8_t* b, float* out) {
    const float d = half_to_float(read_u16(b));
    for (int i = 0; i < 16; ++i) {
        out[i] = d * float(int(b[2 + i] & 15) - 8);
        out[i + 16] = d * float(int(b[2 + i] >> 4) - 8);
    }
}

void q4_1_block(const uint8_t* b, float* out) {
    const float d = half_to_float(read_u16(b)), m = half_to_float(read_u16(b + 2));
    for (int i = 0; i < 16; ++i) {
        out[i] = d * float(int(b[4 + i] & 15)) + m;
        out[i + 16] = d * float(int(b[4 + i] >> 4)) + m;
    }
}

void q8_0_block(const uint8_t* b, float* out) {
    const float d = half_to_float(read_u16(b));
    for (int i = 0; i < 32; ++i) out[i] = d * float(int8_t(b[2 + i]));
}

}  // namespace

bool is_supported(GgufType type) {
    switch (type) {
        case GgufType::f32:
        case GgufType::f16:
        case GgufType::q4_0:
        case GgufType::q4_1:
        case GgufType::q8_0:
        case GgufType::bf16:
            return true;
    }
    return false;
}

const char* name_of(GgufType type) {
    switch (type) {
        case GgufType::f32:
            return "F32";
        case GgufType::f16:
            return "F16";
        case GgufType::q4_0:
            return "Q4_0";
        case GgufType::q4_1:
            return "Q4_1";
        case GgufType::q8_0:
            return "Q8_0";
        case GgufType::bf16:
            return "BF16";
    }
    return "?";
}

int64_t block_elements(GgufType type) {
    CHECK(is_supported(type));
    const bool quantised = type == GgufType::q4_0 || type == GgufType::q4_1 || type == GgufType::q8_0;
    return quantised ? 32 : 1;
}

int64_t block_bytes(GgufType type) {
    switch (type) {
        case GgufType::f32:
            return 4;
        case GgufType::f16:
            return 2;
        case GgufType::q4_0:
            return 18;
        case GgufType::q4_1:
            return 20;
        case GgufType::q8_0:
            return 34;
        case GgufType::bf16:
            return 2;
    }
    CHECK(false);
}

float f16_to_float(uint16_t bits) { return half_to_float(bits); }

void dequantise_row(GgufType type, const void* blocks, int64_t count, float* out) {
    CHECK(count >= 0 && count % block_elements(type) == 0);
    const auto* b = static_cast<const uint8_t*>(blocks);
    switch (type) {
        case GgufType::f32:
            std::memcpy(out, b, size_t(count) * 4);
            break;
        case GgufType::f16:
            for (int64_t i = 0; i < count; ++i) out[i] = half_to_float(read_u16(b + 2 * i));
            break;
        case GgufType::bf16:
            for (int64_t i = 0; i < count; ++i) out[i] = to_float(bf16{read_u16(b + 2 * i)});
            break;
        case GgufType::q4_0:
            for (int64_t i = 0; i < count; i += 32, b += 18) q4_0_block(b, out + i);
            break;
        case GgufType::q4_1:
            for (int64_t i = 0; i < count; i += 32, b += 20) q4_1_block(b, out + i);
            break;
        case GgufType::q8_0:
            for (int64_t i = 0; i < count; i += 32, b += 34) q8_0_block(b, out + i);
            break;
    }
}

}  // namespace spartan
