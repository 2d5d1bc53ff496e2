#include "kernels/dequantise.h"

#include "kernels/check.h"
#include "kernels/view.h"

#include <cstring>

namespace spartan {

namespace {

inline uint16_t read_u16(const uint8_t* p) {
    uint16_t v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

inline float read_half(const uint8_t* p) { return to_float(f16{read_u16(p)}); }

void q4_0_block(const uint8_t* b, float* out) {
    const float d = read_half(b);
    for (int i = 0; i < 16; ++i) {
        out[i] = d * float(int(b[2 + i] & 15) - 8);
        out[i + 16] = d * float(int(b[2 + i] >> 4) - 8);
    }
}

void q4_1_block(const uint8_t* b, float* out) {
    const float d = read_half(b), m = read_half(b + 2);
    for (int i = 0; i < 16; ++i) {
        out[i] = d * float(int(b[4 + i] & 15)) + m;
        out[i + 16] = d * float(int(b[4 + i] >> 4)) + m;
    }
}

inline uint32_t read_u32(const uint8_t* p) {
    uint32_t v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

// The fifth bits of a block's 32 quants: bit i for the low nibble of byte i, bit i + 16 for the high one.
void q5_0_block(const uint8_t* b, float* out) {
    const float d = read_half(b);
    const uint32_t high = read_u32(b + 2);
    for (int i = 0; i < 16; ++i) {
        out[i] = d * float(int((b[6 + i] & 15) | (high >> i & 1) << 4) - 16);
        out[i + 16] = d * float(int(b[6 + i] >> 4 | (high >> (i + 16) & 1) << 4) - 16);
    }
}

void q5_1_block(const uint8_t* b, float* out) {
    const float d = read_half(b), m = read_half(b + 2);
    const uint32_t high = read_u32(b + 4);
    for (int i = 0; i < 16; ++i) {
        out[i] = d * float(int((b[8 + i] & 15) | (high >> i & 1) << 4)) + m;
        out[i + 16] = d * float(int(b[8 + i] >> 4 | (high >> (i + 16) & 1) << 4)) + m;
    }
}

void q8_0_block(const uint8_t* b, float* out) {
    const float d = read_half(b);
    for (int i = 0; i < 32; ++i) out[i] = d * float(int8_t(b[2 + i]));
}

// ---- super-blocks of 256 -------------------------------------------------------------------------------------------

void q2_k_block(const uint8_t* b, float* out) {
    const uint8_t *scales = b, *quants = b + 16;
    const float d = read_half(b + 80), dmin = read_half(b + 82);
    for (int i = 0; i < 256; ++i) {
        const int half = i / 128, shift = i % 128 / 32 * 2;
        const int q = quants[half * 32 + i % 32] >> shift & 3;
        const uint8_t scale = scales[i / 16];
        out[i] = d * float(scale & 15) * float(q) - dmin * float(scale >> 4);
    }
}

void q3_k_block(const uint8_t* b, float* out) {
    const uint8_t *high = b, *quants = b + 32, *packed = b + 96;
    const float d = read_half(b + 108);
    float scales[16];
    for (int i = 0; i < 16; ++i) {
        const int low = i < 8 ? packed[i] & 15 : packed[i - 8] >> 4;
        scales[i] = d * float((low | (packed[8 + i % 4] >> (i / 4 * 2) & 3) << 4) - 32);
    }
    for (int i = 0; i < 256; ++i) {
        const int half = i / 128, shift = i % 128 / 32 * 2;
        const int low = quants[half * 32 + i % 32] >> shift & 3, bit = high[i % 32] >> (i / 32) & 1;
        out[i] = scales[i / 16] * float(low - (bit ? 0 : 4));
    }
}

// Scale and minimum of group j < 8, six bits each, of Q4_K and Q5_K.
struct ScaleMin {
    ScaleMin(const uint8_t* s, int j)
        : scale(j < 4 ? s[j] & 63 : (s[j + 4] & 15) | s[j - 4] >> 6 << 4),
          min(j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | s[j] >> 6 << 4) {}
    int scale, min;
};

void q4_k_block(const uint8_t* b, float* out) {
    const float d = read_half(b), dmin = read_half(b + 2);
    const uint8_t* quants = b + 16;
    for (int group = 0; group < 8; ++group) {
        const ScaleMin s(b + 4, group);
        const float scale = d * float(s.scale), min = dmin * float(s.min);
        for (int i = 0; i < 32; ++i) *out++ = scale * float(quants[group / 2 * 32 + i] >> (group % 2 * 4) & 15) - min;
    }
}

void q5_k_block(const uint8_t* b, float* out) {
    const float d = read_half(b), dmin = read_half(b + 2);
    const uint8_t *high = b + 16, *quants = b + 48;
    for (int group = 0; group < 8; ++group) {
        const ScaleMin s(b + 4, group);
        const float scale = d * float(s.scale), min = dmin * float(s.min);
        for (int i = 0; i < 32; ++i) {
            const int low = quants[group / 2 * 32 + i] >> (group % 2 * 4) & 15;
            *out++ = scale * float(low | (high[i] >> group & 1) << 4) - min;
        }
    }
}

void q6_k_block(const uint8_t* b, float* out) {
    const uint8_t *low = b, *high = b + 128, *scales = b + 192;
    const float d = read_half(b + 208);
    for (int i = 0; i < 256; ++i) {
        const int half = i / 128, part = i % 128 / 32, l = i % 32;
        const int nibble = low[half * 64 + part % 2 * 32 + l] >> (part / 2 * 4) & 15;
        const int q = (nibble | (high[half * 32 + l] >> (part * 2) & 3) << 4) - 32;
        out[i] = d * float(int8_t(scales[i / 16])) * float(q);
    }
}

struct Format {
    GgufType type;
    const char* name;
    int64_t elements, bytes;  // of a block
    void (*widen)(const uint8_t* block, float* out);
};

constexpr Format kFormats[] = {
    {GgufType::f32, "F32", 1, 4, nullptr},          {GgufType::f16, "F16", 1, 2, nullptr},
    {GgufType::bf16, "BF16", 1, 2, nullptr},        {GgufType::q4_0, "Q4_0", 32, 18, q4_0_block},
    {GgufType::q4_1, "Q4_1", 32, 20, q4_1_block},   {GgufType::q5_0, "Q5_0", 32, 22, q5_0_block},
    {GgufType::q5_1, "Q5_1", 32, 24, q5_1_block},   {GgufType::q8_0, "Q8_0", 32, 34, q8_0_block},
    {GgufType::q2_k, "Q2_K", 256, 84, q2_k_block},  {GgufType::q3_k, "Q3_K", 256, 110, q3_k_block},
    {GgufType::q4_k, "Q4_K", 256, 144, q4_k_block}, {GgufType::q5_k, "Q5_K", 256, 176, q5_k_block},
    {GgufType::q6_k, "Q6_K", 256, 210, q6_k_block},
};

const Format* find_format(GgufType type) {
    for (const Format& f : kFormats)
        if (f.type == type) return &f;
    return nullptr;
}

}  // namespace

bool is_supported(GgufType type) { return find_format(type) != nullptr; }

const char* name_of(GgufType type) {
    const Format* f = find_format(type);
    return f ? f->name : "?";
}

int64_t block_elements(GgufType type) {
    const Format* f = find_format(type);
    CHECK(f);
    return f->elements;
}

int64_t block_bytes(GgufType type) {
    const Format* f = find_format(type);
    CHECK(f);
    return f->bytes;
}

void dequantise_row(GgufType type, const void* blocks, int64_t count, float* out) {
    const Format* f = find_format(type);
    CHECK(f && count >= 0 && count % f->elements == 0);
    const auto* b = static_cast<const uint8_t*>(blocks);
    if (f->widen) {
        for (int64_t i = 0; i < count; i += f->elements, b += f->bytes) f->widen(b, out + i);
    } else if (type == GgufType::f32) {
        std::memcpy(out, b, size_t(count) * 4);
    } else if (type == GgufType::f16) {
        for (int64_t i = 0; i < count; ++i) out[i] = read_half(b + 2 * i);
    } else {
        for (int64_t i = 0; i < count; ++i) out[i] = to_float(bf16{read_u16(b + 2 * i)});
    }
}

}  // namespace spartan
